"""Upload of a large CSV beside a bare COPY of the same rows, in turn, on one PostgreSQL.

    .venv/bin/python benchmarks/upload.py [--rows N] [--runs N]

The service runs without a worker, so that nothing else is measured. The bare COPY has the same
columns of the same rows, from files that are there already, into the same tables with all their
indexes, emptied before, in one transaction. Reported, as a Markdown table of median and range: rows
per second of both, their processor's time, and the ratio; how much the server's memory grew, and
how long `/requests` took meanwhile.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import requests

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.processes import (  # noqa: E402
    Companion,
    cpu_seconds,
    own_cpu_seconds,
    peak_mib,
    postgres_pid,
    reset_peak,
    spread,
)
from command_help import HelpFormatter  # noqa: E402
from embedded_postgres import EmbeddedPostgres  # noqa: E402  # the path is set first

if TYPE_CHECKING:
    from collections.abc import Iterator

# Products and images of one upload as text COPY files; the two tables of the schema.
LINKS = (
    "copy image_links (request_id, row, line, serial_number, product_name, input_image_urls,"
    " other_cells) from stdin"
)
IMAGES = "copy images (request_id, n, row, position, input_url) from stdin"
START_SECONDS = 60
STATUS_PAUSE_SECONDS = 0.05


def write_inputs(folder: Path, rows: int) -> None:
    """Write the CSV, and the same rows as the two COPY files; every second has two URLs."""
    n = 0
    with (
        (folder / "products.csv").open("w") as csv,
        (folder / "links").open("w") as links,
        (folder / "images").open("w") as images,
    ):
        csv.write("Serial Number,Product Name,Input Image Urls\n")
        for row in range(1, rows + 1):
            views = ("front", "back")[: 1 + (row % 2 == 0)]
            urls = [f"http://127.0.0.1:9/products/{row}/{view}.jpg" for view in views]
            cell = ",".join(urls)
            csv.write(f'{row},Product number {row},"{cell}"\n')
            links.write(f"bare\t{row}\t{row + 1}\t{row}\tProduct number {row}\t{cell}\t\\N\n")
            for position, url in enumerate(urls, 1):
                n += 1
                images.write(f"bare\t{n}\t{row}\t{position}\t{url}\n")


@contextmanager
def running_server(folder: Path, conninfo: str) -> Iterator[tuple[str, int]]:
    """Run the service without a worker; yield its URL and process id."""
    environment = {
        "PATH": os.environ["PATH"],
        "PORT": "0",
        "DATABASE_URL": conninfo,
        "STORAGE_URL": f"file:{folder}",
        "MAX_CSV_BYTES": "1GiB",
        "MAX_CSV_ROWS": "10000000",
    }
    command = [sys.executable, str(ROOT / "server.py"), "--no-worker"]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(r"Listening on (http\S+)", log.read_text())):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield found[1], process.pid
    finally:
        process.terminate()
        process.wait()


class StatusProbe(Companion):
    """Asks for a status again and again while the block runs; `seconds` has each answer's time."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._url = f"{url}/requests?limit=1"

    def _run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while True:  # once at least, however short the block is
                started = time.perf_counter()
                assert session.get(self._url, timeout=60).status_code == 200
                self.seconds.append(time.perf_counter() - started)
                if self._ended.wait(STATUS_PAUSE_SECONDS):
                    return


def upload(folder: Path, url: str) -> float:
    """Upload the CSV; return the seconds until 202."""
    started = time.perf_counter()
    with (folder / "products.csv").open("rb") as csv, requests.Session() as session:
        session.trust_env = False
        answer = session.post(
            f"{url}/upload", data=csv, headers={"Content-Type": "text/csv"}, timeout=3600
        )
    assert answer.status_code == 202, answer.text
    return time.perf_counter() - started


def copy(folder: Path, conninfo: str) -> float:
    """COPY the same rows into the same tables in one transaction; return the seconds."""
    started = time.perf_counter()
    connection = psycopg2.connect(conninfo)
    with connection, connection.cursor() as cursor:
        for name, statement in (("links", LINKS), ("images", IMAGES)):
            with (folder / name).open() as lines:
                cursor.copy_expert(statement, lines, size=2**18)
    connection.close()
    return time.perf_counter() - started


def empty(conninfo: str) -> None:
    """Empty the tables, so that each run finds the same."""
    connection = psycopg2.connect(conninfo)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("truncate requests, image_links, images, procrastinate_jobs cascade")
        cursor.execute("checkpoint")
    connection.close()


def main() -> None:
    """Run both in turn and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="of the CSV")
    parser.add_argument("--runs", type=int, default=3, help="of each side")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, arguments.rows)
        postgres = EmbeddedPostgres(folder / "postgres")
        conninfo = postgres.start()
        try:
            with running_server(folder, conninfo) as (url, pid):
                measured = measure(folder, conninfo, url, pid, arguments.runs)
            print_report(arguments.rows, measured)
        finally:
            postgres.stop()


def measure(folder: Path, conninfo: str, url: str, pid: int, runs: int) -> dict[str, list[float]]:
    """Return what each COPY and upload took, by name; seconds but for the memory's growth."""
    result: dict[str, list[float]] = defaultdict(list)
    database = postgres_pid(folder / "postgres")
    for run in range(1, runs + 1):
        empty(conninfo)
        before = cpu_seconds(database)
        result["copy"].append(copy(folder, conninfo))
        result["copy, PostgreSQL"].append(cpu_seconds(database) - before)
        empty(conninfo)
        reset_peak(pid)
        memory, before, server = peak_mib(pid), cpu_seconds(database), own_cpu_seconds(pid)
        with StatusProbe(url) as probe:
            result["upload"].append(upload(folder, url))
        result["upload, PostgreSQL"].append(cpu_seconds(database) - before)
        result["upload, server"].append(own_cpu_seconds(pid) - server)
        result["MiB"].append(peak_mib(pid) - memory)
        result["status"] += probe.seconds
        told = f"COPY {result['copy'][-1]:.1f} s, upload {result['upload'][-1]:.1f} s"
        print(f"run {run} of {runs}: {told}", file=sys.stderr, flush=True)
    return result


def print_report(rows: int, result: dict[str, list[float]]) -> None:
    """Print medians and ranges."""

    def each(name: str) -> str:
        return spread([seconds / rows * 1e6 for seconds in result[name]], 1)

    def rate(name: str) -> str:
        return spread([rows / seconds for seconds in result[name]])

    ratios = [u / c for u, c in zip(result["upload"], result["copy"], strict=True)]
    slowest = sorted(result["status"])[int(len(result["status"]) * 0.99)]
    print(f"{rows:,} rows, {rows + rows // 2:,} URLs, {len(ratios)} runs: median (range)\n")
    print("| | rows/s | µs a row: PostgreSQL | server |")
    print("|---|---|---|---|")
    print(f"| bare COPY | {rate('copy')} | {each('copy, PostgreSQL')} | |")
    print(
        f"| upload | {rate('upload')} | {each('upload, PostgreSQL')} | {each('upload, server')} |"
    )
    print(f"\nUpload / COPY: {spread(ratios, 2)} times the time")
    print(f"Memory of the server grew by {spread(result['MiB'], 1)} MiB")
    print(f"`/requests` meanwhile: p99 {1000 * slowest:.0f} ms of {len(result['status'])}")


if __name__ == "__main__":
    main()
