"""What a worker does beside its turns: sweep, clean and purge, again and again; and what it records.

Without the engine: each step is taken by hand.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import image_processor
import image_queue
import job_queue
import outcome_recorder
import worker_steps
import worker_upkeep
from codec.compressed_image import CompressedImage
from errors import ErrorCode, ImageError, ServiceError
from image_processor import ImageProcessor
from image_queue import MOST_LOSSES
from image_reuse import Recipe
from output_files import OutputFiles
from request_finisher import RequestFinisher
from request_options import ImageOptions, parse_options
from request_queue import claim_purge, purge_rows, renew_purge
from settings import Settings
from storage.folder_store import FolderStore
from storage.storage_keys import STAGED_CSVS, STAGED_IMAGES
from tests.counting import Counting
from tests.queued import Queue, success, urls
from worker_upkeep import WorkerUpkeep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from database_helper import Cursor, Database
    from image_queue import Attempt, ClaimedImage, Outcome, Recorded

PATIENCE_SECONDS = 30.0


class Shop:
    """A database, a store, and workers' processors over them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.store = FolderStore(folder)

    @asynccontextmanager
    async def processor(self, **settings: Any) -> AsyncIterator[ImageProcessor]:
        """Give a worker's processor, closed in the end."""
        values: dict[str, Any] = {"_env_file": None, "compress_processes": 1}
        processor = ImageProcessor(Settings(**values | settings), self.database, self.store)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                yield processor
        finally:
            await processor.close()

    def work(self, step: Callable[[ImageProcessor], Awaitable[Any]], **settings: Any) -> None:
        """Let a processor take a step."""

        async def run() -> None:
            async with self.processor(**settings) as processor:
                await step(processor)

        asyncio.run(run())

    def tend(self, step: Callable[[WorkerUpkeep], Awaitable[None]], **settings: Any) -> None:
        """Let a processor's upkeep take a step."""
        self.work(lambda processor: step(processor._upkeep), **settings)

    def finished(self, *ages: int) -> list[Queue]:
        """Return a request for each age, finished so many days ago."""
        queues = [Queue(self.database, *urls(1)) for _ in ages]
        for queue, days in zip(queues, ages, strict=True):
            queue.end("s")
            assert queue.take_finish()
            assert queue.finish()
            queue.change_request(f"finished_at = now() - interval '{days} days'")
        return queues

    def ids(self, table: str = "requests") -> list[str]:
        """Return the ids of a table's rows."""
        return [row["id"] for row in self._rows(f"select id from {table} order by id")]  # noqa: S608

    def jobs(self) -> list[tuple[str, str]]:
        """Return the jobs: task and request."""
        rows = self._rows("select task_name, args from procrastinate_jobs order by id")
        return [(row["task_name"], row["args"]["request_id"]) for row in rows]

    def drop_jobs(self) -> None:
        """Delete the jobs."""
        with self.database.transaction() as cursor:
            cursor.execute("delete from procrastinate_jobs")

    def files(self) -> dict[str, bytes]:
        """Return the store's files by their paths."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        with self.database.transaction() as cursor:
            cursor.execute(statement)
            return [dict(row) for row in cursor.fetchall()]


@pytest.fixture
def shop(clean_database: Database, tmp_path: Path) -> Shop:
    """Give a shop without any request."""
    return Shop(clean_database, tmp_path)


# --- Recording -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_attempts_in_one_batch_the_newer_is_published(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, order: tuple[int, int]
) -> None:
    """A worker whose lease ran out has claimed its own image again: what it staged first is
    deleted, and what it publishes stays.
    """
    queue = Queue(shop.database, *urls(1))
    (late,) = queue.claim(lease_seconds=-1)
    queue.give_back_expired()
    (again,) = queue.claim()
    batches = []
    record_outcomes = image_queue.record_outcomes

    def record(cursor: Cursor, outcomes: list[Outcome]) -> Recorded:
        batches.append(len(outcomes))
        return record_outcomes(cursor, outcomes)

    monkeypatch.setattr(image_queue, "record_outcomes", record)

    async def test(processor: ImageProcessor) -> None:
        async def process(image: ClaimedImage, _recipe: Recipe) -> Outcome:
            data = CompressedImage(b"late" if image == late else b"newer", "jpeg", 4, 3, "82")
            OutputFiles(shop.database, shop.store).stage(image, data)
            return success(image)

        monkeypatch.setattr(processor._pipeline, "process", process)
        images = [(late, again)[n] for n in order]
        await processor._in_flight.fill(queue.id, 2, images)
        recipe = Recipe.of(ImageOptions(), None, processor._settings)
        processing = [asyncio.create_task(processor._process(image, recipe)) for image in images]
        await asyncio.sleep(0)  # both outcomes wait to be recorded
        recording = asyncio.create_task(processor._recorder.run())
        await asyncio.gather(*processing)
        recording.cancel()
        assert processor._in_flight.images == []

    shop.work(test)
    assert batches == [2]
    assert shop.files() == {f"uploads/{queue.id}/{queue.id}-1.jpg": b"newer"}
    assert queue.counters[:3] == (1, 0, 0)


def test_outcomes_that_others_will_follow_are_recorded_together(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first at once; then they gather until the last image under way has ended."""
    monkeypatch.setattr(outcome_recorder, "GATHER_SECONDS", 3600)
    images = Queue(shop.database, *urls(10)).claim()
    may_end = {image: asyncio.Event() for image in images}
    batches = []

    async def write(_: ImageProcessor, outcomes: list[Outcome]) -> set[Attempt]:
        batches.append([outcome.n for outcome in outcomes])
        return {(outcome.request_id, outcome.n, outcome.fence) for outcome in outcomes}

    async def process(image: ClaimedImage, _: Recipe) -> Outcome:
        await may_end[image].wait()
        return success(image)

    async def publish(_: Outcome, *, is_accepted: bool) -> None:
        assert is_accepted

    async def test(processor: ImageProcessor) -> None:
        monkeypatch.setattr(processor._pipeline, "process", process)
        monkeypatch.setattr(processor._pipeline, "publish", publish)
        await processor._in_flight.fill("", len(images), images)
        recipe = Recipe.of(ImageOptions(), None, processor._settings)
        recording = asyncio.create_task(processor._recorder.run())
        processing = [asyncio.create_task(processor._process(image, recipe)) for image in images]
        for image in images:
            for _ in range(10):  # what is to be written now, is
                await asyncio.sleep(0)
            may_end[image].set()
        await asyncio.gather(*processing)
        recording.cancel()

    monkeypatch.setattr(ImageProcessor, "_write_outcomes", write)
    shop.work(test)
    assert batches == [[1], list(range(2, 11))]


