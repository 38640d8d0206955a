"""What a failed attempt at an image means: another try, one that doesn't count, or the end."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

import image_pipeline
import worker_steps
from async_database import AsyncDatabase
from codec.compressed_image import CompressedImage
from database_helper import Database
from image_pipeline import POSTPONED_SECONDS, ImagePipeline
from image_queue import ClaimedImage, ImageState, Outcome
from image_reuse import Recipe
from output_files import OutputFiles
from politeness.origin_demand import Origin as KnownOrigin
from politeness.origin_gate import OriginGate, Visit
from politeness.origin_queue import Terms
from request_finisher import RequestFinisher
from request_options import ImageOptions
from settings import Settings
from storage.folder_store import FolderStore
from tests.images import photo, saved
from tests.origin import Reply
from tests.queued import Queue, failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from address_policy import SourceUrl
    from fetching.image_downloader import DownloadedImage
    from tests.origin import Origin

JPEG = saved(photo(64, 48), "JPEG")
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
RECIPE = Recipe(ImageOptions(), b"seal")
T = TypeVar("T")
MOMENT_SECONDS, PATIENCE_SECONDS = 0.5, 30.0
AWAY = "host=/nowhere dbname=nothing"


class _OpenGate(OriginGate):
    """Lets everybody through at once."""

    @asynccontextmanager
    async def slot(self, source: SourceUrl) -> AsyncIterator[Visit]:
        """Give a visit that nobody hears of."""
        yield Visit(self, KnownOrigin(source.host, source.host))


def _process(
    folder: Path,
    image: ClaimedImage,
    sources: str = "",
    prepare: Callable[[ImagePipeline], None] = lambda _: None,
) -> Outcome:
    """Send one image through a pipeline over a database that is away."""

    async def process() -> Outcome:
        settings: dict[str, Any] = {"_env_file": None, "compress_processes": 1}
        away = Database(AWAY)
        database, store = AsyncDatabase(away), FolderStore(folder)
        pipeline = ImagePipeline(
            Settings(**settings, allowed_sources=sources),
            database,
            OutputFiles(away, store),
            _OpenGate(database, Terms(capacity=8)),
        )
        prepare(pipeline)
        try:
            return await pipeline.process(image, RECIPE)
        finally:
            pipeline.close()
            database.close()

    return asyncio.run(process())


def _image(url: str, attempts: int = 0, repeats: int | None = None) -> ClaimedImage:
    return ClaimedImage("ab" * 16, 7, 3, attempts, url, repeats)


def test_an_image_goes_through(tmp_path: Path, origin: Origin) -> None:
    """Its outcome is that of this claim, with one more attempt, and says where it came from."""
    url = origin.serve("/a.jpg", JPEG, headers={"ETag": '"1"', "Last-Modified": DATE})
    outcome = _process(tmp_path, _image(url, attempts=2), origin.authority)
    assert (outcome.request_id, outcome.n, outcome.fence, outcome.attempts) == ("ab" * 16, 7, 3, 3)
    assert (outcome.state, outcome.bytes_in, outcome.format) == ("succeeded", len(JPEG), "jpeg")
    assert (outcome.etag, outcome.last_modified) == ('"1"', DATE)


def test_what_we_lack_ourselves_postpones_an_image(tmp_path: Path) -> None:
    """While the database is away a repetition can't know its twin; that is no attempt at it."""
    outcome = _process(tmp_path, _image("http://127.0.0.1:1/a.jpg", attempts=1, repeats=2))
    assert (outcome.state, outcome.attempts) == (ImageState.PENDING, 1)
    assert outcome.retry_seconds == POSTPONED_SECONDS
    assert outcome.error_code is None


def test_a_cancelled_request_s_images_don_t_begin(tmp_path: Path, origin: Origin) -> None:
    """One that was claimed before goes back, unasked for and uncounted; another request's goes on."""
    url = origin.serve("/a.jpg", JPEG)
    withdrawn, other = (
        _process(
            tmp_path,
            _image(url, attempts=1),
            origin.authority,
            prepare=partial(ImagePipeline.withdraw, request_ids={request_id}),
        )
        for request_id in ("ab" * 16, "cd" * 16)
    )
    assert (withdrawn.state, withdrawn.attempts) == (ImageState.PENDING, 1)
    assert other.state == ImageState.SUCCEEDED
    assert origin.count("/a.jpg") == 1


