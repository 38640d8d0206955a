"""What more compress processes gain, and how many images one server process can carry.

    .venv/bin/python benchmarks/scaling.py [FOLDER] [--images N] [--rounds N]

The whole service does the same job with one decoder and with as many as there are cores, in turn.
The second can't be so many times as fast as the first, because beside the one decoder the
other cores were free for all the rest: so the share of all cores that the decoders had is
told as well. Then pictures that take the codec hardly any time: what is left is the server's
own work on an image.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.peers_report import rate  # noqa: E402  # the path is set first
from benchmarks.peers_sides import Job, Service  # noqa: E402  # likewise
from benchmarks.photos import take_photos  # noqa: E402  # likewise
from benchmarks.processes import running, spread  # noqa: E402  # likewise
from command_help import HelpFormatter  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.peers_sides import Run

_CORES: Final = len(os.sched_getaffinity(0))
_CONNECTIONS: Final = 32
_TINY_PIXELS: Final = 32  # of a side


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of JPEGs; without one, drawn ones")
    parser.add_argument("--images", type=int, default=600, help="photos of a job")
    parser.add_argument(
        "--tiny-images",
        type=int,
        default=6000,
        help="of a job of those that cost the codec nothing",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each job")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        folder = Path(name)
        photos = take_photos(arguments.folder, folder)
        Image.new("RGB", (_TINY_PIXELS, _TINY_PIXELS), "teal").save(folder / "tiny.jpg")
        with running(["benchmarks/origin.py"], folder, r"Serving on (\S+)") as (pid, found):
            job = Job(found[1], pid, folder, photos, arguments.images)
            tiny = Job(found[1], pid, folder, ["tiny.jpg"], arguments.tiny_images)
            _measure(job, tiny, arguments.rounds)


def _measure(job: Job, tiny: Job, rounds: int) -> None:
    runs: dict[int, list[Run]] = defaultdict(list)
    small: list[Run] = []
    for number in range(rounds):
        for processes in (1, _CORES) if number % 2 == 0 else (_CORES, 1):
            runs[processes].append(_service(processes).run(job))
        small.append(_service(_CORES).run(tiny))
    for processes in dict.fromkeys((1, _CORES)):
        rates = [rate(run) for run in runs[processes]]
        print(f"{processes} compress process(es): {spread(rates, 1)} images/s")
    ratios = [rate(more) / rate(one) for one, more in zip(runs[1], runs[_CORES], strict=True)]
    shares = [(run.cpu_seconds - run.server_seconds) / run.seconds / _CORES for run in runs[_CORES]]
    print(f"{_CORES} to 1: {spread(ratios, 2)}; the decoders had {spread(shares, 2)} of all cores")
    _tell_tiny(small)


def _service(processes: int) -> Service:
    environment = {
        "COMPRESS_PROCESSES": str(processes),
        "HOST_CONCURRENCY": str(_CONNECTIONS),
    }
    return Service(f"{processes}", {"quality": "75"}, environment)


def _tell_tiny(runs: list[Run]) -> None:
    server = [1000 * run.server_seconds / run.images for run in runs]
    decoders = [1000 * (run.cpu_seconds - run.server_seconds) / run.images for run in runs]
    postgres = [1000 * run.postgres_seconds / run.images for run in runs]
    print(
        f"pictures of {_TINY_PIXELS} pixels: {spread([rate(run) for run in runs])} images/s; "
        f"processor, ms an image: server {spread(server, 2)}, decoders {spread(decoders, 2)}, "
        f"PostgreSQL {spread(postgres, 2)}"
    )
    print(f"so a server process alone on a core: {1000 / statistics.median(server):,.0f} images/s")


if __name__ == "__main__":
    main()
