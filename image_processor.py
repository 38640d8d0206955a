"""The worker: an asyncio loop thread that works requests off, turn by turn.

Owns what the engine calls (a turn claims images of one request while there is room), the leases,
and the thread that all of it runs in. `server` runs it beside HTTP; `python image_processor.py`
runs it alone, any number of times over one database and store.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final, Self

import image_queue
import job_queue
import metrics
import worker_steps
from async_database import AsyncDatabase
from database_helper import DatabaseUnavailableError, select_request
from errors import ImageError, ServiceError
from idempotency import delete_expired_keys
from image_pipeline import ImagePipeline
from image_queue import ImageState
from in_flight import InFlight
from origin_gate import OriginGate
from origin_queue import Terms
from outcome_recorder import OutcomeRecorder
from output_files import OutputFiles
from request_finisher import RequestFinisher
from request_options import ImageOptions
from request_queue import (
    RequestStatus,
    claim_purge,
    delete_expired_requests,
    renew_purge,
    select_cancelling,
)
from service_process import service_process
from webhook import judge
from webhook_queue import claim_webhook
from webhook_sender import SEND_SECONDS, WebhookSender

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    import procrastinate.worker

    from database_helper import Database
    from image_queue import Attempt, ClaimedImage, Outcome
    from image_store import ImageStore
    from settings import Settings

CLAIM_BATCH: Final = 16  # images a claim: few enough to spread, many enough to be cheap
TURN_SECONDS: Final = 3.0  # after it, a request lets others go first
HEED_SECONDS: Final = 1.0  # until a cancellation or deletion is heard of
LONGEST_SWEEP_SECONDS: Final = 5.0  # between two sweeps of a worker
EXPIRED_AT_A_TIME: Final = 1000  # requests deleted by one cleaning
TURNS: Final = 32  # at a time in one worker; one request has half as many lanes
NO_STORE_SECONDS: Final = 5.0  # until the store is looked at again
FINISHERS: Final = 2  # output CSVs written at a time
FILE_THREADS: Final = 4  # for looks at the store, cleaning and purging
SENDERS: Final = TURNS // 2  # webhooks at a time: slow receivers leave room for turns
WEBHOOK_LEASE_SECONDS: Final = SEND_SECONDS + 5.0  # and to note the answer
RESTART_SECONDS: Final = 1.0  # pause before the engine is started again
LONGEST_RESTART_SECONDS: Final = 15.0
STEADY_SECONDS: Final = 60.0  # so long without a breakdown, and the next one is the first again
HAND_BACK_SECONDS: Final = 5.0  # before images are left to their leases, at the end
LAST_SECONDS: Final = 1.0  # for tasks that are cancelled at the very end
SLOT_LEASE_SECONDS: Final = 10.0  # of downloads of an origin, unless images have a shorter lease
EXIT_WORKER_DIED: Final = 70  # EX_SOFTWARE of sysexits.h

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
        self._in_flight = InFlight(settings.download_concurrency)
        self._finishers = ThreadPoolExecutor(FINISHERS, "finish")
        self._file_threads = ThreadPoolExecutor(FILE_THREADS, "files")
        self._webhooks = WebhookSender(settings.webhook_secret, settings.address_policy)
        self._senders = ThreadPoolExecutor(SENDERS, "webhook")
        self._sending = 0
        self._claims: set[asyncio.Task[bool]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False

    async def begin(self, request_id: str) -> None:
        """Take a pending request into work."""
        await self._long.run(worker_steps.begin, request_id)

    async def run_turn(self, request_id: str, lane: int) -> None:
        """Claim images of a request and start them, for TURN_SECONDS; then hand the rest on.

        A turn doesn't wait for the images that it started: they go on while the next turn
        claims, so that the pipeline stays full.
        """
        request = await self._database.run(select_request, request_id)
        if request is None:
            return
        pause = 0.0
        with suppress(TimeoutError, ImageError):
            async with asyncio.timeout(TURN_SECONDS):
                if request["status"] == RequestStatus.CANCELLING:
                    await self._cancel(request_id)
                else:
                    pause = NO_STORE_SECONDS
                    await self._check_store()
                    pause = 0.0
                    options = ImageOptions.from_json(request["options"])
                    while not self._is_draining and await self._claim(request_id, options):
                        pass
        await self._database.run(worker_steps.hand_on, request_id, lane, request["images"], pause)

    async def finish(self, request_id: str) -> None:
        """Write the output CSV and the report, then the final status."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._finishers, self._finisher.finish, request_id)

    async def send_webhook(self, request_id: str) -> None:
        """Send an event of a request that is due; without a free sender it waits for a sweep."""
        if self._sending >= SENDERS:
            return
        self._sending += 1
        try:
            webhook = await self._database.run(
                claim_webhook, request_id, lease_seconds=WEBHOOK_LEASE_SECONDS
            )
            if webhook:
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(self._senders, self._webhooks.send, webhook)
                delivery = judge(answer, webhook.attempts)
                await self._records.run(worker_steps.record_webhook, webhook, delivery)
        finally:
            self._sending -= 1

    async def work_beside(self) -> None:
        """Do what is to be done beside the turns, until cancelled."""
        seconds = self._settings.lease_seconds
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._recorder.run())
            tasks.create_task(self._gate.run())
            tasks.create_task(_repeat(seconds / 3, self._renew_leases))
            tasks.create_task(_repeat(HEED_SECONDS, self._heed_cancellations))
            tasks.create_task(_repeat(min(seconds / 4, LONGEST_SWEEP_SECONDS), self.sweep))
            tasks.create_task(_repeat(HEED_SECONDS, self.purge))
            tasks.create_task(_repeat(2 * seconds, self.clean))

    async def sweep(self) -> None:
        """Give back what dead workers held, and restart what nobody works on."""
        await self._records.run(worker_steps.sweep, self._settings.lease_seconds)

    async def purge(self) -> None:
        """Delete the files and rows of deleted requests, one after the other."""
        seconds = self._settings.lease_seconds
        while request_id := await self._records.run(claim_purge, lease_seconds=seconds):
            purge = asyncio.create_task(self._with_files(self._finisher.purge, request_id))
            while not (await asyncio.wait([purge], timeout=seconds / 3))[0]:
                with suppress(DatabaseUnavailableError):
                    await self._records.run(renew_purge, request_id, lease_seconds=seconds)
            purge.result()

    async def clean(self) -> None:
        """Delete what nobody needs any more: expired requests and keys, stray files."""
        await self._records.run(delete_expired_keys)
        if days := self._settings.retention_days:
            await self._records.run(delete_expired_requests, days=days, limit=EXPIRED_AT_A_TIME)
        await self._with_files(self._finisher.clean)

    async def drain(self) -> None:
        """Claim no image more; return when those under way are recorded or postponed."""
        self._is_draining = True
        self._pipeline.drain()
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
        for executor in (self._finishers, self._file_threads, self._senders):
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
            await self._with_files(self._store.check)
        except ImageError as error:
            logger.warning("the images wait for the store: %s", error)
            raise

    async def _with_files(self, function: Callable[..., None], *args: str) -> None:
        """Call what works on files, apart from finishes, which may take long."""
        await asyncio.get_running_loop().run_in_executor(self._file_threads, function, *args)

    async def _cancel(self, request_id: str) -> None:
        """Cancel the images that wait, a portion at a time."""
        last: int | None = 0
        while last is not None and not self._is_draining:
            last = await self._database.run(worker_steps.cancel, request_id, last)

    async def _claim(self, request_id: str, options: ImageOptions) -> bool:
        """Claim and start images as room allows; tell whether there were any."""
        places = await self._in_flight.reserve(request_id, CLAIM_BATCH)
        claim = asyncio.create_task(self._claim_now(request_id, options, places))
        self._claims.add(claim)
        claim.add_done_callback(self._claims.discard)
        # Shielded: what is claimed must be started, even if the turn's time is over meanwhile.
        return await asyncio.shield(claim)

    async def _claim_now(self, request_id: str, options: ImageOptions, places: int) -> bool:
        images: list[ClaimedImage] = []
        try:
            if not self._is_draining:
                images = await self._database.run(
                    image_queue.claim_images,
                    request_id,
                    limit=places,
                    lease_seconds=self._settings.lease_seconds,
                )
        except DatabaseUnavailableError as error:  # the turn may be over, and hear of it no more
            logger.warning("images wait for the database: %s", error)
        finally:
            await self._in_flight.fill(request_id, places, images)
        for image in images:
            task = asyncio.create_task(self._process(image, options))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return bool(images)

    async def _process(self, image: ClaimedImage, options: ImageOptions) -> None:
        outcome = await self._pipeline.process(image, options)
        is_accepted = await self._recorder.record(outcome)
        if is_accepted and outcome.state != ImageState.PENDING:
            metrics.IMAGES_ENDED.labels(outcome.state, outcome.error_code or "").inc()
        await self._pipeline.publish(outcome, is_accepted=is_accepted)
        await self._in_flight.discard(image)

    async def _write_outcomes(self, outcomes: list[Outcome]) -> set[Attempt]:
        return await self._records.run(worker_steps.record, outcomes)

    async def _renew_leases(self) -> None:
        await self._records.run(
            image_queue.renew_leases,
            self._in_flight.images,
            lease_seconds=self._settings.lease_seconds,
        )

    async def _heed_cancellations(self) -> None:
        """Let no image begin that was claimed before its request was cancelled."""
        request_ids = {image.request_id for image in self._in_flight.images}
        self._pipeline.withdraw(
            await self._records.run(select_cancelling, request_ids) if request_ids else ()
        )


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
                logger.warning("%s waits: %s", step.__name__.strip("_"), error)
            is_away = True
        except Exception:
            logger.exception("%s", step.__name__.strip("_"))


