"""What each step of a request's life takes, against the number of its images.

    .venv/bin/python benchmarks/growth.py [--images N ...] [--batch N]

One request after the other, of 1,000, 100,000 and 1,000,000 images, goes through the service with
no worker; the worker's steps are taken here, with the worker's own statements, and no image is
fetched: claimed in batches, all fail, are retried, and succeed. A second request has one URL for
all its images and is cancelled. Reported: a Markdown table of seconds, of the processor's time of
PostgreSQL and of the process that takes the step, and of the peak memory of that; how seconds and
processor's time for an image grow with images; and what the work left of tables and indexes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import requests

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import worker_steps  # noqa: E402  # the path is set first
from benchmarks.claims import failed, succeeded, work  # noqa: E402
from benchmarks.processes import (  # noqa: E402
    cpu_seconds,
    own_cpu_seconds,
    peak_mib,
    postgres_pid,
    reset_peak,
)
from benchmarks.upload import running_server, upload  # noqa: E402
from command_help import HelpFormatter  # noqa: E402
from database_helper import LONG_SECONDS, Database  # noqa: E402
from embedded_postgres import EmbeddedPostgres  # noqa: E402
from output_files import OutputFiles  # noqa: E402
from paging import image_cursor  # noqa: E402
from request_finisher import RequestFinisher  # noqa: E402
from request_rows import select_request  # noqa: E402
from storage.folder_store import FolderStore  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES: Final = (1_000, 100_000, 1_000_000)
ALIKE: Final = {"status", "first page", "last page", "delete"}  # at every size
TICK: Final = 0.01  # seconds, the least that processors tell
FLUSH_SECONDS: Final = 2.0  # after which PostgreSQL's statistics know of it
READS: Final = 20  # of a status or a page, reported for one


class Cost(NamedTuple):
    """What a step took: on the clock, of processors, and at the peak of the process's memory."""

    seconds: float
    postgres: float
    process: float
    mib: float

    @property
    def processors(self) -> float:
        """The seconds of both processors."""
        return self.postgres + self.process


