"""Outcomes that PostgreSQL can't take: they end their own image, and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from async_database import AsyncDatabase
from image_queue import record_outcomes
from outcome_recorder import OutcomeRecorder
from tests.queued import Queue, success

if TYPE_CHECKING:
    from database_helper import Cursor, Database
    from image_queue import Attempt, Outcome


def _record(database: Database, outcomes: list[Outcome]) -> list[bool]:
    """Record outcomes that ended at once; return which of them count."""

    def write(cursor: Cursor, batch: list[Outcome]) -> set[Attempt]:
        return record_outcomes(cursor, batch).accepted

    async def run() -> list[bool]:
        threads = AsyncDatabase(database)
        recorder = OutcomeRecorder(lambda batch: threads.run(write, batch))
        running = asyncio.create_task(recorder.run())
        try:
            return await asyncio.gather(*(recorder.record(outcome) for outcome in outcomes))
        finally:
            running.cancel()
            threads.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "content",
    [
        {"etag": '"a\x00b"'},
        {"last_modified": "\ud800"},
        {"error_detail": "half \udfff"},
        {"width": 2**31},
        {"width": True},
        {"bytes_in": 2**63},
        {"http_status": -(2**40)},
        {"retry_seconds": float("inf")},
    ],
)
def test_content_that_can_not_be_stored(clean_database: Database, content: dict[str, Any]) -> None:
    """The image fails as ours, once; those of the same batch are recorded as they are."""
    queue = Queue(clean_database, "a", "b", "c")
    good, bad, other = (success(image) for image in queue.claim())
    assert _record(clean_database, [good, replace(bad, **content), other]) == [True, False, True]
    assert queue.states == ["succeeded", "failed", "succeeded"]
    failed = queue.images[1]
    assert failed["error_code"] == "internal_error"
    assert failed["error_detail"] == "The result could not be recorded."
    assert (queue.request["succeeded"], queue.request["failed"]) == (2, 1)


def test_an_outcome_of_no_image_is_let_go(clean_database: Database) -> None:
    """Its image keeps its lease until that is over; the others don't wait for it."""
    queue = Queue(clean_database, "a", "b")
    good, bad = (success(image) for image in queue.claim())
    assert _record(clean_database, [replace(bad, request_id="\x00"), good]) == [False, True]
    assert queue.states == ["succeeded", "running"]
