"""The engine's jobs: deferred with our rows, one of a kind, in a fair order, and really run."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from procrastinate import PsycopgConnector

from job_queue import (
    MAX_LANES,
    build_app,
    count_lanes,
    defer_begin,
    defer_finish,
    defer_turn,
    defer_webhook,
    make_worker,
    restart_idle_requests,
    restart_stalled_jobs,
)
from request_queue import begin_request

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from database_helper import Cursor, Database

PATIENCE_SECONDS = 20.0
LEASE_SECONDS = 60.0
SOON = datetime(2041, 1, 1, tzinfo=UTC)
LATER = SOON + timedelta(hours=1)


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def _request(database: Database, **columns: Any) -> str:
    """Insert a request that is processing three images, or with the columns given."""
    values = {
        "id": uuid.uuid4().hex,
        "status": "processing",
        "options": json.dumps({"priority": columns.pop("priority", "normal")}),
        "columns": [],
        "base_url": "http://a",
        "images": 3,
    } | columns
    with database.transaction() as cursor:
        cursor.execute(
            f"insert into requests ({', '.join(values)}) values %s",  # noqa: S608  # our own names
            (tuple(values.values()),),
        )
    return str(values["id"])


def _image(database: Database, request_id: str, state: str, due_at: str = "-infinity") -> None:
    with database.transaction() as cursor:
        cursor.execute(
            """insert into images (request_id, n, row, position, input_url, state, due_at)
               values (%s, 1, 1, 1, 'http://a/', %s, %s)""",
            (request_id, state, due_at),
        )


def _defer(database: Database, defer: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    with database.transaction() as cursor:
        defer(cursor, *args, **kwargs)


def _jobs(database: Database) -> list[dict[str, Any]]:
    """Return the jobs in the order in which the engine takes them."""
    with database.transaction() as cursor:
        cursor.execute("select * from procrastinate_jobs order by priority desc, id")
        return [dict(row) for row in cursor.fetchall()]


def _statuses(database: Database) -> list[str]:
    return sorted(job["status"] for job in _jobs(database))


def _set_running(database: Database, *, heartbeat: str = "0 s", started: str = "0 s") -> None:
    """Let every job be run by a worker whose heartbeat, and whose job's start, is so old."""
    with database.transaction() as cursor:
        cursor.execute(
            """insert into procrastinate_workers (last_heartbeat)
               values (now() - %s::interval) returning id""",
            (heartbeat,),
        )
        worker = cursor.fetchone()
        assert worker
        cursor.execute(
            "update procrastinate_jobs set status = 'doing', worker_id = %s", (worker["id"],)
        )
        cursor.execute(
            "update procrastinate_events set at = now() - %s::interval where type = 'started'",
            (started,),
        )


def _sweep(database: Database) -> tuple[int, int]:
    """Restart stalled jobs and idle requests; return how many of each."""
    with database.transaction() as cursor:
        stalled = restart_stalled_jobs(cursor, lease_seconds=LEASE_SECONDS)
        return stalled, restart_idle_requests(cursor, lease_seconds=LEASE_SECONDS)


# --- Deferring -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defer", "task", "args"),
    [
        (defer_begin, "begin", {}),
        (lambda cursor, request_id: defer_turn(cursor, request_id, 2), "turn", {"lane": 2}),
        (defer_finish, "finish", {}),
        (defer_webhook, "webhook", {}),
    ],
)
def test_a_job_is_deferred_with_the_caller_s_rows(
    database: Database, defer: Callable[[Cursor, str], None], task: str, args: dict[str, Any]
) -> None:
    """It is there when the transaction commits, and was never there when it doesn't. Only a turn
    has to wait for the one before it.
    """
    request_id = _request(database)
    with suppress(ArithmeticError), database.transaction() as cursor:
        defer(cursor, request_id)
        raise ArithmeticError
    assert _jobs(database) == []
    _defer(database, defer, request_id)
    (job,) = _jobs(database)
    assert (job["task_name"], job["status"], job["scheduled_at"]) == (task, "todo", None)
    assert job["args"] == {"request_id": request_id} | args
    key = "/".join([task, request_id, *map(str, args.values())])
    assert (job["queueing_lock"], job["lock"]) == (key, key if task == "turn" else None)


