"""What compressing takes beside the options, and what comes out. Light: it loads no codec."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one image may have: pixels of all frames together, and frames."""

    max_pixels: int
    max_frames: int


@dataclass(frozen=True, slots=True)
class CompressedImage:
    """An image to store.

    `quality` is a number, `lossless`, `palette` (fewer colours), or `original`: the input's
    pixels. `hint` is a sentence about what would have saved more, where there is one.
    """

    data: bytes
    format: str
    width: int
    height: int
    quality: str
    hint: str = ""
