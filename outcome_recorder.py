"""Records outcomes in batches: whatever ended while the last batch was written is the next.

One commit for many images when they come fast, no delay when they don't.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from database_helper import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from image_queue import Outcome

BATCH: Final = 500
PAUSE_SECONDS: Final = 1.0  # between tries while the database is away

logger = logging.getLogger(__name__)


class OutcomeRecorder:
    """A queue of outcomes and the one task that writes them.

    `write` returns the (request id, n) of those that were accepted.
    """

    def __init__(self, write: Callable[[list[Outcome]], Awaitable[set[tuple[str, int]]]]) -> None:
        self._write = write
        self._queue: asyncio.Queue[tuple[Outcome, asyncio.Future[bool]]] = asyncio.Queue()

    async def record(self, outcome: Outcome) -> bool:
        """Return when the outcome is committed; False if it came too late to count."""
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((outcome, written))
        return await written

    async def run(self) -> None:
        """Write batches until cancelled. Outlives a database that is away."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            accepted = await self._write_until_done([outcome for outcome, _ in batch])
            for outcome, written in batch:
                if not written.done():  # cancelled when its waiter was
                    written.set_result((outcome.request_id, outcome.n) in accepted)

    async def _write_until_done(self, outcomes: list[Outcome]) -> set[tuple[str, int]]:
        while True:
            try:
                return await self._write(outcomes)
            except DatabaseUnavailableError as error:
                logger.warning("%d outcomes wait for the database: %s", len(outcomes), error)
            except Exception:  # without its recorder a worker would stand still
                logger.exception("recording %d outcomes", len(outcomes))
            await asyncio.sleep(PAUSE_SECONDS)