@pytest.mark.parametrize(
    ("dues", "expected"),
    [
        ((None, None), None),
        ((LATER, SOON), SOON),
        ((SOON, LATER), SOON),
        ((SOON, None), None),
        ((None, SOON), None),
    ],
)
def test_the_same_job_waits_once_and_is_brought_forward(
    database: Database, dues: tuple[datetime | None, ...], expected: datetime | None
) -> None:
    """A second turn of a lane joins the one that waits; the earlier time holds."""
    request_id = _request(database)
    for due in dues:
        _defer(database, defer_turn, request_id, 0, due=due)
    (job,) = _jobs(database)
    assert job["scheduled_at"] == expected


def test_nothing_of_a_cancelling_request_waits(database: Database) -> None:
    """What was to come later comes at once, so that the cancelling ends soon."""
    request_id = _request(database)
    _defer(database, defer_turn, request_id, 0, due=LATER)
    with database.transaction() as cursor:
        cursor.execute("update requests set status = 'cancelling'")
    _defer(database, defer_turn, request_id, 0, due=LATER)
    _defer(database, defer_turn, request_id, 1, due=LATER)
    assert [job["scheduled_at"] for job in _jobs(database)] == [None, None]


def test_different_lanes_and_requests_wait_side_by_side(database: Database) -> None:
    """Only the same step of the same request is the same job."""
    one, two = _request(database), _request(database)
    for request_id in (one, two):
        _defer(database, defer_begin, request_id)
        _defer(database, defer_turn, request_id, 0)
        _defer(database, defer_turn, request_id, 1)
    assert len(_jobs(database)) == 6


def test_a_job_may_wait_while_the_same_one_runs(database: Database) -> None:
    """What is deferred during a turn runs after it."""
    request_id = _request(database)
    _defer(database, defer_turn, request_id, 0)
    _set_running(database)
    _defer(database, defer_turn, request_id, 0)
    assert Counter(job["status"] for job in _jobs(database)) == {"doing": 1, "todo": 1}


def test_jobs_are_taken_in_a_fair_order(database: Database) -> None:
    """High before normal before low; within each the CSVs, then each request's first lane, then
    the further lanes of the large ones.
    """
    large, small = _request(database), _request(database)
    low, high = _request(database, priority="low"), _request(database, priority="high")
    for lane in range(3):
        _defer(database, defer_turn, large, lane)
    _defer(database, defer_turn, low, 0)
    _defer(database, defer_begin, small)
    _defer(database, defer_finish, large)
    _defer(database, defer_turn, high, 1)
    _defer(database, defer_turn, high, 0)
    order = [
        (job["args"]["request_id"], job["task_name"], job["args"].get("lane"))
        for job in _jobs(database)
    ]
    assert order == [
        (high, "turn", 0),
        (high, "turn", 1),
        (large, "finish", None),
        (large, "turn", 0),
        (small, "begin", None),
        (large, "turn", 1),
        (large, "turn", 2),
        (low, "turn", 0),
    ]


@pytest.mark.parametrize(
    ("images", "lanes"), [(1, 1), (399, 1), (400, 2), (1000, 5), (10**6, MAX_LANES)]
)
def test_large_requests_have_more_lanes(images: int, lanes: int) -> None:
    """A small request needs one turn at a time, a large one keeps several workers busy."""
    assert count_lanes(images) == lanes