@pytest.mark.parametrize("state", [ImageState.PENDING, ImageState.RUNNING])
def test_an_image_whose_twin_is_retried_waits_for_it(tmp_path: Path, state: ImageState) -> None:
    """It was claimed when its twin had failed; now that has begun anew, and has no result."""

    class Rows(AsyncDatabase):
        async def run(self, *_: Any, **__: Any) -> Any:
            return {"state": state}

    def prepare(pipeline: ImagePipeline) -> None:
        pipeline._database = Rows(Database(AWAY))

    outcome = _process(tmp_path, _image("http://127.0.0.1:1/a.jpg", repeats=2), prepare=prepare)
    assert (outcome.state, outcome.attempts) == (ImageState.PENDING, 0)
    assert outcome.retry_seconds == POSTPONED_SECONDS


def test_decoders_that_can_not_be_had_postpone_an_image(tmp_path: Path, origin: Origin) -> None:
    """That is no fault of the image, whatever number of attempts it has had."""
    url = origin.serve("/a.jpg", JPEG)
    outcome = _process(
        tmp_path,
        _image(url, attempts=3),
        origin.authority,
        prepare=lambda pipeline: pipeline._decoders.close(),
    )
    assert (outcome.state, outcome.attempts, outcome.error_code) == (ImageState.PENDING, 3, None)


@pytest.mark.parametrize(
    ("attempts", "state"),
    [(0, ImageState.PENDING), (2, ImageState.PENDING), (3, ImageState.FAILED)],
)
def test_a_passing_trouble_ends_with_the_last_attempt(
    tmp_path: Path, origin: Origin, attempts: int, state: ImageState
) -> None:
    """DOWNLOAD_ATTEMPTS is 4: the fourth failure is the end."""
    url = origin.serve("/a.jpg", status=503)
    outcome = _process(tmp_path, _image(url, attempts), origin.authority)
    assert (outcome.state, outcome.attempts) == (state, attempts + 1)
    assert (outcome.error_code, outcome.http_status) == ("http_503", 503)
    assert outcome.error_detail


def test_a_lasting_trouble_ends_with_the_first_attempt(tmp_path: Path, origin: Origin) -> None:
    """Nobody asks again for what is not there."""
    outcome = _process(tmp_path, _image(origin.url("/a.jpg")), origin.authority)
    assert (outcome.state, outcome.error_code) == (ImageState.FAILED, "http_404")


def test_a_bug_fails_one_image_without_telling_of_itself(tmp_path: Path) -> None:
    """What nobody expected is our fault and is logged, not shown."""

    def spoil(pipeline: ImagePipeline) -> None:
        pipeline._downloads.shutdown()

    outcome = _process(tmp_path, _image("http://192.0.2.1/a.jpg"), prepare=spoil)
    assert (outcome.state, outcome.error_code) == (ImageState.FAILED, "internal_error")
    assert outcome.error_detail == "something went wrong on our side"


# --- Images that workers may have died of ----------------------------------------------------


class _Decoders:
    """Takes the place of the decoders: notes what their images' rows say, and who meets."""

    def __init__(self, queue: Queue, company: int = 1, seconds: float = MOMENT_SECONDS) -> None:
        self.queue = queue
        self.meeting = threading.Barrier(company, timeout=seconds)
        self.met: list[bool] = []
        self.marks: list[list[bool]] = []

    def compress(self, data: bytes, _options: ImageOptions) -> CompressedImage:
        """Wait a moment for company, then hand the image back."""
        self.marks.append([image["is_decoding"] for image in self.queue.images])
        try:
            self.meeting.wait()
            self.met.append(True)
        except threading.BrokenBarrierError:
            self.met.append(False)
        return CompressedImage(data, "jpeg", 64, 48, "original")

    def close(self) -> None:
        """Have nothing to end."""


