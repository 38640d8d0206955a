"""The whole service beside its peers and the floor, in one run, as ratios.

    make bench FOLDER=path PEERS="--rounds 3 --scenes 0 200"
    .venv/bin/python benchmarks/peers.py [FOLDER] [--rounds N] [--images N] [--sides …]

Every side does the same job: photos from an origin on loopback that lets each answer wait, fetched
over as many connections, encoded as JPEGs that look equally good, written as files. The sides
take turns; each figure is the median of the rounds with its range. Photos are the JPEGs of a
folder; without one they are drawn, of 2 to 3 megapixels, with as much grain as a photo: the few
samples of the project are too small to be like photos. Prints Markdown; each run, when it has
ended, on standard error.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import peers_line_up  # noqa: E402  # the path is set first
from benchmarks.peers_quality import (  # noqa: E402  # likewise
    at_equal_score,
    judge,
    judge_scaled,
    write_sample,
)
from benchmarks.peers_report import FAST, FLOOR, SERVICE, Scene, wishes  # noqa: E402  # likewise
from benchmarks.peers_sides import Job, Program, Run, Service, Side  # noqa: E402  # likewise
from benchmarks.photos import take_photos  # noqa: E402  # likewise
from benchmarks.processes import running  # noqa: E402  # likewise
from benchmarks.quality_scores import Scores  # noqa: E402  # likewise
from command_help import HelpFormatter  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

_S = TypeVar("_S", bound=Side)
LATENCIES: Final = ("0", "50", "200")  # milliseconds
SCALED: Final = "scaled"
BOX: Final = 1024  # pixels of the square that photos are fitted into
_SCALED_PHOTOS: Final = 12  # that are judged


def main() -> None:
    """Measure, and print what was found."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="peers-") as name, ExitStack() as stack:
        folder = Path(name)
        photos = take_photos(arguments.folder, folder, most_megapixels=arguments.max_megapixels)
        crops = write_sample([folder / photo for photo in photos], folder)
        jobs = {}
        for latency in LATENCIES:
            origin = ["benchmarks/origin.py", "--latency", latency]
            pid, found = stack.enter_context(running(origin, folder, r"Serving on (\S+)"))
            jobs[latency] = Job(found[1], pid, folder, photos, arguments.images)
        print(_describe(arguments, jobs["0"]), flush=True)
        bench = Bench(arguments, jobs, replace(jobs["0"], photos=crops, images=len(crops)))
        scenes = {name: bench.scene(name) for name in arguments.scenes}
        for number in range(arguments.rounds):
            for scene in scenes.values():
                scene.play(number)
    for scene in scenes.values():
        print(scene.table())
    print(wishes(scenes.values()))


