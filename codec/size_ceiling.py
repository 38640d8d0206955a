"""Brings a picture under a ceiling of bytes: by its quality, else by as few pixels as it takes.

Owns the order of what is given up, and how far it goes. Which number to try next is
`size_search`'s business, and what a number means to a format the encoding's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from codec.image_format import TargetFormat
from codec.size_search import Curve, TooLarge, find_best
from errors import ErrorCode, ImageError

if TYPE_CHECKING:
    from codec.compressed_image import CompressedImage
    from codec.encoding import Encoding
    from codec.picture import Picture


# How the logarithm of bytes goes with quality, on the average of photos.
_QUALITIES = (1, 5, 10, 20, 30, 50, 70, 80, 90, 95, 100)
_LOGARITHMS = {
    TargetFormat.JPEG: (-2.7, -2.25, -1.7, -1.15, -0.8, -0.45, -0.1, 0.15, 0.75, 1.1, 1.85),
    TargetFormat.WEBP: (-1.8, -1.45, -1.2, -0.9, -0.65, -0.35, -0.1, 0.2, 0.65, 0.95, 1.55),
    TargetFormat.AVIF: (-3.0, -2.85, -2.6, -2.15, -1.7, -0.8, -0.15, 0.15, 0.6, 0.95, 1.75),
    # Of colours: their logarithm is about the bits that a pixel takes.
    TargetFormat.GIF: (-1.9, -1.5, -1.2, -0.85, -0.65, -0.35, -0.15, -0.1, -0.05, -0.02, 0.0),
    TargetFormat.PNG: (-1.9, -1.5, -1.2, -0.85, -0.65, -0.35, -0.15, -0.1, -0.05, -0.02, 0.0),
}
_CURVES = {
    target: Curve(dict(zip(_QUALITIES, logarithms, strict=True)))
    for target, logarithms in _LOGARITHMS.items()
}
# Bytes grow a little slower than pixels do. The number is percent of each side.
_SCALE_CURVE = Curve({percent: 1.7 * math.log(percent) for percent in range(50, 101, 5)})
_HALF, _WHOLE = 50, 100
_LOWEST_QUALITY_WHILE_SHRINKING = 30  # but at half the size any quality is right
# A round at the whole size, one for the size and one at half of it: the time of 8 encodes at most.
_MOST_TRIALS, _MOST_SIZES = 5, 3
_PALETTE_SHARE = 0.3  # what a photo's 256 colours take of the bytes of all its colours


def fit(
    picture: Picture, encoding: Encoding, quality: int, size_bytes: int, ceiling: int
) -> CompressedImage:
    """Return the best that fits of a picture which at `quality` takes `size_bytes`, too many.

    Quality goes down first, to the lowest; then the sides, as little as it takes and to half at
    the least. Raises ImageError `max_bytes_unreachable`.
    """
    trials = encoding.for_trials(picture)
    best = None
    if encoding.has_steps(picture):
        if encoding.target is TargetFormat.PNG:
            size_bytes = max(ceiling + 1, int(size_bytes * _PALETTE_SHARE))
        best = lower(picture, trials, (1, quality), size_bytes, ceiling)
    if best is None or len(best.data) > ceiling:
        best = _shrink(picture, trials, quality, size_bytes, ceiling)
    best = encoding.packed(best)
    if len(best.data) > ceiling:
        raise ImageError(
            ErrorCode.MAX_BYTES_UNREACHABLE,
            f"Even at half its size and the lowest quality it has more than {ceiling} bytes.",
        )
    return best


def _shrink(
    picture: Picture, encoding: Encoding, quality: int, size_bytes: int, ceiling: int
) -> CompressedImage:
    """Return the largest that fits, else half the size at the best quality that may fit."""
    has_steps = encoding.has_steps(picture)
    lowest = min(quality, _LOWEST_QUALITY_WHILE_SHRINKING) if has_steps else quality
    curve = _CURVES[encoding.target]
    whole_bytes = size_bytes * math.exp(curve.at(lowest) - curve.at(quality))
    best = find_best(
        lambda percent: encoding.encode(_scaled(picture, percent), lowest),
        _HALF,
        TooLarge(_WHOLE, max(whole_bytes, ceiling + 1)),
        ceiling,
        _SCALE_CURVE,
        most_trials=_MOST_SIZES,
    )
    if len(best.data) <= ceiling or not has_steps:
        return best
    half = _scaled(picture, _HALF)
    return lower(half, encoding, (1, lowest), len(best.data), ceiling) or best


def lower(
    picture: Picture, encoding: Encoding, qualities: tuple[int, int], size_bytes: int, ceiling: int
) -> CompressedImage | None:
    """Return the best that fits, else that of the lowest quality; None where that is the highest.

    At the highest the picture takes `size_bytes`, too many.
    """
    lowest, highest = qualities
    if lowest >= highest:
        return None
    return find_best(
        lambda quality: encoding.encode(picture, quality),
        lowest,
        TooLarge(highest, size_bytes),
        ceiling,
        _CURVES[encoding.target],
        most_trials=_MOST_TRIALS,
    )


def _scaled(picture: Picture, percent: int) -> Picture:
    width, height = (-(-side * percent // 100) for side in picture.size)
    return picture.resized((width, height))
