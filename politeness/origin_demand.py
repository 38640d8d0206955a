"""What one worker wants of hosts and origins, and what it knows of them from renewal to renewal.

Owns the waiting for a host's slots, and the errors of an origin that may not be asked. Renewing
is `origin_gate`'s. Lives in one event loop; `Origin.state` and `Origin.check` may be used in any
thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from errors import ErrorCode, ImageError, ServiceError
from politeness.origin_queue import HostDemand, OriginQuery
from politeness.origin_state import PAUSES_TO_COUNT, OriginReport, OriginState

if TYPE_CHECKING:
    from asyncio import Future


class PostponedError(ServiceError):
    """A download may not begin now, but in so many `seconds`; its image has no part in that."""

    def __init__(self, detail: str, seconds: float) -> None:
        super().__init__(detail)
        self.seconds = seconds


class Host:
    """A host, and the slots of it that this worker has.

    Downloads may begin as long as fewer than `limit` are under way, until the lease is over.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.limit = 0
        self.in_use = 0
        self.peak = 0  # of what was wanted since the last tick: demand comes in gusts
        self.is_due = False
        self._waiting: deque[Future[None]] = deque()
        self._told_wanted = 0
        self._expires_at = 0.0

    @property
    def wanted(self) -> int:
        """How many downloads there would be if all could begin."""
        return self.in_use + len(self._waiting)

    @property
    def held(self) -> int:
        """How many downloads may be under way now."""
        return max(self.in_use, self.limit if monotonic() < self._expires_at else 0)

    @property
    def grows_short(self) -> bool:
        """Whether one more would have to wait although all that was asked for was given."""
        return not self._has_room and self._told_wanted <= self.limit

    @property
    def _has_room(self) -> bool:
        return self.in_use < self.limit and monotonic() < self._expires_at

    async def take(self) -> None:
        """Take a slot, first come first served. Raises what `refuse` is given."""
        self.peak = max(self.peak, self.wanted + 1)
        if self._has_room and not self._waiting:
            self.in_use += 1
            return
        turn: Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting.remove(turn)
            if not turn.cancelled():  # it had its slot already
                self.give()
            raise

    def give(self) -> None:
        """Give a slot back."""
        self.in_use -= 1
        self._admit()

    def refuse(self, error: ServiceError) -> None:
        """Turn away all who wait."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)

    def ask(self, *, is_tick: bool) -> HostDemand:
        """Return what to ask for now; a host that was not wanted for a tick gives up its limit."""
        self.is_due = False
        self._told_wanted = self.peak
        if not self.peak:
            self.limit = 0
        if is_tick:
            self.peak = self.wanted
        return HostDemand(self.name, self._told_wanted, self.held)

    def renew(self, limit: int, expires_at: float) -> None:
        """Take in the answer to the last `ask`."""
        self.limit = limit
        self._expires_at = expires_at
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._has_room:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_use += 1
                turn.set_result(None)


class Origin:
    """An origin, and what is known of it.

    `users` are images on their way to it or waiting for it; `news` is set, and replaced, when
    there is something new to know.
    """

    def __init__(self, host: str, authority: str) -> None:
        self.host = host
        self.authority = authority
        self.users = 0
        self.is_due = False
        self._was_used = True  # since the last tick
        self._is_unused = False  # from one tick to the next
        self.wants_probe = False
        self.has_probe = False  # somebody may go in and make it
        self.is_probing = False  # somebody does
        self.news = asyncio.Event()
        self._unsent: OriginReport | None = None
        self._known = (OriginState(), 0.0)  # and when that was
        self._expires_at = 0.0

    @property
    def state(self) -> OriginState:
        """What is known, as of now."""
        state, at = self._known
        return state.after(monotonic() - at)

    @property
    def is_known(self) -> bool:
        """Whether the other workers' news are in it."""
        return monotonic() < self._expires_at

    @property
    def is_idle(self) -> bool:
        """Whether it may be forgotten: not used for a tick, and nothing keeps us from it."""
        state = self.state
        is_quiet = state.pause_seconds <= 0 and state.open_seconds <= 0
        return is_quiet and self._is_unused and not self.users and not self._unsent

    def check(self) -> None:
        """Raise what keeps us from asking it now.

        A pause is no attempt at an image: PostponedError. Only one that follows upon others
        without end is, and so is a breaker that is open: ImageError, or no request would end.
        """
        state = self.state
        if state.pause_seconds > 0 and state.refusals < PAUSES_TO_COUNT:
            raise PostponedError(f"{self.host} asked for a pause", state.pause_seconds)
        if state.pause_seconds > 0:
            raise ImageError(
                state.code or ErrorCode.RATE_LIMITED,
                f"{self.host} asks for one pause after the other, so it was not asked again.",
                retry_after=state.pause_seconds,
            )
        if state.is_broken and state.open_seconds > 0:
            raise ImageError(
                state.code or ErrorCode.CONNECT_ERROR,
                f"{self.host} did not answer for other images, so it was not asked again.",
                retry_after=state.open_seconds,
            )

    def enter(self) -> None:
        """Count an image that wants something of it."""
        self.users += 1
        self._was_used, self._is_unused = True, False

    def leave(self) -> None:
        """Count it no more."""
        self.users -= 1

    def announce(self) -> None:
        """Wake all who wait for news."""
        self.news.set()
        self.news = asyncio.Event()

    def tell(self, report: OriginReport, *, open_seconds: float) -> None:
        """Take in what a download met; it counts here at once, and is to be sent."""
        self._unsent = self._unsent.then(report) if self._unsent else report
        self._known = (self.state.told(report, open_seconds=open_seconds), monotonic())
        self.announce()

    def ask(self, *, is_tick: bool) -> OriginQuery:
        """Return what to ask and to tell now."""
        self.is_due = False
        if is_tick:
            self._is_unused, self._was_used = not self._was_used, self.users > 0
        report, self._unsent = self._unsent, None
        return OriginQuery(
            self.host,
            self.authority,
            report,
            wants_probe=self.wants_probe,
            is_probing=self.has_probe or self.is_probing,
        )

    def take_back(self, query: OriginQuery) -> None:
        """Keep what could not be told."""
        if query.report:
            self._unsent = query.report.then(self._unsent) if self._unsent else query.report

    def learn(self, state: OriginState, *, has_probe: bool, expires_at: float) -> None:
        """Take in the answer to the last `ask`, and what has happened since."""
        if self._unsent:
            state = state.told(self._unsent, open_seconds=self.state.open_seconds)
        self._known = (state, monotonic())
        self._expires_at = expires_at
        self.wants_probe = False
        self.has_probe |= has_probe
        self.announce()
