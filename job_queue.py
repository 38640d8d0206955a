"""The engine: Procrastinate on our own PostgreSQL, for coarse jobs. Never a job per image.

Owns the tasks, how a job is deferred inside a transaction of ours, and the sweeper's look at
jobs that no worker runs any more. The engine wakes workers and spreads work; what has to be
done stands in our own rows, so a job may run twice, late, or not at all without harm.

    begin   a pending request's first step: it starts its turns
    turn    claims images of one request for a while, less than a lease, then hands on
    finish  writes the output CSV and sets the final status
    webhook sends an event of a request that asked for it

What has to be done again and again, and soon, is no job: each worker does it by itself
(`worker_upkeep`), so that it needs neither a free place of the engine nor the clock on the wall.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol

import procrastinate
import procrastinate.worker

from database_helper import CONNECT_SECONDS, KEEPALIVE
from image_queue import NEXT_DUE

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

    from database_helper import Cursor

QUEUE: Final = "images"
POLL_SECONDS: Final = 0.5  # scheduled jobs and locked lanes come without a notification
# For so long a running job is believed, if its worker lives: that may have been unable to write
# that the job ended. A turn holds its lane, the others nothing.
TURN_BELIEVED_SECONDS: Final = 5.0  # or a lease, if that is longer; a turn takes half of it at most
STEP_BELIEVED_SECONDS: Final = 3600.0

IMAGES_PER_LANE: Final = 200
TURNS: Final = 32  # jobs at a time in one worker
MAX_LANES: Final = (
    TURNS // 2
)  # so many workers can share one request, and half a worker is left free

# The first lane of any request goes before the further lanes of others, so that a small
# request does not wait behind a large one. What is nearly done goes before what is not begun.
_FURTHER_LANE: Final = -1
_FINISH: Final = 1
_ENDS: Final = ("finish", "webhook")


class Worker(Protocol):
    """What the engine calls; `image_processor` does it."""

    async def begin(self, request_id: str) -> None:
        """Take a pending request into work."""

    async def run_turn(self, request_id: str, lane: int) -> None:
        """Claim images of a request for a while, then hand on."""

    async def finish(self, request_id: str) -> None:
        """Write the output CSV and the final status."""

    async def send_webhook(self, request_id: str) -> None:
        """Send an event of a request that is due."""


def build_app(conninfo: str, worker: Worker) -> procrastinate.App:
    """Return the engine's app over the database, its tasks bound to `worker`.

    The engine retries nothing: where the same job waits already, it could not put the failed one
    beside it and would never let go of its lock. The sweeper restarts what failed.
    """
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(
            conninfo=conninfo,
            kwargs=KEEPALIVE | {"connect_timeout": CONNECT_SECONDS},
            min_size=1,
            max_size=4,
            configure=_commit_each_statement,
        )
    )
    app.task(name="begin", queue=QUEUE)(worker.begin)
    app.task(name="turn", queue=QUEUE)(worker.run_turn)
    app.task(name="finish", queue=QUEUE)(worker.finish)
    app.task(name="webhook", queue=QUEUE)(worker.send_webhook)
    return app


async def _commit_each_statement(connection: psycopg.AsyncConnection) -> None:
    """Leave no transaction open in which a process that is stopped would lock its jobs' rows."""
    await connection.set_autocommit(True)


def make_worker(
    app: procrastinate.App, *, grace_seconds: float, lease_seconds: float
) -> procrastinate.worker.Worker:
    """Return the engine's worker; after its `stop`, jobs get `grace_seconds` to end.

    It is to be stopped, not cancelled: the engine's driver may swallow a cancellation. Its
    heartbeat fails before the leases of its images do.
    """
    return procrastinate.worker.Worker(
        app,
        queues=[QUEUE],
        concurrency=TURNS,
        fetch_job_polling_interval=POLL_SECONDS,
        shutdown_graceful_timeout=grace_seconds,
        delete_jobs="always",
        install_signal_handlers=False,
        update_heartbeat_interval=lease_seconds / 6,
        stalled_worker_timeout=stalled_seconds(lease_seconds),
    )


def stalled_seconds(lease_seconds: float) -> float:
    """Return how long after its last heartbeat a worker is taken for dead."""
    return lease_seconds / 2