def _with_pipeline(
    queue: Queue,
    folder: Path,
    sources: str,
    use: Callable[[ImagePipeline], Coroutine[None, None, T]],
) -> T:
    """Use a pipeline over the database of a request."""

    async def run() -> T:
        settings: dict[str, Any] = {"_env_file": None, "compress_processes": 2}
        database = AsyncDatabase(queue.database)
        pipeline = ImagePipeline(
            Settings(**settings, allowed_sources=sources),
            database,
            OutputFiles(queue.database, FolderStore(folder)),
            _OpenGate(database, Terms(capacity=8)),
        )
        try:
            return await use(pipeline)
        finally:
            pipeline.close()
            database.close()

    return asyncio.run(run())


def test_all_decoders_are_started_ahead(clean_database: Database, tmp_path: Path) -> None:
    """One is waited for, and the others come without an image that needs them."""

    async def start(pipeline: ImagePipeline) -> None:
        decoders = pipeline._decoders
        assert decoders.bars == frozenset()
        assert await pipeline.start()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(decoders._idle) < 2:  # noqa: ASYNC110  other threads tell nobody
                await asyncio.sleep(0.01)

    _with_pipeline(Queue(clean_database), tmp_path, "", start)


def _files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def _process_all(
    queue: Queue, folder: Path, images: list[ClaimedImage], sources: str, decoders: _Decoders
) -> list[Outcome]:
    """Send images through one pipeline together."""

    async def process(pipeline: ImagePipeline) -> list[Outcome]:
        pipeline._decoders.close()
        pipeline._decoders = decoders  # type: ignore[assignment]
        return await asyncio.gather(*(pipeline.process(image, RECIPE) for image in images))

    return _with_pipeline(queue, folder, sources, process)


@pytest.mark.parametrize("losses", [0, 1, 2, 3])
def test_an_image_that_two_workers_may_have_died_of_is_decoded_alone(
    clean_database: Database, tmp_path: Path, origin: Origin, losses: int
) -> None:
    """And marked for so long, like one after the first loss already, so that a further death is
    counted against it; others meet others.
    """
    queue = Queue(clean_database, *[origin.serve(f"/{n}.jpg", JPEG) for n in (1, 2)])
    queue.change(f"losses = {losses}")
    images = queue.claim()
    is_alone = losses >= 2
    patience = MOMENT_SECONDS if is_alone else PATIENCE_SECONDS
    decoders = _Decoders(queue, company=2, seconds=patience)
    outcomes = _process_all(queue, tmp_path, images, origin.authority, decoders)
    assert [outcome.state for outcome in outcomes] == [ImageState.SUCCEEDED] * 2
    assert decoders.met == ([False, False] if is_alone else [True, True])
    assert all(image["is_decoding"] is False for image in queue.images)
    if is_alone:
        assert [sum(marks) for marks in decoders.marks] == [1, 1]
        assert decoders.marks[0] != decoders.marks[1]
    elif losses:
        assert decoders.marks[1] == [True, True]
    else:
        assert decoders.marks == [[False, False]] * 2


def test_an_image_that_is_no_longer_ours_is_not_decoded(
    clean_database: Database, tmp_path: Path, origin: Origin
) -> None:
    """If workers die of it, then of the attempt that counts; this one is let go."""
    queue = Queue(clean_database, origin.serve("/1.jpg", JPEG))
    queue.claim(lease_seconds=-1)
    queue.give_back_expired()
    lost = queue.claim(lease_seconds=-1)
    queue.give_back_expired()
    queue.claim()
    decoders = _Decoders(queue)
    (outcome,) = _process_all(queue, tmp_path, lost, origin.authority, decoders)
    assert decoders.marks == []
    assert (outcome.state, outcome.attempts, outcome.fence) == (ImageState.PENDING, 0, 2)
    assert queue.record(outcome).accepted == set()
    assert _files(tmp_path) == []


@pytest.mark.parametrize("state", ["pending", "running"])
def test_a_repetition_waits_for_a_twin_that_was_begun_anew(
    clean_database: Database, tmp_path: Path, state: str
) -> None:
    """It was let go by the end that a retry undid; its attempt doesn't count."""
    queue = Queue(clean_database, "http://127.0.0.1:1/a.jpg", "http://127.0.0.1:1/a.jpg")
    queue.record(failure(queue.claim()[0]))
    repetition = queue.claim()
    queue.retry()
    if state == "running":
        queue.claim()
    (outcome,) = _process_all(queue, tmp_path, repetition, "", _Decoders(queue))
    assert (outcome.state, outcome.attempts) == (ImageState.PENDING, 0)
    assert outcome.retry_seconds == POSTPONED_SECONDS
    assert queue.record(outcome).finished == []
    assert queue.counters[:3] == (0, 0, 0)