# --- The sweeper's look ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "image", "task"),
    [
        ({"status": "pending"}, None, "begin"),
        ({}, ("pending", "-infinity"), "turn"),
        ({}, ("pending", "2041-01-01"), "turn"),
        ({"succeeded": 1, "failed": 1, "cancelled": 1}, None, "finish"),
        ({"status": "cancelling", "cancelled": 3}, None, "finish"),
        ({}, ("running", "-infinity"), None),
        ({}, ("pending", "infinity"), None),
        ({"status": "completed", "succeeded": 3, "finished_at": SOON}, None, None),
        ({"status": "completed", "finished_at": SOON}, ("pending", "-infinity"), None),
        ({"status": "cancelling"}, ("pending", "2041-01-01"), "turn"),
        ({"status": "cancelling"}, ("pending", "infinity"), "turn"),
        ({"status": "cancelling"}, ("running", "-infinity"), None),
        ({"succeeded": 3, "lease_until": SOON}, None, None),
        ({"succeeded": 3, "lease_until": datetime(2001, 1, 1, tzinfo=UTC)}, None, "finish"),
    ],
)
def test_an_idle_request_gets_its_next_step(
    database: Database, columns: dict[str, Any], image: tuple[str, str] | None, task: str | None
) -> None:
    """What follows from the rows is queued again, once; what nothing follows from is left."""
    request_id = _request(database, **columns)
    if image:
        _image(database, request_id, *image)
    expected = [task] if task else []
    assert _sweep(database) == (0, len(expected))
    assert _sweep(database) == (0, 0)
    jobs = _jobs(database)
    assert [job["task_name"] for job in jobs] == expected
    assert all(job["args"]["request_id"] == request_id for job in jobs)


@pytest.mark.parametrize("job", ["waits", "waits for its time", "runs", "waits and runs"])
def test_a_request_with_a_turn_in_time_is_not_restarted(database: Database, job: str) -> None:
    """What waits no longer than the next image, or runs, is on its way; whatever its lane."""
    request_id = _request(database)
    later = job == "waits for its time"
    _image(database, request_id, "pending", str(SOON) if later else "-infinity")
    _defer(database, defer_turn, request_id, 3, due=SOON if later else None)
    if "runs" in job:
        _set_running(database)
    if job == "waits and runs":
        _defer(database, defer_turn, request_id, 3, due=LATER)
    assert _sweep(database) == (0, 0)


@pytest.mark.parametrize("image_due", ["-infinity", str(SOON)])
def test_a_lost_turn_is_restarted_although_another_lane_waits_for_later(
    database: Database, image_due: str
) -> None:
    """What is due doesn't wait for a turn that is there for something else."""
    request_id = _request(database)
    _image(database, request_id, "pending", image_due)
    _defer(database, defer_turn, request_id, 3, due=LATER)
    assert _sweep(database) == (0, 1)
    assert _sweep(database) == (0, 0)
    turns = {job["args"]["lane"]: job["scheduled_at"] for job in _jobs(database)}
    assert turns.pop(3) == LATER
    if image_due == str(SOON):
        assert turns == {0: SOON}
    else:
        assert list(turns) == [0]
        assert turns[0] is None or turns[0] < datetime.now(UTC)


def test_a_turn_of_a_request_that_is_pending_again_does_not_count(database: Database) -> None:
    """A first step is what it needs; the turn was for the cancelling before."""
    request_id = _request(database, status="pending")
    _image(database, request_id, "pending")
    _defer(database, defer_turn, request_id, 0)
    assert _sweep(database) == (0, 1)
    assert sorted(job["task_name"] for job in _jobs(database)) == ["begin", "turn"]
    assert _sweep(database) == (0, 0)


@pytest.mark.parametrize(("started", "restarted"), [("119 s", 0), ("121 s", 1)])
def test_a_first_step_that_only_seems_to_run_is_restarted(
    database: Database, started: str, restarted: int
) -> None:
    """After two leases: its worker lives, but its transaction failed and it could not write that
    it ended, or it waits for a thread. One that waits is enough.
    """
    _defer(database, defer_begin, _request(database, status="pending"))
    assert _sweep(database) == (0, 0)
    _set_running(database, started=started)
    assert _sweep(database) == (0, restarted)
    assert _sweep(database) == (0, 0)
    assert _statuses(database) == ["doing", *["todo"] * restarted]


def test_a_first_step_that_runs_is_let_be(database: Database) -> None:
    """Its transaction holds the request, however long it takes."""
    request_id = _request(database, status="pending")
    _defer(database, defer_begin, request_id)
    _set_running(database)
    with database.transaction() as cursor:
        assert begin_request(cursor, request_id)
        assert _sweep(database) == (0, 0)
    assert _statuses(database) == ["doing"]


