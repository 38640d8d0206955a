"""Draws the frames of a GIF on its canvas, as GIF89a and browsers have it.

Owns what is seen of each: where no frame has drawn, or was cleared away, nothing is. Pillow's own
way paints a background there, which no browser does, unless the first frame is transparent. How a
frame's pixels are decoded is Pillow's business.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from codec import container_gif

if TYPE_CHECKING:
    from collections.abc import Iterator


def draw(data: bytes, size: tuple[int, int]) -> Iterator[tuple[Image.Image, int]]:
    """Yield what is seen after each frame, in RGBA, and for how many milliseconds.

    The GIF must be surveyed. Raises what Pillow does for pixels that can't be decoded.
    """
    canvas = Image.new("RGBA", size)
    for frame in container_gif.split(data):
        with Image.open(io.BytesIO(frame.gif), formats=["GIF"]) as image:
            drawn = image.convert("RGBA")
        place = (frame.left, frame.top)
        before = canvas
        canvas = canvas.copy()
        canvas.paste(drawn, place, drawn)
        yield canvas, frame.duration
        if frame.disposal == container_gif.CLEAR:
            canvas = canvas.copy()
            canvas.paste(Image.new("RGBA", drawn.size), place)
        elif frame.disposal == container_gif.RESTORE:
            canvas = before
