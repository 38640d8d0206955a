"""What an odd image is, and the pictures that odd ones are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyvips  # type: ignore[import-untyped]  # it has no stubs
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

_LEVELS = range(0, 256, 17)
_VIPS_MODES = {"L": "b-w", "LA": "b-w", "RGB": "srgb", "RGBA": "srgb", "CMYK": "cmyk"}


@dataclass(frozen=True, slots=True)
class Odd:
    """Files of one kind, and how far from the truth a channel may be read, in levels of 255.

    `truth` gives the picture; without it libvips tells what a file looks like.
    """

    levels: int
    files: Callable[[], list[bytes]]
    truth: Callable[[], Image.Image] | None = None


def chart(mode: str = "RGB") -> Image.Image:
    """Return 64 by 64 pixels: every colour of 16 levels a channel."""
    cube = bytes(level for r in _LEVELS for g in _LEVELS for b in _LEVELS for level in (r, g, b))
    return Image.frombytes("RGB", (64, 64), cube).convert(mode)


def veiled(mode: str = "RGBA") -> Image.Image:
    """Return the chart behind every level of transparency."""
    image = chart("RGBA")
    image.putalpha(Image.frombytes("L", (64, 64), bytes(at * 7 & 255 for at in range(4096))))
    return image.convert(mode)


def vips(image: Image.Image) -> pyvips.Image:
    """Return a Pillow image as one of libvips."""
    bands = len(image.getbands())
    raw = pyvips.Image.new_from_memory(image.tobytes(), *image.size, bands, "uchar")
    return raw.copy(interpretation=_VIPS_MODES[image.mode])
