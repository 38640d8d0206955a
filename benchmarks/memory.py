"""The memory of server and worker over a long run, and of the whole service over large photos.

    .venv/bin/python benchmarks/memory.py [--images N] [--large-images N]

First a server and a worker work a request of many small photos off; flat means that the last
tenth of the time shows no more than the first. Then the whole service, one process with its
decoders, takes photos of 12 megapixels as they come from a telephone: its peak. Memory is
what `/proc` calls PSS: what processes share is divided among them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.peers_sides import Client, Job, Service  # noqa: E402  # the path is set first
from benchmarks.photos import draw_photos  # noqa: E402  # likewise
from benchmarks.processes import (  # noqa: E402  # likewise
    MemoryWatch,
    memory_bytes,
    own_memory_bytes,
    postgres_pid,
    running,
)
from command_help import HelpFormatter  # noqa: E402
from embedded_postgres import EmbeddedPostgres  # noqa: E402  # likewise

_CORES: Final = len(os.sched_getaffinity(0))
_MIB: Final = 2**20
_SMALL_MEGAPIXELS: Final = (0.2, 0.6)
_LARGE_MEGAPIXELS: Final = (12.0, 12.0)
_SETTINGS: Final = {"HOST_CONCURRENCY": "32"}
_WARM_UP_IMAGES: Final = 200  # so that every thread, connection and decoder is there
_OPTIONS: Final = {"quality": "75"}
_ALLOWED_MIB: Final = 300 + 150 * _CORES


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="small ones, of the long run")
    parser.add_argument("--large-images", type=int, default=300, help="of 12 megapixels")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        folder = Path(name)
        small = draw_photos(folder, megapixels=_SMALL_MEGAPIXELS)
        with running(["benchmarks/origin.py"], folder, r"Serving on (\S+)") as (pid, found):
            _watch_long_run(Job(found[1], pid, folder, small, arguments.images))
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        folder = Path(name)
        large = draw_photos(folder, 8, _LARGE_MEGAPIXELS)
        with running(["benchmarks/origin.py"], folder, r"Serving on (\S+)") as (pid, found):
            _watch_peak(Job(found[1], pid, folder, large, arguments.large_images))


def _watch_long_run(job: Job) -> None:
    with tempfile.TemporaryDirectory(prefix="memory-") as name, ExitStack() as stack:
        folder = Path(name)
        postgres = EmbeddedPostgres(folder / "postgres")
        database = {"DATABASE_URL": postgres.start()}
        stack.callback(postgres.stop)
        worker, _ = stack.enter_context(
            running(
                ["image_processor.py"],
                folder,
                "Working until",
                cores=None,
                ALLOWED_SOURCES=job.authority,
                **_SETTINGS,
                **database,
            )
        )
        server, found = stack.enter_context(
            running(
                ["server.py", "--no-worker"],
                folder,
                r"Listening on (\S+)",
                cores=None,
                **database,
            )
        )
        client = Client(found[1], _OPTIONS)
        client.finish(client.upload(replace(job, images=_WARM_UP_IMAGES)))
        looks = {
            "server": partial(own_memory_bytes, server),
            "worker": partial(own_memory_bytes, worker),
            "worker with its decoders": partial(memory_bytes, worker),
            "PostgreSQL": partial(memory_bytes, postgres_pid(folder / "postgres")),
        }
        with MemoryWatch(looks) as memory:
            client.finish(client.upload(job))
    low, high = _SMALL_MEGAPIXELS
    print(f"{job.images} images of {low} to {high} megapixels, MiB:\n")
    print("| | first tenth | last tenth | last to first | peak |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in looks:
        values = [sample[name] / _MIB for sample in memory.samples]
        tenth = max(1, len(values) // 10)
        first, last = statistics.fmean(values[:tenth]), statistics.fmean(values[-tenth:])
        print(f"| {name} | {first:.0f} | {last:.0f} | {last / first:.2f} | {max(values):.0f} |")
    total = max(sample["server"] + sample["worker with its decoders"] for sample in memory.samples)
    print(f"\nserver, worker and decoders together: at most {total / _MIB:.0f} MiB", flush=True)


def _watch_peak(job: Job) -> None:
    run = Service("service", _OPTIONS, _SETTINGS).run(job)
    print(
        f"{job.images} images of {_LARGE_MEGAPIXELS[0]:.0f} megapixels: "
        f"at most {run.peak_bytes / _MIB:.0f} MiB, wanted {_ALLOWED_MIB}; "
        f"PostgreSQL {run.postgres_peak_bytes / _MIB:.0f} MiB"
    )


if __name__ == "__main__":
    main()
