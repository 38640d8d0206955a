"""Bytes at equal score: encoders that call their qualities by different numbers, made comparable.

For each photo and encoder a few qualities are tried around the scores of interest; between two
of them the logarithm of the bytes is taken as linear over the score. Nothing is extrapolated: a
photo on which an encoder doesn't reach a score is left out of that comparison, for that encoder.
"""

from __future__ import annotations

import itertools
import math
import queue
import statistics
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tqdm import tqdm

from benchmarks.processes import spread
from benchmarks.quality_encoders import BASELINE, REFERENCE, Encoder, Tools
from benchmarks.quality_report import Table
from benchmarks.quality_scores import JUDGES, SSIMULACRA2, Judge, Scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.quality_photos import Photo

TARGETS: Final = (70.0, 75.0, 80.0)
# SSIMULACRA2 that points are wanted near: with a little room for what the other judges make of it.
_WANTED: Final = (67.0, 72.5, 77.5, 83.0)
_NEAR: Final = 2.0
_STEPS_A_POINT: Final = 1.2  # how far the search goes for a point of score that is missing


@dataclass(frozen=True, slots=True)
class Point:
    """One photo encoded at one quality."""

    quality: int
    size: int
    scores: dict[Judge, float]


Curve = list[Point]


def trace(encode: Callable[[int], Point], outer: tuple[int, int]) -> Curve:
    """Try qualities until there is a point near each wanted score, and one beyond either end.

    `outer` are the first two; where the scale of the qualities ends, so does the curve.
    """
    points: dict[int, Point] = {}

    def score(quality: int) -> float:
        if quality not in points:
            points[quality] = encode(quality)
        return points[quality].scores[SSIMULACRA2]

    low, high = outer
    while (missing := score(low) - _WANTED[0]) > 0 and low > 1:
        low = max(1, low - math.ceil(missing * _STEPS_A_POINT))
    while (missing := _WANTED[-1] - score(high)) > 0 and high < 100:
        high = min(100, high + math.ceil(missing * _STEPS_A_POINT))
    for wanted in _WANTED:
        if all(abs(point.scores[SSIMULACRA2] - wanted) > _NEAR for point in points.values()):
            curve = [(point.scores[SSIMULACRA2], point.quality) for point in points.values()]
            quality = interpolate(curve, wanted)
            if quality is not None:
                score(round(quality))
    return list(points.values())


def interpolate(curve: Sequence[tuple[float, float]], x: float) -> float | None:
    """Return y at `x` on the lines between points (x, y); None outside of them."""
    for (x1, y1), (x2, y2) in itertools.pairwise(sorted(curve)):
        if x1 <= x <= x2:
            return y1 if x1 == x2 else y1 + (y2 - y1) * (x - x1) / (x2 - x1)
    return None


def bytes_at(curve: Curve, judge: Judge, score: float) -> float | None:
    """Return the bytes that the encoder takes for a score; None if it was never enclosed."""
    logarithm = interpolate([(point.scores[judge], math.log(point.size)) for point in curve], score)
    return None if logarithm is None else math.exp(logarithm)


def score_at(curve: Curve, judge: Judge, ssimulacra2: float) -> float | None:
    """Return what another judge says where SSIMULACRA2 says so much."""
    return interpolate(
        [(point.scores[SSIMULACRA2], point.scores[judge]) for point in curve], ssimulacra2
    )


