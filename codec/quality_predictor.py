"""Finds the quality that `auto` takes: the smallest file that still looks right.

Owns a short way to the aim of `likeness`: tiles from all over the picture are encoded once, and a
formula tells from their errors and the picture's size which quality the whole takes. Its numbers
were fitted over photos by `benchmarks/fit_auto.py` and stand in `quality_model`. How tiles are
scored is `tile_judge`'s business.
"""

from __future__ import annotations

import io
import math
from typing import Final

from PIL import Image

from codec import image_encoder, ssimulacra2
from codec.image_format import TargetFormat
from codec.picture import Picture
from codec.quality_model import FORMULAS, to_quality
from codec.tile_judge import SMALLEST_SIDE, Sample, TileJudge
from request_options import Effort

# Pixels of the picture for each tile, and how many tiles at most: encoders that take longer leave
# time for more. On two megapixels that takes 3 ms for a JPEG, 8 for a WebP, 30 for an AVIF.
_TILES: Final = {
    TargetFormat.JPEG: (1 << 16, 12),
    TargetFormat.WEBP: (1 << 15, 24),
    TargetFormat.AVIF: (1 << 14, 48),
}


def predict(picture: Picture, target: TargetFormat, effort: Effort) -> int:
    """Return the quality, 1 to 100, at which a picture looks right in a lossy format."""
    formula = FORMULAS[target, effort]
    frame = picture.frames[len(picture.frames) // 2]
    level: float = formula.usual
    if min(frame.size) >= SMALLEST_SIDE:
        level = formula.level(observe(frame, target, effort, formula.trial))
    return to_quality(target, level)


def observe(
    frame: Image.Image, target: TargetFormat, effort: Effort, level: float
) -> tuple[float, ...]:
    """Return what a formula goes by: how tiles come out at a level, and the frame's size.

    First their score and its square, then the errors that it is made of.
    """
    sample = Sample.take(frame, *_TILES[target])
    if target is TargetFormat.JPEG:
        effort = Effort.FAST  # the same pixels in less time
    data = image_encoder.encode(
        Picture([sample.image], [0]),
        target,
        to_quality(target, level),
        effort,
        is_lossless=False,
    )
    with Image.open(io.BytesIO(data), formats=[target.upper()]) as trial:
        errors = TileJudge(sample).errors(trial)
    score = ssimulacra2.score_of(sum(errors))
    return (score, score * score, *errors, math.log2(math.prod(frame.size)))
