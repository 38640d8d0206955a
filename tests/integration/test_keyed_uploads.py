"""Uploads with an `Idempotency-Key` against a real PostgreSQL: one key, one request."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from typing import TYPE_CHECKING, Any

import pytest

import job_queue
import upload_intake
from errors import HttpError
from httpd.http_protocol import Request, Response
from idempotency import delete_expired_keys
from settings import Settings
from storage.folder_store import FolderStore
from upload_intake import UploadIntake

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from database_helper import Cursor, Database

CSV = b"Serial Number,Product Name,Input Image Urls\n1,Lamp,http://localhost/a.jpg\n"
OTHER_CSV = CSV.replace(b"Lamp", b"Sofa")
BAD_CSV = CSV.replace(b"1,Lamp", b"x,Lamp")
PATIENCE_SECONDS = 30


class Body:
    """The body of an upload."""

    def __init__(self, csv: bytes) -> None:
        self.length = len(csv)
        self._csv = csv

    def __iter__(self) -> Iterator[bytes]:
        half = self.length // 2
        yield self._csv[:half]
        yield self._csv[half:]


class Shop:
    """A client of an intake, and a look at what it left in the database."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self._intake = UploadIntake(Settings(), database, FolderStore(folder))

    def upload(
        self, key: str | None = "k", csv: bytes = CSV, owner: str | None = None, **options: str
    ) -> Response:
        """POST a CSV."""
        headers = Message()
        headers["Content-Type"] = "text/csv"
        if key:
            headers["Idempotency-Key"] = key
        body: Any = Body(csv)
        return self._intake.take(Request("POST", "/upload", options, headers, body), owner)

    def refusal(self, *args: Any, **options: Any) -> HttpError:
        """Return why an upload is refused."""
        with pytest.raises(HttpError) as caught:
            self.upload(*args, **options)
        return caught.value

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """Return the rows of a statement."""
        with self.database.transaction() as cursor:
            cursor.execute(statement)
            return [dict(row) for row in cursor.fetchall()] if cursor.description else []

    def count(self, table: str = "requests") -> int:
        """Return how many rows a table has."""
        return len(self.rows(f"select 1 from {table}"))  # noqa: S608  # our own names


@pytest.fixture
def shop(clean_database: Database, tmp_path: Path) -> Shop:
    """Give an intake over an empty database."""
    return Shop(clean_database, tmp_path)


def is_replay(answer: Response) -> bool:
    """Tell whether the service says that an answer is an earlier one."""
    return answer.headers.get("Idempotency-Replayed") == "true"


def test_the_first_answer_is_replayed(shop: Shop) -> None:
    """The same upload again is answered to the letter as the first time, and writes nothing."""
    first = shop.upload()
    again = shop.upload('"k"')
    assert not is_replay(first)
    assert is_replay(again)
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["Location"] == first.headers["Location"]
    assert [shop.count(table) for table in ("requests", "images", "procrastinate_jobs")] == [1] * 3
    row = shop.rows("select * from idempotency_keys")[0]
    assert isinstance(first.body, bytes)
    assert row["response"] == json.loads(first.body)
    assert (row["owner"], row["request_id"]) == ("", row["response"]["request_id"])


@pytest.mark.parametrize(("csv", "options"), [(OTHER_CSV, {}), (CSV, {"quality": "5"})])
def test_another_content_is_refused(shop: Shop, csv: bytes, options: dict[str, str]) -> None:
    """A key that was used for something else is 422, and the first upload's still."""
    first = shop.upload()
    refusal = shop.refusal("k", csv, **options)
    assert refusal.status == 422
    assert refusal.detail.startswith("Idempotency-Key: this key was used")
    assert shop.upload().body == first.body
    assert shop.count() == 1


def test_other_keys_and_owners_and_none_have_uploads_of_their_own(shop: Shop) -> None:
    """A key means nothing beyond its owner; without one every upload is new."""
    uploads: list[tuple[str | None, str | None]] = [
        *[("k", None), ("l", None), ("k", "a"), ("k", "b"), (None, "a"), (None, "a")]
    ]
    answers = [shop.upload(key, owner=owner) for key, owner in uploads]
    assert not any(is_replay(answer) for answer in answers)
    assert shop.count() == 6
    assert shop.upload("k", owner="b").body == answers[3].body