@pytest.mark.parametrize("is_accepted", [False, True])
def test_only_the_file_of_an_outcome_that_counts_is_published(
    clean_database: Database, tmp_path: Path, origin: Origin, *, is_accepted: bool
) -> None:
    """The other one is deleted, and what the row names is left alone."""
    queue = Queue(clean_database, origin.serve("/1.jpg", JPEG))
    (image,) = queue.claim(lease_seconds=-1)
    if not is_accepted:
        queue.give_back_expired()
        queue.claim()

    async def run(pipeline: ImagePipeline) -> None:
        outcome = await pipeline.process(image, RECIPE)
        assert _files(tmp_path) == [f"{queue.id}-1.1.jpg"]
        accepted = queue.record(outcome).accepted
        await pipeline.publish(outcome, is_accepted=bool(accepted))

    _with_pipeline(queue, tmp_path, origin.authority, run)
    published = [f"{queue.id}-1.jpg"] if is_accepted else []
    assert _files(tmp_path) == published


class _SlowFiles(OutputFiles):
    """Stores nothing before it is let, and counts what waits."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.may_store = threading.Event()
        self.waiting = 0

    def stage(self, image: ClaimedImage, compressed: CompressedImage) -> str:
        """Wait for the word, then store."""
        self.waiting += 1
        self.may_store.wait(PATIENCE_SECONDS)
        return super().stage(image, compressed)


def test_few_outputs_wait_for_the_store(
    clean_database: Database, tmp_path: Path, origin: Origin
) -> None:
    """Decoders pause, however slow the store is; then all go through."""
    queue = Queue(clean_database, *[origin.serve(f"/{n}.jpg", JPEG) for n in range(12)])
    decoders, files = _Decoders(queue), _SlowFiles(queue.database, FolderStore(tmp_path))

    async def process(pipeline: ImagePipeline) -> list[Outcome]:
        _put_in(pipeline, decoders, files)
        threads = pipeline._makers._max_workers
        tasks = [asyncio.create_task(pipeline.process(image, RECIPE)) for image in queue.claim()]
        await _until(lambda: pipeline._makers._work_queue.qsize() == 12 - threads)
        await _until(lambda: files.waiting == threads)
        assert len(decoders.met) == threads < 12
        files.may_store.set()
        return await asyncio.gather(*tasks)

    outcomes = _with_pipeline(queue, tmp_path, origin.authority, process)
    assert [outcome.state for outcome in outcomes] == [ImageState.SUCCEEDED] * 12
    assert len(decoders.met) == 12


def test_fewer_large_outputs_wait_for_the_store(
    clean_database: Database, tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they hold is bounded in bytes, too."""
    monkeypatch.setattr(image_pipeline, "BYTES_TO_STORE", 2 * len(JPEG))
    queue = Queue(clean_database, *[origin.serve(f"/{n}.jpg", JPEG) for n in range(3)])
    decoders, files = _Decoders(queue), _SlowFiles(queue.database, FolderStore(tmp_path))

    async def process(pipeline: ImagePipeline) -> list[Outcome]:
        _put_in(pipeline, decoders, files)
        tasks = []
        for waiting, image in enumerate(queue.claim()):
            await _until(partial(lambda count: files.waiting == count, waiting))
            tasks.append(asyncio.create_task(pipeline.process(image, RECIPE)))
        await _until(lambda: len(pipeline._backlog._fewer._waiters) == 1)  # type: ignore[attr-defined]
        assert len(decoders.met) == 2
        files.may_store.set()
        return await asyncio.gather(*tasks)

    outcomes = _with_pipeline(queue, tmp_path, origin.authority, process)
    assert [outcome.state for outcome in outcomes] == [ImageState.SUCCEEDED] * 3


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for what tells nobody."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def _put_in(pipeline: ImagePipeline, decoders: _Decoders, files: OutputFiles) -> None:
    pipeline._decoders.close()
    pipeline._decoders = decoders  # type: ignore[assignment]
    pipeline._files = files


