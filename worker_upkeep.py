"""What a worker does beside its turns, again and again: leases, cancellations, sweeps, deletions.

Owns when each is done. No jobs of the engine: so they need neither a free place of it nor the
clock on the wall. What the steps do to rows is `worker_steps`' and `request_queue`'s, to files
`request_finisher`'s.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import image_queue
import metrics
import worker_steps
from database_helper import DatabaseUnavailableError
from errors import ServiceError
from idempotency import delete_expired_keys
from log_context import LogContext, in_thread
from request_queue import claim_purge, delete_expired_requests, renew_purge, select_cancelling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from async_database import AsyncDatabase
    from image_pipeline import ImagePipeline
    from in_flight import InFlight
    from request_finisher import RequestFinisher
    from settings import Settings

HEED_SECONDS: Final = 1.0  # until a cancellation or deletion is heard of
LONGEST_SWEEP_SECONDS: Final = 5.0  # between two sweeps of a worker
EXPIRED_AT_A_TIME: Final = 1000  # requests deleted by one cleaning

logger = logging.getLogger(__name__)


class WorkerUpkeep:
    """The steps, each of which may be taken by itself, and `run`, which repeats all of them.

    `records` are statements that wait behind no turn; `file_threads` are for slow work on files.
    The owner closes both. What is in flight is renewed, and withdrawn from the pipeline when its
    request is cancelled.
    """

    def __init__(
        self,
        settings: Settings,
        records: AsyncDatabase,
        finisher: RequestFinisher,
        file_threads: Executor,
        in_flight: InFlight,
        pipeline: ImagePipeline,
    ) -> None:
        self._settings = settings
        self._records = records
        self._finisher = finisher
        self._file_threads = file_threads
        self._in_flight = in_flight
        self._pipeline = pipeline

    async def run(self) -> None:
        """Take every step again and again, until cancelled."""
        seconds = self._settings.lease_seconds
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_repeat(seconds / 3, self.renew_leases))
            tasks.create_task(_repeat(HEED_SECONDS, self.heed_cancellations))
            tasks.create_task(_repeat(min(seconds / 4, LONGEST_SWEEP_SECONDS), self.sweep))
            tasks.create_task(_repeat(HEED_SECONDS, self.purge))
            tasks.create_task(_repeat(2 * seconds, self.clean))

    async def renew_leases(self) -> None:
        """Keep what this worker has claimed its own."""
        renewed = await self._records.run(
            image_queue.renew_leases,
            self._in_flight.images,
            lease_seconds=self._settings.lease_seconds,
        )
        metrics.LEASES_RENEWED.inc(renewed)

    async def heed_cancellations(self) -> None:
        """Let no image begin that was claimed before its request was cancelled."""
        request_ids = {image.request_id for image in self._in_flight.images}
        self._pipeline.withdraw(
            await self._records.run(select_cancelling, request_ids) if request_ids else ()
        )

    async def sweep(self) -> None:
        """Give back what dead workers held, and restart what nobody works on."""
        expired = await self._records.run(worker_steps.sweep, self._settings.lease_seconds)
        metrics.LEASES_EXPIRED.inc(len(expired.accepted))
        metrics.count_ended(expired.ended)

    async def purge(self) -> None:
        """Delete the files and rows of deleted requests, one after the other."""
        seconds = self._settings.lease_seconds
        while request_id := await self._records.run(claim_purge, lease_seconds=seconds):
            with LogContext(request_id):
                await self._purge(request_id, seconds)

    async def _purge(self, request_id: str, lease_seconds: float) -> None:
        purge = asyncio.create_task(self._with_files(self._finisher.purge, request_id))
        while not (await asyncio.wait([purge], timeout=lease_seconds / 3))[0]:
            with suppress(DatabaseUnavailableError):
                await self._records.run(renew_purge, request_id, lease_seconds=lease_seconds)
        purge.result()

    async def clean(self) -> None:
        """Delete what nobody needs any more: expired requests and keys, stray files."""
        await self._records.run(delete_expired_keys)
        if days := self._settings.retention_days:
            await self._records.run(delete_expired_requests, days=days, limit=EXPIRED_AT_A_TIME)
        await self._with_files(self._finisher.clean)

    async def _with_files(self, function: Callable[..., None], *args: str) -> None:
        await in_thread(self._file_threads, function, *args)


async def _repeat(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    """Take a step again and again, with a pause before each. Outlives whatever it raises."""
    is_away = False
    while True:
        await asyncio.sleep(seconds)
        try:
            await step()
            is_away = False
        except ServiceError as error:  # database or store: said once
            if not is_away:
                logger.warning("%s waits: %s", step.__name__, error)
            is_away = True
        except Exception:
            logger.exception("%s", step.__name__)