def test_a_refused_file_is_not_remembered(shop: Shop) -> None:
    """The key is free again for the file that was put right."""
    assert shop.refusal("k", BAD_CSV).status == 422
    assert shop.count("idempotency_keys") == 0
    assert not is_replay(shop.upload())


def test_a_dry_run_has_no_key(shop: Shop) -> None:
    """It neither takes a key nor answers with what one stands for."""
    for _ in range(2):
        assert shop.upload(dry_run="true").status == 200
    assert shop.count("idempotency_keys") == 0
    shop.upload()
    dry = shop.upload(csv=OTHER_CSV, dry_run="true")
    assert (dry.status, is_replay(dry)) == (200, False)


def test_a_malformed_key_is_refused_before_the_body(shop: Shop) -> None:
    """Nobody sends 100 MiB to hear that."""
    assert shop.refusal("a b").status == 422
    assert shop.count() == 0


@pytest.mark.parametrize(("hours", "is_forgotten"), [(23.99, False), (24.01, True)])
def test_a_key_lives_for_a_day(shop: Shop, hours: float, *, is_forgotten: bool) -> None:
    """After 24 hours of the database's clock a key is as good as new, also for another content."""
    first = shop.upload()
    shop.rows(f"update idempotency_keys set created_at = now() - interval '{hours} hours'")  # noqa: S608
    assert is_replay(shop.upload()) is not is_forgotten
    if is_forgotten:
        assert shop.upload().body != first.body
        assert shop.count() == 2
        shop.rows("update idempotency_keys set created_at = now() - interval '2 days'")
        other = shop.upload(csv=OTHER_CSV)
        assert not is_replay(other)
        assert shop.upload(csv=OTHER_CSV).body == other.body
        assert shop.count("idempotency_keys") == 1


def test_expired_keys_are_deleted(shop: Shop) -> None:
    """The cleaning takes those that are over, and passes over one that is being replaced."""
    for key in "abc":
        shop.upload(key)
    shop.rows(
        "update idempotency_keys set created_at = now() - interval '25 hours' where key <> 'a'"
    )
    with shop.database.transaction() as busy, shop.database.transaction() as cursor:
        busy.execute("select from idempotency_keys where key = 'b' for update")
        assert delete_expired_keys(cursor) == 1
    assert {row["key"] for row in shop.rows("select key from idempotency_keys")} == {"a", "b"}
    with shop.database.transaction() as cursor:
        assert delete_expired_keys(cursor) == 1


@pytest.mark.parametrize("first_fails", [False, True])
def test_two_at_the_same_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, *, first_fails: bool
) -> None:
    """The second waits for the first one's commit and replays it; after a roll-back it works."""
    has_begun, may_go = threading.Event(), threading.Event()

    def defer_slowly(cursor: Cursor, request_id: str) -> None:
        if not has_begun.is_set():
            has_begun.set()
            assert may_go.wait(PATIENCE_SECONDS)
            if first_fails:
                raise ArithmeticError
        job_queue.defer_begin(cursor, request_id)

    monkeypatch.setattr(upload_intake, "defer_begin", defer_slowly)
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(shop.upload)
        assert has_begun.wait(PATIENCE_SECONDS)
        two = threads.submit(shop.upload)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not shop.rows(
            "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
            " and query like '%idempotency_keys%' and datname = current_database()"
        ):
            assert time.monotonic() < deadline
        may_go.set()
        second = two.result()
        if first_fails:
            assert isinstance(one.exception(), ArithmeticError)
        else:
            assert second.body == one.result().body
    assert is_replay(second) is not first_fails
    assert shop.count() == shop.count("idempotency_keys") == 1


def test_many_at_the_same_time(shop: Shop) -> None:
    """However many come at once, exactly one of them is the first."""
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: shop.upload(), range(16)))
    assert len({answer.body for answer in answers}) == 1
    assert [is_replay(answer) for answer in answers].count(False) == 1
    assert shop.count() == 1