def test_the_source_is_gone_when_its_output_waits_for_the_store(
    clean_database: Database, tmp_path: Path, origin: Origin
) -> None:
    """Nobody needs it any more, and its bytes are given to others."""
    queue = Queue(clean_database, origin.serve("/1.jpg", JPEG))
    (image,) = queue.claim()
    sources: list[DownloadedImage] = []
    files = _SlowFiles(queue.database, FolderStore(tmp_path))

    async def process(pipeline: ImagePipeline) -> Outcome:
        download = pipeline._downloader.download

        def noted(*args: Any) -> DownloadedImage:
            sources.append(download(*args))
            return sources[-1]

        pipeline._downloader.download = noted  # type: ignore[method-assign,assignment]
        pipeline._files = files
        task = asyncio.create_task(pipeline.process(image, RECIPE))
        await _until(lambda: files.waiting == 1)
        assert [source.data for source in sources] == [b""]
        files.may_store.set()
        return await task

    outcome = _with_pipeline(queue, tmp_path, origin.authority, process)
    assert outcome.state == ImageState.SUCCEEDED


# --- Images that were made before ------------------------------------------------------------


def _make(
    queue: Queue,
    folder: Path,
    sources: str,
    *,
    meanwhile: Callable[[], None] = lambda: None,
    publishes: bool = True,
) -> tuple[Outcome, int]:
    """Take the only image of a request from claim to publication; return how often it was decoded.

    `meanwhile` is when it is claimed.
    """
    with queue.database.transaction() as cursor:
        (image,) = worker_steps.claim(cursor, queue.id, RECIPE, limit=9, lease_seconds=60)
    meanwhile()
    decoders = _Decoders(queue)

    async def run(pipeline: ImagePipeline) -> Outcome:
        pipeline._decoders.close()
        pipeline._decoders = decoders  # type: ignore[assignment]
        outcome = await pipeline.process(image, RECIPE)
        assert queue.record(outcome).accepted
        if publishes:
            await pipeline.publish(outcome, is_accepted=True)
        return outcome

    return _with_pipeline(queue, folder, sources, run), len(decoders.met)


def _published(folder: Path, queue: Queue) -> Path:
    return folder / f"uploads/{queue.id}/{queue.id}-1.jpg"


def _delete(queue: Queue, folder: Path) -> None:
    """Delete a request whose images have ended, with its files and rows."""
    store = FolderStore(folder)
    files = OutputFiles(queue.database, store)
    queue.take_finish()
    queue.finish()
    assert queue.delete()
    RequestFinisher(queue.database, store, files, lease_seconds=60).purge(queue.id)


VALIDATORS = [{}, {"ETag": '"1"'}, {"ETag": 'W/"1"'}, {"Last-Modified": DATE}]


@pytest.mark.parametrize("validators", VALIDATORS)
def test_what_is_unchanged_is_neither_decoded_nor_written_again(
    clean_database: Database, tmp_path: Path, origin: Origin, validators: dict[str, str]
) -> None:
    """Said by the origin or seen in the bytes; again and again, whatever is deleted of it."""
    url = origin.serve("/1.jpg", JPEG, headers=validators)
    queues = []
    for nth in range(3):
        queue = Queue(clean_database, url)
        outcome, decoded = _make(queue, tmp_path, origin.authority)
        assert (outcome.reused, decoded) == (nth > 0, int(nth == 0))
        queues.append(queue)
    first, *others = queues
    told = ("fence", "request_id", "reused", "made_at")
    rows = [{k: v for k, v in queue.images[0].items() if k not in told} for queue in queues]
    assert rows[0] == rows[1] == rows[2]
    inodes = [_published(tmp_path, queue).stat().st_ino for queue in queues]
    assert len(set(inodes)) == 1
    conditions = {"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"}
    for nth, request in enumerate(origin.requests):
        for condition, name in conditions.items():
            assert request.headers.get(condition.lower()) == (validators.get(name) if nth else None)
    _delete(first, tmp_path)
    assert [_published(tmp_path, queue).read_bytes() for queue in others] == [JPEG, JPEG]
    assert _make(Queue(clean_database, url), tmp_path, origin.authority)[1] == 0


