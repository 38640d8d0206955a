"""The worker: requests run to their end, whatever happens to it, to others and to PostgreSQL."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

import attempt_outcome
import image_pipeline
import image_processor
import image_queue
import in_flight
import job_queue
import worker_steps
import worker_thread
import worker_upkeep
from codec.codec_version import codec_version
from csv_validator import ProductRow
from decoder import decoder_handle
from decoder.decoder_cage import Bar
from decoder.decoder_pool import DecoderPool
from errors import SettingsError
from image_processor import ImageProcessor, background_worker
from image_queue import claim_images
from output_files import OutputFiles
from request_finisher import RequestFinisher
from request_options import RequestOptions, parse_options
from request_queue import begin_request, cancel_request, delete_request, retry_request
from settings import Settings
from storage.folder_store import FolderStore
from storage.storage_keys import STAGED_IMAGES
from tests.images import photo, saved
from tests.origin import Reply
from tests.outages import allow_connections, cut_connections
from tests.waiting import PATIENCE_SECONDS, wait_until
from upload_rows import copy_products, insert_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_helper import Database
    from storage.storage_keys import StagedImage
    from tests.origin import Origin
    from worker_thread import WorkerThread

ROOT = Path(__file__).parents[2]
SOON_SECONDS = 25.0  # what a second or two may take at the very most on a busy machine
JPEG = saved(photo(64, 48), "JPEG", quality=95)
BUSY = Reply(b"busy", status=503, content_type="text/plain")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what a test would have to wait for."""
    monkeypatch.setattr(worker_upkeep, "LONGEST_SWEEP_SECONDS", 0.5)
    monkeypatch.setattr(attempt_outcome, "FIRST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(image_pipeline, "POSTPONED_SECONDS", 0.2)


def _never_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing go on that only a sweep would bring about."""
    monkeypatch.setattr(worker_steps, "sweep", lambda *_: image_queue.Recorded())


class Shop:
    """A database, a store and an origin, and workers over them."""

    def __init__(self, database: Database, folder: Path, origin: Origin) -> None:
        self.database = database
        self.folder = folder
        self.origin = origin
        self.store = FolderStore(folder)

    def worker(self, **settings: Any) -> WorkerThread:
        """Return a worker, to be entered."""
        values: dict[str, Any] = {
            "_env_file": None,
            "compress_processes": 1,
            "shutdown_seconds": 10,
            "allowed_sources": self.origin.authority,
        }
        return background_worker(Settings(**values | settings), self.database, self.store)

    def upload(self, *cells: list[str], **options: str) -> str:
        """Take in a request with a product for each list of URLs; return its id."""
        request_id = uuid.uuid4().hex
        products = [
            ProductRow(row + 1, f"{row}", f"Lamp {row}", ",".join(urls), None, urls)
            for row, urls in enumerate(cells, 1)
        ]
        parsed: RequestOptions = parse_options(options)
        with self.database.transaction() as cursor:
            counts = copy_products(cursor, request_id, products)
            insert_request(
                cursor,
                request_id,
                options=parsed.to_json(),
                columns=["Serial Number", "Product Name", "Input Image Urls"],
                base_url="http://images.example",
                counts=counts,
                owner=None,
            )
            job_queue.defer_begin(cursor, request_id)
        return request_id

    def serve(self, count: int, **oddities: Any) -> list[str]:
        """Serve so many images of their own; return their URLs."""
        start = uuid.uuid4().hex
        return [
            self.origin.serve(f"/{start}-{n}.jpg", JPEG, **oddities) for n in range(1, count + 1)
        ]

    def query(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Return rows of the database."""
        with self.database.transaction() as cursor:
            cursor.execute(statement, values)
            return [dict(row) for row in cursor.fetchall()]

    def request(self, request_id: str) -> dict[str, Any]:
        """Return a request's row."""
        return self.query("select * from requests where id = %s", request_id)[0]

    def images(self, request_id: str) -> list[dict[str, Any]]:
        """Return the rows of a request's images in input order."""
        return self.query("select * from images where request_id = %s order by n", request_id)

    def states(self, request_id: str) -> list[str]:
        """Return the states of a request's images in input order."""
        return [image["state"] for image in self.images(request_id)]

    def finish(self, request_id: str) -> dict[str, Any]:
        """Wait until a request is finished; return its row."""
        wait_until(lambda: self.request(request_id)["finished_at"] is not None)
        return self.request(request_id)

    def wait_for_successes(self, request_id: str, count: int) -> None:
        """Wait until so many images have succeeded."""
        wait_until(lambda: self.request(request_id)["succeeded"] >= count)

    def output(self, request_id: str) -> list[list[str]]:
        """Return the slots of the output CSV, product by product."""
        text = (self.folder / f"static/{request_id}.csv").read_text()
        lines = csv.DictReader(io.StringIO(text, newline=""))
        return [line["Output Image Urls"].split(",") for line in lines]

    def file(self, request_id: str, n: int) -> bytes:
        """Return an output image."""
        return (self.folder / f"uploads/{request_id}/{request_id}-{n}.jpg").read_bytes()

    def staged(self) -> list[str]:
        """Return the names of the images that are staged."""
        return [path.name for path in (self.folder / STAGED_IMAGES).iterdir()]


@pytest.fixture
def shop(clean_database: Database, tmp_path: Path, origin: Origin) -> Iterator[Shop]:
    """Give a shop whose requests nobody works on yet."""
    shop = Shop(clean_database, tmp_path, origin)
    yield shop
    allow_connections(shop.database, allow=True)


# --- One worker ------------------------------------------------------------------------------


def test_a_request_runs_to_its_end(shop: Shop) -> None:
    """Images are fetched, made smaller and stored; rows, files and CSV agree."""
    one, two, three = shop.serve(3)
    with shop.worker():
        request_id = shop.upload([one, two], [three])
        row = shop.finish(request_id)
    assert row["status"] == "completed"
    assert (row["succeeded"], row["failed"], row["bytes_in"]) == (3, 0, 3 * len(JPEG))
    images = shop.images(request_id)
    files = [shop.file(request_id, n) for n in (1, 2, 3)]
    assert [image["sha256"] for image in images] == [
        hashlib.sha256(file).hexdigest() for file in files
    ]
    assert [image["bytes_out"] for image in images] == [len(file) for file in files]
    assert row["bytes_out"] == sum(map(len, files)) <= row["bytes_in"]
    assert {(i["width"], i["height"], i["format"], i["attempts"]) for i in images} == {
        (64, 48, "jpeg", 1)
    }
    base = f"http://images.example/uploads/{request_id}/{request_id}"
    assert shop.output(request_id) == [[f"{base}-1.jpg", f"{base}-2.jpg"], [f"{base}-3.jpg"]]


def test_one_image_s_failure_touches_no_other(shop: Shop) -> None:
    """What can't be had fails by itself; its slot stays empty, the rest is there."""
    good, other = shop.serve(2)
    urls = [
        good,
        shop.origin.url("/missing.jpg"),
        shop.origin.serve("/page.jpg", b"<html>"),
        "ftp://shop.example/a.jpg",
        "http://10.0.0.1/a.jpg",
        other,
    ]
    with shop.worker():
        request_id = shop.upload(urls)
        row = shop.finish(request_id)
    assert row["status"] == "completed_with_errors"
    codes = {"http_404": 1, "not_an_image": 1, "invalid_url": 1, "blocked_address": 1}
    assert row["errors_by_code"] == codes
    assert [bool(slot) for slot in shop.output(request_id)[0]] == [True, *[False] * 4, True]


def test_options_reach_the_images(shop: Shop) -> None:
    """What the upload asked for is what is made, also by a worker that reads it from the row."""
    with shop.worker():
        request_id = shop.upload(shop.serve(1), format="webp", max_width="32")
        shop.finish(request_id)
    (image,) = shop.images(request_id)
    assert (image["format"], image["width"], image["height"]) == ("webp", 32, 24)


def test_a_url_that_comes_fifty_times_is_fetched_once(shop: Shop) -> None:
    """Every slot has a file of its own, with the same bytes."""
    url, other = shop.serve(2)
    cells = [[url, url], [other], *[[url] for _ in range(48)]]
    with shop.worker():
        request_id = shop.upload(*cells)
        row = shop.finish(request_id)
    assert (row["status"], row["succeeded"]) == ("completed", 51)
    assert sorted(shop.origin.counts.values()) == [1, 1]
    assert {shop.file(request_id, n) for n in range(1, 52)} == {shop.file(request_id, 1)}
    slots = [slot for cell in shop.output(request_id) for slot in cell]
    assert len(set(slots)) == len(slots) == 51
    assert [image["reused"] for image in shop.images(request_id)].count(True) == 49


def test_repetitions_come_in_portions(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a URL is repeated, no transaction has to release all of them at once."""
    monkeypatch.setattr(image_queue, "REPEATS_AT_A_TIME", 2)
    _never_sweep(monkeypatch)
    with shop.worker():
        request_id = shop.upload(shop.serve(1) * 21, shop.serve(1) * 4)
        assert shop.finish(request_id)["succeeded"] == 25
    assert set(shop.origin.counts.values()) == {1}


def test_repetitions_of_a_failure_fail_alike(shop: Shop) -> None:
    """Nothing is tried again for each slot."""
    url = shop.origin.url("/missing.jpg")
    with shop.worker():
        request_id = shop.upload([url] * 5)
        row = shop.finish(request_id)
    assert (row["status"], row["errors_by_code"]) == ("failed", {"http_404": 5})
    assert shop.origin.count("/missing.jpg") == 1


def test_a_small_request_that_comes_later_ends_first(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large request leaves room for others."""
    monkeypatch.setattr(in_flight, "REQUEST_WINDOW", 8)
    large_urls, small_urls = shop.serve(90, delay=0.1), shop.serve(3)
    with shop.worker(host_concurrency=4, download_concurrency=8):
        large = shop.upload(large_urls)
        wait_until(lambda: shop.request(large)["succeeded"] > 0)
        small = shop.upload(small_urls)
        before = len(shop.origin.requests)
        shop.finish(small)
        order = [shop.origin.url(request.path) for request in shop.origin.requests]
        assert max(map(order.index, small_urls)) < before + 45
        shop.finish(large)
    assert shop.request(large)["status"] == "completed"


def test_a_turn_is_handed_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a turn's time is over the next one goes on at once, without any sweep."""
    monkeypatch.setattr(in_flight, "REQUEST_WINDOW", 4)
    monkeypatch.setattr(in_flight, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(image_processor, "TURN_SECONDS", 0.05)
    _never_sweep(monkeypatch)
    with shop.worker(download_concurrency=4):
        request_id = shop.upload(shop.serve(20, delay=0.1))
        row = shop.finish(request_id)
    assert row["succeeded"] == 20
    assert _last_job(shop) > 5


# --- Trying again ----------------------------------------------------------------------------


def test_a_passing_trouble_is_tried_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy origin is asked again later, without a sweep; the success counts once and the error
    is forgotten.
    """
    _never_sweep(monkeypatch)
    url = shop.origin.serve_in_turn("/busy.jpg", BUSY, BUSY, Reply(JPEG))
    with shop.worker():
        request_id = shop.upload([url])
        row = shop.finish(request_id)
    assert (row["status"], row["succeeded"], row["errors_by_code"]) == ("completed", 1, {})
    (image,) = shop.images(request_id)
    assert (image["attempts"], image["error_code"]) == (3, None)


def test_a_lasting_trouble_is_tried_so_often(shop: Shop) -> None:
    """After DOWNLOAD_ATTEMPTS the image has failed."""
    url = shop.origin.serve_in_turn("/busy.jpg", BUSY)
    with shop.worker(download_attempts=3):
        request_id = shop.upload([url])
        row = shop.finish(request_id)
    assert (row["status"], row["errors_by_code"]) == ("failed", {"http_503": 1})
    assert shop.origin.count("/busy.jpg") == 3
    assert shop.images(request_id)[0]["attempts"] == 3


def test_an_origin_is_not_asked_before_its_time(shop: Shop) -> None:
    """Retry-After goes before our own, shorter pause; other images don't wait for it."""
    later = Reply(b"", status=429, headers={"Retry-After": "2"})
    url = shop.origin.serve_in_turn("/limited.jpg", later, Reply(JPEG))
    with shop.worker():
        request_id = shop.upload([url, *shop.serve(3)])
        wait_until(lambda: shop.states(request_id) == ["pending", *["succeeded"] * 3])
        (waiting,) = shop.query(
            """select error_code, extract(epoch from due_at - i.now) as seconds
                 from (select *, now() from images) i where request_id = %s and n = 1""",
            request_id,
        )
        assert waiting["error_code"] == "rate_limited"
        assert waiting["seconds"] > 0.5
        assert shop.origin.count("/limited.jpg") == 1
        row = shop.finish(request_id)
    assert (row["status"], row["succeeded"]) == ("completed", 4)
    assert (row["finished_at"] - row["started_at"]).total_seconds() >= 2


# --- Other workers ---------------------------------------------------------------------------


def test_what_a_dead_worker_held_is_finished(shop: Shop) -> None:
    """Images that run under an expired lease are swept up by a worker that starts."""
    request_id = shop.upload(shop.serve(3))
    with shop.database.transaction() as cursor:
        begin_request(cursor, request_id)
        assert claim_images(cursor, request_id, limit=2, lease_seconds=-1)
        cursor.execute("delete from procrastinate_jobs")  # its jobs were lost, too
    with shop.worker():
        assert shop.finish(request_id)["status"] == "completed"
    assert [image["fence"] for image in shop.images(request_id)] == [2, 2, 1]


def test_a_worker_that_is_there_sweeps_up_after_one_that_dies(shop: Shop) -> None:
    """It needn't be restarted for that, nor wait for a later try of another image."""
    later = Reply(b"", status=500, headers={"Retry-After": "600"})  # of this image alone
    waits = shop.origin.serve_in_turn("/limited.jpg", later, Reply(JPEG))
    request_id = shop.upload([*shop.serve(1), waits])
    with shop.database.transaction() as cursor:
        begin_request(cursor, request_id)
        assert claim_images(cursor, request_id, limit=1, lease_seconds=2)
    with shop.worker():
        wait_until(lambda: shop.images(request_id)[1]["error_code"] == "http_500")
        wait_until(lambda: shop.states(request_id) == ["succeeded", "pending"])


def test_two_workers_share_a_request(shop: Shop) -> None:
    """Each image is fetched and counted once, whoever takes it."""
    urls = shop.serve(450, delay=0.01)
    request_id = shop.upload(urls)
    with shop.worker(), shop.worker():
        row = shop.finish(request_id)
    assert (row["status"], row["succeeded"], row["failed"]) == ("completed", 450, 0)
    assert set(shop.origin.counts.values()) == {1}
    assert {image["fence"] for image in shop.images(request_id)} == {1}


def test_a_worker_that_slept_past_its_leases_counts_nothing_twice(shop: Shop) -> None:
    """It may even claim its own images again while the old attempts are still under way."""
    may_end = threading.Event()
    urls = shop.serve(6, until=may_end)
    with shop.worker(host_concurrency=32):
        request_id = shop.upload(urls)
        wait_until(lambda: sum(shop.origin.counts.values()) == 6)
        with shop.database.transaction() as cursor:
            cursor.execute("update images set lease_until = now() - interval '1 second'")
            worker_steps.sweep(cursor, 30)
        wait_until(lambda: sum(shop.origin.counts.values()) == 12)
        may_end.set()
        row = shop.finish(request_id)
        again = shop.upload(shop.serve(70))
        assert shop.finish(again)["succeeded"] == 70
    assert (row["status"], row["succeeded"]) == ("completed", 6)
    assert {image["fence"] for image in shop.images(request_id)} == {2}


# --- Stopping --------------------------------------------------------------------------------


def test_stopping_ends_what_is_under_way_and_begins_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a stop nothing is running; another worker does the rest, and no image twice."""
    monkeypatch.setattr(in_flight, "REQUEST_WINDOW", 4)
    may_end = threading.Event()
    drain = ImageProcessor.drain

    async def let_end(processor: ImageProcessor) -> None:
        asyncio.get_running_loop().call_soon(may_end.set)  # once it drains
        await drain(processor)

    monkeypatch.setattr(ImageProcessor, "drain", let_end)
    request_id = shop.upload(shop.serve(12, until=may_end))
    with shop.worker(download_concurrency=4):
        wait_until(lambda: sum(shop.origin.counts.values()) == 4)
    assert sorted(shop.states(request_id)) == [*["pending"] * 8, *["succeeded"] * 4]
    assert [image["fence"] for image in shop.images(request_id)] == [*[1] * 4, *[0] * 8]
    with shop.worker():
        assert shop.finish(request_id)["succeeded"] == 12
    assert set(shop.origin.counts.values()) == {1}


def test_what_takes_too_long_is_handed_back(shop: Shop) -> None:
    """After SHUTDOWN_SECONDS images are given back, and a second worker finishes them at once,
    although the request has another image to wait for.
    """
    later = Reply(b"", status=500, headers={"Retry-After": "600"})  # of this image alone
    waits = shop.origin.serve_in_turn("/limited.jpg", later)
    slow = [shop.origin.serve(f"/slow-{n}.jpg", silent=True) for n in range(3)]
    request_id = shop.upload([*slow, waits])
    with shop.worker(shutdown_seconds=0.5):
        wait_until(lambda: shop.images(request_id)[3]["error_code"] == "http_500")
        wait_until(lambda: sum(shop.origin.counts.values()) == 4)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < SOON_SECONDS
    assert shop.states(request_id) == ["pending"] * 4
    assert [image["attempts"] for image in shop.images(request_id)] == [0, 0, 0, 1]
    for n in range(3):
        shop.origin.serve(f"/slow-{n}.jpg", JPEG)
    with shop.worker():
        wait_until(lambda: shop.states(request_id) == [*["succeeded"] * 3, "pending"])
    assert shop.request(request_id)["succeeded"] == 3


def test_a_worker_that_drains_takes_no_turns(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it waits for a slow image it leaves the rest of the request to others, in peace."""
    monkeypatch.setattr(in_flight, "REQUEST_WINDOW", 2)
    slow = [shop.origin.serve(f"/slow-{n}.jpg", silent=True) for n in range(6)]
    request_id = shop.upload(slow)
    with shop.worker(shutdown_seconds=1, download_concurrency=2):
        wait_until(lambda: shop.states(request_id).count("running") == 2)
        before = _last_job(shop)
    assert shop.states(request_id) == ["pending"] * 6
    assert _last_job(shop) - before < 10


def _last_job(shop: Shop) -> int:
    number: int = shop.query("select last_value from procrastinate_jobs_id_seq")[0]["last_value"]
    return number


def test_a_claim_under_way_is_not_forgotten(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop while the database still thinks about a claim leaves nothing running, although the
    turn that claimed is over.
    """
    monkeypatch.setattr(image_processor, "TURN_SECONDS", 0.05)
    _never_sweep(monkeypatch)
    request_id = shop.upload(shop.serve(4))
    with shop.database.transaction() as cursor:
        begin_request(cursor, request_id)
        cursor.execute("update procrastinate_jobs set scheduled_at = 'infinity'")
    with closing(psycopg2.connect(shop.database.conninfo)) as blocker:
        release = Timer(0.5, blocker.rollback)
        with shop.worker():
            wait_until(lambda: shop.query("select from procrastinate_workers"))
            blocker.cursor().execute("lock table images in exclusive mode")
            with shop.database.transaction() as cursor:
                job_queue.defer_turn(cursor, request_id, 0)
            wait_until(
                lambda: shop.query("select from pg_stat_activity where wait_event = 'relation'")
            )
            release.start()
        release.join()
    assert "running" not in shop.states(request_id)
    with shop.worker():
        assert shop.finish(request_id)["succeeded"] == 4


def test_a_worker_alone_stops_in_time_although_a_download_hangs(shop: Shop) -> None:
    """SIGTERM ends the process with 0 within SHUTDOWN_SECONDS, long before the download's end."""
    request_id = shop.upload([shop.origin.serve("/slow.jpg", silent=True)])
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "image_processor.py")],
        cwd=shop.folder,
        env={
            "PATH": os.environ["PATH"],
            "DATABASE_URL": shop.database.conninfo,
            "STORAGE_URL": f"file:{shop.folder}",
            "ALLOWED_SOURCES": shop.origin.authority,
            "SHUTDOWN_SECONDS": "0.5",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            wait_until(lambda: shop.origin.count("/slow.jpg"))
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert (said.partition(b" (")[0], process.returncode) == (b"Working until Ctrl-C", 0)
    assert shop.states(request_id) == ["pending"]


# --- Troubles of our own ---------------------------------------------------------------------


def test_cut_connections_cost_nothing(shop: Shop) -> None:
    """Every connection is cut again and again; each image still counts once."""
    urls = shop.serve(120, delay=0.02)
    request_id = shop.upload(urls, urls[:30])
    with shop.worker(host_concurrency=4, lease_seconds=3):
        for done in (5, 25, 45):
            shop.wait_for_successes(request_id, done)
            cut_connections(shop.database)
        row = shop.finish(request_id)
    assert (row["status"], row["succeeded"], row["failed"]) == ("completed", 150, 0)
    assert row["bytes_in"] == 150 * len(JPEG)
    assert len({slot for cell in shop.output(request_id) for slot in cell}) == 150


def test_a_database_that_goes_away_is_waited_for(shop: Shop) -> None:
    """Nothing is lost while no connection can be made, and the work goes on by itself."""
    urls = shop.serve(60, delay=0.02)
    request_id = shop.upload(urls)
    with shop.worker(host_concurrency=4, lease_seconds=3):
        shop.wait_for_successes(request_id, 5)
        allow_connections(shop.database, allow=False)
        cut_connections(shop.database)
        fetched = sum(shop.origin.counts.values())
        wait_until(lambda: sum(shop.origin.counts.values()) >= min(60, fetched + 3))
        allow_connections(shop.database, allow=True)
        row = shop.finish(request_id)
    assert (row["status"], row["succeeded"]) == ("completed", 60)


def test_a_worker_can_stop_without_the_database(shop: Shop) -> None:
    """What it held is freed when its leases end."""
    request_id = shop.upload([shop.origin.serve("/slow.jpg", silent=True)])
    with shop.worker(shutdown_seconds=0.5):
        wait_until(lambda: shop.origin.count("/slow.jpg"))
        allow_connections(shop.database, allow=False)
        cut_connections(shop.database)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < SOON_SECONDS
    allow_connections(shop.database, allow=True)
    assert shop.states(request_id) == ["running"]


def test_csvs_that_can_not_be_stored_are_tried_again(shop: Shop) -> None:
    """The request stays unfinished while the store fails, and is finished when it is back."""
    staged = shop.folder / "static/.staged"
    may_end = threading.Event()
    request_id = shop.upload(shop.serve(2, until=may_end))
    with shop.worker():
        wait_until(lambda: shop.states(request_id) == ["running"] * 2)
        staged.rmdir()
        staged.write_text("in the way")
        may_end.set()
        wait_until(lambda: shop.request(request_id)["succeeded"] == 2)
        last = _last_job(shop)
        wait_until(lambda: _last_job(shop) > last + 3)
        assert shop.request(request_id)["finished_at"] is None
        staged.unlink()
        assert shop.finish(request_id)["status"] == "completed"


# --- Outcomes that come too late, and breakdowns ---------------------------------------------


def test_the_file_of_an_outcome_that_came_too_late_is_deleted(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker has the image by then; its row and the store stay as they are."""
    staged: list[list[str]] = []
    settle_one = OutputFiles.settle_one

    def watched(files: OutputFiles, image: StagedImage) -> None:
        staged.append(shop.staged())
        settle_one(files, image)
        staged.append(shop.staged())

    monkeypatch.setattr(OutputFiles, "settle_one", watched)
    may_end = threading.Event()
    with shop.worker():
        request_id = shop.upload(shop.serve(1, until=may_end))
        wait_until(lambda: shop.states(request_id) == ["running"])
        with shop.database.transaction() as cursor:
            cursor.execute(
                "update images set fence = fence + 1, lease_until = now() + interval '1 hour'"
            )
        before = shop.images(request_id)
        may_end.set()
        wait_until(lambda: len(staged) == 2)
    assert staged == [[f"{request_id}-1.1.jpg"], []]
    assert shop.images(request_id) == before
    assert shop.request(request_id)["succeeded"] == 0


def test_the_worker_outlives_a_breakdown(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, what was under way is handed back at once, and the work goes on by itself."""
    monkeypatch.setattr(worker_thread, "RESTART_SECONDS", 0.05)
    slow = shop.origin.serve("/slow.jpg", silent=True)
    request_id = shop.upload([slow, *shop.serve(2)])
    work_beside = ImageProcessor.work_beside
    breakdowns = iter([RuntimeError("a bug")])

    async def break_down_once(processor: ImageProcessor) -> None:
        upkeep = asyncio.create_task(work_beside(processor))
        if breakdown := next(breakdowns, None):
            expected = ["running", "succeeded", "succeeded"]
            await asyncio.to_thread(wait_until, lambda: shop.states(request_id) == expected)
            upkeep.cancel()
            shop.origin.serve("/slow.jpg", JPEG)
            raise breakdown
        await upkeep

    monkeypatch.setattr(ImageProcessor, "work_beside", break_down_once)
    with shop.worker():
        row = shop.finish(request_id)
    assert (row["status"], row["succeeded"]) == ("completed", 3)
    assert [image["fence"] for image in shop.images(request_id)] == [2, 1, 1]
    assert [image["attempts"] for image in shop.images(request_id)] == [1, 1, 1]
    (told,) = (record for record in caplog.records if record.levelname == "CRITICAL")
    assert "the worker broke down" in told.getMessage()
    assert told.exc_info


# --- What users ask for ----------------------------------------------------------------------


def test_a_cancelled_request_ends_without_further_downloads(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn cancels what waits; what is under way ends, and the CSVs have what there is."""
    _never_sweep(monkeypatch)
    monkeypatch.setattr(in_flight, "REQUEST_WINDOW", 4)
    monkeypatch.setattr(image_queue, "CANCELLED_AT_A_TIME", 7)
    may_end = threading.Event()
    urls = [*shop.serve(4), *shop.serve(36, until=may_end)]
    with shop.worker(download_concurrency=4):
        request_id = shop.upload(urls, urls[:3])
        shop.wait_for_successes(request_id, 1)
        with shop.database.transaction() as cursor:
            assert cancel_request(cursor, request_id)
            job_queue.defer_turn(cursor, request_id, 0)
        wait_until(lambda: "pending" not in shop.states(request_id))
        may_end.set()
        row = shop.finish(request_id)
    assert (row["status"], row["failed"]) == ("cancelled", 0)
    assert row["succeeded"] + row["cancelled"] == 43
    assert 1 <= row["succeeded"] <= 3 + 4 + 4  # repetitions, those before, those under way
    assert row["errors_by_code"] == {"cancelled": row["cancelled"]}
    assert sum(shop.origin.counts.values()) <= row["succeeded"]
    slots = [slot for cell in shop.output(request_id) for slot in cell]
    assert len([slot for slot in slots if slot]) == row["succeeded"]


def test_a_request_that_was_cancelled_before_it_began_ends(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is fetched, and its CSVs are there with empty slots."""
    _never_sweep(monkeypatch)
    request_id = shop.upload(shop.serve(3))
    with shop.database.transaction() as cursor:
        assert cancel_request(cursor, request_id)
        job_queue.defer_turn(cursor, request_id, 0)
    with shop.worker():
        row = shop.finish(request_id)
    assert (row["status"], row["cancelled"], row["started_at"]) == ("cancelled", 3, None)
    assert shop.origin.counts == {}
    assert shop.output(request_id) == [["", "", ""]]


def test_a_retried_request_runs_again_and_only_where_it_failed(shop: Shop) -> None:
    """What succeeded is not fetched again; files and CSV are those of a good run in the end."""
    good, late = shop.serve(1)[0], shop.origin.url("/late.jpg")
    with shop.worker():
        request_id = shop.upload([good, late, late])
        assert shop.finish(request_id)["status"] == "completed_with_errors"
        kept = shop.images(request_id)[0]
        shop.origin.serve("/late.jpg", JPEG)
        with shop.database.transaction() as cursor:
            assert retry_request(cursor, request_id, after=0) == (2, 3, "processing")
            job_queue.defer_turns(cursor, request_id, 2)
        row = shop.finish(request_id)
    assert (row["status"], row["succeeded"], row["errors_by_code"]) == ("completed", 3, {})
    assert shop.images(request_id)[0] == kept
    assert shop.origin.count("/late.jpg") == 2
    assert all(slot for cell in shop.output(request_id) for slot in cell)
    assert shop.file(request_id, 2) == shop.file(request_id, 3)


def test_a_deleted_request_is_purged(shop: Shop) -> None:
    """By whichever worker comes first."""
    with shop.worker():
        one, two = (shop.upload(shop.serve(2)) for _ in range(2))
        shop.finish(one)
        shop.finish(two)
        with shop.database.transaction() as cursor:
            assert delete_request(cursor, one)
        wait_until(lambda: shop.query("select from deleted_requests where purged_at is not null"))
    assert shop.images(one) == []
    files = [path for path in shop.folder.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert all(two in path.name for path in files)


def test_finishes_that_hang_keep_no_image_waiting(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many large requests are just being finished, others' images are made."""
    may_end = threading.Event()
    monkeypatch.setattr(RequestFinisher, "finish", lambda *_: may_end.wait(2 * PATIENCE_SECONDS))
    with shop.worker():
        requests = [shop.upload(shop.serve(1)) for _ in range(image_processor.FINISHERS)]
        for request_id in requests:
            shop.wait_for_successes(request_id, 1)
        wait_until(
            lambda: (
                not shop.query(
                    "select from procrastinate_jobs where status = 'todo' and task_name = 'finish'"
                )
            )
        )
        last = shop.upload(shop.serve(1))
        try:
            shop.wait_for_successes(last, 1)
        finally:
            may_end.set()


def test_a_worker_tells_how_its_decoders_are_caged(shop: Shop) -> None:
    """The line at the start names every bar, as up or as missing."""
    with shop.worker() as worker:
        said = worker.describe()
    assert said.startswith("decoders caged by ")
    assert set(re.findall(r"\w+", said)) >= set(Bar)


def test_the_compressor_s_version_is_that_of_the_start(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are replaced under a running worker are not those that its decoders run."""
    start = DecoderPool.start
    known = []

    def noted(pool: DecoderPool) -> None:
        known.append(codec_version.cache_info().currsize)
        start(pool)

    monkeypatch.setattr(DecoderPool, "start", noted)
    codec_version.cache_clear()
    with shop.worker() as worker:
        worker.describe()
    assert known == [1]


def test_nothing_starts_when_no_decoder_does(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever starts the worker hears so, instead of images that wait for ever."""
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit(1)")
    monkeypatch.setattr(decoder_handle, "_PROGRAM", program)
    with shop.worker() as worker, pytest.raises(SettingsError, match="No image decoder"):
        worker.describe()
