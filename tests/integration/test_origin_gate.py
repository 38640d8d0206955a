"""The gate: what workers over one PostgreSQL may ask of an origin together, and when."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from address_policy import SourceUrl, parse_source_url
from async_database import AsyncDatabase
from database_helper import Database, DatabaseUnavailableError
from errors import ErrorCode, ImageError
from politeness import origin_gate, origin_queue
from politeness.origin_demand import PostponedError
from politeness.origin_gate import OriginGate
from politeness.origin_queue import HostDemand, OriginQuery, Terms
from politeness.origin_state import FAILURES_TO_OPEN, PAUSES_TO_COUNT, OriginReport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Run = Callable[..., None]

PATIENCE_SECONDS = 20.0
RENEW_SECONDS = 0.02
CAPACITY = 4
HOST = parse_source_url("http://shop.example/a.jpg")
OTHER_PORT = parse_source_url("http://shop.example:8080/a.jpg")
OTHER_HOST = parse_source_url("http://cdn.example/a.jpg")
GONE = ImageError(ErrorCode.TIMEOUT, "shop.example could not be connected to in time.")
MISSING = ImageError("http_404", "not here", http_status=404)


def _busy(seconds: float, code: str = ErrorCode.RATE_LIMITED, status: int = 429) -> ImageError:
    return ImageError(code, "busy", http_status=status, retry_after=seconds)


class Line(AsyncDatabase):
    """A worker's way to PostgreSQL: counts its transactions, and may be cut."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.count = 0
        self.is_cut = False
        self.cuts = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def run(self, statements: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a transaction, unless cut."""
        if self.is_cut:
            self.cuts += 1
            raise DatabaseUnavailableError("cut")
        self.count += 1
        result = await super().run(statements, *args, **kwargs)
        await self.may_answer.wait()
        return result


class Worker:
    """A worker's gate with the task that renews it, and its line to PostgreSQL."""

    def __init__(self, database: Database, terms: Terms) -> None:
        self.line = Line(database)
        self.gate = OriginGate(self.line, terms, renew_seconds=RENEW_SECONDS)
        self._upkeep = asyncio.create_task(self.gate.run())

    async def rest(self) -> None:
        """Renew no more by the clock, only when something is urgent."""
        self.gate._renew_seconds = 3600.0
        await _until(lambda: self.gate._next_tick > monotonic() + 1)
        await _until(lambda: self.gate._renewal and self.gate._renewal.done())

    def tick(self) -> None:
        """Let it renew everything now."""
        self.gate._next_tick = 0.0
        self.gate._wake.set()

    async def stop(self) -> None:
        """Stop renewing, as a process does that dies."""
        self._upkeep.cancel()
        await asyncio.wait([self._upkeep])
        if self.gate._renewal:  # what was on its way to PostgreSQL arrives
            await asyncio.wait([self.gate._renewal])

    async def close(self) -> None:
        """End its threads as well."""
        await self.stop()
        self.line.close()

    async def attempt(self, source: SourceUrl = HOST, error: ImageError | None = None) -> None:
        """Make one download, which ends at once: with an image or an error."""
        async with self.gate.slot(source) as visit:
            visit.asks(source)
            if error is not GONE:
                visit.answers()
            if error:
                raise error

    async def refusal(self, source: SourceUrl = HOST) -> ImageError | PostponedError | None:
        """Return why the gate lets no download of the source begin; None when it does."""
        try:
            async with self.gate.slot(source):
                return None
        except (ImageError, PostponedError) as error:
            return error


class Crowd:
    """Downloads of one worker from one host; each lasts until it may end."""

    def __init__(self, shop: Shop, worker: Worker, source: SourceUrl) -> None:
        self.entered = 0
        self.running = 0
        self.ended = 0
        self.errors: list[ImageError | PostponedError] = []
        self._shop = shop
        self._worker = worker
        self._source = source
        self._may_end = asyncio.Semaphore(0)
        self._outcome: ImageError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def grow(self, count: int) -> None:
        """Let so many more downloads come."""
        self._tasks |= {asyncio.create_task(self._download()) for _ in range(count)}

    def end(self, count: int = 1, error: ImageError | None = None) -> None:
        """Let so many downloads end, now or later."""
        self._outcome = error
        for _ in range(count):
            self._may_end.release()

    async def leave(self) -> None:
        """Cancel all that are left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _download(self) -> None:
        try:
            async with self._worker.gate.slot(self._source) as visit:
                visit.asks(self._source)
                self.entered += 1
                self.running += 1
                self._shop.peak = max(self._shop.peak, self._shop.running)
                try:
                    await self._may_end.acquire()
                finally:
                    self.running -= 1
                if self._outcome is not GONE:
                    visit.answers()
                if self._outcome:
                    raise self._outcome
                self.ended += 1
        except (ImageError, PostponedError) as error:
            self.errors.append(error)


class Shop:
    """Workers over one database that download from one shop."""

    def __init__(self, database: Database, terms: Terms) -> None:
        self.database = database
        self.terms = terms
        self.stack = AsyncExitStack()
        self.crowds: list[Crowd] = []
        self.peak = 0  # of downloads at a time, all workers together

    @property
    def running(self) -> int:
        """How many downloads are under way."""
        return sum(crowd.running for crowd in self.crowds)

    def worker(self) -> Worker:
        """Return a worker that goes with the test."""
        worker = Worker(self.database, self.terms)
        self.stack.push_async_callback(worker.close)
        return worker

    def crowd(self, worker: Worker, size: int = 0, source: SourceUrl = HOST) -> Crowd:
        """Return downloads of a worker that go with the test."""
        crowd = Crowd(self, worker, source)
        self.crowds.append(crowd)
        self.stack.push_async_callback(crowd.leave)
        crowd.grow(size)
        return crowd

    def query(self, statement: str, *values: str) -> list[dict[str, Any]]:
        """Return rows of the database."""
        with self.database.transaction() as cursor:
            cursor.execute(statement, values)
            return [dict(row) for row in cursor.fetchall()]

    def count_slots(self) -> int:
        """Return how many slots count as taken, all workers together."""
        (row,) = self.query(
            "select coalesce(sum(slots), 0) as n from host_shares where lease_until > now()"
        )
        return int(row["n"])


async def _until(condition: Callable[[], Any]) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while not condition():
        assert monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.002)


async def _asked(worker: Worker, answer: type[Exception] | None, source: SourceUrl = HOST) -> None:
    """Ask the gate until its answer is of that kind; None is that a download may begin."""
    deadline = monotonic() + PATIENCE_SECONDS
    while not isinstance(await worker.refusal(source), answer or type(None)):
        assert monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.002)


async def _forgotten(*workers: Worker) -> None:
    """Wait until all is told, and workers know nothing that would keep them from any origin."""
    await _until(lambda: not any(worker.gate._origins for worker in workers))


async def _renewed(worker: Worker, times: int = 3) -> None:
    """Wait until a worker has asked so often what there is to know."""
    count = worker.line.count + times
    await _until(lambda: worker.line.count >= count)


@pytest.fixture
def run(clean_database: Database) -> Run:
    """Give a function that runs a test's coroutine with a shop."""

    def run(test: Callable[[Shop], Awaitable[None]], **terms: Any) -> None:
        async def with_shop() -> None:
            shop = Shop(clean_database, Terms(**{"capacity": CAPACITY} | terms))
            async with asyncio.timeout(60), shop.stack:
                await test(shop)

        asyncio.run(with_shop())

    return run


# --- Slots -----------------------------------------------------------------------------------


def test_one_worker_has_them_all(run: Run) -> None:
    """Alone it downloads as many at a time as the host allows, and gives them back in the end."""

    async def test(shop: Shop) -> None:
        worker = shop.worker()
        crowd = shop.crowd(worker, 10)
        await _until(lambda: crowd.running == CAPACITY)
        await _renewed(worker)
        assert crowd.running == CAPACITY
        crowd.end(10)
        await _until(lambda: crowd.ended == 10)
        await _until(lambda: not shop.query("select host from host_shares"))
        assert shop.peak == CAPACITY

    run(test)


def test_no_round_trip_for_an_image(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand images of a host take a handful of transactions, if no time passes."""
    monkeypatch.setattr(origin_gate, "SPACING_SECONDS", 0.0)

    async def test(shop: Shop) -> None:
        worker = shop.worker()
        worker.gate._renew_seconds = 3600.0
        crowd = shop.crowd(worker)
        for goal in range(10, 1001, 10):
            crowd.grow(10)
            crowd.end(10)
            await _until(partial(lambda least: crowd.ended >= least, goal))
        assert worker.line.count < 5

    run(test)


def test_gusts_of_images_keep_their_slots(run: Run) -> None:
    """A host that had images since the last renewal is not given back, though it has none now."""

    async def test(shop: Shop) -> None:
        worker = shop.worker()
        crowd = shop.crowd(worker, 1)
        await _until(lambda: crowd.running)
        await worker.rest()
        for n in range(1, 20):
            crowd.end()
            await _until(partial(lambda n: crowd.ended == n, n))
            count = worker.line.count
            worker.tick()
            await _until(partial(lambda count: worker.line.count > count, count))
            crowd.grow(1)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert crowd.running

    run(test)


def test_many_hosts_share_a_round_trip(run: Run) -> None:
    """Images of a hundred hosts that come together take a handful of transactions, too."""

    async def test(shop: Shop) -> None:
        worker = shop.worker()
        worker.gate._renew_seconds = 3600.0
        hosts = [parse_source_url(f"http://{n}.example/a.jpg") for n in range(100)]
        crowds = [shop.crowd(worker, 1, host) for host in hosts]
        await _until(lambda: shop.running == len(crowds))
        assert worker.line.count < 5

    run(test)


def test_two_workers_share_a_host(run: Run) -> None:
    """Who comes second gets half as the first one's downloads end, and never are there more."""

    async def test(shop: Shop) -> None:
        first = shop.crowd(shop.worker(), 50)
        await _until(lambda: first.running == CAPACITY)
        late = shop.worker()
        second = shop.crowd(late, 50)
        await _renewed(late)
        assert (first.running, second.running) == (4, 0)
        first.end(3)
        await _until(lambda: (first.running, second.running) == (2, 2))
        for _ in range(20):
            first.end()
            second.end()
            await _until(lambda: first.ended == second.ended + 3)
            await _until(lambda: (first.running, second.running) == (2, 2))
        assert shop.count_slots() == CAPACITY
        assert shop.peak == CAPACITY

    run(test)


def test_a_slot_too_many_is_handed_on_at_once(run: Run) -> None:
    """A download that ends above the new limit makes room for others without a wait."""

    async def test(shop: Shop) -> None:
        early = shop.worker()
        first = shop.crowd(early, 50)
        await _until(lambda: first.running == CAPACITY)
        late = shop.worker()
        second = shop.crowd(late, 50)
        await _renewed(late)
        await _renewed(early)
        await early.rest()
        first.end()
        await _until(lambda: second.running == 1)

    run(test)


def test_what_is_not_used_is_handed_on_at_once(run: Run) -> None:
    """A worker whose limit sinks begins no further download, and then says so without a wait."""

    async def test(shop: Shop) -> None:
        early, late = shop.worker(), shop.worker()
        first = shop.crowd(early, 2)
        await _until(lambda: first.running == 2)
        await early.rest()
        second = shop.crowd(late, 50)
        await _renewed(late)
        assert second.running == 0
        early.gate._hurry(early.gate._hosts[HOST.host])
        await _until(lambda: second.running == 2)

    run(test)


def test_slots_that_are_being_given_back_are_not_used(run: Run) -> None:
    """Who comes while the answer is on its way waits for another one."""

    async def test(shop: Shop) -> None:
        early, late = shop.worker(), shop.worker()
        first = shop.crowd(early, CAPACITY)
        await _until(lambda: first.running == CAPACITY)
        await early.rest()
        first.end(CAPACITY)
        await _until(lambda: first.ended == CAPACITY)
        early.tick()
        await _until(lambda: not early.gate._hosts[HOST.host].peak)
        await _until(lambda: early.gate._renewal and early.gate._renewal.done())
        early.line.may_answer.clear()
        early.tick()
        await _until(lambda: not shop.query("select host from host_shares"))
        second = shop.crowd(late, 50)
        await _until(lambda: second.running == CAPACITY)
        first.grow(1)
        await _renewed(late)
        assert first.running == 0
        early.line.may_answer.set()
        await _renewed(early, 1)
        await _renewed(late)
        second.end()
        await _until(lambda: second.ended)
        await _renewed(late)
        early.tick()
        await _until(lambda: first.running == 1)
        assert shop.peak == CAPACITY

    run(test)


def test_who_wants_little_leaves_the_rest(run: Run) -> None:
    """One image of a second worker costs the first one one slot, and only as long as it lasts."""

    async def test(shop: Shop) -> None:
        early, late = shop.worker(), shop.worker()
        first = shop.crowd(early, 50)
        await _until(lambda: first.running == CAPACITY)
        second = shop.crowd(late, 1)
        await _renewed(late)
        await _renewed(early)
        first.end()
        await _until(lambda: (first.running, second.running) == (3, 1))
        second.end()
        await _until(lambda: (first.running, second.ended) == (4, 1))
        assert shop.peak == CAPACITY

    run(test)


def test_more_workers_than_slots_take_turns(run: Run) -> None:
    """With one slot for three workers, each comes in again and again."""

    async def test(shop: Shop) -> None:
        crowds = [shop.crowd(shop.worker()) for _ in range(3)]
        for crowd in crowds:
            crowd.grow(3000)
        order = [-1]

        def has_enough() -> bool:
            for n, crowd in enumerate(crowds):
                if crowd.running:
                    crowd.end()
                    order.extend([n] if n != order[-1] else [])
            return len(order) > 9

        await _until(has_enough)
        assert all(order.count(n) >= 2 for n in range(3))
        assert shop.peak == 1

    run(test, capacity=1, turn_seconds=0.03)


def test_what_a_dead_worker_held_comes_back(run: Run) -> None:
    """Its slots are free when its lease is over, and not before."""

    async def test(shop: Shop) -> None:
        dying = shop.worker()
        lost = shop.crowd(dying, CAPACITY)
        await _until(lambda: lost.running == CAPACITY)
        await dying.stop()
        crowd = shop.crowd(shop.worker(), 1)
        await lost.leave()

        def has_come_back() -> bool:
            is_running = crowd.running > 0
            still_held = shop.query(
                "select slots from host_shares where lease_until > now() and worker = %s",
                dying.gate._worker,
            )
            assert not (is_running and still_held)
            return is_running

        await _until(has_come_back)

    run(test, lease_seconds=0.5)


def test_a_worker_that_ends_gives_its_slots_back_at_once(run: Run) -> None:
    """Nobody has to wait for the end of its lease."""

    async def test(shop: Shop) -> None:
        ending = shop.worker()
        crowd = shop.crowd(ending, CAPACITY)
        await _until(lambda: crowd.running == CAPACITY)
        ending.gate.drain()
        await crowd.leave()
        await ending.stop()
        await ending.gate.release()
        assert shop.count_slots() == 0

    run(test, lease_seconds=3600.0)


def test_without_the_database_a_worker_goes_on_until_its_lease_is_over(run: Run) -> None:
    """What it was granted it keeps; then no download begins until it can ask again."""

    async def test(shop: Shop) -> None:
        worker = shop.worker()
        crowd = shop.crowd(worker, 100)
        await _until(lambda: crowd.running == CAPACITY)
        worker.line.is_cut = True
        crowd.end(8)
        await _until(lambda: (crowd.ended, crowd.running) == (8, CAPACITY))
        await _until(lambda: shop.count_slots() == 0)  # by the database's clock, which is later
        crowd.end(2)
        await _until(lambda: crowd.ended == 10)
        assert crowd.running == 2
        worker.line.is_cut = False
        await _until(lambda: crowd.running == CAPACITY)

    run(test, lease_seconds=1.0)


def test_a_drained_gate_turns_everybody_away(run: Run) -> None:
    """Who waits for a slot, or comes then, is postponed for no time; who is inside stays."""

    async def test(shop: Shop) -> None:
        worker = shop.worker()
        crowd = shop.crowd(worker, 10)
        await _until(lambda: crowd.running == CAPACITY)
        worker.gate.drain()
        await _until(lambda: len(crowd.errors) == 6)
        crowd.errors += [await worker.refusal()]  # type: ignore[list-item]
        assert all(isinstance(one, PostponedError) and one.seconds == 0 for one in crowd.errors)
        assert crowd.running == CAPACITY

    run(test)


def test_a_cancelled_download_leaves_its_slot(run: Run) -> None:
    """Whether it had one or waited for one, and even if it was just given one."""

    async def test(shop: Shop) -> None:
        worker = shop.worker()
        first = shop.crowd(worker, CAPACITY)
        await _until(lambda: first.running == CAPACITY)
        waiting = shop.crowd(worker, 3)
        await _renewed(worker)
        first.end(2)
        await asyncio.sleep(0)  # slots are being handed over
        await waiting.leave()
        await first.leave()
        last = shop.crowd(worker, CAPACITY)
        await _until(lambda: last.running == CAPACITY)

    run(test)


def test_a_process_that_is_stopped_within_a_renewal_holds_up_nobody(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends its transaction, and with it the lock that all others wait for."""
    monkeypatch.setattr(origin_queue, "STOPPED_SECONDS", 0.2)

    async def test(shop: Shop) -> None:
        patient = Database(shop.database.conninfo, stopped_seconds=3600.0)
        with suppress(DatabaseUnavailableError), patient.transaction() as cursor:
            stopped = [HostDemand(HOST.host, 1, 0)]
            origin_queue.renew(cursor, "stopped", stopped, [], shop.terms)
            crowd = shop.crowd(shop.worker(), CAPACITY)
            await _until(lambda: crowd.running == CAPACITY)
        patient.close()

    run(test)


# --- Pauses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [_busy(60.0), _busy(60.0, "http_503", 503)])
def test_a_pause_holds_for_all_workers(run: Run, busy: ImageError) -> None:
    """What one worker is told by an origin, the others know; other ports and hosts are free."""

    async def test(shop: Shop) -> None:
        told, other = shop.worker(), shop.worker()
        await other.attempt()
        with pytest.raises(ImageError):
            await told.attempt(error=busy)
        for worker in (told, other):
            await _renewed(told)
            refusal = await worker.refusal()
            assert isinstance(refusal, PostponedError)
            assert 50 < refusal.seconds <= 60
        assert await other.refusal(OTHER_PORT) is None
        assert await other.refusal(OTHER_HOST) is None

    run(test)


def test_who_waits_for_a_slot_hears_of_the_pause(run: Run) -> None:
    """Not one more request goes out from the moment in which the first is refused."""

    async def test(shop: Shop) -> None:
        crowd = shop.crowd(shop.worker(), 50)
        await _until(lambda: crowd.running == CAPACITY)
        crowd.end(error=_busy(60.0))
        await _until(lambda: len(crowd.errors) == 50 - CAPACITY + 1)
        assert crowd.entered == CAPACITY

    run(test)


def test_what_could_not_be_told_is_told_later(run: Run) -> None:
    """A pause that a worker heard of while it could not reach PostgreSQL."""

    async def test(shop: Shop) -> None:
        told, other = shop.worker(), shop.worker()
        await told.attempt()
        crowd = shop.crowd(told, 1)
        await _until(lambda: crowd.running)
        told.line.is_cut = True
        crowd.end(error=_busy(60.0))
        await _until(lambda: crowd.errors)
        cuts = told.line.cuts
        await _until(lambda: told.line.cuts > cuts + 1)
        assert await other.refusal() is None
        told.line.is_cut = False
        await _asked(other, PostponedError)

    run(test, lease_seconds=0.5)  # the other gets a slot when that is over


def test_a_pause_ends(run: Run) -> None:
    """After it the origin is asked again."""

    async def test(shop: Shop) -> None:
        told, other = shop.worker(), shop.worker()
        with pytest.raises(ImageError):
            await told.attempt(error=_busy(0.2))
        refusal = await told.refusal()
        assert isinstance(refusal, PostponedError)
        assert refusal.seconds <= 0.2
        for worker in (told, other):
            await _asked(worker, None)

    run(test)


@pytest.mark.parametrize("error", [MISSING, ImageError("http_500", "no", http_status=500), GONE])
def test_other_failures_ask_for_no_pause(run: Run, error: ImageError) -> None:
    """Only 429 and 503 with a Retry-After speak for the whole origin."""

    async def test(shop: Shop) -> None:
        worker = shop.worker()
        with pytest.raises(ImageError):
            await worker.attempt(error=error)
        assert await worker.refusal() is None

    run(test)


def test_an_origin_that_never_serves_does_not_hold_a_request_for_ever(run: Run) -> None:
    """After some pauses without an image between, a pause counts as an attempt; one image served
    makes it a pause again.
    """

    async def test(shop: Shop) -> None:
        worker, other = shop.worker(), shop.worker()

        async def pause(seconds: float) -> None:
            await _asked(worker, None)
            with pytest.raises(ImageError):
                await worker.attempt(error=_busy(seconds))
            await _renewed(worker)

        for _ in range(PAUSES_TO_COUNT - 1):
            await pause(0.1)
        await pause(60.0)
        for one in (worker, other):
            refusal = await one.refusal()
            assert isinstance(refusal, ImageError)
            assert refusal.code == "rate_limited"
            assert refusal.retry_after
            assert 50 < refusal.retry_after <= 60
        shop.query("update origins set paused_until = now() returning 1")
        await _forgotten(worker, other)
        await other.attempt()
        await _forgotten(other)
        await pause(60.0)
        assert isinstance(await worker.refusal(), PostponedError)

    run(test)


# --- The breaker -----------------------------------------------------------------------------


async def _break(*workers: Worker, source: SourceUrl = HOST) -> None:
    """Let attempts fail until the breaker opens for the first worker."""
    for n in range(FAILURES_TO_OPEN):
        with suppress(ImageError):
            await workers[n % len(workers)].attempt(source, error=GONE)
    for worker in workers:
        await _asked(worker, ImageError, source)


def test_failures_of_all_workers_open_the_breaker(run: Run) -> None:
    """Half of them each, and neither asks any more; another port is another server."""

    async def test(shop: Shop) -> None:
        first, second = shop.worker(), shop.worker()
        await _break(first, second)
        for worker in (first, second):
            refusal = await worker.refusal()
            assert isinstance(refusal, ImageError)
            assert refusal.code == "timeout"
            assert "did not answer for other images" in refusal.detail
            assert refusal.retry_after
            assert refusal.retry_after <= 1.2 * 60
            assert await worker.refusal(OTHER_PORT) is None

    run(test, open_seconds=60.0)


@pytest.mark.parametrize("answer", [None, MISSING])
def test_answers_between_keep_it_closed(run: Run, answer: ImageError | None) -> None:
    """An origin that answers now and then is there, whatever it answers."""

    async def test(shop: Shop) -> None:
        first, second = shop.worker(), shop.worker()
        for _ in range(3):
            for _ in range(FAILURES_TO_OPEN - 1):
                with suppress(ImageError):
                    await first.attempt(error=GONE)
            await _forgotten(first)
            with suppress(ImageError):
                await second.attempt(error=answer)
            await _forgotten(second)
        assert await first.refusal() is None

    run(test, open_seconds=60.0)


async def _half_open(shop: Shop, *workers: Worker) -> None:
    """Let the breaker be open for workers, and its time be over."""
    await _break(*workers)
    all_told = [{"failures": FAILURES_TO_OPEN}]
    await _until(lambda: shop.query("select failures from origins") == all_told)
    shop.query("update origins set open_until = now() returning 1")
    await _forgotten(*workers)


async def _probe(shop: Shop, *workers: Worker) -> list[Crowd]:
    """Return crowds of which one member went in, and all others wait for what comes of it."""
    crowds = [shop.crowd(worker, 10) for worker in workers]
    await _until(lambda: shop.running)
    for worker in workers:
        await _renewed(worker)
    assert sum(crowd.entered for crowd in crowds) == shop.running == 1
    assert not [error for crowd in crowds for error in crowd.errors]
    return crowds


def test_one_probe_closes_it_for_all(run: Run) -> None:
    """When its time is over one attempt of all workers goes out, and its answer lets all go."""

    async def test(shop: Shop) -> None:
        workers = [shop.worker(), shop.worker()]
        await _half_open(shop, *workers)
        crowds = await _probe(shop, *workers)
        for crowd in crowds:
            crowd.end(10)
        await _until(lambda: [crowd.ended for crowd in crowds] == [10, 10])
        assert shop.peak <= CAPACITY
        assert shop.query("select failures from origins") == [{"failures": 0}]

    run(test, open_seconds=60.0)


def test_a_probe_that_fails_opens_it_again_for_all(run: Run) -> None:
    """The others fail at once, without a request, and are to come when the next probe may go."""

    async def test(shop: Shop) -> None:
        workers = [shop.worker(), shop.worker()]
        await _half_open(shop, *workers)
        crowds = await _probe(shop, *workers)
        for crowd in crowds:
            crowd.end(10, GONE)
        await _until(lambda: [len(crowd.errors) for crowd in crowds] == [10, 10])
        assert sum(crowd.entered for crowd in crowds) == 1
        probed = "select probe_until > now() as is_probed from origins"
        await _until(lambda: shop.query(probed) == [{"is_probed": False}])
        errors = [error for crowd in crowds for error in crowd.errors if error is not GONE]
        assert len(errors) == 19
        for error in errors:
            assert isinstance(error, ImageError)
            assert error.retry_after
            assert 40 < error.retry_after <= 1.2 * 60

    run(test, open_seconds=60.0, lease_seconds=3600.0)


def test_a_probe_that_is_lost_is_made_again(run: Run) -> None:
    """Another one goes when the first was cancelled, or when its worker died and its time is over."""

    async def test(shop: Shop) -> None:
        dying, worker = shop.worker(), shop.worker()
        await _half_open(shop, dying)
        (crowd,) = await _probe(shop, dying)
        await crowd.leave()
        await _forgotten(dying)
        (crowd,) = await _probe(shop, dying)
        await dying.stop()
        after = shop.crowd(worker, 1)
        await _until(lambda: after.running)
        (row,) = shop.query("select probe_until > now() as is_probed from origins")
        assert row["is_probed"]

    run(test, open_seconds=60.0, lease_seconds=1.0, capacity=20)


def test_a_long_probe_stays_the_only_one(run: Run) -> None:
    """Its worker renews its lease for as long as it takes."""

    async def test(shop: Shop) -> None:
        workers = [shop.worker(), shop.worker()]
        await _half_open(shop, *workers)
        await _probe(shop, *workers)
        began = monotonic()
        await _until(lambda: monotonic() > began + 4 * shop.terms.lease_seconds or shop.running > 1)
        assert shop.running == 1

    run(test, open_seconds=60.0, lease_seconds=0.3)


def test_one_of_many_gets_the_probe(clean_database: Database) -> None:
    """Workers that ask for it in the same moment come one after the other."""
    terms = Terms(CAPACITY)
    told = OriginQuery(
        "a", "a:80", OriginReport(failures=FAILURES_TO_OPEN, code="timeout"), wants_probe=True
    )
    asked = OriginQuery("a", "a:80", wants_probe=True)

    def ask(query: OriginQuery) -> bool:
        with clean_database.transaction() as cursor:
            return "a:80" in origin_queue.renew(cursor, "any", [], [query], terms).probes

    assert [ask(told), ask(asked)] == [False, False]
    with clean_database.transaction() as cursor:
        cursor.execute("update origins set open_until = now()")
    assert [ask(asked), ask(asked)] == [True, False]


def test_who_waits_for_a_probe_is_turned_away_when_the_gate_drains(run: Run) -> None:
    """Nothing has begun for those images, so they are postponed."""

    async def test(shop: Shop) -> None:
        worker = shop.worker()
        await _half_open(shop, worker)
        (crowd,) = await _probe(shop, worker)
        await worker.rest()
        worker.gate.drain()
        await _until(lambda: len(crowd.errors) == 9)
        assert all(isinstance(error, PostponedError) for error in crowd.errors)

    run(test, open_seconds=60.0)


def test_an_answer_while_it_is_open_closes_it(run: Run) -> None:
    """What was under way when it opened may end well."""

    async def test(shop: Shop) -> None:
        worker = shop.worker()
        crowd = shop.crowd(worker, 1)
        await _until(lambda: crowd.running)
        await _break(worker)
        crowd.end()
        await _until(lambda: crowd.ended)
        await _asked(worker, None)

    run(test, open_seconds=60.0)


# --- Redirects -------------------------------------------------------------------------------


def test_what_a_redirect_leads_to_is_judged_by_itself(run: Run) -> None:
    """A dead target opens its own breaker, not that of the host that leads there; then it is not
    asked by way of a redirect either.
    """

    async def test(shop: Shop) -> None:
        worker = shop.worker()

        async def follow() -> None:
            async with worker.gate.slot(HOST) as visit:
                visit.asks(HOST)
                visit.answers()
                visit.asks(OTHER_HOST)
                raise GONE

        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(ImageError, match="connected"):
                await follow()
        assert await worker.refusal(HOST) is None
        assert isinstance(await worker.refusal(OTHER_HOST), ImageError)
        with pytest.raises(ImageError, match="did not answer for other images"):
            await follow()

    run(test, open_seconds=60.0)


# --- Upkeep ----------------------------------------------------------------------------------


def test_what_nobody_needs_is_purged(clean_database: Database) -> None:
    """Rows of workers long dead and of origins of old go; what still counts stays."""
    with clean_database.transaction() as cursor:
        cursor.execute(
            """insert into host_shares
                      (host, worker, wanted, slots, queued_at, lease_until)
               select 'shop.example', age, 1, 1, now(), now() - age::interval
                 from unnest(array['-5 s', '1 min', '1 hour']) as age"""
        )
        cursor.execute(
            """insert into origins
                      (authority, failures, refusals, paused_until, open_until, probe_until, told_at)
               select age, 1, 0, now(), now(), now(), now() - age::interval
                 from unnest(array['1 min', '1 hour']) as age"""
        )
        origin_queue.purge(cursor)
        cursor.execute("select worker from host_shares union all select authority from origins")
        assert sorted(row["worker"] for row in cursor.fetchall()) == ["-5 s", "1 min", "1 min"]
