"""Webhooks in the worker: a job sends what is due, leaves the next one behind, or a sweep does."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

import job_queue
import webhook_courier
from image_processor import ImageProcessor
from settings import Settings
from storage.folder_store import FolderStore
from tests.origin import Reply
from webhook import RETRY_SECONDS
from webhook_queue import claim_webhook, enqueue_webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from database_helper import Database
    from tests.origin import Origin

SECRET = f"whsec_{'QUJD' * 8}"
REQUEST_ID = "ab" * 16


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


@pytest.fixture
def settings(origin: Origin) -> Settings:
    """Give settings with which events may be sent to the test's receiver."""
    values: dict[str, Any] = {
        "_env_file": None,
        "allowed_sources": origin.authority,
        "compress_processes": 1,
        "webhook_secret": SECRET,
    }
    return Settings(**values)


@pytest.fixture
def finish(database: Database) -> Callable[..., None]:
    """Give a function that writes a finished request and its event for a URL."""

    def write(url: str, request_id: str = REQUEST_ID) -> None:
        with database.transaction() as cursor:
            cursor.execute(
                """insert into requests (id, status, options, columns, base_url, images, succeeded,
                                         started_at, finished_at)
                   values (%s, 'completed', %s, '{}', 'http://a', 1, 1, now(), now()) returning *""",
                (request_id, json.dumps({"webhook_url": url})),
            )
            enqueue_webhook(cursor, dict(cursor.fetchone() or {}))

    return write


@pytest.fixture
def work(
    database: Database, settings: Settings, tmp_path: Path
) -> Callable[[Callable[[ImageProcessor], Any]], None]:
    """Give a function that lets a worker's processor do something."""

    @asynccontextmanager
    async def processor() -> AsyncIterator[ImageProcessor]:
        running = ImageProcessor(settings, database, FolderStore(tmp_path))
        yield running
        await running.close()

    def run(step: Callable[[ImageProcessor], Any]) -> None:
        async def main() -> None:
            async with processor() as running:
                await step(running)

        asyncio.run(main())

    return run


def _send(processor: ImageProcessor) -> Any:
    return processor.send_webhook(REQUEST_ID)


def _event(database: Database) -> dict[str, Any]:
    with database.transaction() as cursor:
        cursor.execute("select * from webhooks")
        return dict(cursor.fetchone() or {})


def _jobs(database: Database) -> list[dict[str, Any]]:
    with database.transaction() as cursor:
        cursor.execute("select * from procrastinate_jobs where task_name = 'webhook'")
        return [dict(row) for row in cursor.fetchall()]


def test_a_job_sends_what_is_due(
    database: Database, origin: Origin, finish: Any, work: Any
) -> None:
    """The event is sent once and recorded, and no job is left."""
    finish(origin.serve("/hook"))
    work(_send)
    work(_send)
    assert origin.count("/hook") == 1
    assert (_event(database)["state"], _jobs(database)) == ("delivered", [])


def test_a_refusal_leaves_a_job_for_the_next_try(
    database: Database, origin: Origin, finish: Any, work: Any
) -> None:
    """The job waits for the very time that the event is due at."""
    finish(origin.serve("/hook", status=500))
    work(_send)
    event, (job,) = _event(database), _jobs(database)
    assert (event["state"], event["attempts"]) == ("pending", 1)
    assert job["scheduled_at"] == event["due_at"]
    assert job["args"] == {"request_id": REQUEST_ID}


def test_a_receiver_that_never_takes_it_is_left_after_the_schedule(
    database: Database, origin: Origin, finish: Any, work: Any
) -> None:
    """Ten tries, each noted with its request; then it has failed, and no job is left."""
    finish(origin.serve("/hook", status=500))

    async def send_again_and_again(processor: ImageProcessor) -> None:
        for _ in range(len(RETRY_SECONDS) + 2):
            await _send(processor)
            with database.transaction() as cursor:
                cursor.execute("update webhooks set due_at = now()")

    work(send_again_and_again)
    event = _event(database)
    assert (event["state"], event["attempts"], origin.count("/hook")) == ("failed", 10, 10)
    with database.transaction() as cursor:
        cursor.execute("select webhook_deliveries from requests")
        noted = (cursor.fetchone() or {})["webhook_deliveries"]
        assert [each["attempt"] for each in noted] == list(range(10, 0, -1))
        cursor.execute("delete from procrastinate_jobs")  # of the ninth try
    work(ImageProcessor.sweep)
    assert _jobs(database) == []


@pytest.mark.parametrize(("status", "seconds"), [(429, 7200), (503, 7200), (500, 5), (302, 5)])
def test_a_busy_receiver_says_when(
    database: Database, origin: Origin, finish: Any, work: Any, status: int, seconds: int
) -> None:
    """Event and job wait as long as a 429 or a 503 asks; others ask in vain."""
    finish(origin.serve("/hook", status=status, headers={"Retry-After": "7200"}))
    work(_send)
    (job,) = _jobs(database)
    wait = job["scheduled_at"] - datetime.now(UTC)
    assert seconds - 5 < wait.total_seconds() < 1.1 * seconds
    assert job["scheduled_at"] == _event(database)["due_at"]


