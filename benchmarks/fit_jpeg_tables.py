"""Fits the quantisation tables of `codec.jpeg_encoder` to a folder of photos, and their scale.

    .venv/bin/python benchmarks/fit_jpeg_tables.py FOLDER [--crops N] [--minutes M]

Sought are the fewest bytes at equal SSIMULACRA 2 and, with less weight, at equal butteraugli. What
a score costs is measured on each crop with libjpeg's own tables first; a trial is then judged by
the bytes that it takes less than those would. A table is a smooth function of the frequency with
five or six parameters. Each crop tries tables of its own, chosen at random around the best so far,
and a quadratic function through all trials tells where the best may be: some ten rounds do.
Prints the constants to put into the module.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import judges  # noqa: E402  # the path is set first
from benchmarks.quality_photos import find, seen  # noqa: E402  # likewise
from codec import jpeg_encoder  # noqa: E402
from command_help import HelpFormatter  # noqa: E402

Vector = NDArray[np.float64]

WEIGHTS: Final = np.array([0.65, 0.35])  # of SSIMULACRA 2 and butteraugli
SIDE: Final = 320  # pixels of a crop
NUMBERS: Final = (20, 35, 50, 65, 75, 82, 88, 93, 96)  # libjpeg's, for the price of a score
ANCHORS: Final = (1, 4, 8, 15, 25, 40, 50, 60, 70, 80, 88, 94, 95, 97, 99)
LOW, HIGH, FULL_COLOUR = (66, 70, 74), (78, 82, 86), (78, 83, 88)  # scores
SPREAD: Final = 0.6  # of the random trials, in units of `_UNITS`
FARTHEST_STEP: Final = 1.2  # in a round, likewise
FINENESS: Final = 10  # entries are kept in tenths

_DOWN, _RIGHT = np.divmod(np.arange(64.0), 8)
_RADIUS = np.hypot(_DOWN, _RIGHT) / 9.9
_DIAGONAL = 2 * _DOWN * _RIGHT / np.maximum(_DOWN**2 + _RIGHT**2, 1)
# Logarithm of an entry: level, slope, bend (both around the middle), diagonals, mean of the block.
_CHROMA: Final = np.array(
    [_RADIUS**0, _RADIUS - 0.4, _RADIUS**2 - 0.8 * _RADIUS, _DIAGONAL, _RADIUS == 0]
).T
_LUMA: Final = np.column_stack([_CHROMA, _RADIUS**3 - 1.3 * _RADIUS**2 + 0.4 * _RADIUS])
_PARTS: Final = (slice(0, 6), slice(6, 11), slice(11, 16))
_UNITS: Final = np.array([0, 0.2, 0.25, 0.12, 0.12, 0.25, *([0.25, 0.3, 0.35, 0.12, 0.15] * 2)])


@dataclass(frozen=True, slots=True)
class Trial:
    """An encoded crop: the logarithms of its bytes and butteraugli distance, and its score."""

    bytes: float
    score: float
    distance: float


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a photo, and what libjpeg's tables make of it at `NUMBERS`."""

    image: Image.Image
    prices: list[Trial]

    def gain(self, trial: Trial) -> Vector:
        """Return by how much the bytes differ at equal score and at equal distance."""
        size = np.array([price.bytes for price in self.prices])
        score = np.array([price.score for price in self.prices])
        distance = np.array([price.distance for price in self.prices])
        at_score = np.interp(trial.score, score, size)
        at_distance = np.interp(-trial.distance, -distance, size)
        return np.clip(trial.bytes - np.array([at_score, at_distance]), -0.4, 0.4)


def main() -> None:
    """Fit the three kinds of tables, find the scale of each number, and print all."""
    arguments = _arguments()
    paths = find(arguments.folder, (".jpg", ".jpeg"), arguments.crops)
    crops = [crop(seen(path.read_bytes()), index) for index, path in enumerate(paths)]
    seconds = arguments.minutes * 60 / 3
    start = parameters(jpeg_encoder.tables(75, is_colour_halved=True))
    low = fit(crops, start, LOW, np.arange(1, 16), "4:2:0", seconds)
    high = fit(crops, low, HIGH, np.arange(1, 16), "4:2:0", seconds)
    start = parameters(jpeg_encoder.tables(90, is_colour_halved=False))
    start[_PARTS[0]] = high[_PARTS[0]]
    full_colours = fit(crops, start, FULL_COLOUR, np.arange(6, 16), "4:4:4", seconds)
    for name, found in (("low", low), ("high", high), ("full colours", full_colours)):
        print(name, np.rint(FINENESS * entries(found)).astype(int).tolist(), sep="\n")
    calibrate(crops, low, high, full_colours)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=Path, help="of photos")
    parser.add_argument("--crops", type=int, default=36, help="of photos to fit on")
    parser.add_argument("--minutes", type=float, default=20, help="of fitting, without the scale")
    return parser.parse_args()


def crop(photo: Image.Image, seed: int) -> Crop:
    """Cut a square with something in it out of a photo, and see what scores cost there."""
    rng = np.random.default_rng(seed)
    squares = []
    for _ in range(6):
        left, top = (int(rng.integers(max(side - SIDE, 1))) & ~15 for side in photo.size)
        squares.append(photo.convert("RGB").crop((left, top, left + SIDE, top + SIDE)))
    image = max(squares, key=lambda square: sum(ImageStat.Stat(square).stddev))
    return Crop(image, [trial(image, quality=number) for number in NUMBERS])


