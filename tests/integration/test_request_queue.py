"""Requests as a whole: they begin once, finish once, and are retried and deleted whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from image_queue import ClaimedImage, ImageState
from request_queue import begin_request
from tests.queued import Queue, success, urls

if TYPE_CHECKING:
    from database_helper import Database


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def _numbers(images: list[ClaimedImage]) -> list[int]:
    return [image.n for image in images]


# --- Beginning -------------------------------------------------------------------------------


def test_a_request_begins_once(database: Database) -> None:
    """The first step may be run twice, at once or later, and counts once."""
    queue = Queue(database, *urls(2), begins=False)

    def begin(_: int) -> bool:
        with database.transaction() as cursor:
            return begin_request(cursor, queue.id) is not None

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(begin, range(8))) == [False] * 7 + [True]
    assert queue.request["status"] == "processing"
    assert queue.request["started_at"]
    with database.transaction() as cursor:
        assert begin_request(cursor, "no such request") is None


def test_an_image_that_repeats_an_earlier_one_waits_for_it(database: Database) -> None:
    """Of equal URLs the first is claimed; the others know which one they wait for."""
    one, two = urls(2)
    queue = Queue(database, one, two, one, two, one, one.upper())
    assert [image["repeats"] for image in queue.images] == [None, None, 1, 2, 1, None]
    assert _numbers(queue.claim()) == [1, 2, 6]


def test_the_same_url_in_another_request_is_not_waited_for(database: Database) -> None:
    """Requests have nothing to do with each other."""
    first, second = Queue(database, *urls(2)), Queue(database, *urls(2))
    assert (_numbers(first.claim()), _numbers(second.claim())) == ([1, 2], [1, 2])


# --- Finishing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "begun", "status"),
    [
        ("ss", "processing", "completed"),
        ("sf", "processing", "completed_with_errors"),
        ("fs", "processing", "completed_with_errors"),
        ("ff", "processing", "failed"),
        ("sc", "cancelling", "cancelled"),
        ("ss", "cancelling", "cancelled"),
        ("cc", "cancelling", "cancelled"),
    ],
)
def test_the_final_status_tells_how_it_went(
    database: Database, states: str, begun: str, status: str
) -> None:
    """The four ends of a request follow from its counters, and come once."""
    queue = Queue(database, *urls(2))
    by_letter = {"s": ImageState.SUCCEEDED, "f": ImageState.FAILED, "c": ImageState.CANCELLED}
    for image, letter in zip(queue.claim(), states, strict=True):
        assert queue.take_finish() is None
        queue.record(replace(success(image), state=by_letter[letter]))
    with database.transaction() as cursor:
        cursor.execute("update requests set status = %s where id = %s", (begun, queue.id))
    assert queue.take_finish()
    finished = queue.finish()
    assert finished
    assert finished["status"] == queue.request["status"] == status
    assert finished["finished_at"] >= finished["started_at"]
    assert queue.finish() is None
    assert queue.request["finished_at"] == finished["finished_at"]


def test_two_that_finish_at_once_finish_once(database: Database) -> None:
    """The log and, later, a webhook must not tell the end twice."""
    queue = Queue(database, *urls(1))
    queue.record(success(queue.claim()[0]))
    assert queue.take_finish()
    with ThreadPoolExecutor(4) as threads:
        ends = list(threads.map(lambda _: queue.finish() is not None, range(8)))
    assert ends.count(True) == 1