def test_a_304_about_another_state_is_neither_believed_nor_kept(
    clean_database: Database, tmp_path: Path, origin: Origin
) -> None:
    """The origin looked at the date alone, say: what it has by now is downloaded."""
    other = saved(photo(60, 50), "JPEG")
    stale = Reply(status=304, headers={"ETag": '"2"'}, content_type=None)
    new = Reply(other, headers={"ETag": '"2"', "Last-Modified": DATE})
    first = Reply(JPEG, headers={"ETag": '"1"', "Last-Modified": DATE})
    url = origin.serve_in_turn("/1.jpg", first, stale, new)
    queues = [Queue(clean_database, url) for _ in range(3)]
    made = [_make(queue, tmp_path, origin.authority) for queue in queues]
    assert [(outcome.reused, outcome.attempts) for outcome, _ in made] == [
        *[(False, 1), (False, 1), (True, 1)]
    ]
    files = [_published(tmp_path, queue).read_bytes() for queue in queues]
    assert files == [JPEG, other, other]
    asked = [request.headers.get("if-none-match") for request in origin.requests]
    assert asked == [None, '"1"', None, '"2"']


def test_conditions_are_for_the_first_attempt(
    clean_database: Database, tmp_path: Path, origin: Origin
) -> None:
    """An origin that fails over them gives the image in the next one; equal bytes still count."""
    first = Reply(JPEG, headers={"ETag": '"1"'})
    url = origin.serve_in_turn("/1.jpg", first, Reply(status=500), Reply(JPEG))
    _make(Queue(clean_database, url), tmp_path, origin.authority)
    queue = Queue(clean_database, url)
    outcome, _ = _make(queue, tmp_path, origin.authority)
    assert (outcome.state, outcome.error_code) == (ImageState.PENDING, "http_500")
    queue.change("due_at = now()", 1)
    outcome, decoded = _make(queue, tmp_path, origin.authority)
    assert (outcome.state, outcome.reused, decoded) == (ImageState.SUCCEEDED, True, 0)
    asked = [request.headers.get("if-none-match") for request in origin.requests]
    assert asked == [None, '"1"', None]


@pytest.mark.parametrize("loss", ["no file", "cut", "damaged"])
def test_a_repetition_of_what_is_lost_is_made_itself(
    clean_database: Database, tmp_path: Path, origin: Origin, loss: str
) -> None:
    """Somebody was at the disk: it is downloaded once more, and found by no later request."""
    url = origin.serve("/1.jpg", JPEG)
    queue = Queue(clean_database, url, url)
    _make(queue, tmp_path, origin.authority)
    file = _published(tmp_path, queue)
    if loss == "no file":
        file.unlink()
    else:
        file.write_bytes(JPEG[:-1] if loss == "cut" else bytes(len(JPEG)))
    outcome, decoded = _make(queue, tmp_path, origin.authority)
    assert (outcome.n, outcome.state, outcome.reused, decoded) == (2, "succeeded", False, 1)
    assert outcome.reuse_key is None
    assert file.with_name(f"{queue.id}-2.jpg").read_bytes() == JPEG
    assert origin.count("/1.jpg") == 2


@pytest.mark.parametrize("validators", VALIDATORS[:2])
@pytest.mark.parametrize("loss", ["purged", "no file", "cut", "damaged", "folder"])
def test_an_earlier_image_that_is_lost_meanwhile_is_no_trouble(
    clean_database: Database,
    tmp_path: Path,
    origin: Origin,
    loss: str,
    validators: dict[str, str],
) -> None:
    """The new one is downloaded without a condition, and made."""
    url = origin.serve("/1.jpg", JPEG, headers=validators)
    before, queue = Queue(clean_database, url), Queue(clean_database, url)
    _make(before, tmp_path, origin.authority)
    file = _published(tmp_path, before)

    def lose() -> None:
        if loss == "purged":
            _delete(before, tmp_path)
        elif loss == "cut":
            file.write_bytes(JPEG[:-1])
        elif loss == "damaged":
            file.write_bytes(bytes(len(JPEG)))
        else:
            file.unlink()
        if loss == "folder":
            file.mkdir()

    outcome, decoded = _make(queue, tmp_path, origin.authority, meanwhile=lose)
    assert (outcome.state, outcome.reused, outcome.attempts) == (ImageState.SUCCEEDED, False, 1)
    assert decoded == 1
    assert "if-none-match" not in origin.requests[-1].headers
    assert origin.count("/1.jpg") == 3
    assert _published(tmp_path, queue).read_bytes() == JPEG