def test_the_sweep_wakes_what_is_due_and_has_no_job(
    database: Database, origin: Origin, finish: Any, work: Any
) -> None:
    """A job that was lost is not missed; where nothing is due none is made."""
    finish(origin.serve_in_turn("/hook", Reply(status=500), Reply()))
    work(ImageProcessor.sweep)
    work(ImageProcessor.sweep)
    assert len(_jobs(database)) == 1
    work(_send)
    with database.transaction() as cursor:
        cursor.execute("delete from procrastinate_jobs")
    work(ImageProcessor.sweep)
    assert _jobs(database) == []
    with database.transaction() as cursor:
        cursor.execute("update webhooks set due_at = now()")
    work(ImageProcessor.sweep)
    (job,) = _jobs(database)
    assert job["scheduled_at"] is None


def test_the_sweep_wakes_what_a_dead_sender_held(
    database: Database, origin: Origin, finish: Any, work: Any
) -> None:
    """An event whose lease is over is due again; before that it is left alone."""
    finish(origin.serve("/hook"))
    with database.transaction() as cursor:
        claim_webhook(cursor, REQUEST_ID, lease_seconds=60)
    work(ImageProcessor.sweep)
    assert _jobs(database) == []
    with database.transaction() as cursor:
        cursor.execute("update webhooks set lease_until = now()")
    work(ImageProcessor.sweep)
    assert len(_jobs(database)) == 1


def test_no_event_is_claimed_without_a_free_sender(
    database: Database,
    origin: Origin,
    finish: Any,
    work: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Receivers that hang take up some of a worker's places, never all; the sweep comes back."""
    assert webhook_courier.SENDERS < job_queue.TURNS
    monkeypatch.setattr(webhook_courier, "SENDERS", 1)
    monkeypatch.setattr(webhook_courier, "SEND_SECONDS", 0.0)  # so that a job is for one event
    finish(origin.serve("/hook"))
    with database.transaction() as cursor:
        cursor.execute("select * from requests")
        enqueue_webhook(cursor, dict(cursor.fetchone() or {}))

    async def send_two(processor: ImageProcessor) -> None:
        await asyncio.gather(_send(processor), _send(processor))
        assert origin.count("/hook") == 1
        await _send(processor)
        assert origin.count("/hook") == 2

    work(send_two)


def test_a_receiver_gets_all_that_waits_for_it(
    database: Database, origin: Origin, finish: Any, work: Any
) -> None:
    """One job sends them one after the other, each once; what waits for others is not its own."""
    for n in range(6):
        finish(origin.serve(f"/{n}"), f"{n:032x}")
    finish(origin.serve("/other").replace("127.0.0.1", "127.0.0.2"), "cd" * 16)
    work(lambda processor: processor.send_webhook(f"{3:032x}"))
    assert origin.counts == {f"/{n}": 1 for n in range(6)}
    assert next(request.path for request in origin.requests) == "/3"


def test_a_worker_that_drains_sends_no_more(
    database: Database, origin: Origin, finish: Any, work: Any
) -> None:
    """What its job was for ends; what else waits for the host is left to others."""
    finish(origin.serve("/hook"))
    finish(origin.serve("/more"), "cd" * 16)

    async def drain_and_send(processor: ImageProcessor) -> None:
        await processor.drain()
        await _send(processor)

    work(drain_and_send)
    assert origin.counts == {"/hook": 1}


def test_a_job_leaves_a_host_after_a_while(
    database: Database,
    origin: Origin,
    finish: Any,
    work: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else those that always have something waiting could keep all senders for ever."""
    monkeypatch.setattr(webhook_courier, "SEND_SECONDS", 0.0)
    finish(origin.serve("/hook"))
    finish(origin.serve("/more"), "cd" * 16)
    work(_send)
    assert origin.counts == {"/hook": 1}


def test_a_job_that_waits_for_a_receiver_holds_nothing_up(database: Database, finish: Any) -> None:
    """A request that is retried while its last event waits for a try is still restarted."""
    finish("http://shop.example/hook")
    with database.transaction() as cursor:
        job_queue.defer_webhook(cursor, REQUEST_ID)
        cursor.execute("update requests set status = 'pending', finished_at = null")
        assert job_queue.restart_idle_requests(cursor, lease_seconds=30) == 1


def test_a_job_of_a_deleted_request_does_nothing(
    database: Database, origin: Origin, finish: Any, work: Any
) -> None:
    """What was deleted is not sent, and is no error."""
    finish(origin.serve("/hook"))
    with database.transaction() as cursor:
        cursor.execute("delete from requests")
    work(_send)
    assert origin.connections == 0
