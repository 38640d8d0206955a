"""Fits what `auto` knows of the encoders, over a folder of photos, and shows how well it does.

For each picture (as it is, and made smaller to 1000 and 480 pixels) and each encoder it searches
the quality whose score by the metric over the whole picture is 75. Then it fits the formulas of
`codec/quality_model.py`, by least squares of the score that they miss, prints them, and tells by
ten-fold cross-validation, in which no formula has seen the photo that it is tried on, which scores
`auto` gets.

    .venv/bin/python benchmarks/fit_auto.py FOLDER [--only jpeg,webp/fast] [--memory FILE]

What the memory has is not searched again: after a change of an encoder, begin with a new one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in a decoder

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import judges
from benchmarks.quality_photos import find, seen
from codec import image_encoder
from codec.image_format import TargetFormat
from codec.likeness import AIM
from codec.picture import Picture
from codec.quality_model import Formula, to_level, to_quality
from codec.quality_predictor import Trials
from command_help import HelpFormatter
from request_options import Effort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")
_SMALLER: Final = (1000, 480)  # pixels of the longer side
_MOST_PIXELS: Final = 2_000_000  # of larger photos the middle is taken
_LOWEST, _HIGHEST = 20, 96  # qualities that are searched
_STEP: Final = 6  # of quality, to find a score on either side of the aim
_FOLDS: Final = 10
_TOLERANCE: Final = 4.0  # points of score
_SLOPES: Final = (0.05, 1.5)  # beyond these they count no less and no more
_PENALTY: Final = 0.003
_MARGIN: Final = 5  # levels beyond what photos took
# The levels at which tiles tell most of the aim.
_TRIALS: Final = {TargetFormat.JPEG: 65, TargetFormat.WEBP: 45, TargetFormat.AVIF: 50}


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one picture and one encoder."""

    photo: str
    is_whole: bool
    target: TargetFormat
    quality: float  # at which the score is 75
    slope: float  # of the score there
    features: tuple[float, ...]

    @property
    def level(self) -> float:
        """Return the level at which the score is 75."""
        return to_level(self.target, self.quality)

    @property
    def importance(self) -> float:
        """Return how much a level counts: about by so many points the score rises with it."""
        levels = to_level(self.target, self.quality + 0.5) - to_level(
            self.target, self.quality - 0.5
        )
        return min(max(self.slope / levels, _SLOPES[0]), _SLOPES[1])

    def miss(self, level: float) -> float:
        """Return by about how many points of score a level misses the aim."""
        return min(self.slope, _SLOPES[1]) * (to_quality(self.target, level) - self.quality)


