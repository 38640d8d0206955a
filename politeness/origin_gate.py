"""The gate that every download goes through: politeness to origins, kept by all workers together.

Owns what this worker knows of hosts and origins, and the task that renews it. PostgreSQL has the
truth (`origin_queue`): it is asked about once a second for all hosts together and at once for a
new one, never for an image. A *host* has slots, whatever its ports; an *origin* is a host and a
port, and may want a pause or be dead. Lives in one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

import metrics
from database_helper import DatabaseUnavailableError
from errors import ImageError, ServiceError
from politeness import origin_queue
from politeness.origin_demand import Host, Origin, PostponedError
from politeness.origin_state import CONNECTION_CODES, OriginReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from address_policy import SourceUrl
    from async_database import AsyncDatabase
    from politeness.origin_queue import OriginQuery, Renewal, Terms

RENEW_SECONDS: Final = 1.0
SPACING_SECONDS: Final = 0.02  # hosts that turn up one after the other share a renewal
PURGE_SECONDS: Final = 60.0
RELEASE_SECONDS: Final = 2.0  # at the end; leases do it otherwise
_LEASE_SHARE: Final = 0.9  # clocks don't run alike: what we take a lease for is shorter
_REFUSALS: Final = frozenset({429, 503})  # whose Retry-After is meant for everybody

logger = logging.getLogger(__name__)


class OriginGate:
    """Slots for downloads. `run` has to run beside them, `release` ends it all."""

    def __init__(
        self, database: AsyncDatabase, terms: Terms, *, renew_seconds: float = RENEW_SECONDS
    ) -> None:
        self._database = database
        self._terms = terms
        self._renew_seconds = min(renew_seconds, terms.lease_seconds / 3)
        self._worker = uuid.uuid4().hex
        self._hosts: dict[str, Host] = {}
        self._origins: dict[str, Origin] = {}
        self._wake = asyncio.Event()
        self._next_tick = 0.0
        self._renewal: asyncio.Task[None] | None = None
        self._is_draining = False

    @asynccontextmanager
    async def slot(self, source: SourceUrl) -> AsyncIterator[Visit]:
        """Hold one of the host's slots, waiting until one is free; the visit watches the download.

        Raises PostponedError where the origin asked for a pause or the gate drains, and ImageError
        where the origin is known not to answer.
        """
        origin = self._origin(source)
        origin.enter()
        if not origin.is_known:
            self._hurry(origin)
        visit = Visit(self, origin)
        try:
            host = await self._enter(visit)
            try:
                yield visit
            except ImageError as error:
                visit.error = error
                raise
            finally:
                self._conclude(visit)
                self._give(host)
        finally:
            origin.leave()

    def drain(self) -> None:
        """Let nobody in any more; who waits gets PostponedError."""
        self._is_draining = True
        for host in self._hosts.values():
            host.refuse(_closed())
        for origin in self._origins.values():
            origin.announce()

    async def run(self) -> None:
        """Renew what downloads need until cancelled. Outlives a database that is away."""
        next_purge = monotonic() + PURGE_SECONDS
        while True:
            await self._wait()
            pause = SPACING_SECONDS
            try:
                await self._renew()
                if monotonic() >= next_purge:
                    await self._database.run(origin_queue.purge)
                    next_purge = monotonic() + PURGE_SECONDS
            except DatabaseUnavailableError as error:
                logger.warning("slots of origins wait for the database: %s", error)
                pause = self._renew_seconds
            except Exception:  # without it no download would begin any more
                logger.exception("renewing slots of origins")
                pause = self._renew_seconds
            await asyncio.sleep(pause)

    async def release(self) -> None:
        """Give every slot back; `run` has ended."""
        if self._renewal is None:  # nothing was ever taken
            return
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await asyncio.gather(self._renewal, return_exceptions=True)
                await self._database.run(origin_queue.release, self._worker)
        except (DatabaseUnavailableError, TimeoutError):
            logger.warning("slots of origins are free when their leases end")

    # Entering and leaving

    async def _enter(self, visit: Visit) -> Host:
        """Return the host whose slot was taken, once the origin may be asked as well."""
        while True:
            host = await self._take(visit.origin.host)
            news = visit.origin.news
            try:
                if self._may_ask(visit):
                    return host
            except ServiceError:
                self._give(host)
                raise
            # Without the slot, for it may take long, and the host may have other ports.
            self._give(host)
            with metrics.WAITING_FOR_ORIGIN.track_inprogress():
                await news.wait()

    def _may_ask(self, visit: Visit) -> bool:
        """Tell whether the origin may be asked now; False means at its next news."""
        origin = visit.origin
        origin.check()
        if origin.has_probe:
            origin.has_probe = False
            origin.is_probing = visit.is_probe = True
            return True
        if not origin.is_known:
            return False
        state = origin.state
        if state.needs_probe and not origin.wants_probe:
            origin.wants_probe = True
            self._hurry(origin)
        return not state.is_broken

    async def _take(self, name: str) -> Host:
        if self._is_draining:
            raise _closed()
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(name)
        if host.grows_short and host.limit < self._terms.capacity:
            self._hurry(host)
        with metrics.WAITING_FOR_HOST.track_inprogress():
            await host.take()
        return host

    def _give(self, host: Host) -> None:
        if host.in_use > host.limit:  # it is one too many, and others wait for it
            self._hurry(host)
        host.give()

    def _origin(self, source: SourceUrl) -> Origin:
        authority = _authority(source)
        origin = self._origins.get(authority)
        if origin is None:
            origin = self._origins[authority] = Origin(source.host, authority)
        return origin

    # What downloads met

    def _conclude(self, visit: Visit) -> None:
        """Take in how a visit ended."""
        if visit.is_probe:
            visit.origin.is_probing = False
            self._tell(visit.origin, OriginReport(is_probed=True))
        error, source = visit.error, visit.source
        if source is None:
            return
        origin = self._origin(source)
        if not visit.is_answered:
            if error and error.code in CONNECTION_CODES:
                self._tell(origin, OriginReport(failures=1, code=error.code))
        elif error and error.http_status in _REFUSALS and error.retry_after:
            self._tell(origin, OriginReport(pause_seconds=error.retry_after, code=error.code))
        elif origin.state.refusals:
            self._tell(origin, OriginReport(is_served=True))

    def _tell(self, origin: Origin, report: OriginReport) -> None:
        """Note a report, and hand it on at once where it changes what others may do."""
        origin.tell(report, open_seconds=self._terms.open_seconds)
        if report.is_probed or report.is_answered or report.pause_seconds or origin.state.is_broken:
            self._hurry(origin)

    def check_redirect(self, source: SourceUrl) -> None:
        """Raise what keeps us from an origin that another leads to; for any thread."""
        if origin := self._origins.get(_authority(source)):
            origin.check()

    def answered(self, source: SourceUrl, loop: asyncio.AbstractEventLoop) -> None:
        """Close the breaker of an origin that answers; for any thread."""
        origin = self._origins.get(_authority(source))
        if origin and origin.state.failures:
            loop.call_soon_threadsafe(self._tell, origin, OriginReport(is_answered=True))

    # Renewing

    def _hurry(self, what: Host | Origin) -> None:
        what.is_due = True
        self._wake.set()

    async def _wait(self) -> None:
        """Return when something is due: all together once a time, the urgent at once."""
        seconds = max(0.0, self._next_tick - monotonic()) if self._hosts or self._origins else None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _renew(self) -> None:
        is_tick = monotonic() >= self._next_tick
        if is_tick:
            self._next_tick = monotonic() + self._renew_seconds
        hosts = [host for host in self._hosts.values() if is_tick or host.is_due]
        origins = [origin for origin in list(self._origins.values()) if is_tick or origin.is_due]
        # In a task of its own, so that a cancellation leaves no transaction behind unnoticed.
        exchange = self._exchange(hosts, origins, is_tick=is_tick)
        self._renewal = asyncio.create_task(exchange)
        await asyncio.shield(self._renewal)

    async def _exchange(self, hosts: list[Host], origins: list[Origin], *, is_tick: bool) -> None:
        began_at = monotonic()
        demands = {host: host.ask(is_tick=is_tick) for host in hosts}
        queries = {origin: origin.ask(is_tick=is_tick) for origin in origins}
        try:
            renewal = await self._database.run(
                origin_queue.renew,
                self._worker,
                list(demands.values()),
                list(queries.values()),
                self._terms,
            )
        except BaseException:
            for origin, query in queries.items():
                origin.take_back(query)
            raise
        expires_at = began_at + _LEASE_SHARE * self._terms.lease_seconds
        self._learn(renewal, queries, expires_at)
        for host, demand in demands.items():
            host.renew(renewal.limits.get(host.name, 0), expires_at)
            if not demand.wanted and not host.peak:
                del self._hosts[host.name]
            elif host.held < demand.held:  # we said that we would hold more than we do now
                self._hurry(host)

    def _learn(
        self, renewal: Renewal, queries: dict[Origin, OriginQuery], expires_at: float
    ) -> None:
        for origin in queries:
            origin.learn(
                renewal.origins[origin.authority],
                has_probe=origin.authority in renewal.probes,
                expires_at=expires_at,
            )
            if origin.is_idle:
                del self._origins[origin.authority]


class Visit:
    """One download as the gate sees it; the downloader tells it whom it asks and who answers."""

    def __init__(self, gate: OriginGate, origin: Origin) -> None:
        self._answered = partial(gate.answered, loop=asyncio.get_running_loop())
        self._check_redirect = gate.check_redirect
        self.origin = origin
        self.is_probe = False
        self.source: SourceUrl | None = None
        self.is_answered = False
        self.error: ImageError | None = None

    def asks(self, source: SourceUrl) -> None:
        """Note whom the download asks next; raises where it is led to an origin it may not ask."""
        if self.source is not None:
            self._check_redirect(source)
        self.source = source
        self.is_answered = False

    def answers(self) -> None:
        """Note that an HTTP answer has come."""
        self.is_answered = True
        if self.source is not None:
            self._answered(self.source)


def _authority(source: SourceUrl) -> str:
    host = f"[{source.host}]" if ":" in source.host else source.host
    return f"{host}:{source.port}"


def _closed() -> PostponedError:
    return PostponedError("the worker is stopping", 0.0)