# --- Turns -----------------------------------------------------------------------------------


def _with_options(queue: Queue) -> Queue:
    """Return the request with options that a turn can read."""
    queue.change_request(f"options = '{json.dumps(parse_options({}).to_json())}'")
    return queue


def test_a_turn_that_is_left_of_a_cancelled_request_ends(shop: Shop) -> None:
    """The request was retried before it had begun: it waits for its first step, not for turns."""
    queue = _with_options(Queue(shop.database, *urls(2), begins=False))
    shop.work(lambda processor: processor.run_turn(queue.id, 0))
    assert shop.jobs() == []
    assert queue.states == ["pending"] * 2


def test_an_image_that_comes_back_behind_a_cancelling_turn_is_left_to_the_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn goes on behind it, and queues another one."""
    monkeypatch.setattr(image_queue, "CANCELLED_AT_A_TIME", 2)
    queue = Queue(shop.database, *urls(5))
    queue.claim(limit=1, lease_seconds=-1)
    queue.cancel()
    cancel_pending = image_queue.cancel_pending
    portions = []

    def cancel(cursor: Cursor, request_id: str, *, after: int) -> Recorded:
        recorded = cancel_pending(cursor, request_id, after=after)
        portions.append(sorted(n for _, n, _ in recorded.accepted))
        if len(portions) == 1:
            assert queue.give_back_expired().due
        return recorded

    monkeypatch.setattr(image_queue, "cancel_pending", cancel)
    shop.work(lambda processor: processor.run_turn(queue.id, 0))
    assert portions == [[2, 3], [4, 5], []]
    assert shop.jobs() == [("turn", queue.id)]
    shop.drop_jobs()
    shop.work(lambda processor: processor.run_turn(queue.id, 0))
    assert portions[3:] == [[1], []]
    assert shop.jobs() == [("finish", queue.id)]


@pytest.mark.parametrize(("lease_seconds", "longest"), [(8, 4.0), (600, 10.0)])
def test_a_turn_lasts_ten_seconds_or_half_a_lease(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, lease_seconds: float, longest: float
) -> None:
    """At the most, however much there is to claim: by a clock that goes on with each claim."""
    queue = _with_options(Queue(shop.database, *urls(1)))
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    passed = 0.0

    async def test(processor: ImageProcessor) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        monkeypatch.setattr(loop, "time", lambda: begun + passed)

        async def claim(*_: Any) -> int:
            nonlocal passed
            passed += 0.25
            await asyncio.sleep(0)
            return 1

        monkeypatch.setattr(processor, "_claim", claim)
        await processor.run_turn(queue.id, 0)

    shop.work(test, lease_seconds=lease_seconds)
    assert longest <= passed <= longest + 0.5


def test_a_turn_claims_behind_what_it_claimed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each claim begins after the last image of the one before, and passes over none of them."""
    monkeypatch.setattr(image_processor, "CLAIM_BATCH", 2)
    queue = _with_options(Queue(shop.database, *urls(5)))
    begun_behind = []
    claim = worker_steps.claim

    def watched(*args: Any, after: int, **kwargs: Any) -> list[ClaimedImage]:
        begun_behind.append(after)
        return claim(*args, after=after, **kwargs)

    async def process(*_: Any) -> None:
        await asyncio.Event().wait()

    async def test(processor: ImageProcessor) -> None:
        monkeypatch.setattr(processor._pipeline, "process", process)
        await processor.run_turn(queue.id, 0)

    monkeypatch.setattr(worker_steps, "claim", watched)
    shop.work(test)
    assert begun_behind == [0, 2, 4, 5]