def pictures(path: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yield a photo and its smaller versions."""
    image = seen(path.read_bytes()).convert("RGB")
    scale = math.sqrt(_MOST_PIXELS / (image.width * image.height))
    width, height = (min(side, int(side * scale)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    yield "whole", image.crop((left, top, left + width, top + height))
    for side in _SMALLER:
        if max(image.size) > side * 1.2:
            smaller = image.copy()
            smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
            yield str(side), smaller


def search(image: Image.Image, target: TargetFormat, effort: Effort) -> tuple[float, float] | None:
    """Return the quality at which a picture scores 75, and the slope there; None without one."""
    picture = Picture([image], [0])

    @cache
    def score(quality: int) -> float:
        data = image_encoder.encode(picture, target, quality, effort, is_lossless=False)
        return judges.ssimulacra2(image, seen(data))

    bracket = _bracket(score)
    if bracket is None:
        return None
    low, high = bracket
    slope = (score(high) - score(low)) / (high - low)
    return low + (AIM - score(low)) / slope, slope


def _bracket(score: Callable[[int], float]) -> tuple[int, int] | None:
    """Return two qualities, at most four apart, with the aim between their scores."""
    low = high = 66
    while score(low) > AIM:
        high, low = low, low - _STEP
        if low < _LOWEST:
            return None
    while score(high) <= AIM:
        low, high = high, high + _STEP
        if high > _HIGHEST:
            return None
    while high - low > _STEP // 2 + 1:
        middle = (low + high) // 2
        low, high = (low, middle) if score(middle) > AIM else (middle, high)
    return low, high


def fit(observations: list[Observation], trial: int) -> Formula:
    """Fit a formula: weighted least squares with a small penalty on the standardised weights."""
    features = np.array([one.features for one in observations])
    levels = np.array([one.level for one in observations])
    importance = np.array([one.importance for one in observations])
    means, spreads = features.mean(axis=0), features.std(axis=0) + 1e-9
    standard = (features - means) / spreads
    weighted = np.column_stack([standard, np.ones(len(levels))]) * importance[:, None]
    penalty = np.diag([_PENALTY * importance.sum()] * features.shape[1] + [0])
    *solved, _ = np.linalg.solve(
        weighted.T @ np.column_stack([standard, np.ones(len(levels))]) + penalty,
        weighted.T @ levels,
    )
    weights = np.round(np.array(solved) / spreads, 4)
    return Formula(
        trial,
        round(float(np.median(levels))),
        round(float(np.percentile(levels, 1))) - _MARGIN,
        round(float(np.percentile(levels, 99))) + _MARGIN,
        round(float(np.percentile(features[:, 0], 2))),
        round(float(np.average(levels - features @ weights, weights=importance)), 2),
        tuple(map(float, weights)),
    )


def cross_validate(observations: list[Observation], trial: int) -> list[tuple[float, bool]]:
    """Return for each observation the miss of a formula without its photo, and if it is whole."""
    photos = sorted({one.photo for one in observations})
    misses = []
    for fold in range(_FOLDS):
        left_out = set(photos[fold::_FOLDS])
        formula = fit([one for one in observations if one.photo not in left_out], trial)
        misses += [
            (one.miss(formula.level(one.features)), one.is_whole)
            for one in observations
            if one.photo in left_out
        ]
    return misses


def main(arguments: list[str]) -> None:
    """Observe, fit and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=Path, help="of photos")
    parser.add_argument("--only", default="jpeg,webp,avif", help="formats, or format/effort")
    parser.add_argument(
        "--memory",
        type=Path,
        default=Path("benchmarks/quality-cache/auto.json"),
        help="where measurements are kept for a second run",
    )
    parser.add_argument("--photos", type=int, default=0, help="how many of the folder; 0: all")
    options = parser.parse_args(arguments)
    paths = find(options.folder, _SUFFIXES, options.photos)
    print(f"{len(paths)} photos, scores by {judges.describe('ssimulacra2')}")
    for target in (TargetFormat.JPEG, TargetFormat.WEBP, TargetFormat.AVIF):
        # JPEG's efforts give the same pixels.
        for effort in [Effort.BALANCED] if target is TargetFormat.JPEG else Effort:
            if {target.value, f"{target}/{effort}"} & set(options.only.split(",")):
                observations = _observe_all(paths, target, effort, options.memory)
                if observations:
                    _tell(observations, target, effort)


def _observe_all(
    paths: list[Path], target: TargetFormat, effort: Effort, memory: Path
) -> list[Observation]:
    """Observe every picture; what was searched before, with the encoder of then, is remembered."""
    memory.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, tuple[float, float] | None] = (
        json.loads(memory.read_text()) if memory.exists() else {}
    )
    judge = judges.describe("ssimulacra2")
    observations = []
    for path in paths:
        for name, image in pictures(path):
            key = f"{path.name} {name} {target} {effort} {judge}"
            if key not in known:
                known[key] = search(image, target, effort)
                memory.write_text(json.dumps(known))
            if found := known[key]:
                features = Trials(image, target, effort).features(_TRIALS[target])
                observations.append(
                    Observation(path.name, name == "whole", target, *found, features)
                )
    return observations


def _tell(observations: list[Observation], target: TargetFormat, effort: Effort) -> None:
    trial = _TRIALS[target]
    formula = fit(observations, trial)
    misses = cross_validate(observations, trial)
    print(f"\n    (TargetFormat.{target.name}, Effort.{effort.name}): {formula},")
    for name, whole in (("whole photos", True), ("made smaller", False)):
        fixed = [one.miss(formula.usual) for one in observations if one.is_whole is whole]
        predicted = [miss for miss, is_whole in misses if is_whole is whole]
        for kind, errors in ((f"always {formula.usual}", fixed), ("auto", predicted)):
            _tell_of(f"{name}, {kind}", np.array(errors))


def _tell_of(name: str, misses: np.ndarray[Any, Any]) -> None:
    if len(misses):
        print(
            f"{name:24}: {len(misses)} scores, mean {AIM + misses.mean():.1f}, "
            f"standard deviation {misses.std():.1f}, within {_TOLERANCE:.0f} points "
            f"{np.mean(abs(misses) <= _TOLERANCE):.0%}, {AIM + misses.min():.0f} at least"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
