"""The worker: works requests off, turn by turn, in a background asyncio loop thread.

Owns what the engine calls: a turn claims images of one request while there is room. What is done
beside the turns is `worker_upkeep`'s, sending events `webhook_courier`'s, the thread that all of it
runs in `worker_thread`'s. `server` runs it beside HTTP; `python image_processor.py` runs it alone,
any number of times over one database and store.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import metrics
import worker_steps
from async_database import AsyncDatabase
from codec.codec_version import codec_version
from command_help import SETTINGS_AND_STATUS, HelpFormatter
from database_helper import DatabaseUnavailableError
from decoder.decoder_cage import Bar
from errors import ImageError
from image_pipeline import ImagePipeline
from image_reuse import Recipe
from in_flight import InFlight
from log_context import LogContext, in_thread
from operations_api import serving_operations
from outcome_recorder import OutcomeRecorder
from output_files import OutputFiles
from politeness.origin_gate import OriginGate
from politeness.origin_queue import Terms
from request_finisher import RequestFinisher
from request_options import ImageOptions
from request_queue import RequestStatus
from request_rows import select_request
from service_process import service_process
from webhook_courier import WebhookCourier
from worker_thread import HAND_BACK_SECONDS, WorkerThread
from worker_upkeep import WorkerUpkeep

if TYPE_CHECKING:
    from database_helper import Database
    from image_queue import Attempt, ClaimedImage, Outcome
    from settings import Settings
    from storage.image_store import ImageStore

EXAMPLE: Final = """\
example:
  DATABASE_URL=postgresql://images:secret@db/images STORAGE_URL=file:/srv/images \\
  PUBLIC_URL=https://images.example.com python image_processor.py"""
CLAIM_BATCH: Final = 16  # images a claim: few enough to spread, many enough to be cheap
TURN_SECONDS: Final = 10.0  # at the most, or half a lease; then a request lets others go first
NO_STORE_SECONDS: Final = 5.0  # until the store is looked at again
FINISHERS: Final = 2  # output CSVs written at a time
FILE_THREADS: Final = 4  # for looks at the store, cleaning and purging
SLOT_LEASE_SECONDS: Final = 10.0  # of downloads of an origin, unless images have a shorter lease

logger = logging.getLogger(__name__)


