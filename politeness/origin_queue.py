"""The statements that share origins among workers: slots of hosts, pauses, breakers.

`schema.sql` explains the tables, `fair_shares` and `origin_state` decide, and `origin_gate` is
what asks here about once a second. Every function takes the cursor of an open transaction. Times
are the statement's: the transaction's own may be from before the lock, when another one wrote.
"""

from __future__ import annotations

import json
import random
import zlib
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from politeness.fair_shares import Grant, Place, grant
from politeness.origin_state import OriginReport, OriginState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from database_helper import Cursor

LOCKS: Final = 64  # hosts share these: a lock a host would be too many for one transaction
STOPPED_SECONDS: Final = 3.0  # between two statements: a process that holds up the others
_LOCK_CLASS: Final = 0x6F726967  # any number that no one else locks
_KEPT_SECONDS: Final = 1800.0  # of what is over: longer than any pause, so that series go on


@dataclass(frozen=True, slots=True)
class Terms:
    """The rules that all workers keep to; `capacity` is HOST_CONCURRENCY."""

    capacity: int
    lease_seconds: float = 10.0  # of slots, and of a probe
    turn_seconds: float = 2.0  # when there are more workers than slots
    open_seconds: float = 5.0  # of a breaker, give or take a fifth


@dataclass(frozen=True, slots=True)
class HostDemand:
    """What a worker wants of a host: so many images; none gives its slots back.

    `held` is how many downloads it may have under way until it hears of the answer.
    """

    host: str
    wanted: int
    held: int


@dataclass(frozen=True, slots=True)
class OriginQuery:
    """A question for the state of an origin, and what there is to tell of it.

    `wants_probe` asks whether an attempt may be the probe, `is_probing` keeps that of others away.
    """

    host: str
    authority: str
    report: OriginReport | None = None
    wants_probe: bool = False
    is_probing: bool = False


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a worker is told: its limits by host, states by authority, the probes it has to make."""

    limits: dict[str, int]
    origins: dict[str, OriginState]
    probes: frozenset[str]


def renew(
    cursor: Cursor,
    worker: str,
    demands: Sequence[HostDemand],
    queries: Sequence[OriginQuery],
    terms: Terms,
) -> Renewal:
    """Renew a worker's slots of these hosts, and hand over news of origins in both directions."""
    _lock(cursor, {demand.host for demand in demands} | {query.host for query in queries})
    limits = _share(cursor, worker, [demand for demand in demands if demand.wanted], terms)
    _give_back(cursor, worker, [demand.host for demand in demands if not demand.wanted])
    origins, probes = _exchange(cursor, queries, terms)
    return Renewal(limits, origins, probes)


def release(cursor: Cursor, worker: str) -> None:
    """Give back all slots of a worker that ends."""
    cursor.execute("delete from host_shares where worker = %s", (worker,))


def purge(cursor: Cursor) -> None:
    """Delete what dead workers and origins of old left."""
    cursor.execute(
        """delete from host_shares where (host, worker) in (
               select host, worker from host_shares
                where lease_until < now() - make_interval(secs => %s) for update skip locked)""",
        (_KEPT_SECONDS,),
    )
    cursor.execute(
        """delete from origins where authority in (
               select authority from origins
                where told_at < now() - make_interval(secs => %s) for update skip locked)""",
        (_KEPT_SECONDS,),
    )


def _lock(cursor: Cursor, hosts: Iterable[str]) -> None:
    """Let one worker after the other at these hosts; one that is stopped within loses its turn."""
    locks = {zlib.crc32(host.encode()) % LOCKS for host in hosts}
    cursor.allow_pauses(STOPPED_SECONDS)
    cursor.execute(
        "select pg_advisory_xact_lock(%s, lock) from unnest(%s::integer[]) as lock",
        (_LOCK_CLASS, sorted(locks)),  # one order for all workers
    )


# Slots


def _share(
    cursor: Cursor, worker: str, demands: Sequence[HostDemand], terms: Terms
) -> dict[str, int]:
    """Take what is due to a worker at each host; return its limits."""
    if not demands:
        return {}
    lines = _read_lines(cursor, [demand.host for demand in demands])
    grants = {
        demand.host: grant(
            _take_place(lines[demand.host], worker, demand),
            worker,
            held=demand.held,
            capacity=terms.capacity,
            turn_seconds=terms.turn_seconds,
        )
        for demand in demands
    }
    _write_places(cursor, worker, demands, grants, terms)
    return {host: granted.limit for host, granted in grants.items()}


def _take_place(line: list[Place], worker: str, demand: HostDemand) -> list[Place]:
    """Return the line with the worker's present demand, at its end if it is new."""
    position = next((n for n, place in enumerate(line) if place.worker == worker), len(line))
    served = line[position].served_seconds if position < len(line) else None
    mine = Place(worker, demand.wanted, demand.held, served)
    return [*line[:position], mine, *line[position + 1 :]]


