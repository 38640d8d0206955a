"""Two workers beside one that is limited to one core, in turn, over the same request.

    .venv/bin/python benchmarks/workers.py [--images N] [--pairs N]

The one has a decoder and a core; the two are as they start by default, on all cores. The photos
have 2 to 3 megapixels and come from an origin on loopback. Origin, PostgreSQL and server are
processes apart on whatever core is free, as are other machines in earnest: with one worker that is
the second core, with two they take their time from the workers. How much is reported too.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg2
import requests

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.photos import PHOTOS, draw_photos  # noqa: E402  # the path is set first
from benchmarks.processes import cpu_seconds, postgres_pid, running, spread  # noqa: E402  # path
from command_help import HelpFormatter  # noqa: E402
from embedded_postgres import EmbeddedPostgres  # noqa: E402  # likewise

if TYPE_CHECKING:
    from collections.abc import Mapping

POLL_SECONDS: Final = 0.2
LONGEST_RUN_SECONDS: Final = 600.0
ALL_CORES: Final = os.sched_getaffinity(0)


def make_csv(authority: str, images: int) -> bytes:
    """Return a CSV of so many images, each under a URL of its own."""
    lines = [
        f"{n},Product {n},http://{authority}/workers/{n}/{n % PHOTOS}.jpg"
        for n in range(1, images + 1)
    ]
    return "\r\n".join(["Serial Number,Product Name,Input Image Urls", *lines, ""]).encode()


def run_request(url: str, csv: bytes, conninfo: str) -> tuple[float, int]:
    """Upload and wait for the end; return seconds in work, by the database's clock, and images."""
    with requests.Session() as session:
        session.trust_env = False
        # What no photo shows and no run before had, so that nothing is reused.
        params = {"background": f"#{secrets.token_hex(3)}"}
        headers = {"Content-Type": "text/csv"}
        answer = session.post(f"{url}/upload", data=csv, headers=headers, params=params)
        assert answer.status_code == 202, answer.text
        status_url = f"{url}/status/{answer.json()['request_id']}"
        deadline = time.monotonic() + LONGEST_RUN_SECONDS
        while not (status := session.get(status_url).json())["finished_at"]:
            assert time.monotonic() < deadline, status
            time.sleep(POLL_SECONDS)
    assert status["status"] == "completed", status
    connection = psycopg2.connect(conninfo)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "select extract(epoch from finished_at - started_at) from requests where id = %s",
            (status["request_id"],),
        )
        row = cursor.fetchone()
    connection.close()
    assert row
    return float(row[0]), status["progress"]["total"]


class Bench:
    """The processes that both sides share, and what was measured."""

    def __init__(self, folder: Path, conninfo: str, url: str, pids: Mapping[str, int]) -> None:
        self._folder = folder
        self._conninfo = conninfo
        self._url = url
        self._pids = pids
        self.rates: dict[int, list[float]] = defaultdict(list)  # images/s by number of workers
        # Milliseconds of processor an image, by number of workers and process.
        self.costs: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def run(self, workers: int, csv: bytes, authority: str) -> None:
        """Work the request off with so many workers."""
        settings = {
            "DATABASE_URL": self._conninfo,
            "ALLOWED_SOURCES": authority,
            "COMPRESS_PROCESSES": str(1 if workers == 1 else len(ALL_CORES)),
        }
        with ExitStack() as stack:
            pids = dict(self._pids)
            for core in range(workers):
                pid, _ = stack.enter_context(
                    running(
                        ["image_processor.py"],
                        self._folder,
                        "Working until",
                        cores={0} if workers == 1 else ALL_CORES,
                        **settings,
                    )
                )
                pids[f"worker {core}"] = pid
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            seconds, images = run_request(self._url, csv, self._conninfo)
            self.rates[workers].append(images / seconds)
            for name, pid in pids.items():
                spent = cpu_seconds(pid) - before[name]
                self.costs[workers][name].append(1000 * spent / images)

    def report(self) -> None:
        """Print medians and ranges."""
        for workers in sorted(self.rates):
            print(f"{workers} worker(s)  {spread(self.rates[workers], 1)} images/s")
            costs = self.costs[workers].items()
            parts = [f"{name} {statistics.median(values):.1f}" for name, values in costs]
            print(f"             processor, ms an image: {', '.join(parts)}")
        ratios = [two / one for one, two in zip(self.rates[1], self.rates[2], strict=True)]
        print(f"two / one    {spread(ratios, 2)}")


def main() -> None:
    """Run one and two workers in turn and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--images", type=int, default=1600, help="of a job")
    parser.add_argument("--pairs", type=int, default=3, help="of jobs, one by each side")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        draw_photos(folder)
        postgres = EmbeddedPostgres(folder / "postgres")
        conninfo = postgres.start()
        stack.callback(postgres.stop)
        origin, found = stack.enter_context(
            running(["benchmarks/origin.py"], folder, r"Serving on (\S+)")
        )
        authority = found[1]
        server, found = stack.enter_context(
            running(
                ["server.py", "--no-worker"],
                folder,
                r"Listening on (\S+)",
                DATABASE_URL=conninfo,
            )
        )
        shared = {
            "PostgreSQL": postgres_pid(folder / "postgres"),
            "origin": origin,
            "server": server,
        }
        bench = Bench(folder, conninfo, found[1], shared)
        csv = make_csv(authority, arguments.images)
        for pair in range(arguments.pairs):
            for workers in (1, 2) if pair % 2 == 0 else (2, 1):
                bench.run(workers, csv, authority)
        print(f"{arguments.images} images, {arguments.pairs} pairs: median (range)")
        bench.report()


if __name__ == "__main__":
    main()
