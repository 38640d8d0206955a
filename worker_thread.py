"""The background thread: an asyncio loop with the engine in it, which outlives its own breakdowns.

Owns starting and stopping; what is done with requests is the processor's that it is given.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, Self

import job_queue
import metrics
from decoder.decoder_cage import Bar
from errors import ServiceError, SettingsError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    import procrastinate
    import procrastinate.worker

    from database_helper import Database
    from settings import Settings

RESTART_SECONDS: Final = 1.0  # pause before the engine is started again
LONGEST_RESTART_SECONDS: Final = 15.0
STEADY_SECONDS: Final = 60.0  # so long without a breakdown, and the next one is the first again
LAST_SECONDS: Final = 1.0  # for tasks that are cancelled at the very end
EXIT_WORKER_DIED: Final = 70  # EX_SOFTWARE of sysexits.h
HAND_BACK_SECONDS: Final = 5.0  # of a stop are kept for what is left to be given to others

logger = logging.getLogger(__name__)


class Processor(job_queue.Worker, Protocol):
    """What the thread runs, made anew after a breakdown; `image_processor` is it."""

    async def start(self) -> frozenset[Bar]:
        """Make ready for images; return the bars of the decoders' cage."""

    async def work_beside(self) -> None:
        """Do what is to be done beside the engine's jobs, until cancelled."""

    async def sweep(self) -> None:
        """Restart what nobody works on. Raises while the database is away."""

    async def drain(self) -> None:
        """Begin nothing more; return when what is under way has ended."""

    async def close(self) -> None:
        """End everything, also what didn't start; give back what is left in HAND_BACK_SECONDS."""


class WorkerThread:
    """The background loop: starts on entering, drains on leaving.

    Outlives the database: while that is away the engine is started again and again. Outlives its
    own breakdowns, too.
    """

    def __init__(
        self, processor: Callable[[], Processor], settings: Settings, database: Database
    ) -> None:
        self._make_processor = processor
        self._settings = settings
        self._database = database
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._worker: procrastinate.worker.Worker | None = None
        self._thread = threading.Thread(target=self._main, name="worker", daemon=True)
        self._started: Future[frozenset[Bar]] = Future()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def describe(self) -> str:
        """Wait until images can be decoded; return how they are, for the line at the start.

        Raises SettingsError when no decoder starts, so that the process ends instead of trying on.
        """
        try:
            bars = self._started.result()
        except ServiceError as error:
            raise SettingsError(f"{error} The log has more.") from error
        missing = [bar for bar in Bar if bar not in bars]
        without = f", without {', '.join(missing)}" if missing else ""
        return f"decoders caged by {', '.join(bar for bar in Bar if bar in bars)}{without}"

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
                metrics.WORKER_RESTARTS.labels("worker").inc()
                logger.critical("the worker broke down, again in %.0f s", pause, exc_info=True)
                await self._wait_for_stop(pause)
                pause = min(2 * pause, LONGEST_RESTART_SECONDS)

    async def _work_until_stopped(self) -> None:
        processor = self._make_processor()
        await self._start(processor)
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

    async def _start(self, processor: Processor) -> None:
        try:
            bars = await processor.start()
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            await processor.close()
            raise
        if not self._started.done():
            self._started.set_result(bars)

    async def _drain(self, processor: Processor, engine: asyncio.Task[None]) -> None:
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

    async def _run_engine(self, processor: Processor) -> None:
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
                reason = first_line(str(error))
            if self._stop.is_set():
                return
            metrics.WORKER_RESTARTS.labels("engine").inc()
            logger.warning("the engine stopped (%s), again in %.0f s", reason, pause)
            await self._wait_for_stop(pause)
            pause = min(2 * pause, longest)

    async def _run_worker(self, app: procrastinate.App) -> None:
        if self._stop.is_set():  # the cancellation was swallowed while the engine connected
            return
        # Half of the time: the other is for the engine to write that jobs ended.
        self._worker = job_queue.make_worker(
            app,
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