class Growth:
    """One request of so many images after the other; `costs` has what each step took."""

    def __init__(self, folder: Path, database: Database, url: str, pid: int, batch: int) -> None:
        self.costs: dict[str, dict[int, Cost]] = {}
        self._started = time.monotonic()
        self._folder = folder
        self._database = database
        self._url = url
        self._server = pid
        self._postgres = postgres_pid(folder / "postgres")
        self._batch = batch
        store = FolderStore(folder)
        self._finisher = RequestFinisher(
            database, store, OutputFiles(database, store), lease_seconds=30
        )
        self._session = requests.Session()
        self._session.trust_env = False

    def live(self, images: int) -> str:
        """Take a request of different URLs through everything; return what it left of tables."""
        take = partial(self._take, images)
        request_id = self._upload(images, "upload", "{n}")
        status = f"/status/{request_id}"
        take("status", partial(self._call, "GET", status), at="server", times=READS)
        take("begin", partial(self._step, worker_steps.begin, request_id))
        take("claims and failures", partial(self._work, request_id, failed))
        for name, after in (("first", 0), ("last", max(images - 1000, 0))):
            path = f"{status}/images?limit=1000&cursor={image_cursor({'n': after})}"
            take(f"{name} page", partial(self._call, "GET", path), at="server", times=READS)
        take("CSVs of failures", partial(self._finish, request_id))
        take("retry", partial(self._call, "POST", f"{status}/retry"), at="server")
        take("claims and successes", partial(self._work, request_id, succeeded))
        tables = self._tables()
        take("CSVs of successes", partial(self._finish, request_id))
        take("delete", partial(self._call, "DELETE", status), at="server")
        take("purge", partial(self._finisher.purge, request_id))
        return tables

    def cancel(self, images: int) -> None:
        """Begin a request whose images are all the same, and cancel it."""
        take = partial(self._take, images)
        request_id = self._upload(images, "upload, one URL", "1")
        take("begin, one URL", partial(self._step, worker_steps.begin, request_id))
        self._call("DELETE", f"/status/{request_id}")
        take("cancel", partial(self._cancel, request_id))
        self._finish(request_id)
        self._call("DELETE", f"/status/{request_id}")
        self._finisher.purge(request_id)

    def _take(
        self, images: int, name: str, step: Callable[[], Any], *, at: str = "here", times: int = 1
    ) -> None:
        """Take a step and note what it took once; `at` is the process that takes it."""
        pid = self._server if at == "server" else os.getpid()
        reset_peak(pid)
        before, own = cpu_seconds(self._postgres), own_cpu_seconds(pid)
        started = time.perf_counter()
        for _ in range(times):
            step()
        cost = Cost(
            (time.perf_counter() - started) / times,
            (cpu_seconds(self._postgres) - before) / times,
            (own_cpu_seconds(pid) - own) / times,
            peak_mib(pid),
        )
        self.costs.setdefault(name, {})[images] = cost
        so_far = time.monotonic() - self._started
        told = f"{so_far:4.0f} s: {images:,} images, {name}: {cost.seconds:.3f} s"
        print(told, file=sys.stderr, flush=True)

    def _upload(self, images: int, name: str, place: str) -> str:
        """Upload products of one and two images in turn; return the request's id."""
        csv = self._folder / "products.csv"
        write_products(csv, images, place)
        self._take(images, name, partial(upload, self._folder, self._url), at="server")
        newest = self._call("GET", "/requests?limit=1").json()["requests"][0]
        return str(newest["request_id"])

    def _call(self, method: str, path: str) -> requests.Response:
        answer = self._session.request(method, self._url + path, timeout=3600)
        answer.raise_for_status()
        return answer

    def _step(self, step: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with self._database.transaction() as cursor:
            return step(cursor, *args, **options)

    def _work(self, request_id: str, ending: Callable[..., Any]) -> None:
        work(self._database, [request_id], self._batch, ending)

    def _finish(self, request_id: str) -> None:
        self._finisher.finish(request_id)
        row = self._step(select_request, request_id)
        assert row["finished_at"], row

    def _cancel(self, request_id: str) -> None:
        last: int | None = 0
        while last is not None:
            last = self._step(worker_steps.cancel, request_id, last)

    def _tables(self) -> str:
        """Return size, HOT share, dead rows and vacuums of the two large tables, and of indexes."""
        time.sleep(FLUSH_SECONDS)
        with self._database.transaction(LONG_SECONDS) as cursor:
            cursor.execute(
                """select relname as name, pg_table_size(relid) / 1048576 as mib,
                          n_tup_upd as updates, n_tup_hot_upd as hot, n_dead_tup as dead,
                          autovacuum_count as vacuums
                     from pg_stat_user_tables where relname in ('images', 'image_links')
                    order by 1"""
            )
            tables = [
                "{name} {mib:,} MiB, {updates:,} updates, {hot:,} HOT, {dead:,} dead rows, "
                "{vacuums} vacuums".format(**row)
                for row in cursor.fetchall()
            ]
            cursor.execute(
                """select indexrelname as name, pg_relation_size(indexrelid) / 1048576.0 as mib,
                          idx_scan as scans from pg_stat_user_indexes
                    where relname in ('images', 'image_links') order by 1"""
            )
            indexes = [
                "{name} {mib:,.1f} MiB ({scans:,})".format(**row) for row in cursor.fetchall()
            ]
        return "\n".join([*tables, "; ".join(indexes)])

    def report(self) -> None:
        """Print the tables; what took less than a tenth of a second is mostly noise."""
        sizes = sorted(next(iter(self.costs.values())))
        heads = " | ".join(f"{images:,}" for images in sizes)
        print(f"| seconds · processor: PostgreSQL · process · peak MiB | {heads} |")
        print("|---" * (len(sizes) + 1) + "|")
        for name, by_size in self.costs.items():
            costs = [by_size[images] for images in sizes]
            cells = ["{:,.3f} · {:,.2f} · {:,.2f} · {:,.0f}".format(*cost) for cost in costs]
            print(f"| {name} | {' | '.join(cells)} |")
        for before, after in itertools.pairwise(sizes[-2:]):
            print(f"\n| {after:,} images against {before:,}, each | seconds | processors |")
            print("|---|---|---|")
            for name, by_size in self.costs.items():
                share = 1.0 if name in ALIKE else before / after
                one, other = by_size[before], by_size[after]
                seconds = other.seconds / one.seconds * share
                processors = other.processors / (one.processors or TICK) * share
                print(f"| {name} | {seconds:.2f} | {processors:.2f} |")


def write_products(path: Path, images: int, place: str) -> None:
    """Write a CSV of so many images; `{n}` in `place` makes their URLs differ."""
    numbers = iter(range(1, images + 1))
    views = itertools.cycle((1, 2))
    with path.open("w") as csv:
        csv.write("Serial Number,Product Name,Input Image Urls\n")
        for row in itertools.count(1):
            product = list(itertools.islice(numbers, next(views)))
            if not product:
                return
            urls = [f"http://127.0.0.1:9/products/{place.format(n=n)}.jpg" for n in product]
            csv.write(f'{row},Product number {row},"{",".join(urls)}"\n')


def main() -> None:
    """Measure each size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=SIZES, help="of a request")
    parser.add_argument("--batch", type=int, default=64, help="images a claim and a commit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres = EmbeddedPostgres(folder / "postgres")
        conninfo = postgres.start()
        database = Database(conninfo)
        try:
            with running_server(folder, conninfo) as (url, pid):
                growth = Growth(folder, database, url, pid, arguments.batch)
                for images in sorted(arguments.images):
                    tables = growth.live(images)
                    print(f"{images:,} images worked on:\n{tables}\n", flush=True)
                    growth.cancel(images)
                growth.report()
        finally:
            database.close()
            postgres.stop()


if __name__ == "__main__":
    main()
