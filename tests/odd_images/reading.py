"""How another library reads an image: upright, in sRGB, through its profile."""

from __future__ import annotations

import os

from PIL import Image, ImageChops

os.environ.setdefault("VIPS_CONCURRENCY", "1")
import pyvips  # type: ignore[import-untyped]  # reads the setting as it is loaded

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def managed(data: bytes, background: str | None = None) -> Image.Image:
    """Return an image as libvips reads it, through the profile in it if that fits its pixels.

    A `background` like `#ffffff` is laid under what is transparent.
    """
    image = pyvips.Image.new_from_buffer(data, "").autorot()
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform(
            "srgb", embedded=True, intent="relative", black_point_compensation=True
        )
    image = image.colourspace("srgb").cast("uchar")
    if background and image.hasalpha():
        levels = bytes.fromhex(background[1:])
        if image.bands == 2:
            image = image[0].bandjoin([image[0], image[0], image[1]])
        image = image.flatten(background=list(levels)).cast("uchar")
    pixels = image.write_to_memory()
    return Image.frombytes(_MODES[image.bands], (image.width, image.height), pixels)


def worst(first: Image.Image, second: Image.Image) -> int:
    """Return the largest difference of a channel; colours count only where something is seen."""
    layers = []
    for image in (first, second):
        rgba = image.convert("RGBA")
        hidden = rgba.getchannel("A").point([255] + [0] * 255)
        rgba.paste((0, 0, 0, 0), mask=hidden)
        layers.append(rgba)
    return max(ImageChops.difference(*layers).tobytes())