@pytest.mark.parametrize(
    ("lease_until", "started", "restarted"),
    [
        (None, "119 s", 0),
        (None, "121 s", 1),
        (datetime(2001, 1, 1, tzinfo=UTC), "119 s", 0),
        (datetime(2001, 1, 1, tzinfo=UTC), "121 s", 1),
        (SOON, "121 s", 0),
    ],
)
def test_a_finish_that_a_job_only_seems_to_be_at_is_restarted(
    database: Database, lease_until: datetime | None, started: str, restarted: int
) -> None:
    """Without a lease it may wait for a thread, for two leases' time; with one it goes on."""
    request_id = _request(database, succeeded=3, lease_until=lease_until)
    _defer(database, defer_finish, request_id)
    assert _sweep(database) == (0, 0)
    _set_running(database, started=started)
    assert _sweep(database) == (0, restarted)
    assert _sweep(database) == (0, 0)
    assert _statuses(database) == ["doing", *["todo"] * restarted]


TURN: dict[str, Any] = {"lane": 2}
STEPS: list[tuple[Callable[..., None], dict[str, Any]]] = [
    (defer_begin, {}),
    (defer_turn, TURN),
    (defer_finish, {}),
    (defer_webhook, {}),
]


@pytest.mark.parametrize(("defer", "lane"), STEPS)
@pytest.mark.parametrize(
    ("age", "stalls"),
    [
        ({}, ()),
        ({"heartbeat": "29 s", "started": "59 s"}, ()),
        ({"heartbeat": "31 s"}, (defer_begin, defer_turn, defer_finish, defer_webhook)),
        ({"started": "61 s"}, (defer_turn,)),
        ({"started": "3599 s"}, (defer_turn,)),
        ({"started": "3601 s"}, (defer_begin, defer_turn, defer_finish, defer_webhook)),
    ],
)
def test_a_job_that_nobody_runs_is_queued_anew(
    database: Database,
    defer: Callable[..., None],
    lane: dict[str, Any],
    age: dict[str, str],
    stalls: tuple[Callable[..., None], ...],
) -> None:
    """Exactly as it was, so that the same job later joins it: of a dead worker, and where the end
    could not be written. A turn lasts seconds, other steps as long as they take.
    """
    request_id = _request(database)
    _defer(database, defer, request_id, **lane)
    (before,) = _jobs(database)
    _set_running(database, **age)
    stalled = int(defer in stalls)
    assert _sweep(database) == (stalled, 0)
    (job,) = _jobs(database)
    assert job["status"] == ("todo" if stalled else "doing")
    same = ("task_name", "args", "lock", "queueing_lock", "priority", "scheduled_at", "queue_name")
    assert [job[name] for name in same] == [before[name] for name in same]
    _defer(database, defer, request_id, **lane)
    assert len(_jobs(database)) == 2 - stalled


def test_a_stalled_job_joins_the_one_that_waits(database: Database) -> None:
    """It makes way for it, and brings it forward."""
    request_id = _request(database)
    _image(database, request_id, "pending")
    _defer(database, defer_turn, request_id, 2)
    _set_running(database, heartbeat="1 h")
    _defer(database, defer_turn, request_id, 2, due=LATER)
    assert _sweep(database) == (1, 0)
    (job,) = _jobs(database)
    assert (job["status"], job["scheduled_at"]) == ("todo", None)


@pytest.mark.parametrize("args", [{"timestamp": 1}, {"request_id": "ab" * 16}])
def test_a_stalled_job_of_no_request_is_dropped(database: Database, args: dict[str, Any]) -> None:
    """One of an older version, or of a request that is deleted by now."""
    with database.transaction() as cursor:
        cursor.execute(
            "insert into procrastinate_jobs (queue_name, task_name, args) values (%s, %s, %s)",
            ("images", "purge", json.dumps(args)),
        )
    _set_running(database, heartbeat="1 h")
    assert _sweep(database) == (1, 0)
    assert _jobs(database) == []


