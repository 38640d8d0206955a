"""Records outcomes in batches: after one, the next gathers for a moment.

It is written when that is over, when enough have come, or when no image is under way whose outcome
could join it: so a single image waits for nothing, and many share a commit. What PostgreSQL refuses
for its content keeps nothing else from being recorded.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import metrics
from database_helper import DatabaseUnavailableError
from errors import ErrorCode
from image_queue import ImageState, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from image_queue import Attempt


BATCH: Final = 500
GATHER_SECONDS: Final = 0.25  # between two batches: a commit costs more than an outcome in it
GATHERED: Final = 24  # are enough for a batch, however soon they come
PAUSE_SECONDS: Final = 1.0  # between tries while the database is away

logger = logging.getLogger(__name__)


class OutcomeRecorder:
    """A queue of outcomes and the one task that writes them.

    `write` returns which attempts were accepted.
    """

    def __init__(self, write: Callable[[list[Outcome]], Awaitable[set[Attempt]]]) -> None:
        self._write = write
        self._queue: asyncio.Queue[tuple[Outcome, asyncio.Future[bool]]] = asyncio.Queue()
        self._expected = 0
        self._has_gathered = asyncio.Event()

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Tell that an outcome is to come soon: with the last one, none waits for company."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    async def record(self, outcome: Outcome) -> bool:
        """Return when the outcome is committed; False if it came too late to count."""
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((outcome, written))
        if self._is_worth_it():
            self._has_gathered.set()
        return await written

    async def run(self) -> None:
        """Write batches until cancelled. Outlives a database that is away."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            accepted = await self._write_what_can_be([outcome for outcome, _ in batch])
            for outcome, written in batch:
                if not written.done():  # cancelled when its waiter was
                    written.set_result((outcome.request_id, outcome.n, outcome.fence) in accepted)
            await self._gather()

    async def _gather(self) -> None:
        if not self._is_worth_it():
            self._has_gathered.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._has_gathered.wait()

    def _is_worth_it(self) -> bool:
        return self._queue.qsize() >= GATHERED or not self._expected

    async def _write_what_can_be(self, outcomes: list[Outcome]) -> set[Attempt]:
        """Write a batch, and one by one if it is refused as a whole; return what was accepted."""
        try:
            return await self._write_and_count(outcomes)
        except Exception:  # noqa: BLE001  # whatever it was, the other images' results count
            if len(outcomes) == 1:
                await self._give_up(outcomes[0])
                return set()
            logger.warning("%d outcomes are refused together: one by one, then", len(outcomes))
        accepted: set[Attempt] = set()
        for outcome in outcomes:
            accepted |= await self._write_what_can_be([outcome])
        return accepted

    async def _give_up(self, outcome: Outcome) -> None:
        """Record as failed an image whose outcome was just refused; it counts as not accepted."""
        name = f"{outcome.request_id}-{outcome.n}"
        about = {"request_id": outcome.request_id}
        logger.exception("the outcome of image %s can't be recorded", name, extra=about)  # noqa: LOG004
        try:
            await self._write_and_count([_internal_error(outcome)])
        except Exception:
            logger.exception(
                "nor that image %s has failed: its lease ends by itself", name, extra=about
            )

    async def _write_and_count(self, outcomes: list[Outcome]) -> set[Attempt]:
        accepted = await self._write_patiently(outcomes)
        for outcome in outcomes:
            _count(outcome, is_accepted=(outcome.request_id, outcome.n, outcome.fence) in accepted)
        return accepted

    async def _write_patiently(self, outcomes: list[Outcome]) -> set[Attempt]:
        while True:
            try:
                with metrics.RECORD_SECONDS.time():
                    return await self._write(outcomes)
            except DatabaseUnavailableError as error:
                logger.warning("%d outcomes wait for the database: %s", len(outcomes), error)
            await asyncio.sleep(PAUSE_SECONDS)


def _count(outcome: Outcome, *, is_accepted: bool) -> None:
    if not is_accepted:
        metrics.RESULTS_FENCED.inc()
    elif outcome.state is not ImageState.PENDING:
        metrics.count_ended({(outcome.state, outcome.error_code): 1})
        if outcome.state is ImageState.SUCCEEDED:
            metrics.IMAGE_INPUT_BYTES.inc(outcome.bytes_in or 0)
            metrics.IMAGE_OUTPUT_BYTES.inc(outcome.bytes_out or 0)
            if outcome.reused:  # what repeats an image of its own request has no key
                metrics.IMAGES_REUSED.labels("earlier" if outcome.reuse_key else "request").inc()
    elif outcome.error_code:
        metrics.IMAGE_RETRIES.labels(metrics.code_label(outcome.error_code)).inc()
    else:
        metrics.IMAGES_POSTPONED.inc()


def _internal_error(outcome: Outcome) -> Outcome:
    return Outcome(
        request_id=outcome.request_id,
        n=outcome.n,
        fence=outcome.fence,
        attempts=outcome.attempts,
        state=ImageState.FAILED,
        error_code=ErrorCode.INTERNAL_ERROR,
        error_detail="The result could not be recorded.",
    )