class ImageProcessor:
    """What the engine calls. Made and used in one event loop."""

    def __init__(self, settings: Settings, database: Database, store: ImageStore) -> None:
        self._settings = settings
        self._database = AsyncDatabase(database)
        self._store = store
        files = OutputFiles(database, store)
        self._finisher = RequestFinisher(
            database, store, files, lease_seconds=settings.lease_seconds
        )
        # Apart, so that none waits behind slower ones: outcomes and leases, and first steps.
        self._records = AsyncDatabase(database)
        self._long = AsyncDatabase(database)
        self._recorder = OutcomeRecorder(self._write_outcomes)
        self._gate = OriginGate(
            self._records,
            Terms(
                capacity=settings.host_concurrency,
                lease_seconds=min(SLOT_LEASE_SECONDS, settings.lease_seconds),
            ),
        )
        self._pipeline = ImagePipeline(settings, self._database, files, self._gate)
        self._in_flight = InFlight(settings.download_concurrency, settings.compress_processes)
        metrics.IMAGES_HELD.set_function(partial(len, self._in_flight))
        self._finishers = ThreadPoolExecutor(FINISHERS, "finish")
        self._file_threads = ThreadPoolExecutor(FILE_THREADS, "files")
        self._courier = WebhookCourier(settings, self._database, self._records)
        self._upkeep = WorkerUpkeep(
            settings,
            self._records,
            self._finisher,
            self._file_threads,
            self._in_flight,
            self._pipeline,
        )
        self._claims: set[asyncio.Task[int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False

    async def start(self) -> frozenset[Bar]:
        """Make ready for images; return the bars of the decoders' cage."""
        codec_version()  # of the code that the decoders begin with, should it be replaced later
        bars = await self._pipeline.start()
        for bar in Bar:
            metrics.DECODER_BARS.labels(bar).set(bar in bars)
        return bars

    async def begin(self, request_id: str) -> None:
        """Take a pending request into work."""
        with LogContext(request_id):
            await self._long.run(worker_steps.begin, request_id)

    async def run_turn(self, request_id: str, lane: int) -> None:
        """Claim images of a request and start them for some seconds; then hand the rest on.

        A turn doesn't wait for the images that it started: they go on while the next turn
        claims, so that the pipeline stays full.
        """
        with LogContext(request_id):
            await self._run_turn(request_id, lane)

    async def _run_turn(self, request_id: str, lane: int) -> None:
        request = await self._database.run(select_request, request_id)
        if request is None:
            return
        pause = 0.0
        with suppress(TimeoutError, ImageError):
            async with asyncio.timeout(self._turn_seconds()):
                if request["status"] == RequestStatus.CANCELLING:
                    await self._cancel(request_id)
                else:
                    pause = NO_STORE_SECONDS
                    await self._check_store()
                    pause = 0.0
                    recipe = Recipe.of(
                        ImageOptions.from_json(request["options"]), request["owner"], self._settings
                    )
                    last = 0
                    while not self._is_draining:
                        last = await self._claim(request_id, recipe, last)
                        if not last:
                            break
        await self._database.run(worker_steps.hand_on, request_id, lane, request["images"], pause)

    def _turn_seconds(self) -> float:
        """Return how long a turn may be; another each time, lest many end together."""
        longest = min(TURN_SECONDS, self._settings.lease_seconds / 2)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  # jitter

    async def finish(self, request_id: str) -> None:
        """Write the output CSV and the report, then the final status."""
        with LogContext(request_id):
            await in_thread(self._finishers, self._finisher.finish, request_id)

    async def send_webhook(self, request_id: str) -> None:
        """Send an event of a request that is due."""
        with LogContext(request_id):
            await self._courier.send(request_id)

    async def work_beside(self) -> None:
        """Do what is to be done beside the turns, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._recorder.run())
            tasks.create_task(self._gate.run())
            tasks.create_task(self._upkeep.run())

    async def sweep(self) -> None:
        """Give back what dead workers held, and restart what nobody works on."""
        await self._upkeep.sweep()

    async def drain(self) -> None:
        """Claim no image more; return when those under way are recorded or postponed."""
        self._is_draining = True
        self._pipeline.drain()
        self._courier.drain()
        if self._claims:
            await asyncio.wait(self._claims)
        await self._in_flight.wait_empty()

    async def close(self) -> None:
        """End everything; what is still in flight is given back for another worker."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if len(self._in_flight):
            await self._hand_back()
        await self._gate.release()
        self._pipeline.close()
        self._courier.close()
        for executor in (self._finishers, self._file_threads):
            executor.shutdown(wait=False, cancel_futures=True)
        for statements in (self._records, self._long, self._database):
            statements.close()

    async def _hand_back(self) -> None:
        logger.warning("handing back %d images", len(self._in_flight))
        try:
            async with asyncio.timeout(HAND_BACK_SECONDS):
                await self._database.run(worker_steps.hand_back, self._in_flight.images)
        except (DatabaseUnavailableError, TimeoutError) as error:
            logger.warning("their leases end by themselves: %s", error)

    async def _check_store(self) -> None:
        """Raise ImageError unless outputs can be stored now: with a full disk all would fail."""
        try:
            await in_thread(self._file_threads, self._store.check)
        except ImageError as error:
            logger.warning("the images wait for the store: %s", error)
            raise

    async def _cancel(self, request_id: str) -> None:
        """Cancel the images that wait, a portion at a time."""
        last = 0
        while not self._is_draining:
            cancelled = await self._database.run(worker_steps.cancel, request_id, last)
            if not cancelled.accepted:
                return
            metrics.count_ended(cancelled.ended)
            last = max(n for _, n, _ in cancelled.accepted)

    async def _claim(self, request_id: str, recipe: Recipe, after: int) -> int:
        """Claim and start images behind a number as room allows; return the last one's, or 0."""
        places = await self._in_flight.reserve(request_id, CLAIM_BATCH)
        claim = asyncio.create_task(self._claim_now(request_id, recipe, places, after))
        self._claims.add(claim)
        claim.add_done_callback(self._claims.discard)
        # Shielded: what is claimed must be started, even if the turn's time is over meanwhile.
        return await asyncio.shield(claim)

    async def _claim_now(self, request_id: str, recipe: Recipe, places: int, after: int) -> int:
        images: list[ClaimedImage] = []
        try:
            if not self._is_draining:
                images = await self._database.run(
                    worker_steps.claim,
                    request_id,
                    recipe,
                    after=after,
                    limit=places,
                    lease_seconds=self._settings.lease_seconds,
                )
        except DatabaseUnavailableError as error:  # the turn may be over, and hear of it no more
            logger.warning("images wait for the database: %s", error)
        finally:
            await self._in_flight.fill(request_id, places, images)
        for image in images:
            task = asyncio.create_task(self._process(image, recipe))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return max((image.n for image in images), default=0)

    async def _process(self, image: ClaimedImage, recipe: Recipe) -> None:
        with self._recorder.expecting():
            outcome = await self._pipeline.process(image, recipe)
        is_accepted = await self._recorder.record(outcome)
        await self._pipeline.publish(outcome, is_accepted=is_accepted)
        await self._in_flight.discard(image)

    async def _write_outcomes(self, outcomes: list[Outcome]) -> set[Attempt]:
        return await self._records.run(worker_steps.record, outcomes)


def background_worker(settings: Settings, database: Database, store: ImageStore) -> WorkerThread:
    """Return the thread that works requests off; it starts on entering."""
    return WorkerThread(lambda: ImageProcessor(settings, database, store), settings, database)


def main() -> None:
    """Run a worker alone until SIGTERM or SIGINT."""
    argparse.ArgumentParser(
        description="A worker alone: works requests off until Ctrl-C. Any number may run, on\n"
        "any number of machines, over one DATABASE_URL and STORAGE_URL.",
        epilog=f"{EXAMPLE}\n\n{SETTINGS_AND_STATUS}",
        formatter_class=HelpFormatter,
    ).parse_args()
    with service_process() as process, ExitStack() as stack:
        settings = process.settings
        if settings.public_url:
            # The server is elsewhere, and what listens here on its port is somebody else's.
            settings = settings.with_port(0)
        operations = stack.enter_context(serving_operations(process))
        worker = stack.enter_context(background_worker(settings, process.database, process.store))
        line = f"Working until Ctrl-C ({worker.describe()})"
        if operations.url:
            line += f", metrics at {operations.url}/metrics"
        print(line, flush=True)  # noqa: T201  # a command speaks by printing
        process.wait_for_signal()
        operations.is_draining = True


if __name__ == "__main__":
    main()