def test_leases_are_counted(shop: Shop) -> None:
    """What is renewed, what is taken back, and what ended because nobody could end it."""
    queue = Queue(shop.database, *urls(3))
    with shop.database.transaction() as cursor:
        cursor.execute("update images set losses = %s where n = 3", (MOST_LOSSES - 1,))

    async def renew(processor: ImageProcessor) -> None:
        images = queue.claim()
        request_id, places = queue.id, len(images)
        await processor._in_flight.fill(
            request_id, await processor._in_flight.reserve(request_id, places), images
        )
        await processor._upkeep.renew_leases()
        for image in images:
            await processor._in_flight.discard(image)

    with Counting() as counted:
        shop.work(renew)
    assert counted.by["leases_renewed_total",] == 3
    with shop.database.transaction() as cursor:
        cursor.execute("update images set lease_until = now(), is_decoding = n = 3")
    with Counting() as counted:
        shop.tend(WorkerUpkeep.sweep)
    assert counted.by == {
        ("leases_expired_total",): 3,
        ("images_ended_total", "failed", "compress_crash"): 1,
    }


# --- Sweeping --------------------------------------------------------------------------------


def test_of_two_that_sweep_one_does_the_work(shop: Shop) -> None:
    """The other one comes again: it waits for nothing, and takes nothing, also what is new."""
    first = Queue(shop.database, *urls(1))
    with shop.database.transaction() as cursor:
        worker_steps.sweep(cursor, 30)
        second = Queue(shop.database, *urls(1))
        shop.tend(WorkerUpkeep.sweep)
        assert shop.jobs() == []
    assert shop.jobs() == [("turn", first.id)]
    shop.tend(WorkerUpkeep.sweep)
    assert shop.jobs() == [("turn", first.id), ("turn", second.id)]