class WorkerThread:
    """The background loop: starts on entering, drains on leaving.

    Outlives the database: while that is away the engine is started again and again. Outlives its
    own breakdowns, too.
    """

    def __init__(self, settings: Settings, database: Database, store: ImageStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._worker: procrastinate.worker.Worker | None = None
        self._thread = threading.Thread(target=self._main, name="worker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _main(self) -> None:
        # Not by asyncio.Runner: that waits for every task that is left at the end, and those of
        # a connection pool whose opening was cut off stay for ever.
        try:
            self._loop.run_until_complete(self._work())
        except BaseException:
            # Even starting it again failed. A process without its worker would take uploads and do
            # nothing about them. Whoever supervises it starts it anew.
            logger.critical("the worker died, and so does the process", exc_info=True)
            os._exit(EXIT_WORKER_DIED)
        self._loop.close()

    async def _work(self) -> None:
        """Work until the stop; after an error that nobody foresaw, from the start again."""
        pause = RESTART_SECONDS
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                await self._work_until_stopped()
            except Exception:
                if time.monotonic() - begun > STEADY_SECONDS:
                    pause = RESTART_SECONDS
                logger.critical("the worker broke down, again in %.0f s", pause, exc_info=True)
                await self._wait_for_stop(pause)
                pause = min(2 * pause, LONGEST_RESTART_SECONDS)

    async def _work_until_stopped(self) -> None:
        processor = ImageProcessor(self._settings, self._database, self._store)
        upkeep = asyncio.create_task(processor.work_beside())
        engine = asyncio.create_task(self._run_engine(processor))
        stop = asyncio.create_task(self._stop.wait())
        try:
            ended, _ = await asyncio.wait(
                [stop, upkeep, engine], return_when=asyncio.FIRST_COMPLETED
            )
            for task in ended:
                task.result()  # raises what ended a task that should run for ever
            await self._drain(processor, engine)
        finally:
            if self._worker:
                self._worker.stop()
            for task in (stop, upkeep, engine):
                task.cancel()
            await asyncio.wait([stop, upkeep, engine], timeout=LAST_SECONDS)
            await processor.close()
            await _end_other_tasks()

    async def _drain(self, processor: ImageProcessor, engine: asyncio.Task[None]) -> None:
        if self._worker:
            self._worker.stop()  # no further turn; those under way end
        else:
            engine.cancel()
        try:
            seconds = self._settings.shutdown_seconds
            async with asyncio.timeout(seconds - min(HAND_BACK_SECONDS, seconds / 4)):
                await processor.drain()
                await asyncio.wait([engine])
        except TimeoutError:
            logger.warning("some work took longer than SHUTDOWN_SECONDS")

    async def _wait_for_stop(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _run_engine(self, processor: ImageProcessor) -> None:
        pause = RESTART_SECONDS
        longest = min(LONGEST_RESTART_SECONDS, self._settings.lease_seconds / 2)
        while not self._stop.is_set():
            app = job_queue.build_app(self._database.conninfo, processor)
            try:
                await processor.sweep()  # first, as the engine is slower to find a database away
                async with app.open_async():
                    pause = RESTART_SECONDS
                    await self._run_worker(app)
                reason = "it lost its connection"
            except Exception as error:  # noqa: BLE001  # whatever it was, the loop goes on
                reason = str(error).strip().partition("\n")[0]
            if self._stop.is_set():
                return
            logger.warning("the engine stopped (%s), again in %.0f s", reason, pause)
            await self._wait_for_stop(pause)
            pause = min(2 * pause, longest)

    async def _run_worker(self, app: procrastinate.App) -> None:
        if self._stop.is_set():  # the cancellation was swallowed while the engine connected
            return
        # Half of the time: the other is for the engine to write that jobs ended.
        self._worker = job_queue.make_worker(
            app,
            concurrency=TURNS,
            grace_seconds=self._settings.shutdown_seconds / 2,
            lease_seconds=self._settings.lease_seconds,
        )
        try:
            await self._worker.run()
        finally:
            self._worker = None


async def _end_other_tasks() -> None:
    """Cancel what an engine without its database left behind; wait a moment for its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=LAST_SECONDS)


def main() -> None:
    """Run a worker alone until SIGTERM or SIGINT."""
    argparse.ArgumentParser(
        description="A worker alone: works requests off until Ctrl-C. Run any number of them over "
        "one DATABASE_URL and STORAGE_URL; README.md has the settings."
    ).parse_args()
    with service_process() as process, ExitStack() as stack:
        settings = process.settings
        if settings.public_url:
            # The server is elsewhere, and what listens here on its port is somebody else's.
            settings = settings.with_port(0)
        stack.enter_context(WorkerThread(settings, process.database, process.store))
        print("Working until Ctrl-C", flush=True)  # noqa: T201  # a command speaks by printing
        process.wait_for_signal()


if __name__ == "__main__":
    main()
