"""What `quality=auto` does over many photos: how near its aim, how much smaller, at what cost."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tqdm import tqdm

from benchmarks.processes import spread
from benchmarks.quality_encoders import EFFORTS, Encoded, Encoder, Tools
from benchmarks.quality_photos import seen
from benchmarks.quality_report import Figure, Table, worst_crop
from benchmarks.quality_scores import SSIMULACRA2, Scores
from codec.likeness import AIM

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.quality_photos import Photo

NEAR: Final = 4.0
_WORST: Final = 5
_SHOWN_EFFORT: Final = "balanced"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `auto` made of one photo. `quality` is None where the original was kept."""

    photo: Photo
    size: int
    quality: int | None
    score: float


class Auto:
    """Runs the service's own code over photos; writes the worst crops into a folder."""

    def __init__(self, photos: Sequence[Photo], scores: Scores, rounds: int, folder: Path) -> None:
        self._photos = photos
        self._scores = scores
        self._rounds = rounds
        self._folder = folder

    def measure(self, formats: Sequence[str]) -> list[Table | Figure]:
        """Run these formats with every effort."""
        rows = []
        figures = []
        with Tools() as tools:
            for format_, effort in itertools.product(formats, EFFORTS):
                encoder = _service(format_, effort)
                outcomes = [
                    self._outcome(photo, tools.encode(encoder, photo.data, quality=None))
                    for photo in tqdm(self._photos, encoder.label, unit=" photos", disable=None)
                ]
                cost = self._cost(encoder, outcomes, tools)
                rows.append([encoder.label, *_accuracy(outcomes), *cost])
                if effort == _SHOWN_EFFORT:
                    figures += self._worst(encoder, outcomes, tools)
        return [_table(rows), *figures]

    def _outcome(self, photo: Photo, encoded: Encoded) -> Outcome:
        score = self._scores.of(SSIMULACRA2, photo.data, encoded.data)
        quality = int(encoded.said) if encoded.said.isdigit() else None
        return Outcome(photo, len(encoded.data), quality, score)

    def _cost(self, encoder: Encoder, outcomes: Sequence[Outcome], tools: Tools) -> list[str]:
        """Set `auto` beside the median of the qualities that it took, photo by photo in turn."""
        qualities = [outcome.quality for outcome in outcomes if outcome.quality is not None]
        if not qualities:
            return ["-"] * 2
        fixed = round(statistics.median(qualities))
        ratios = []
        for _ in range(self._rounds):
            auto_seconds = fixed_seconds = 0.0
            for outcome in outcomes:
                auto_seconds += tools.encode(encoder, outcome.photo.data, quality=None).cpu_seconds
                fixed_seconds += tools.encode(
                    encoder, outcome.photo.data, quality=fixed
                ).cpu_seconds
            ratios.append(auto_seconds / fixed_seconds)
        chosen = f"{fixed} ({min(qualities)} to {max(qualities)})"
        return [spread(ratios, 2), chosen]

    def _worst(self, encoder: Encoder, outcomes: Sequence[Outcome], tools: Tools) -> list[Figure]:
        """Show the photos of the lowest scores: source and output where they differ most."""
        lowest = sorted(_again(outcomes), key=lambda outcome: outcome.score)[:_WORST]
        figures = []
        for place, outcome in enumerate(lowest, 1):
            source = outcome.photo.data
            output = tools.encode(encoder, source, quality=None).data
            name = f"worst-{encoder.format}-{place}.png"
            worst_crop(seen(source), seen(output)).save(self._folder / name)
            caption = (
                f"{encoder.label}, number {place} from below: {outcome.photo.name}, score "
                f"{outcome.score:.1f} at quality {outcome.quality}, {len(source):,} bytes to "
                f"{outcome.size:,}. Source and ours where they differ most, twice magnified."
            )
            figures.append(Figure(name, caption))
        return figures


def _service(format_: str, effort: str) -> Encoder:
    target = "keep" if format_ == "jpeg" else format_  # the photos are JPEGs
    settings = {"target": target, "effort": effort}
    return Encoder(f"{format_} {effort}", format_, "python", "compress", settings)


def _again(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.quality is not None]


def _accuracy(outcomes: Sequence[Outcome]) -> list[str]:
    encoded = [outcome.score for outcome in _again(outcomes)]
    kept = f"{len(outcomes) - len(encoded)} of {len(outcomes)}"
    saved = 100 - 100 * statistics.fmean(each.size / len(each.photo.data) for each in outcomes)
    if not encoded:
        return ["-"] * 4 + [f"{saved:.0f} %", kept]
    near = sum(abs(score - AIM) <= NEAR for score in encoded) / len(encoded)
    return [
        f"{statistics.fmean(encoded):.1f}",
        f"{statistics.pstdev(encoded):.1f}",
        f"{near:.0%}",
        f"{min(encoded):.1f}",
        f"{saved:.0f} %",
        kept,
    ]


def _table(rows: Sequence[Sequence[str]]) -> Table:
    return Table(
        f"quality=auto, which aims at {AIM:.0f}",
        [
            *("auto", "mean score", "deviation", f"within {NEAR:.0f}", "lowest", "saved"),
            *("originals", "CPU to one quality", "qualities"),
        ],
        rows,
        "Scores of what was encoded anew; bytes saved against the input, mean of all photos, kept "
        "originals included. One quality: the median of those taken, on the same photos, in turn.",
    )
