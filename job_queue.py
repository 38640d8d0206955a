"""The engine: Procrastinate on our own PostgreSQL, for coarse jobs. Never a job per image.

Owns the tasks, how a job is deferred inside a transaction of ours, and the sweeper's look at
jobs that no worker runs any more. The engine wakes workers and spreads work; what has to be
done stands in our own rows, so a job may run twice, late, or not at all without harm.

    begin   a pending request's first step: it starts its turns
    turn    claims images of one request for a few seconds, then hands on
    finish  writes the output CSV and sets the final status
    sweep   periodic: gives back and restarts what a dead worker left
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol

import procrastinate
import procrastinate.worker

if TYPE_CHECKING:
    from datetime import datetime

    from database_helper import Cursor

QUEUE: Final = "images"
POLL_SECONDS: Final = 0.5  # scheduled jobs and locked lanes come without a notification
SWEEP_CRON: Final = "* * * * * */5"
HEARTBEAT_SECONDS: Final = 10.0
STALLED_SECONDS: Final = 30.0
# One that takes longer is taken for ended, and may be run a second time beside the first.
LONGEST_TURN_SECONDS: Final = 120.0
LONGEST_STEP_SECONDS: Final = 3600.0  # the first step and the finish of a request

IMAGES_PER_LANE: Final = 200
MAX_LANES: Final = 16  # so many workers can share one request, and half a worker is left free
_SWEEP: Final = 100  # recovery comes before any request

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

    async def sweep(self) -> None:
        """Give back and restart what a dead worker left."""


def build_app(conninfo: str, worker: Worker) -> procrastinate.App:
    """Return the engine's app over the database, its tasks bound to `worker`.

    The engine retries nothing: where the same job waits already, it could not put the failed one
    beside it and would never let go of its lock. The sweeper restarts what failed.
    """
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=conninfo, min_size=1, max_size=4)
    )
    app.task(name="begin", queue=QUEUE)(worker.begin)
    app.task(name="turn", queue=QUEUE)(worker.run_turn)
    app.task(name="finish", queue=QUEUE)(worker.finish)

    # No lock: one that a dead sweep still held would end all sweeping.
    @app.periodic(cron=SWEEP_CRON)
    @app.task(name="sweep", queue=QUEUE, queueing_lock="sweep", priority=_SWEEP)
    async def sweep(timestamp: int) -> None:  # noqa: ARG001  # the engine passes it
        await worker.sweep()

    return app


def make_worker(
    app: procrastinate.App, *, concurrency: int, grace_seconds: float
) -> procrastinate.worker.Worker:
    """Return the engine's worker; after its `stop`, jobs get `grace_seconds` to end.

    It is to be stopped, not cancelled: the engine's driver may swallow a cancellation.
    """
    return procrastinate.worker.Worker(
        app,
        queues=[QUEUE],
        concurrency=concurrency,
        fetch_job_polling_interval=POLL_SECONDS,
        shutdown_graceful_timeout=grace_seconds,
        delete_jobs="always",
        install_signal_handlers=False,
        update_heartbeat_interval=HEARTBEAT_SECONDS,
        stalled_worker_timeout=STALLED_SECONDS,
    )


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


def defer_finish(cursor: Cursor, request_id: str) -> None:
    """Queue the writing of the output CSV."""
    _defer(cursor, "finish", {"request_id": request_id}, favour=_FINISH)


def _defer(
    cursor: Cursor,
    task: str,
    args: dict[str, Any],
    *,
    favour: int = 0,
    due: datetime | None = None,
) -> None:
    """Insert a job at its request's priority, unless the same one waits already.

    One such job waits at most and one runs at most (`queueing_lock`, `lock`). The engine's own
    function raises where one waits, which would end the caller's transaction; hence its table.
    """
    cursor.execute(
        """insert into procrastinate_jobs as waiting
                  (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
           select %(queue)s, %(task)s, %(favour)s + case options->>'priority'
                      when 'high' then 10 when 'low' then -10 else 0 end,
                  %(key)s, %(key)s, %(args)s, %(due)s
             from requests where id = %(id)s
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


def drop_stalled_jobs(cursor: Cursor) -> int:
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
        (STALLED_SECONDS, LONGEST_TURN_SECONDS, LONGEST_STEP_SECONDS),
    )
    return cursor.rowcount


def restart_idle_requests(cursor: Cursor) -> int:
    """Queue the next step of every unfinished request that has one and no job; return how many.

    A request whose last images are under way needs none: recording them queues the finish.
    """
    cursor.execute(
        """select id, status, is_done
             from requests r,
                  lateral (select succeeded + failed + cancelled = images as is_done) as counted
            where finished_at is null
              and (status = 'pending' or is_done or exists (
                      select from images i
                       where i.request_id = r.id and i.state = 'pending'
                         and i.due_at < 'infinity'))
              and not exists (
                      select from procrastinate_jobs j
                       where j.args->>'request_id' = r.id and j.status in ('todo', 'doing'))
            for update of r skip locked"""
    )
    idle = cursor.fetchall()
    for request in idle:
        if request["status"] == "pending":
            defer_begin(cursor, request["id"])
        elif request["is_done"]:
            defer_finish(cursor, request["id"])
        else:
            defer_turn(cursor, request["id"], 0)
    return len(idle)