def _read_lines(cursor: Cursor, hosts: list[str]) -> dict[str, list[Place]]:
    """Return the places of each host in the order of the line; those of dead workers go."""
    cursor.execute(
        "delete from host_shares where host = any(%s) and lease_until <= statement_timestamp()",
        (hosts,),
    )
    cursor.execute(
        """select host, worker, wanted, slots,
                  extract(epoch from t - served_at)::double precision as served_seconds
             from host_shares, statement_timestamp() as t where host = any(%s)
            order by queued_at, worker""",
        (hosts,),
    )
    lines: dict[str, list[Place]] = defaultdict(list)
    for row in cursor.fetchall():
        lines[row.pop("host")].append(Place(**row))
    return lines


def _write_places(
    cursor: Cursor,
    worker: str,
    demands: Sequence[HostDemand],
    grants: dict[str, Grant],
    terms: Terms,
) -> None:
    places = [
        {"host": demand.host, "wanted": demand.wanted} | asdict(grants[demand.host])
        for demand in demands
    ]
    cursor.execute(
        """insert into host_shares as mine
                  (host, worker, wanted, slots, queued_at, served_at, lease_until)
           select host, %(worker)s, wanted, slots, t, case when "limit" > 0 then t end,
                  t + make_interval(secs => %(lease)s)
             from statement_timestamp() as t, jsonb_to_recordset(%(places)s) as place(
                  host text, wanted integer, slots integer, "limit" integer)
           on conflict (host, worker) do update
              set wanted = excluded.wanted, slots = excluded.slots,
                  lease_until = excluded.lease_until,
                  served_at = case when excluded.served_at is not null
                      then coalesce(mine.served_at, excluded.served_at) end,
                  queued_at = case when excluded.host = any(%(moved)s)
                      then excluded.queued_at else mine.queued_at end""",
        {
            "worker": worker,
            "lease": terms.lease_seconds,
            "places": json.dumps(places),
            "moved": [host for host, granted in grants.items() if granted.is_moved_back],
        },
    )


def _give_back(cursor: Cursor, worker: str, hosts: list[str]) -> None:
    if hosts:
        cursor.execute(
            "delete from host_shares where worker = %s and host = any(%s)", (worker, hosts)
        )


# Origins


def _exchange(
    cursor: Cursor, queries: Sequence[OriginQuery], terms: Terms
) -> tuple[dict[str, OriginState], frozenset[str]]:
    if not queries:
        return {}, frozenset()
    known = _read_origins(cursor, [query.authority for query in queries])
    probes: set[str] = set()
    changed: dict[str, OriginState] = {}
    for query in queries:
        state = known.get(query.authority, OriginState())
        if query.report:
            seconds = terms.open_seconds * random.uniform(0.8, 1.2)  # noqa: S311  # jitter
            state = changed[query.authority] = state.told(query.report, open_seconds=seconds)
        is_new = query.wants_probe and state.needs_probe
        if is_new or (query.is_probing and state.is_broken):
            state = changed[query.authority] = state.probed(terms.lease_seconds)
        if is_new:
            probes.add(query.authority)
        known[query.authority] = state
    _write_origins(cursor, changed)
    return known, frozenset(probes)


def _read_origins(cursor: Cursor, authorities: list[str]) -> dict[str, OriginState]:
    cursor.execute(
        """select authority, failures, refusals, code,
                  extract(epoch from paused_until - t)::double precision as pause_seconds,
                  extract(epoch from open_until - t)::double precision as open_seconds,
                  extract(epoch from probe_until - t)::double precision as probe_seconds
             from origins, statement_timestamp() as t where authority = any(%s)""",
        (authorities,),
    )
    return {row.pop("authority"): OriginState(**row).after(0.0) for row in cursor.fetchall()}


def _write_origins(cursor: Cursor, states: dict[str, OriginState]) -> None:
    if not states:
        return
    rows = [{"authority": authority, **asdict(state)} for authority, state in states.items()]
    cursor.execute(
        """insert into origins
                  (authority, failures, refusals, code, paused_until, open_until, probe_until)
           select authority, failures, refusals, code,
                  t + make_interval(secs => pause_seconds),
                  t + make_interval(secs => open_seconds),
                  t + make_interval(secs => probe_seconds)
             from statement_timestamp() as t, jsonb_to_recordset(%s) as state(
                  authority text, failures integer, refusals integer, code text,
                  pause_seconds double precision, open_seconds double precision,
                  probe_seconds double precision)
           on conflict (authority) do update
              set failures = excluded.failures, refusals = excluded.refusals,
                  code = excluded.code, paused_until = excluded.paused_until,
                  open_until = excluded.open_until, probe_until = excluded.probe_until,
                  told_at = statement_timestamp()""",
        (json.dumps(rows),),
    )