def test_an_earlier_image_that_is_not_published_yet_is_reused(
    clean_database: Database, tmp_path: Path, origin: Origin
) -> None:
    """Its worker died in between: whoever needs the file publishes it."""
    url = origin.serve("/1.jpg", JPEG)
    before, queue = Queue(clean_database, url), Queue(clean_database, url)
    _make(before, tmp_path, origin.authority, publishes=False)
    outcome, decoded = _make(queue, tmp_path, origin.authority)
    assert (outcome.reused, decoded) == (True, 0)
    assert [_published(tmp_path, each).read_bytes() for each in (before, queue)] == [JPEG] * 2


def test_a_changed_image_is_made_anew(
    clean_database: Database, tmp_path: Path, origin: Origin
) -> None:
    """What comes after the newest is compared with that."""
    other = saved(photo(60, 50), "JPEG")
    url = origin.serve_in_turn(
        "/1.jpg",
        *(Reply(data, headers={"ETag": tag}) for data, tag in ((JPEG, '"1"'), (other, '"2"'))),
    )
    queues = [Queue(clean_database, url) for _ in range(3)]
    made = [_make(queue, tmp_path, origin.authority) for queue in queues]
    assert [(outcome.reused, decoded) for outcome, decoded in made] == [
        *[(False, 1), (False, 1), (True, 0)]
    ]
    files = [_published(tmp_path, queue).read_bytes() for queue in queues]
    assert files == [JPEG, other, other]


def test_a_304_that_nobody_asked_for_is_the_origin_s_fault(
    clean_database: Database, tmp_path: Path, origin: Origin
) -> None:
    """There is nothing that could be unchanged; and no condition is made without a validator."""
    url = origin.serve_in_turn("/1.jpg", Reply(status=304), Reply(JPEG), Reply(status=304))
    queues = [Queue(clean_database, url) for _ in range(3)]
    made = [_make(queue, tmp_path, origin.authority)[0] for queue in queues]
    assert [outcome.error_code for outcome in made] == ["http_304", None, "http_304"]
    assert [outcome.state for outcome in made] == [
        *(ImageState.FAILED, ImageState.SUCCEEDED, ImageState.FAILED)
    ]


def test_validators_are_told_to_where_they_are_from(
    clean_database: Database, tmp_path: Path, origin: Origin
) -> None:
    """Not to what redirects there, nor to where it leads by now."""
    for name in "ab":
        origin.serve(f"/{name}.jpg", JPEG, headers={"ETag": '"1"', "Last-Modified": DATE})
    url = origin.redirect("/1.jpg", "/a.jpg")
    _make(first := Queue(clean_database, url), tmp_path, origin.authority)
    assert first.images[0]["source_url"] == origin.url("/a.jpg")
    _make(Queue(clean_database, url), tmp_path, origin.authority)
    origin.redirect("/1.jpg", "/b.jpg")
    outcome, decoded = _make(Queue(clean_database, url), tmp_path, origin.authority)
    assert (outcome.reused, decoded, outcome.source_url) == (True, 0, origin.url("/b.jpg"))
    asked = [(r.path, r.headers.get("if-none-match")) for r in origin.requests]
    assert asked == [
        *[("/1.jpg", None), ("/a.jpg", None)],
        *[("/1.jpg", None), ("/a.jpg", '"1"')],
        *[("/1.jpg", None), ("/b.jpg", None)],
    ]


def test_a_hint_stays_with_its_image(
    clean_database: Database, tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its row, and in that of the image that takes its file over."""
    hinted = partial(CompressedImage, hint="As WebP, less.")
    monkeypatch.setitem(_Decoders.compress.__globals__, "CompressedImage", hinted)
    url = origin.serve("/1.jpg", JPEG)
    for _ in range(2):
        _make(queue := Queue(clean_database, url), tmp_path, origin.authority)
        assert queue.images[0]["hint"] == "As WebP, less."