def trial(image: Image.Image, **settings: object) -> Trial:
    """Encode with Pillow and ask the judges."""
    data, decoded = _encode(image, **settings)
    distance = np.log(judges.butteraugli(image, decoded))
    return Trial(np.log(len(data)), judges.ssimulacra2(image, decoded), float(distance))


def _encode(image: Image.Image, **settings: object) -> tuple[bytes, Image.Image]:
    sink = io.BytesIO()
    image.save(sink, "JPEG", optimize=True, **settings)
    with Image.open(sink) as decoded:
        return sink.getvalue(), decoded.convert("RGB")


def parameters(tables: list[jpeg_encoder.Table]) -> Vector:
    """Return the parameters whose tables come closest."""
    bases = (_LUMA, _CHROMA, _CHROMA)
    logs = [np.log(table) for table in tables]
    return np.concatenate(
        [np.linalg.lstsq(base, log)[0] for base, log in zip(bases, logs, strict=True)]
    )


def entries(found: Vector) -> Vector:
    """Return the tables of some parameters, not yet rounded."""
    bases = (_LUMA, _CHROMA, _CHROMA)
    return np.exp([base @ found[part] for base, part in zip(bases, _PARTS, strict=True)])


def rounded(tables: Vector, scale: float) -> list[list[int]]:
    """Return tables as a file has them."""
    whole: list[list[int]] = np.clip(np.rint(tables * scale), 1, 255).astype(int).tolist()
    return whole


def fit(
    crops: list[Crop],
    start: Vector,
    scores: tuple[int, ...],
    free: NDArray[np.int_],
    subsampling: str,
    seconds: float,
) -> Vector:
    """Return the parameters with the fewest bytes around some scores; only `free` ones move."""
    scales = [
        _scale_for(crop, entries(start), scores[index % len(scores)], subsampling)
        for index, crop in enumerate(crops)
    ]
    rng = np.random.default_rng(1)
    best = start.copy()
    tried, which, gains = [], [], []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for index, (one, scale) in enumerate(zip(crops, scales, strict=True)):
            guess = best.copy()
            guess[free] += rng.normal(0, SPREAD, len(free)) * _UNITS[free]
            tables = rounded(entries(guess), scale)
            tried.append(guess[free] / _UNITS[free])
            which.append(index)
            gains.append(one.gain(trial(one.image, qtables=tables, subsampling=subsampling)))
        step, expected = _step(
            np.array(tried) - best[free] / _UNITS[free], np.array(which), gains @ WEIGHTS
        )
        best[free] += step * _UNITS[free]
        print(f"{len(tried)} trials; bytes to libjpeg's {np.exp(expected):.4f}", flush=True)
    return best


def _scale_for(crop: Crop, tables: Vector, score: float, subsampling: str) -> float:
    """Return a scale with about that score."""
    low, high = 0.1, 8.0
    for _ in range(6):
        scale = (low * high) ** 0.5
        settings = {"qtables": rounded(tables, scale), "subsampling": subsampling}
        decoded = _encode(crop.image, **settings)[1]
        if judges.ssimulacra2(crop.image, decoded) > score:
            low = scale
        else:
            high = scale
    return math.sqrt(low * high)


def _step(offsets: Vector, which: NDArray[np.int_], gains: Vector) -> tuple[Vector, float]:
    """Return the step to the lowest point of a quadratic function of all trials, and its level.

    Every crop has a level of its own; what was tried far away counts less.
    """
    crops, free = int(which.max()) + 1, offsets.shape[1]
    near = np.exp(-0.5 * (np.abs(offsets).max(axis=1) / 4) ** 2)
    terms = np.column_stack([np.eye(crops)[which], offsets, offsets**2 / 2])
    # A little of what is known before: no slope, some curvature.
    certainty = np.repeat([1e-3, 0.3, 30.0], [crops, free, free])
    before = np.repeat([0, 0, 0.004], [crops, free, free])
    weighted = terms.T * near
    found = np.linalg.solve(
        weighted @ terms + np.diag(certainty), weighted @ gains + certainty * before
    )
    slope, curvature = found[crops : crops + free], np.maximum(found[crops + free :], 0.0015)
    step = np.clip(-slope / curvature, -FARTHEST_STEP, FARTHEST_STEP)
    return step, float(found[:crops].mean() + slope @ step + curvature @ step**2 / 2)


def calibrate(crops: list[Crop], low: Vector, high: Vector, full_colours: Vector) -> None:
    """Print for each number the scale that gives the mean score of libjpeg's tables there."""
    scale = 0.1
    for number in reversed(ANCHORS):
        wanted = _mean_score(crops, quality=number)
        is_colour_halved = number < jpeg_encoder.FULL_COLOUR_QUALITY
        above = np.clip((number - jpeg_encoder.LOW) / (jpeg_encoder.HIGH - jpeg_encoder.LOW), 0, 1)
        tables = entries(low) * (1 - above) + entries(high) * above
        if not is_colour_halved:
            tables[1:] = entries(full_colours)[1:]
        least, most = scale * 0.9, scale * 5
        for _ in range(8):
            scale = (least * most) ** 0.5
            score = _mean_score(
                crops,
                qtables=rounded(tables, scale),
                subsampling="4:2:0" if is_colour_halved else "4:4:4",
            )
            least, most = (scale, most) if score > wanted else (least, scale)
        print(f"({number}, {scale:.4f}),  # {wanted:.1f}", flush=True)


def _mean_score(crops: list[Crop], **settings: object) -> float:
    return float(
        np.mean([judges.ssimulacra2(one.image, _encode(one.image, **settings)[1]) for one in crops])
    )


if __name__ == "__main__":
    main()