def test_a_job_whose_worker_is_forgotten_is_queued_anew(database: Database) -> None:
    """A worker that unregistered, or was pruned, runs nothing."""
    request_id = _request(database, status="pending")
    _defer(database, defer_begin, request_id)
    _set_running(database)
    with database.transaction() as cursor:
        cursor.execute("delete from procrastinate_workers")
    assert _sweep(database) == (1, 0)
    assert _statuses(database) == ["todo"]


def test_a_job_that_waits_is_not_stalled(database: Database) -> None:
    """Only running jobs can be stalled."""
    _defer(database, defer_turn, _request(database), 0, due=LATER)
    assert _sweep(database) == (0, 0)


def test_two_sweepers_restart_a_request_once(database: Database) -> None:
    """Every worker sweeps when it starts; they don't wait for each other's rows."""
    _request(database, status="pending")
    with database.transaction() as one, database.transaction() as two:
        two.execute("set local lock_timeout = '2s'")
        assert restart_idle_requests(one, lease_seconds=30) == 1
        assert restart_idle_requests(two, lease_seconds=30) == 0
    assert len(_jobs(database)) == 1


# --- The engine ------------------------------------------------------------------------------


class Recorder:
    """A worker that notes what the engine calls; `troubles` are raised first."""

    def __init__(self, database: Database, *troubles: Exception) -> None:
        self.database = database
        self.calls: list[tuple[Any, ...]] = []
        self.troubles = list(troubles)
        self.release = asyncio.Event()
        self.release.set()
        self._changed = asyncio.Condition()

    async def begin(self, request_id: str) -> None:
        """Note a first step."""
        await self._note("begin", request_id)

    async def run_turn(self, request_id: str, lane: int) -> None:
        """Note a turn."""
        await self._note("turn", request_id, lane)

    async def finish(self, request_id: str) -> None:
        """Note an end."""
        await self._note("finish", request_id)

    async def send_webhook(self, request_id: str) -> None:
        """Note a webhook."""
        await self._note("webhook", request_id)

    async def called(self, call: tuple[Any, ...], times: int = 1) -> None:
        """Wait for a call."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.calls.count(call) >= times)

    async def _add(self, *call: Any) -> None:
        async with self._changed:
            self.calls.append(call)
            self._changed.notify_all()

    async def _note(self, *call: Any) -> None:
        await self._add(*call)
        if self.troubles:
            raise self.troubles.pop(0)
        await self.release.wait()
        await self._add(*call, "ended")


def _with_engine(
    database: Database,
    test: Callable[[Recorder], Coroutine[None, None, None]],
    *troubles: Exception,
    grace_seconds: float = 5,
) -> Recorder:
    """Run the engine on a recorder until `test` is through, and stop it as the worker does."""

    async def run() -> Recorder:
        recorder = Recorder(database, *troubles)
        app = build_app(database.conninfo, recorder)
        async with asyncio.timeout(PATIENCE_SECONDS), app.open_async():
            worker = make_worker(app, grace_seconds=grace_seconds, lease_seconds=LEASE_SECONDS)
            engine = asyncio.create_task(worker.run())
            await test(recorder)
            worker.stop()
            await engine
        return recorder

    return asyncio.run(run())


def test_the_engine_runs_what_was_deferred(database: Database) -> None:
    """Jobs from before its start and from during its run reach the worker, and are gone then."""
    one, two = _request(database), _request(database)
    _defer(database, defer_begin, one)
    _defer(database, defer_turn, one, 3)

    async def test(recorder: Recorder) -> None:
        await recorder.called(("begin", one, "ended"))
        await recorder.called(("turn", one, 3, "ended"))
        await asyncio.to_thread(_defer, database, defer_finish, two)
        await recorder.called(("finish", two, "ended"))

    _with_engine(database, test)
    assert _jobs(database) == []


def test_a_job_that_waits_for_its_time_runs_then(database: Database) -> None:
    """A turn that is due in a moment comes without a notification."""
    request_id = _request(database)
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    _defer(database, defer_turn, request_id, 0, due=soon)

    async def test(recorder: Recorder) -> None:
        await recorder.called(("turn", request_id, 0, "ended"))
        assert datetime.now(UTC) >= soon

    _with_engine(database, test)


def test_the_same_step_runs_once_at_a_time(database: Database) -> None:
    """What is queued during a turn waits for its end, with hands free."""
    request_id = _request(database)
    _defer(database, defer_turn, request_id, 0)
    turn = ("turn", request_id, 0)

    async def test(recorder: Recorder) -> None:
        recorder.release.clear()
        await recorder.called(turn)
        await asyncio.to_thread(_defer, database, defer_turn, request_id, 0)
        await asyncio.to_thread(_defer, database, defer_turn, request_id, 1)
        await recorder.called(("turn", request_id, 1))
        assert recorder.calls.count(turn) == 1
        recorder.release.set()
        await recorder.called((*turn, "ended"), times=2)

    _with_engine(database, test)


def test_a_failed_step_is_swept_up(database: Database) -> None:
    """A bug or a database that was away ends one run of a step; the next sweep starts another,
    also where the same step was waiting already.
    """
    request_id = _request(database)
    _image(database, request_id, "pending")
    _defer(database, defer_turn, request_id, 0)
    turn = ("turn", request_id, 0)

    async def test(recorder: Recorder) -> None:
        while (*turn, "ended") not in recorder.calls:
            await asyncio.to_thread(_sweep, database)
            await asyncio.sleep(0.05)

    recorder = _with_engine(database, test, RuntimeError("one"), RuntimeError("two"))
    assert recorder.calls.count(turn) == 3


def test_a_failure_beside_a_waiting_turn_blocks_nothing(database: Database) -> None:
    """A turn that fails while the next one waits lets go of its lock."""
    request_id = _request(database)
    _defer(database, defer_turn, request_id, 0)
    turn = ("turn", request_id, 0)

    async def test(recorder: Recorder) -> None:
        recorder.release = _Trap()
        await recorder.called(turn)
        await asyncio.to_thread(_defer, database, defer_turn, request_id, 0)
        recorder.release.set()
        await recorder.called(turn, times=2)

    _with_engine(database, test)


class _Trap(asyncio.Event):
    """Lets nobody through but with an error."""

    async def wait(self) -> Any:
        """Wait, and raise."""
        await super().wait()
        raise RuntimeError("a bug")


def test_stopping_lets_a_turn_end(database: Database) -> None:
    """Within the grace a turn goes on; its job is gone after it."""
    request_id = _request(database)
    _defer(database, defer_turn, request_id, 0)

    async def test(recorder: Recorder) -> None:
        recorder.release.clear()
        await recorder.called(("turn", request_id, 0))
        asyncio.get_running_loop().call_later(0.2, recorder.release.set)

    recorder = _with_engine(database, test)
    assert recorder.calls[-1] == ("turn", request_id, 0, "ended")
    assert [job for job in _jobs(database) if job["task_name"] == "turn"] == []


def test_stopping_does_not_wait_beyond_the_grace(database: Database) -> None:
    """A turn that doesn't end is broken off, and the sweeper starts its request again."""
    request_id = _request(database)
    _image(database, request_id, "pending")
    _defer(database, defer_turn, request_id, 0)

    async def test(recorder: Recorder) -> None:
        recorder.release.clear()
        await recorder.called(("turn", request_id, 0))

    recorder = _with_engine(database, test, grace_seconds=0.1)
    assert ("turn", request_id, 0, "ended") not in recorder.calls
    _sweep(database)
    assert [job["status"] for job in _jobs(database) if job["task_name"] == "turn"] == ["todo"]


def test_the_engine_holds_no_transaction_open(database: Database) -> None:
    """A process that is stopped between two calls of the engine's locks no job."""

    async def run() -> bool:
        app = build_app(database.conninfo, Recorder(database))
        async with asyncio.timeout(PATIENCE_SECONDS), app.open_async():
            connector = app.connector
            assert isinstance(connector, PsycopgConnector)
            async with connector.pool.connection() as connection:
                return connection.autocommit

    assert asyncio.run(run())
