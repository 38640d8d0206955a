"""The engine: Procrastinate on our own PostgreSQL, for coarse jobs. Never a job per image.

Owns the tasks, how a job is deferred inside a transaction of ours, and the sweeper's look at
jobs that no worker runs any more. The engine wakes workers and spreads work; what has to be
done stands in our own rows, so a job may run twice, late, or not at all without harm.

    begin   a pending request's first step: it starts its turns
    turn    claims images of one request for a few seconds, then hands on
    finish  writes the output CSV and sets the final status
    webhook sends an event of a request that asked for it
    purge   deletes the files and rows of a deleted request
    sweep   periodic: gives back and restarts what a dead worker left
    clean   periodic: what nobody needs any more
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol

import procrastinate
import procrastinate.worker

from database_helper import CONNECT_SECONDS, KEEPALIVE

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

    from database_helper import Cursor

QUEUE: Final = "images"
POLL_SECONDS: Final = 0.5  # scheduled jobs and locked lanes come without a notification
LONGEST_SWEEP_SECONDS: Final = 5.0  # between two sweeps
CLEAN_CRON: Final = "* * * * *"
# Whose worker lives, but could not write that it ended: the longest that each may really take.
LONGEST_TURN_SECONDS: Final = 120.0
LONGEST_STEP_SECONDS: Final = 3600.0

IMAGES_PER_LANE: Final = 200
MAX_LANES: Final = 16  # so many workers can share one request, and half a worker is left free
PURGES_AT_A_TIME: Final = 8  # queued by a sweep
_SWEEP: Final = 100  # recovery comes before any request
_PURGE: Final = -100  # deleting comes after all requests

# The first lane of any request goes before the further lanes of others, so that a small
# request does not wait behind a large one. What is nearly done goes before what is not begun.
_FURTHER_LANE: Final = -1
_FINISH: Final = 1


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

    async def purge(self, request_id: str) -> None:
        """Delete the files and rows of a deleted request."""

    async def sweep(self) -> None:
        """Give back and restart what a dead worker left."""

    async def clean(self) -> None:
        """Delete what nobody needs any more."""


def build_app(conninfo: str, worker: Worker, *, lease_seconds: float) -> procrastinate.App:
    """Return the engine's app over the database, its tasks bound to `worker`.

    It sweeps several times in a lease.

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
    app.task(name="purge", queue=QUEUE)(worker.purge)
    sweep_seconds = int(max(1, min(LONGEST_SWEEP_SECONDS, lease_seconds / 4)))

    # No lock: one that a dead sweep still held would end all sweeping.
    @app.periodic(cron=f"* * * * * */{sweep_seconds}")
    @app.task(name="sweep", queue=QUEUE, queueing_lock="sweep", priority=_SWEEP)
    async def sweep(timestamp: int) -> None:  # noqa: ARG001  # the engine passes it
        await worker.sweep()

    @app.periodic(cron=CLEAN_CRON)
    @app.task(name="clean", queue=QUEUE, queueing_lock="clean", priority=_SWEEP)
    async def clean(timestamp: int) -> None:  # noqa: ARG001
        await worker.clean()

    return app


async def _commit_each_statement(connection: psycopg.AsyncConnection) -> None:
    """Leave no transaction open in which a process that is stopped would lock its jobs' rows."""
    await connection.set_autocommit(True)


