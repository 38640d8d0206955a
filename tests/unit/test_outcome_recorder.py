"""The recorder: every outcome is written once, in batches, and its waiter told."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import outcome_recorder
from database_helper import DatabaseUnavailableError
from errors import ErrorCode
from image_queue import ImageState, Outcome
from outcome_recorder import OutcomeRecorder
from tests.counting import Counting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from image_queue import Attempt

PATIENCE_SECONDS = 30.0


class Database:
    """What outcomes are written to: slow while `gate` is closed, failing as long as told."""

    def __init__(self, *failures: Exception) -> None:
        self.batches: list[list[int]] = []
        self.failures = list(failures)
        self.refused: set[int] = set()
        self.spoilt: set[int] = set()  # images whose results can't be written
        self.poison: set[int] = set()  # images of which nothing can
        self.failed: list[Outcome] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, outcomes: list[Outcome]) -> set[Attempt]:
        """Take a batch, and accept all of it but what is `refused`."""
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        for outcome in outcomes:
            is_ours = outcome.error_code == ErrorCode.INTERNAL_ERROR
            if outcome.n in (self.poison if is_ours else self.poison | self.spoilt):
                raise ValueError(f"{outcome.n} is refused")
            self.failed += [outcome] * is_ours
        self.batches.append([outcome.n for outcome in outcomes])
        return {
            ("a", outcome.n, outcome.fence)
            for outcome in outcomes
            if outcome.n not in self.refused and outcome.fence == 1
        }


def _outcome(n: int, fence: int = 1) -> Outcome:
    return Outcome(
        request_id="a", n=n, fence=fence, attempts=1, state=ImageState.SUCCEEDED, sha256="00"
    )


def _run(
    test: Callable[[OutcomeRecorder, Database], Awaitable[None]], *failures: Exception
) -> None:
    async def with_recorder() -> None:
        database = Database(*failures)
        recorder = OutcomeRecorder(database.write)
        running = asyncio.create_task(recorder.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await test(recorder, database)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(with_recorder())


def test_one_outcome_is_written_at_once() -> None:
    """Nothing waits for company."""

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        await recorder.record(_outcome(1))
        assert database.batches == [[1]]

    _run(test)


def test_each_waiter_hears_whether_its_own_outcome_counts() -> None:
    """One that came too late for its image is told so, in whatever company it was written."""

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        database.refused = {2, 4}
        told = await asyncio.gather(*(recorder.record(_outcome(n)) for n in range(1, 5)))
        assert told == [True, False, True, False]

    _run(test)


def test_two_attempts_at_one_image_are_told_apart() -> None:
    """A worker that claimed its own image again records both, in one batch; one counts."""

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        told = await asyncio.gather(*(recorder.record(_outcome(1, fence)) for fence in (0, 1, 2)))
        assert told == [False, True, False]
        assert len(database.batches) == 1

    _run(test)


def test_what_ends_during_a_write_is_the_next_batch() -> None:
    """Outcomes gather while the database is busy, and nobody is told too early."""

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        database.gate.clear()
        waiting = [asyncio.create_task(recorder.record(_outcome(1)))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the recorder has taken the first and waits
        waiting += [asyncio.create_task(recorder.record(_outcome(n))) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        database.gate.set()
        await asyncio.gather(*waiting)
        assert database.batches == [[1], [2, 3, 4]]

    _run(test)


def test_enough_outcomes_wait_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a batch, the next one is written when it is worth it, or its time has come."""
    monkeypatch.setattr(outcome_recorder, "GATHER_SECONDS", 3600)
    monkeypatch.setattr(outcome_recorder, "GATHERED", 3)

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        with recorder.expecting():
            await recorder.record(_outcome(1))
            few = [asyncio.create_task(recorder.record(_outcome(n))) for n in (2, 3)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert database.batches == [[1]]
            await asyncio.gather(*few, recorder.record(_outcome(4)))
            await asyncio.gather(*(recorder.record(_outcome(n)) for n in (5, 6, 7)))
        assert database.batches == [[1], [2, 3, 4], [5, 6, 7]]

    _run(test)


def test_the_last_outcome_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other is to come, the end of a request isn't put off for company."""
    monkeypatch.setattr(outcome_recorder, "GATHER_SECONDS", 3600)

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        with recorder.expecting():
            await recorder.record(_outcome(1))
            early = asyncio.create_task(recorder.record(_outcome(2)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert database.batches == [[1]]
        await asyncio.gather(early, recorder.record(_outcome(3)))
        assert database.batches == [[1], [2, 3]]

    _run(test)


def test_a_batch_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction holds so many outcomes and no more."""
    monkeypatch.setattr(outcome_recorder, "BATCH", 3)

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        await asyncio.gather(*(recorder.record(_outcome(n)) for n in range(7)))
        assert database.batches == [[0, 1, 2], [3, 4, 5], [6]]

    _run(test)


def test_outcomes_wait_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that failed for that is tried again, as often as it takes."""
    monkeypatch.setattr(outcome_recorder, "PAUSE_SECONDS", 0)

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        assert await recorder.record(_outcome(1))
        assert await recorder.record(_outcome(2))
        assert database.batches == [[1], [2]]

    _run(test, *[DatabaseUnavailableError("restarting")] * 3)


def test_a_refused_outcome_spoils_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """What can't be written is recorded as a failure of ours and logged; the rest counts."""

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        database.spoilt = {2}
        told = await asyncio.gather(*(recorder.record(_outcome(n)) for n in (1, 2, 3)))
        assert told == [True, False, True]
        assert database.batches == [[1], [2], [3]]
        [ours] = database.failed
        assert (ours.n, ours.fence, ours.attempts, ours.state) == (2, 1, 1, ImageState.FAILED)
        assert (ours.error_code, ours.sha256) == ("internal_error", None)
        assert ours.error_detail == "The result could not be recorded."

    _run(test)
    [record] = [record for record in caplog.records if record.exc_info]
    assert "image a-2" in record.getMessage()


def test_an_outcome_that_can_t_be_written_at_all_is_let_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its waiter hears that it doesn't count, and the recorder goes on."""

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        database.poison = {2}
        told = await asyncio.gather(*(recorder.record(_outcome(n)) for n in (1, 2, 3)))
        assert told == [True, False, True]
        assert await recorder.record(_outcome(4))
        assert database.batches == [[1], [3], [4]]

    _run(test)
    assert "its lease ends by itself" in caplog.text


def test_a_database_that_goes_away_amid_a_refused_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the single outcomes waits for it like a batch."""
    monkeypatch.setattr(outcome_recorder, "PAUSE_SECONDS", 0)

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        assert await asyncio.gather(*(recorder.record(_outcome(n)) for n in (1, 2))) == [True] * 2
        assert database.batches == [[1], [2]]

    away = DatabaseUnavailableError("restarting")
    _run(test, away, ValueError("refused"), away, away)


def test_a_waiter_that_went_away_keeps_nobody_else_waiting() -> None:
    """An image that is cancelled at shutdown doesn't break the batch that it is in."""

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        database.gate.clear()
        gone, stays = (asyncio.create_task(recorder.record(_outcome(n))) for n in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        database.gate.set()
        await stays
        assert sorted(chain.from_iterable(database.batches)) == [1, 2]

    _run(test)


def test_what_is_recorded_is_counted() -> None:
    """Ends, retries and images put off, each where it counts; and what came too late."""
    success, reused = _outcome(1), replace(_outcome(1), reused=True)
    outcomes = [
        replace(success, bytes_in=900, bytes_out=600),
        replace(reused, n=2, reuse_key="00"),
        replace(reused, n=3),
        replace(success, n=4, state=ImageState.FAILED, error_code="http_799"),
        replace(success, n=5, state=ImageState.FAILED, error_code="http_404", reused=True),
        replace(success, n=6, state=ImageState.PENDING, error_code="timeout"),
        replace(success, n=7, state=ImageState.PENDING),
        replace(success, n=8),
        replace(success, n=9),
    ]

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        database.refused, database.spoilt = {8}, {9}
        await asyncio.gather(*map(recorder.record, outcomes))

    with Counting() as counted:
        _run(test)
    assert counted.by == {
        ("images_ended_total", "succeeded", ""): 3,
        ("images_ended_total", "failed", "http_other"): 1,
        ("images_ended_total", "failed", "http_404"): 1,
        ("images_ended_total", "failed", "internal_error"): 1,  # its outcome was refused
        ("images_reused_total", "earlier"): 1,
        ("images_reused_total", "request"): 1,
        ("image_retries_total", "timeout"): 1,
        ("images_postponed_total",): 1,
        ("results_fenced_total",): 1,
        ("image_input_bytes_total",): 900,
        ("image_output_bytes_total",): 600,
    }
