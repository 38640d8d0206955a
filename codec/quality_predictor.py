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
from codec.likeness import AIM
from codec.picture import Picture
from codec.quality_model import FORMULAS, to_quality
from codec.tile_judge import SMALLEST_SIDE, Sample, TileJudge
from request_options import Effort

# Pixels of the picture for each tile, and how many tiles at most: encoders that take longer leave
# time for more. On two megapixels that takes 2 ms for a JPEG, 8 for a WebP, 30 for an AVIF.
_TILES: Final = {
    TargetFormat.JPEG: (1 << 16, 12),
    TargetFormat.WEBP: (1 << 15, 24),
    TargetFormat.AVIF: (1 << 14, 48),
}
# JPEG's efforts give the same pixels. WebP's best is erratic on a strip of tiles (scores 30 points
# lower than of the whole picture), and what it takes is nearly what balanced takes.
_TRIED_BY: Final = {
    (TargetFormat.JPEG, Effort.BALANCED): Effort.FAST,
    (TargetFormat.JPEG, Effort.BEST): Effort.FAST,
    (TargetFormat.WEBP, Effort.BEST): Effort.BALANCED,
}
_STEPS: Final = 4  # from the formula's level to the highest, for pictures unlike photos
_HIGHEST: Final = 100


def predict(picture: Picture, target: TargetFormat, effort: Effort) -> int:
    """Return the quality, 1 to 100, at which a picture looks right in a lossy format."""
    formula = FORMULAS[target, effort]
    frame = picture.frames[len(picture.frames) // 2]
    if min(frame.size) < SMALLEST_SIDE:
        return to_quality(target, formula.usual)
    trials = Trials(frame, target, effort, is_colour_halved=picture.is_colour_halved)
    features = trials.features(formula.trial)
    level = formula.level(features)
    if features[0] < formula.least_score:
        level = _climb(trials, level)
    return to_quality(target, level)


def _climb(trials: Trials, level: float) -> float:
    """Return the level that a picture unlike photos takes: print, noise, drawings, thumbnails.

    A formula of photos tells nothing of it, so its tiles have to look right themselves. Where they
    never do, it stays at the formula's: what can't be had needn't be paid for.
    """
    levels = [level + (_HIGHEST - level) * step / _STEPS for step in range(_STEPS + 1)]
    right = next((step for step, each in enumerate(levels) if trials.look_right(each)), 0)
    if not right:
        return level
    middle = (levels[right - 1] + levels[right]) / 2
    return middle if trials.look_right(middle) else levels[right]


class Trials:
    """Encodes tiles of a frame at one level after the other, and tells what is left of them."""

    def __init__(
        self,
        frame: Image.Image,
        target: TargetFormat,
        effort: Effort,
        *,
        is_colour_halved: bool = False,
    ) -> None:
        sample = Sample.take(frame, *_TILES[target])
        self._tiles = Picture([sample.image], [0], is_colour_halved=is_colour_halved)
        self._judge = TileJudge(sample)
        self._target = target
        self._effort = _TRIED_BY.get((target, effort), effort)
        self._doublings = math.log2(math.prod(frame.size))

    def features(self, level: float) -> tuple[float, ...]:
        """Return what formulas go by: how the tiles come out at a level, and the frame's size.

        First their score and its square, then the errors that it is made of.
        """
        quality = to_quality(self._target, level)
        data = image_encoder.encode(
            self._tiles, self._target, quality, self._effort, is_lossless=False
        )
        with Image.open(io.BytesIO(data), formats=[self._target.upper()]) as trial:
            errors = self._judge.errors(trial)
        score = ssimulacra2.score_of(sum(errors))
        return (score, score * score, *errors, self._doublings)

    def look_right(self, level: float) -> bool:
        """Tell whether the tiles themselves score what a picture has to."""
        return self.features(level)[0] >= AIM