class EqualScore:
    """The curves of all encoders over all photos, and their processor time at about 75."""

    def __init__(self, encoders: Sequence[Encoder], photos: Sequence[Photo]) -> None:
        self._encoders = encoders
        self._photos = photos
        self._curves: dict[str, list[Curve]] = {}
        # Seconds of each round over all photos, by label.
        self._seconds: dict[str, list[float]] = defaultdict(list)
        labels = [encoder.label for encoder in encoders]
        self._reference = REFERENCE if REFERENCE in labels else BASELINE

    def trace_all(self, scores: Scores, lanes: int) -> None:
        """Trace every curve, so many photos at a time."""
        tools: queue.SimpleQueue[Tools] = queue.SimpleQueue()

        def trace_photo(photo: Photo) -> list[Curve]:
            mine = tools.get()
            curves = [self._trace(encoder, photo, mine, scores) for encoder in self._encoders]
            tools.put(mine)
            return curves

        with ExitStack() as stack:
            for _ in range(lanes):
                tools.put(stack.enter_context(Tools()))
            pool = stack.enter_context(ThreadPoolExecutor(lanes))
            found = pool.map(trace_photo, self._photos)
            by_photo = list(tqdm(found, "curves", len(self._photos), unit=" photos", disable=None))
        for encoder, curves in zip(self._encoders, zip(*by_photo, strict=True), strict=True):
            self._curves[encoder.label] = list(curves)

    def _trace(self, encoder: Encoder, photo: Photo, tools: Tools, scores: Scores) -> Curve:
        def encode(quality: int) -> Point:
            data = tools.encode(encoder, photo.plain, quality=quality).data
            judged = {judge: scores.of(judge, photo.plain, data) for judge in self._judges(encoder)}
            return Point(quality, len(data), judged)

        return trace(encode, encoder.outer)

    def _judges(self, encoder: Encoder) -> Iterable[Judge]:
        """Return who judges an encoder: JPEGs, which err alike, are worth three opinions."""
        return JUDGES if encoder.format == "jpeg" else [SSIMULACRA2]

    def time_all(self, rounds: int) -> None:
        """Encode every photo at about 75, one encoder after the other, so many times."""
        with Tools() as tools:
            for _ in tqdm(range(rounds), "processor time", unit=" rounds", disable=None):
                for encoder in self._encoders:
                    self._seconds[encoder.label].append(0.0)
                for photo, encoder in itertools.product(range(len(self._photos)), self._encoders):
                    quality = self._point(encoder, photo).quality
                    encoded = tools.encode(encoder, self._photos[photo].plain, quality=quality)
                    self._seconds[encoder.label][-1] += encoded.cpu_seconds

    def _point(self, encoder: Encoder, photo: int) -> Point:
        """Return the point that is nearest to the middle target."""
        curve = self._curves[encoder.label][photo]
        return min(curve, key=lambda point: abs(point.scores[SSIMULACRA2] - TARGETS[1]))

    def tables(self) -> list[Table]:
        """Return bytes by each judge, then processor time."""
        return [*(self._bytes_table(judge) for judge in JUDGES), self._time_table()]

    def _bytes_table(self, judge: Judge) -> Table:
        rows = []
        for encoder in self._encoders:
            if judge not in self._judges(encoder):
                continue
            ratios = [self._ratios(encoder, judge, target) for target in TARGETS]
            rows.append(
                [
                    encoder.label,
                    *(f"{statistics.geometric_mean(each):.3f}" if each else "-" for each in ratios),
                    " / ".join(str(len(each)) for each in ratios),
                ]
            )
        return Table(
            f"Bytes at equal {judge}, {self._reference} = 1",
            ["encoder", *(f"at {target:.0f}" for target in TARGETS), "photos compared"],
            rows,
            f"Geometric means, where {self._reference} has these scores of SSIMULACRA2.",
        )

    def _ratios(self, encoder: Encoder, judge: Judge, target: float) -> list[float]:
        """Return bytes to the reference's, of each photo on which both reach the score."""
        ratios = []
        for curve, other in zip(
            self._curves[encoder.label], self._curves[self._reference], strict=True
        ):
            score = score_at(other, judge, target)
            if score is None:
                continue
            ours, theirs = bytes_at(curve, judge, score), bytes_at(other, judge, score)
            if ours and theirs:
                ratios.append(ours / theirs)
        return ratios

    def _time_table(self) -> Table:
        megapixels = sum(photo.megapixels for photo in self._photos)
        rows = []
        for encoder in self._encoders:
            points = [self._point(encoder, photo) for photo in range(len(self._photos))]
            mine = self._seconds[encoder.label]
            rows.append(
                [
                    encoder.label,
                    f"{statistics.median(point.quality for point in points):.0f}",
                    f"{statistics.fmean(point.scores[SSIMULACRA2] for point in points):.1f}",
                    f"{8 * sum(point.size for point in points) / megapixels / 1e6:.2f}",
                    spread([1000 * seconds / megapixels for seconds in mine], 1),
                    *(self._time_ratio(mine, other) for other in (self._reference, BASELINE)),
                ]
            )
        return Table(
            "Processor time of decoding and encoding at about 75",
            [
                *("encoder", "quality", "score", "bits a pixel", "ms a megapixel"),
                *(f"to {other}" for other in (self._reference, BASELINE)),
            ],
            rows,
            "Each photo at its quality nearest to 75, encoders in turn; median and range.",
        )

    def _time_ratio(self, mine: Sequence[float], other: str) -> str:
        pairs = zip(mine, self._seconds[other], strict=True)
        return spread([seconds / theirs for seconds, theirs in pairs], 2)
