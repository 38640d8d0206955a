"""What `peers.py` measured, as tables: medians with their range, ratios taken round by round."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.processes import cpu_seconds, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.peers_sides import Job, Run, Side

    Figure = Callable[[Run], float]

FLOOR: Final = "floor"
SERVICE: Final = "service"
FAST: Final = "service, effort=fast"
IMG2DATASET: Final = "img2dataset"
BARE_IMG2DATASET: Final = "img2dataset, bare"
THREADS: Final = "threads"
TUNED_THREADS: Final = "threads, tuned"
_MIB: Final = 2**20
_COLUMNS: Final = (
    *("", "images/s", "to the floor's", "with its start", "CPU ms an image", "to the floor's"),
    *("of it the server's", "with PostgreSQL", "to the floor's", "peak MiB", "PostgreSQL's"),
    *("score", "bytes to ours"),
)


def rate(run: Run) -> float:
    """Return images a second."""
    return run.images / run.seconds


def started_rate(run: Run) -> float:
    """Return images a second, the start of the side's program counted."""
    return run.images / run.started_seconds


def cpu(run: Run) -> float:
    """Return milliseconds of processor time an image, without PostgreSQL's."""
    return 1000 * run.cpu_seconds / run.images


def server_cpu(run: Run) -> float:
    """Return milliseconds of processor time an image of the server's own process."""
    return 1000 * run.server_seconds / run.images


def whole_cpu(run: Run) -> float:
    """Return milliseconds of processor time an image, PostgreSQL's included."""
    return cpu(run) + 1000 * run.postgres_seconds / run.images


def output_bytes(run: Run) -> float:
    """Return the bytes of an output."""
    return run.output_bytes / run.images


@dataclass(slots=True)
class Scene:
    """A job that sides do in turn, round by round, and what came of it."""

    title: str
    job: Job
    sides: Sequence[Side]
    scores: dict[str, float]  # of the sides' outputs, by label
    is_scaled: bool = False  # then before encoding, against a full decode with Lanczos
    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    origin_costs: list[float] = field(default_factory=list)  # milliseconds an image, of each run

    def play(self, number: int) -> None:
        """Have each side do the job once, in another order each round."""
        first = number % len(self.sides)
        for side in (*self.sides[first:], *self.sides[:first]):
            before = cpu_seconds(self.job.origin)
            run = side.run(self.job)
            self.runs[side.label].append(run)
            figures = f"{rate(run):.1f} images/s, {whole_cpu(run):.1f} ms an image"
            print(f"round {number + 1}, {self.title}, {side.label}: {figures}", file=sys.stderr)
            if spent := cpu_seconds(self.job.origin) - before:  # whoever has no network: nothing
                self.origin_costs.append(1000 * spent / run.images)

    def ratio(self, figure: Figure, label: str, other: str) -> str:
        """Return one side's figure to another's of the same round; nothing if there is none."""
        if label == other or not (self.runs.get(label) and self.runs.get(other)):
            return ""
        pairs = zip(self.runs[label], self.runs[other], strict=True)
        return spread([figure(mine) / figure(theirs) for mine, theirs in pairs], 2)

    def table(self) -> str:
        """Return what all sides took, as Markdown."""
        labels = dict.fromkeys([FLOOR, *(side.label for side in self.sides)])
        rows = (self._row(label) for label in labels if self.runs.get(label))
        lines = [f"\n{self.title}:\n", _markdown(_COLUMNS, rows)]
        if self.origin_costs:
            lines.append(f"\nThe origin's processor, ms an image: {spread(self.origin_costs, 2)}.")
        return "\n".join(lines)

    def _row(self, label: str) -> tuple[str, ...]:
        runs = self.runs[label]
        has_postgres = any(run.postgres_seconds for run in runs)
        score = self.scores.get(label)
        return (
            label,
            spread([rate(run) for run in runs], 1),
            self.ratio(rate, label, FLOOR),
            spread([started_rate(run) for run in runs], 1),
            spread([cpu(run) for run in runs], 1),
            self.ratio(cpu, label, FLOOR),
            spread([server_cpu(run) for run in runs], 1) if has_postgres else "",
            spread([whole_cpu(run) for run in runs], 1) if has_postgres else "",
            self.ratio(whole_cpu, label, FLOOR) if has_postgres else "",
            f"{max(run.peak_bytes for run in runs) / _MIB:,.0f}",
            f"{max(run.postgres_peak_bytes for run in runs) / _MIB:,.0f}" if has_postgres else "",
            f"{score:.1f}" if score else "",
            self.ratio(output_bytes, label, SERVICE),
        )


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the service's figure to another side's should be."""

    name: str
    figure: Figure
    other: str
    limit: str


_WISHES: Final = (
    _Wish("processor an image to the floor's", cpu, FLOOR, "≤ 1.15"),
    _Wish("the same with PostgreSQL", whole_cpu, FLOOR, "≤ 1.15"),
    _Wish("images/s to the floor's", rate, FLOOR, "≥ 0.9"),
    _Wish("images/s to img2dataset's", rate, IMG2DATASET, "≥ 1.6"),
    _Wish("the same, its start counted", started_rate, IMG2DATASET, "≥ 1.6"),
    _Wish("images/s to bare img2dataset's", rate, BARE_IMG2DATASET, "≥ 1.6"),
    _Wish("the same, its start counted", started_rate, BARE_IMG2DATASET, "≥ 1.6"),
    _Wish("images/s to the sharp script's", rate, "sharp", "≥ 1.25"),
    _Wish("images/s to the sharp script's with mozjpeg", rate, "sharp mozjpeg", "≥ 5"),
    _Wish("images/s to the thread pool's", rate, THREADS, "≥ 1.7"),
    _Wish("images/s to the tuned thread pool's", rate, TUNED_THREADS, "≥ 1.7"),
)
_SCALED_WISHES: Final = (_Wish("images/s to the sharp script's", rate, "sharp", "> 1"),)


def wishes(scenes: Iterable[Scene]) -> str:
    """Return what is wanted beside what was measured, as Markdown."""
    rows: list[Sequence[str]] = []
    for scene in scenes:
        of_scene = _SCALED_WISHES if scene.is_scaled else _WISHES
        rows += [
            (f"{scene.title}: {wish.name}", wish.limit, found, _ratio_of_fast(scene, wish))
            for wish in of_scene
            if (found := scene.ratio(wish.figure, SERVICE, wish.other))
        ]
        if scene.is_scaled and SERVICE in scene.scores:
            rows.append((f"{scene.title}: score", "≥ 95", f"{scene.scores[SERVICE]:.1f}", ""))
    return "\n" + _markdown(("", "wanted", SERVICE, FAST), rows)


def _ratio_of_fast(scene: Scene, wish: _Wish) -> str:
    """Return what the peers, who save at effort as well, are fairly held against."""
    return "" if wish.other == FLOOR else scene.ratio(wish.figure, FAST, wish.other)


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ("---", *["---:"] * (len(columns) - 1)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
