"""Judges whether a lossy encoding of a picture still looks right.

Owns the aim of `auto`, the least score, and how much of a huge picture is looked at; the metric is
`ssimulacra2`'s.
"""

from __future__ import annotations

import io
from typing import Final

from PIL import Image

from codec import ssimulacra2

AIM: Final = 75.0  # the SSIMULACRA 2 that auto aims at
_LEAST_SCORE = AIM - 1
# A judgement takes many times an encode, so of more pixels than this bands are looked at.
_MOST_PIXELS = 1 << 22
_BAND_ROWS = 128


def looks_right(frame: Image.Image, encoded: bytes) -> bool:
    """Tell whether what was encoded of a frame can stand for it."""
    with Image.open(io.BytesIO(encoded)) as decoded:
        return ssimulacra2.score(_sample(frame), _sample(decoded)) >= _LEAST_SCORE


def _sample(image: Image.Image) -> Image.Image:
    """Return the image, or bands of it from top to bottom, one below the other."""
    width, height = image.size
    bands = max(1, _MOST_PIXELS // (width * _BAND_ROWS))
    if bands * _BAND_ROWS >= height:
        return image
    sample = Image.new(image.mode, (width, bands * _BAND_ROWS))
    for number in range(bands):
        top = (height - _BAND_ROWS) * number // max(1, bands - 1)
        sample.paste(image.crop((0, top, width, top + _BAND_ROWS)), (0, number * _BAND_ROWS))
    return sample