class Bench:
    """Sides at equal score, and the scenes that they play."""

    def __init__(self, arguments: argparse.Namespace, jobs: dict[str, Job], sample: Job) -> None:
        self._connections, self._quality = arguments.connections, arguments.quality
        self._wanted = arguments.sides
        self._jobs = jobs
        self._sample = sample
        self._scores = Scores(ROOT / "benchmarks" / "quality-cache")
        self._found: dict[str, float] = {}  # scores by label
        self._floor_runs: list[Run] = []  # for all scenes: it has no network
        self._peers = self._equal_peers()

    def scene(self, name: str) -> Scene:
        """Return what is played at a latency, or with photos scaled down."""
        if name == SCALED:
            return self._scaled_scene()
        ours = [self._service(SERVICE), self._service(FAST, effort="fast")]
        sides: list[Side] = [*ours, *self._main_peers()]
        if name == "0":
            sides = [*self._own(), *self._peers]
        sides = self._chosen(sides)
        for side in sides:
            if isinstance(side, Service) and side.label not in self._found:
                self._found[side.label] = judge(side, self._sample, self._scores)
        sides = [
            peers_line_up.at_latency(side, int(name)) if isinstance(side, Program) else side
            for side in sides
        ]
        scene = Scene(f"{name} ms", self._jobs[name], sides, self._found)
        scene.runs[FLOOR] = self._floor_runs
        return scene

    def _own(self) -> list[Side]:
        return [
            peers_line_up.floor(self._jobs["0"], self._quality),
            peers_line_up.codec("codec alone", quality=self._quality),
            self._service(SERVICE),
            self._service(FAST, effort="fast"),
            peers_line_up.codec("codec alone, auto"),
            self._service("service, auto", quality="auto"),
        ]

    def _service(self, label: str, **options: str) -> Service:
        return peers_line_up.service(
            label, self._connections, **{"quality": str(self._quality)} | options
        )

    def _equal_peers(self) -> list[Program]:
        """Return the peers that work, each at the quality where it scores as we do."""
        found: list[Program] = []
        candidates = self._chosen(peers_line_up.peers(self._connections))
        if not candidates:
            return found
        ours = self._found[SERVICE] = judge(self._service(SERVICE), self._sample, self._scores)
        for candidate in candidates:
            try:
                peer, score = at_equal_score(candidate, ours, self._sample, self._scores)
            except AssertionError as error:
                print(f"{candidate.label} is left out: {error}")
                continue
            print(f"{peer.label}: quality {peer.settings['quality']}", flush=True)
            self._found[peer.label] = score
            found.append(peer)
        return found

    def _main_peers(self) -> list[Program]:
        return [peer for peer in self._peers if peer.label in peers_line_up.EVERYWHERE]

    def _scaled_scene(self) -> Scene:
        """Return the scene in which photos are fitted into a square; judged before encoding."""
        box = {"max_width": BOX, "max_height": BOX}
        words = {name: str(value) for name, value in box.items()}
        peers = [
            replace(peer, settings=peer.settings | {"max_side": BOX}) for peer in self._main_peers()
        ]
        lossless: list[Side] = [
            self._service(SERVICE, format="png", quality="100", **words),  # in all its colours
            *(replace(peer, settings=peer.settings | {"format": "png"}) for peer in peers),
        ]
        job = self._jobs["0"]
        names = job.photos[:: max(1, len(job.photos) // _SCALED_PHOTOS)][:_SCALED_PHOTOS]
        few = replace(job, photos=names, images=len(names))
        found = {
            side.label: judge_scaled(side, few, BOX, self._scores)
            for side in self._chosen(lossless)
        }
        codec = peers_line_up.codec("codec alone", quality=self._quality, **box)
        sides: list[Side] = [codec, self._service(SERVICE, **words), *peers]
        title = f"0 ms, fitted into {BOX} by {BOX}"
        return Scene(title, job, self._chosen(sides), found, is_scaled=True)

    def _chosen(self, sides: Sequence[_S]) -> list[_S]:
        return [side for side in sides if not self._wanted or side.label in self._wanted]


def _describe(arguments: argparse.Namespace, job: Job) -> str:
    """Say what is measured, and on what."""
    sizes = [(job.folder / name).stat().st_size for name in job.photos]
    pixels = []
    for name in job.photos:
        with Image.open(job.folder / name) as image:
            pixels.append(image.width * image.height / 1e6)
    kind = "drawn photos" if arguments.folder is None else "photos"
    return (
        f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}; "
        f"{job.images} images of {len(sizes)} {kind}, on average {statistics.fmean(pixels):.1f} "
        f"megapixels and {statistics.fmean(sizes) / 1000:.0f} KB; {arguments.connections} "
        f"connections; quality {arguments.quality}; {arguments.rounds} rounds, median (range)"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of JPEGs")
    parser.add_argument("--max-megapixels", type=float, default=6.0, help="leave out larger photos")
    parser.add_argument("--images", type=int, default=800, help="of a job")
    parser.add_argument("--rounds", type=int, default=5, help="of each scene")
    scenes = (*LATENCIES, SCALED)
    parser.add_argument(
        "--scenes", nargs="+", choices=scenes, default=scenes, help="latencies in ms, scaled down"
    )
    parser.add_argument("--quality", type=int, default=75, help="of ours; the others' follow")
    parser.add_argument("--connections", type=int, default=32, help="of each side to the origin")
    parser.add_argument("--sides", nargs="+", help="only these, by their labels")
    return parser.parse_args()


if __name__ == "__main__":
    main()
