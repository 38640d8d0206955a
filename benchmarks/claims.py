"""What PostgreSQL carries: claims and recorded outcomes without any image between them.

    .venv/bin/python benchmarks/claims.py [--images N] [--requests N] [--rounds N]
        [--batch N ...] [--threads N ...] [--earlier N ...]

Threads claim images in batches and record them as succeeded, with the statements of the workers,
until a number of requests is done. Reported for each batch, number of threads and `--earlier`, all
in turn, as a Markdown table of median and range: images a second, and the processor time of
PostgreSQL and of the threads; all of them share this machine's cores. `--earlier` images of another
request are there before, those of the same URLs among them: each claim finds what it can reuse.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import image_queue  # noqa: E402  # the path is set first
import worker_steps  # noqa: E402
from attempt_outcome import ended  # noqa: E402
from benchmarks.processes import cpu_seconds, postgres_pid, spread  # noqa: E402
from command_help import HelpFormatter  # noqa: E402
from database_helper import Database  # noqa: E402
from database_schema import apply_schema  # noqa: E402
from embedded_postgres import EmbeddedPostgres  # noqa: E402
from image_queue import ClaimedImage, ImageState, Outcome  # noqa: E402
from image_reuse import Recipe  # noqa: E402
from request_options import ImageOptions  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from database_helper import Cursor

LEASE_SECONDS: Final = 60.0
RECIPE: Final = Recipe(ImageOptions(), b"any")


class Way(NamedTuple):
    """One way to work: images a claim, threads, and images of before that can be reused."""

    batch: int
    threads: int
    earlier: int


def fill(cursor: Cursor, requests: int, images: int) -> list[str]:
    """Put requests that are processing in place of all rows; return their ids."""
    cursor.execute("truncate requests, image_links, images cascade")
    ids = [f"{number:032x}" for number in range(requests)]
    each = images // requests
    cursor.execute(
        """insert into requests (id, status, options, columns, base_url, products, images)
           select id, 'processing', '{}', '{}', 'http://images.example', %s, %s
             from unnest(%s::text[]) as id""",
        (each, each, ids),
    )
    cursor.execute(
        """insert into images (request_id, n, row, position, input_url)
           select id, n, n, 1,
                  format('http://shop.example/products/%%s/front.jpg', (number - 1) * %s + n)
             from unnest(%s::text[]) with ordinality as request(id, number),
                  generate_series(1, %s) as n""",
        (each, ids, each),
    )
    return ids


def fill_earlier(cursor: Cursor, images: int) -> None:
    """Add a finished request whose images have the URLs that `fill` gives."""
    request_id = "e" * 32
    cursor.execute(
        """insert into requests (id, status, options, columns, base_url, images, finished_at)
           values (%s, 'completed', '{}', '{}', 'http://images.example', %s, now())""",
        (request_id, images),
    )
    cursor.execute(
        """insert into images (request_id, n, row, position, input_url, state, fence, bytes_in,
                               bytes_out, width, height, format, quality, sha256, etag,
                               source_sha256, reuse_key, made_at)
           select %s, n, n, 1, url, 'succeeded', 1, 700000, 200000, 1936, 1291, 'jpeg', '75',
                  repeat('0', 64), '"5d8c72a5edda8d6a:0"', repeat('0', 64), left(encode(sha256(
                  %s::bytea || convert_to(url, 'utf8')), 'hex'), 32)::uuid, now()
             from generate_series(1, %s) as n,
                  format('http://shop.example/products/%%s/front.jpg', n) as url""",
        (request_id, RECIPE.seal, images),
    )


def work(
    database: Database,
    ids: list[str],
    batch: int,
    ending: Callable[[ClaimedImage], Outcome],
) -> None:
    """Claim batches and record this ending, of each request in turn, until no image is left."""
    open_ids = deque((request_id, 0) for request_id in ids)
    while open_ids:
        request_id, last = open_ids.popleft()
        with database.transaction() as cursor:
            claimed = worker_steps.claim(
                cursor,
                request_id,
                RECIPE,
                after=last,
                limit=batch,
                lease_seconds=LEASE_SECONDS,
            )
        if not claimed:
            continue
        open_ids.append((request_id, claimed[-1].n))
        with database.transaction() as cursor:
            image_queue.record_outcomes(cursor, [ending(image) for image in claimed])


def succeeded(image: ClaimedImage) -> Outcome:
    """Return a good end."""
    return ended(
        image,
        ImageState.SUCCEEDED,
        bytes_in=700_000,
        bytes_out=200_000,
        width=1936,
        height=1291,
        format="jpeg",
        quality="75",
        sha256="0" * 64,
        etag='"5d8c72a5edda8d6a:0"',
        last_modified="Sun, 22 Nov 2026 12:00:00 GMT",
        source_sha256="0" * 64,
        reuse_key=RECIPE.key(image.input_url),
        reused=image.earlier is not None,
    )


def failed(image: ClaimedImage) -> Outcome:
    """Return a bad end."""
    return ended(
        image,
        ImageState.FAILED,
        error_code="http_404",
        error_detail="The origin answered with HTTP status 404.",
        http_status=404,
    )


def run(database: Database, ids: list[str], threads: int, batch: int) -> float:
    """Have so many threads work all off; return the seconds."""
    # Each begins with another request, as the lanes of different requests do.
    tasks = [
        threading.Thread(
            target=work, args=(database, ids[number % len(ids) :] + ids, batch, succeeded)
        )
        for number in range(threads)
    ]
    started = time.perf_counter()
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    return time.perf_counter() - started


def main() -> None:
    """Measure each way in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--images", type=int, default=48_000, help="in all")
    parser.add_argument("--requests", type=int, default=16, help="that they belong to")
    parser.add_argument("--rounds", type=int, default=3, help="of each way")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[16], help="images a claim and a commit"
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="that claim at a time"
    )
    parser.add_argument(
        "--earlier", type=int, nargs="+", default=[0], help="images that can be reused"
    )
    arguments = parser.parse_args()
    ways = list(
        itertools.starmap(
            Way, itertools.product(arguments.batch, arguments.threads, arguments.earlier)
        )
    )
    costs: dict[Way, list[tuple[float, ...]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        postgres = EmbeddedPostgres(Path(name))
        database = Database(postgres.start(), max_connections=max(arguments.threads))
        try:
            apply_schema(database)
            pid = postgres_pid(Path(name))
            for way in ways * arguments.rounds:
                cost = measure(database, pid, arguments.requests, arguments.images, way)
                costs[way].append(cost)
                print(way, cost, file=sys.stderr, flush=True)
        finally:
            database.close()
            postgres.stop()
    print("| batch | threads | earlier | images/s | ms an image: PostgreSQL | threads |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        rate, theirs, ours = (list(each) for each in zip(*costs[way], strict=True))
        cells = [*map("{:,}".format, way), spread(rate), spread(theirs, 3), spread(ours, 3)]
        print(f"| {' | '.join(cells)} |")


def measure(
    database: Database, pid: int, requests: int, images: int, way: Way
) -> tuple[float, float, float]:
    """Return images a second, and for an image PostgreSQL's processor time and ours, in ms."""
    with database.transaction(600) as cursor:
        ids = fill(cursor, requests, images)
        fill_earlier(cursor, way.earlier)
    images = images // requests * requests
    before, ours = cpu_seconds(pid), time.process_time()
    seconds = run(database, ids, way.threads, way.batch)
    cost = (cpu_seconds(pid) - before) / images * 1000
    ours = (time.process_time() - ours) / images * 1000
    _check(database, images, min(images, way.earlier))
    return images / seconds, cost, ours


def _check(database: Database, images: int, reused: int) -> None:
    with database.transaction() as cursor:
        cursor.execute(
            """select (select sum(succeeded) from requests) as done,
                      (select count(*) from images where reused) as reused"""
        )
        assert cursor.fetchone() == {"done": images, "reused": reused}


if __name__ == "__main__":
    main()