def make_worker(
    app: procrastinate.App, *, concurrency: int, grace_seconds: float, lease_seconds: float
) -> procrastinate.worker.Worker:
    """Return the engine's worker; after its `stop`, jobs get `grace_seconds` to end.

    It is to be stopped, not cancelled: the engine's driver may swallow a cancellation. Its
    heartbeat fails before the leases of its images do.
    """
    return procrastinate.worker.Worker(
        app,
        queues=[QUEUE],
        concurrency=concurrency,
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
    args = {"request_id": request_id, "lane": lane}
    _defer(cursor, "turn", args, favour=_FURTHER_LANE if lane else 0, due=due)


def defer_turns(cursor: Cursor, request_id: str, images: int) -> None:
    """Queue a turn of each lane that so many images are worth."""
    for lane in range(count_lanes(images)):
        defer_turn(cursor, request_id, lane)


def defer_finish(cursor: Cursor, request_id: str) -> None:
    """Queue the writing of the output CSV."""
    _defer(cursor, "finish", {"request_id": request_id}, favour=_FINISH)


def defer_webhook(cursor: Cursor, request_id: str, *, due: datetime | None = None) -> None:
    """Queue the sending of a request's event, or bring it forward to `due`; None is now."""
    _defer(cursor, "webhook", {"request_id": request_id}, favour=_FINISH, due=due)


def defer_purge(cursor: Cursor, request_id: str) -> None:
    """Queue the deletion of what is left of a deleted request."""
    _defer(cursor, "purge", {"request_id": request_id}, favour=_PURGE)


def _defer(
    cursor: Cursor,
    task: str,
    args: dict[str, Any],
    *,
    favour: int = 0,
    due: datetime | None = None,
) -> None:
    """Insert a job at its request's priority, unless the same one waits already.

    One such job waits at most (`queueing_lock`), and one turn of a lane runs at most (`lock`);
    two first steps or finishes keep each other out by their rows. For a request that is being
    cancelled nothing waits. The engine's own function raises where a job waits, which would end
    the caller's transaction; hence its table.
    """
    cursor.execute(
        """insert into procrastinate_jobs as waiting
                  (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
           select %(queue)s, %(task)s, %(favour)s + case r.options->>'priority'
                      when 'high' then 10 when 'low' then -10 else 0 end,
                  case when %(task)s = 'turn' then %(key)s end, %(key)s, %(args)s,
                  case when r.status is distinct from 'cancelling' then %(due)s::timestamptz end
             from (select) as always left join requests r on r.id = %(id)s
           on conflict (queueing_lock) where status = 'todo' do update
              set scheduled_at = nullif(least(
                      coalesce(waiting.scheduled_at, '-infinity'),
                      coalesce(excluded.scheduled_at, '-infinity')), '-infinity')""",
        {
            "queue": QUEUE,
            "task": task,
            "favour": favour,
            "key": "/".join([task, *(str(value) for value in args.values())]),
            "args": json.dumps(args),
            "due": due,
            "id": args["request_id"],
        },
    )


def drop_stalled_jobs(cursor: Cursor, *, lease_seconds: float) -> int:
    """Delete jobs that nobody runs any more; return how many.

    Their worker is gone, or it lives but could not write that they ended. What our rows still
    need is started anew by `restart_idle_requests`.
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
                                      case j.task_name when 'turn' then %s else %s end)))""",
        (stalled_seconds(lease_seconds), LONGEST_TURN_SECONDS, LONGEST_STEP_SECONDS),
    )
    return cursor.rowcount


def restart_idle_requests(cursor: Cursor, *, lease_seconds: float) -> int:
    """Queue the next step of every unfinished request that nobody works on; return how many.

    A request whose last images are under way needs none: recording them queues the finish. One
    whose finish is taken needs none either, until the lease of that is over; then a job that runs
    says nothing after a while, as its worker may have been unable to write that it ended.
    """
    cursor.execute(
        """select id, step
             from requests r,
                  lateral (select case
                      when status = 'pending' then 'begin'
                      when succeeded + failed + cancelled = images then 'finish'
                      else 'turn' end as step) as next
            where finished_at is null
              and case step when 'begin' then true
                      when 'finish' then lease_until is null or lease_until < now()
                      else exists (
                          select from images i
                           where i.request_id = r.id and i.state = 'pending'
                             and (i.due_at < 'infinity' or r.status = 'cancelling')) end
              and not exists (
                      select from procrastinate_jobs j
                       where j.args->>'request_id' = r.id and j.task_name = step
                         and (j.status = 'todo' or j.status = 'doing' and (
                             step <> 'finish' or exists (
                                 select from procrastinate_events e
                                  where e.job_id = j.id and e.type = 'started'
                                    and e.at > now() - make_interval(secs => %s)))))
            for update of r skip locked""",
        (2 * lease_seconds,),
    )
    idle = cursor.fetchall()
    for request in idle:
        if request["step"] == "begin":
            defer_begin(cursor, request["id"])
        elif request["step"] == "finish":
            defer_finish(cursor, request["id"])
        else:
            defer_turn(cursor, request["id"], 0)
    return len(idle)


def restart_purges(cursor: Cursor) -> None:
    """Queue the purge of some deleted requests that are still to be purged and have no job."""
    cursor.execute(
        """select id from deleted_requests d
            where purged_at is null
              and not exists (select from procrastinate_jobs j
                               where j.args->>'request_id' = d.id and j.task_name = 'purge'
                                 and j.status in ('todo', 'doing'))
            limit %s""",
        (PURGES_AT_A_TIME,),
    )
    for request in cursor.fetchall():
        defer_purge(cursor, request["id"])
