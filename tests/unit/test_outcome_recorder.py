"""The recorder: every outcome is written once, in batches, and its waiter told."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

import pytest

import outcome_recorder
from database_helper import DatabaseUnavailableError
from image_queue import ImageState, Outcome
from outcome_recorder import OutcomeRecorder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 5.0


class Database:
    """What outcomes are written to: slow while `gate` is closed, failing as long as told."""

    def __init__(self, *failures: Exception) -> None:
        self.batches: list[list[int]] = []
        self.failures = list(failures)
        self.refused: set[int] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, outcomes: list[Outcome]) -> set[tuple[str, int]]:
        """Take a batch, and accept all of it but what is `refused`."""
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append([outcome.n for outcome in outcomes])
        return {("a", outcome.n) for outcome in outcomes if outcome.n not in self.refused}


def _outcome(n: int) -> Outcome:
    return Outcome(request_id="a", n=n, fence=1, attempts=1, state=ImageState.FAILED)


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


def test_a_batch_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction holds so many outcomes and no more."""
    monkeypatch.setattr(outcome_recorder, "BATCH", 3)

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        await asyncio.gather(*(recorder.record(_outcome(n)) for n in range(7)))
        assert database.batches == [[0, 1, 2], [3, 4, 5], [6]]

    _run(test)


@pytest.mark.parametrize("failure", [DatabaseUnavailableError("restarting"), RuntimeError("bug")])
def test_a_failed_write_is_tried_again(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """Outcomes wait while the database is away; whatever else it was, the recorder goes on."""
    monkeypatch.setattr(outcome_recorder, "PAUSE_SECONDS", 0)

    async def test(recorder: OutcomeRecorder, database: Database) -> None:
        await recorder.record(_outcome(1))
        await recorder.record(_outcome(2))
        assert database.batches == [[1], [2]]

    _run(test, failure, failure, failure)


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