def count_lanes(images: int) -> int:
    """Return how many turns of one request may run at a time, on all workers together."""
    return max(1, min(MAX_LANES, images // IMAGES_PER_LANE))


def defer_begin(cursor: Cursor, request_id: str) -> None:
    """Queue the first step of a request, in the caller's transaction."""
    _defer(cursor, "begin", {"request_id": request_id})


def defer_turn(cursor: Cursor, request_id: str, lane: int, *, due: datetime | None = None) -> None:
    """Queue a turn of a lane, or bring the one that waits forward to `due`; None is now."""
    _defer(cursor, "turn", {"request_id": request_id, "lane": lane}, due=due)


def defer_turns(cursor: Cursor, request_id: str, images: int) -> None:
    """Queue a turn of each lane that so many images are worth."""
    for lane in range(count_lanes(images)):
        defer_turn(cursor, request_id, lane)


def defer_finish(cursor: Cursor, request_id: str) -> None:
    """Queue the writing of the output CSV."""
    _defer(cursor, "finish", {"request_id": request_id})


def defer_webhook(cursor: Cursor, request_id: str, *, due: datetime | None = None) -> None:
    """Queue the sending of a request's event, or bring it forward to `due`; None is now."""
    _defer(cursor, "webhook", {"request_id": request_id}, due=due)


def _defer(
    cursor: Cursor,
    task: str,
    args: dict[str, Any],
    *,
    due: datetime | None = None,
) -> None:
    """Insert a job at its request's priority, unless the same one waits already.

    One such job waits at most (`queueing_lock`), and one turn of a lane runs at most (`lock`);
    two first steps or finishes keep each other out by their rows. For a request that is being
    cancelled nothing waits. The engine's own function raises where a job waits, which would end
    the caller's transaction; hence its table.
    """
    names = ("request_id", "lane")  # in one order, also where `args` come back from a row
    cursor.execute(
        """insert into procrastinate_jobs as waiting
                  (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
           select %(queue)s, %(task)s, %(favour)s + case r.options->>'priority'
                      when 'high' then 10 when 'low' then -10 else 0 end,
                  case when %(task)s = 'turn' then %(key)s end, %(key)s, %(args)s,
                  case when r.status is distinct from 'cancelling' then %(due)s::timestamptz end
             from requests r where r.id = %(id)s
           on conflict (queueing_lock) where status = 'todo' do update
              set scheduled_at = nullif(least(
                      coalesce(waiting.scheduled_at, '-infinity'),
                      coalesce(excluded.scheduled_at, '-infinity')), '-infinity')""",
        {
            "queue": QUEUE,
            "task": task,
            "favour": _FINISH if task in _ENDS else _FURTHER_LANE if args.get("lane") else 0,
            "key": "/".join([task, *(str(args[name]) for name in names if name in args)]),
            "args": json.dumps(args),
            "due": due,
            "id": args["request_id"],
        },
    )


def restart_stalled_jobs(cursor: Cursor, *, lease_seconds: float) -> int:
    """Queue anew the jobs that nobody runs any more; return how many there were.

    Their worker is gone, or it lives but could not write that they ended.
    """
    cursor.execute(
        """delete from procrastinate_jobs j
            where status = 'doing'
              and not (exists (select from procrastinate_workers w
                                where w.id = j.worker_id
                                  and w.last_heartbeat > now() - make_interval(secs => %s))
                   and exists (select from procrastinate_events e
                                where e.job_id = j.id and e.type = 'started'
                                  and e.at > now() - make_interval(secs =>
                                      case j.task_name when 'turn' then %s else %s end)))
        returning task_name, args""",
        (
            stalled_seconds(lease_seconds),
            max(lease_seconds, TURN_BELIEVED_SECONDS),
            STEP_BELIEVED_SECONDS,
        ),
    )
    stalled = cursor.fetchall()
    for job in stalled:
        if "request_id" in job["args"]:
            _defer(cursor, job["task_name"], job["args"])
    return len(stalled)


def restart_idle_requests(cursor: Cursor, *, lease_seconds: float) -> int:
    """Queue the next step of every unfinished request that has none in time; return how many.

    A request whose last images are under way needs none: recording them queues the finish. One
    whose finish is taken needs none either, until the lease of that is over. A first step or a
    finish that runs may wait for a thread, but is not believed for ever.
    """
    cursor.execute(
        f"""select id, step, due
             from requests r,
                  lateral (select case
                      when status = 'pending' then 'begin'
                      when succeeded + failed + cancelled = images then 'finish'
                      else 'turn' end as step) as next,
                  lateral (select case step
                      when 'begin' then now()
                      when 'finish' then case when coalesce(lease_until < now(), true)
                                         then now() end
                      else {NEXT_DUE} end as due) as time
            where finished_at is null and due is not null
              and not exists (
                      select from procrastinate_jobs j
                       where j.args->>'request_id' = r.id and j.task_name = step
                         and case
                             when j.status = 'todo'
                             then coalesce(j.scheduled_at <= greatest(now(), due), true)
                             when j.status <> 'doing' then false
                             when step = 'turn' then true
                             else exists (
                                 select from procrastinate_events e
                                  where e.job_id = j.id and e.type = 'started'
                                    and e.at > now() - make_interval(secs => %s)) end)
            order by id for update of r skip locked""",  # noqa: S608  # our own words
        (2 * lease_seconds,),
    )
    idle = cursor.fetchall()
    for request in idle:
        if request["step"] == "begin":
            defer_begin(cursor, request["id"])
        elif request["step"] == "finish":
            defer_finish(cursor, request["id"])
        else:
            defer_turn(cursor, request["id"], 0, due=request["due"])
    return len(idle)
