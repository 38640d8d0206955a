"""A request in the database, each step of its life in a transaction of its own."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import parse_dsn

import request_queue
from attempt_outcome import ended
from csv_validator import ProductRow
from image_queue import (
    ClaimedImage,
    ImageState,
    Outcome,
    Recorded,
    cancel_pending,
    claim_images,
    give_back_expired,
    record_outcomes,
)
from request_rows import select_request
from upload_rows import copy_products, insert_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from database_helper import Cursor, Database

LEASE = 60.0


def upload(database: Database, request_id: str, products: Iterable[ProductRow]) -> None:
    """Write the rows of an upload and commit."""
    with database.transaction() as cursor:
        counts = copy_products(cursor, request_id, products)
        insert_request(
            cursor,
            request_id,
            options={},
            columns=[],
            base_url="http://a",
            counts=counts,
            owner="its owner",
        )


class Queue:
    """A request of one product with these image URLs; begun unless told otherwise."""

    def __init__(self, database: Database, *image_urls: str, begins: bool = True) -> None:
        self.id = uuid.uuid4().hex
        self.database = database
        product = ProductRow(2, "1", "Lamp", ",".join(image_urls), None, list(image_urls))
        upload(database, self.id, [product])
        if begins:
            with database.transaction() as cursor:
                assert request_queue.begin_request(cursor, self.id)

    def claim(self, limit: int = 1000, lease_seconds: float = LEASE) -> list[ClaimedImage]:
        """Claim and commit."""
        with self.database.transaction() as cursor:
            return claim_images(cursor, self.id, limit=limit, lease_seconds=lease_seconds)

    def record(self, *outcomes: Outcome) -> Recorded:
        """Record and commit."""
        with self.database.transaction() as cursor:
            return record_outcomes(cursor, outcomes)

    def end(self, letters: str) -> None:
        """Claim everything and end it as the letters say: s, f or c; r leaves it running."""
        ends: dict[str, Callable[[ClaimedImage], Outcome]]
        ends = {"s": success, "f": failure, "c": cancelled}
        images = zip(self.claim(), letters, strict=True)
        self.record(*[ends[letter](image) for image, letter in images if letter != "r"])

    def give_back_expired(self) -> Recorded:
        """Sweep and commit."""
        with self.database.transaction() as cursor:
            return give_back_expired(cursor)

    def cancel_pending(self, after: int = 0) -> Recorded:
        """Cancel a portion and commit."""
        with self.database.transaction() as cursor:
            return cancel_pending(cursor, self.id, after=after)

    def take_finish(self, lease_seconds: float = LEASE) -> dict[str, Any] | None:
        """Take the finish and commit."""
        with self.database.transaction() as cursor:
            return request_queue.take_finish(cursor, self.id, lease_seconds=lease_seconds)

    def finish(self, fence: int | None = None) -> dict[str, Any] | None:
        """Finish and commit, with the finish that was taken last or the one given."""
        with self.database.transaction() as cursor:
            fence = self.request["fence"] if fence is None else fence
            return request_queue.finish_request(cursor, self.id, fence)

    def retry_portion(self, after: int = 0) -> request_queue.Retried | None:
        """Retry a portion and commit."""
        with self.database.transaction() as cursor:
            return request_queue.retry_request(cursor, self.id, after=after)

    def retry(self) -> int | None:
        """Retry everything, a portion at a time; return how many images there were."""
        images = last = 0
        while portion := self.retry_portion(last):
            if not portion.images:
                return images
            images, last = images + portion.images, portion.last
        return None

    def cancel(self) -> None:
        """Cancel and commit."""
        with self.database.transaction() as cursor:
            request_queue.cancel_request(cursor, self.id)

    def delete(self) -> bool:
        """Delete and commit."""
        with self.database.transaction() as cursor:
            return request_queue.delete_request(cursor, self.id)

    def claim_of(self, n: int) -> ClaimedImage:
        """Return the newest claim of an image."""
        image = self.images[n - 1]
        return ClaimedImage(
            self.id, n, image["fence"], image["attempts"], image["input_url"], image["repeats"]
        )

    def change(self, assignments: str, *numbers: int) -> None:
        """Change columns of images, of those with these numbers or of all."""
        with self.database.transaction() as cursor:
            cursor.execute(
                f"update images set {assignments} where request_id = %s and n = any(%s)",  # noqa: S608
                (self.id, list(numbers or range(1, 1000))),
            )

    def change_request(self, assignments: str) -> None:
        """Change columns of the request."""
        with self.database.transaction() as cursor:
            cursor.execute(f"update requests set {assignments} where id = %s", (self.id,))  # noqa: S608

    @property
    def request(self) -> dict[str, Any]:
        """The request's row."""
        with self.database.transaction() as cursor:
            row = select_request(cursor, self.id)
        assert row
        return row

    @property
    def images(self) -> list[dict[str, Any]]:
        """Every image's row in input order."""
        with self.database.transaction() as cursor:
            cursor.execute("select * from images where request_id = %s order by n", (self.id,))
            return [dict(row) for row in cursor.fetchall()]

    @property
    def rows(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Everything there is of the request, to be compared with what there is later."""
        return self.request | {"now": None}, self.images

    @property
    def states(self) -> list[str]:
        """Every image's state in input order."""
        return [image["state"] for image in self.images]

    @property
    def counters(self) -> tuple[int, ...]:
        """What the request counts: succeeded, failed, cancelled, bytes in and out."""
        row = self.request
        names = ("succeeded", "failed", "cancelled", "bytes_in", "bytes_out")
        return tuple(row[name] for name in names)


def analyze(database: Database) -> None:
    """Let the statistics know of the images that there are."""
    with database.transaction() as cursor:
        cursor.execute("analyze images")


def count_reads(cursor: Cursor) -> int:
    """Return how many rows of images this connection has read, of late."""
    cursor.execute(
        """select seq_tup_read + idx_tup_fetch as count from pg_stat_xact_user_tables
            where relname = 'images'"""
    )
    row = cursor.fetchone()
    assert row
    count: int = row["count"]
    return count


def wait_for_a_lock(database: Database) -> None:
    """Wait until somebody waits for a row that is locked."""
    waiting = "select from pg_stat_activity where wait_event_type = 'Lock' and datname = %s"
    name = parse_dsn(database.conninfo)["dbname"]
    deadline = time.monotonic() + 30
    while True:
        with database.transaction() as cursor:
            cursor.execute(waiting, (name,))
            if cursor.fetchall():
                return
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.01)


def urls(count: int) -> list[str]:
    """Return so many different image URLs."""
    return [f"http://shop.example/{n}.jpg" for n in range(1, count + 1)]


def success(image: ClaimedImage, bytes_in: int = 100, bytes_out: int = 60) -> Outcome:
    """Return a good end, with a value in every field."""
    return ended(
        image,
        ImageState.SUCCEEDED,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        width=4,
        height=3,
        format="jpeg",
        quality="82",
        sha256="ef" * 32,
        etag='"é"',
        last_modified="Tue, 03 Feb 2032 00:00:00 GMT",
    )


def failure(image: ClaimedImage, code: str = "timeout") -> Outcome:
    """Return a bad end."""
    return ended(
        image, ImageState.FAILED, error_code=code, error_detail="It was late.", http_status=404
    )


def cancelled(image: ClaimedImage) -> Outcome:
    """Return the end of an image that was cancelled."""
    return ended(image, ImageState.CANCELLED, error_code="cancelled")


def retry(image: ClaimedImage, seconds: float) -> Outcome:
    """Return a bad attempt after which another one follows."""
    late = {"error_code": "http_503", "error_detail": "Busy.", "http_status": 503}
    return ended(image, ImageState.PENDING, retry_seconds=seconds, **late)