def test_a_sweep_restarts_stalled_jobs_and_idle_requests_and_gives_back(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """And says how much it was; where nothing was, nothing."""
    stalled, idle, lost = (Queue(shop.database, *urls(1)) for _ in range(3))
    lost.claim(lease_seconds=-1)
    with shop.database.transaction() as cursor:
        job_queue.defer_turn(cursor, stalled.id, 0)
        cursor.execute("update procrastinate_jobs set status = 'doing'")
    shop.tend(WorkerUpkeep.sweep)
    assert sorted(shop.jobs()) == sorted(("turn", queue.id) for queue in (stalled, idle, lost))
    assert lost.states == ["pending"]
    shop.tend(WorkerUpkeep.sweep)
    said = [record.getMessage() for record in caplog.records if record.name == "worker_steps"]
    assert said == ["1 stalled jobs and 1 idle requests restarted, 1 leases expired"]


# --- Cleaning and purging --------------------------------------------------------------------


def test_requests_are_deleted_when_their_time_is_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many at a time, the oldest first; never where 0 days are set."""
    monkeypatch.setattr(worker_upkeep, "EXPIRED_AT_A_TIME", 2)
    queues = shop.finished(5, 9, 1, 7)

    def left(days: float) -> list[bool]:
        shop.tend(WorkerUpkeep.clean, retention_days=days)
        ids = shop.ids()
        return [queue.id in ids for queue in queues]

    assert left(0) == [True] * 4
    assert left(3) == [True, False, True, False]
    assert left(3) == left(3) == [False, False, True, False]
    assert len(shop.ids("deleted_requests")) == 3


def test_a_store_that_fails_keeps_no_request_from_being_deleted(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their time is over, whatever becomes of stray files."""
    shop.finished(9)

    def fail(*_: Any) -> Iterator[str]:
        raise ImageError(ErrorCode.STORAGE_ERROR, "the disk is away")

    monkeypatch.setattr(FolderStore, "list_keys", fail)
    with pytest.raises(ImageError):
        shop.tend(WorkerUpkeep.clean, retention_days=3)
    assert shop.ids() == []


def test_stray_files_are_settled(shop: Shop) -> None:
    """Images and CSVs."""
    (queue,) = shop.finished(0)
    shop.store.put(f"{STAGED_IMAGES}{queue.id}-1.0.jpg", b"stray")
    shop.store.put(f"{STAGED_CSVS}{queue.id}.0.csv", b"stray")
    shop.tend(WorkerUpkeep.clean)
    assert shop.files() == {}


def test_one_worker_after_the_other_purges_what_is_left(shop: Shop) -> None:
    """All of it, but what another one is at."""
    queues = shop.finished(1, 1, 1)
    for queue in queues:
        assert queue.delete()
        shop.store.put(f"uploads/{queue.id}/{queue.id}-1.jpg", b"image")
    with shop.database.transaction() as cursor:
        claimed = claim_purge(cursor, lease_seconds=60)
    shop.tend(WorkerUpkeep.purge)
    assert list(shop.files()) == [f"uploads/{claimed}/{claimed}-1.jpg"]
    with shop.database.transaction() as cursor:
        cursor.execute("update deleted_requests set lease_until = now()")
    shop.tend(WorkerUpkeep.purge)
    assert shop.files() == {}


# --- Again and again -------------------------------------------------------------------------


def _repeat(*troubles: Exception | None) -> None:
    """Repeat a step that meets these one after the other, None being none."""

    async def run() -> None:
        left = list(troubles)
        is_over = asyncio.Event()

        async def step() -> None:
            if not left:
                is_over.set()
            elif trouble := left.pop(0):
                raise trouble

        repeating = asyncio.create_task(worker_upkeep._repeat(0, step))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await is_over.wait()
        repeating.cancel()
        with suppress(asyncio.CancelledError):
            await repeating
        assert repeating.cancelled()

    asyncio.run(run())


def test_what_is_away_is_waited_for_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Until it has worked again."""
    away = ServiceError("the database is away")
    _repeat(away, away, None, away, away)
    messages = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert messages == [("WARNING", "step waits: the database is away")] * 2
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_a_bug_ends_one_step_and_not_the_steps(caplog: pytest.LogCaptureFixture) -> None:
    """It is told each time, with its traceback."""
    _repeat(RuntimeError("a bug"), RuntimeError("a bug"))
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"] * 2


def test_whoever_works_beside_does_all_of_it_again_and_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each several times in what a lease takes, or as soon as users notice."""
    monkeypatch.setattr(worker_upkeep, "HEED_SECONDS", 0.01)
    names = ("renew_leases", "heed_cancellations", "sweep", "purge", "clean")
    counts = dict.fromkeys(names, 0)

    async def test(processor: ImageProcessor) -> None:
        has_done_all = asyncio.Event()

        def count(name: str) -> Callable[[], Awaitable[None]]:
            async def step() -> None:
                counts[name] += 1
                if min(counts.values()) >= 3:
                    has_done_all.set()

            return step

        for name in names:
            monkeypatch.setattr(processor._upkeep, name, count(name))
        brief = processor._settings.model_copy(update={"lease_seconds": 0.05})
        monkeypatch.setattr(processor._upkeep, "_settings", brief)
        working = asyncio.create_task(processor.work_beside())
        await has_done_all.wait()
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working

    shop.work(test)
    assert counts["clean"] < counts["renew_leases"] <= counts["sweep"]


def test_the_first_lane_brings_lost_ones_back(shop: Shop) -> None:
    """A turn that failed is gone with its lane; the first one queues all of them again."""
    queue = Queue(shop.database, *urls(1))
    for lane, lanes in ((1, [1]), (0, [0, 1, 2])):
        with shop.database.transaction() as cursor:
            cursor.execute("delete from procrastinate_jobs")
            worker_steps.hand_on(cursor, queue.id, lane, 3 * job_queue.IMAGES_PER_LANE, 0.0)
            cursor.execute("select args->'lane' as lane from procrastinate_jobs order by 1")
            assert [row["lane"] for row in cursor.fetchall()] == lanes


def test_a_long_purge_keeps_its_lease(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewed as long as it takes, so that no other worker begins the same."""
    (queue,) = shop.finished(1)
    queue.delete()
    renewed = threading.Event()

    def purge(_: RequestFinisher, request_id: str) -> None:
        assert renewed.wait(PATIENCE_SECONDS)
        with shop.database.transaction() as cursor:
            while purge_rows(cursor, request_id):
                pass

    def renew(cursor: Cursor, request_id: str, *, lease_seconds: float) -> None:
        renew_purge(cursor, request_id, lease_seconds=lease_seconds)
        renewed.set()

    monkeypatch.setattr(RequestFinisher, "purge", purge)
    monkeypatch.setattr(worker_upkeep, "renew_purge", renew)
    shop.tend(WorkerUpkeep.purge, lease_seconds=2)
    assert renewed.is_set()
