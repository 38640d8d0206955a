"""Places for connections: how many there are, and who gives way when there is none left.

A connection that we wait for costs its client nothing, so it may not keep another one out: the one
that we have waited for longest gives way, be it silent, or slow with its headers, its body or in
reading. So a newcomer, being the youngest, has time for its request however many crowd in with it.
What we work on ourselves is never touched, nor is a transfer that goes on at the LOWEST_RATE.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

LOWEST_RATE: Final = 16 * 1024  # bytes a second; a transfer that is slower gives way
_NOT_SENT: Final = struct.Struct("=144xI")  # tcpi_notsent_bytes of Linux's struct tcp_info


class ConnectionOverError(Exception):
    """There is nobody to answer: the client is gone, too slow, or had to give way."""


class Phase(IntEnum):
    """What a connection is at."""

    IDLE = 0  # no request yet, or no further one
    HEAD = 1  # a request line, and headers that are not complete
    RECEIVING = 2  # a body
    SENDING = 3  # a response
    WORKING = 4


class Place:
    """One connection's place. Who answers it enters phases and counts `moved` bytes in each."""

    def __init__(self, connection: socket.socket, changed: threading.Condition) -> None:
        self.phase = Phase.WORKING  # until it is waited for
        self.moved = 0
        self.is_revoked = False
        self._waited = 0.0  # seconds in this phase, without the wait that goes on since `_since`
        self._since: float | None = None
        self._connection = connection
        self._changed = changed

    def enter(self, phase: Phase) -> None:
        """Begin a phase. Raises ConnectionOverError when the place was lost.

        Who loses it while sending a body may go on to be told why.
        """
        with self._changed:
            if self.is_revoked and (self.phase, phase) != (Phase.RECEIVING, Phase.SENDING):
                raise ConnectionOverError
            if phase is not Phase.HEAD:  # it has been waited for since it was idle
                self.moved, self._waited = 0, 0.0
                self._since = time.monotonic() if phase is Phase.IDLE else None
            self.phase = phase
            if phase is Phase.IDLE:
                self._changed.notify_all()  # who waits until it is quiet

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as the client's; of a transfer, all else is our own."""
        self._since = begun = time.monotonic()
        try:
            yield
        finally:
            self._since = None
            self._waited += time.monotonic() - begun

    def seconds_waited(self, now: float) -> float | None:
        """Return for how long its client has let us wait; None if it doesn't.

        What a transfer has moved pays for its time, by the LOWEST_RATE.
        """
        if (since := self._since) is None:
            return None
        seconds = self._waited + now - since
        if self.phase > Phase.HEAD:
            seconds -= max(0, self.moved - _not_sent(self._connection)) / LOWEST_RATE
        return seconds if seconds >= 0 else None

    def revoke(self) -> None:
        """Wake up whoever has the connection. Only with the lock, while it has its place.

        Then the socket can't have been closed, and its number be another's already.
        """
        self.is_revoked = True
        may_answer = self.phase is Phase.RECEIVING
        with suppress(OSError):  # the client was quicker
            self._connection.shutdown(socket.SHUT_RD if may_answer else socket.SHUT_RDWR)


class ConnectionPlaces:
    """So many places; shared by the thread that accepts and those that serve."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._changed = threading.Condition()
        self._taken: set[Place] = set()

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, connection: socket.socket) -> Place | None:
        """Return a place, another's if need be; None when all are at work."""
        with self._changed:
            if len(self._taken) >= self._count and not self._make_room():
                return None
            place = Place(connection, self._changed)
            self._taken.add(place)
            return place

    def leave(self, place: Place) -> None:
        """Give a place back, before its socket is closed."""
        with self._changed:
            self._taken.discard(place)
            self._changed.notify_all()

    def make_room(self) -> None:
        """Have somebody give way, if anybody lets us wait, whether or not all places are taken."""
        with self._changed:
            self._make_room()

    def make_room_of_idle(self, seconds: float) -> None:
        """Have those give way that have been idle for so long, whether or not anybody comes."""
        now = time.monotonic()
        with self._changed:
            for place in list(self._taken):
                if place.phase is Phase.IDLE and (place.seconds_waited(now) or 0) > seconds:
                    self._revoke(place)

    def wait_until_quiet(self, seconds: float) -> bool:
        """Wait so long at most until no request is being answered; tell whether it is so."""
        with self._changed:
            return self._changed.wait_for(self._is_quiet, seconds)

    def _is_quiet(self) -> bool:
        return all(place.phase <= Phase.HEAD for place in self._taken)

    def _make_room(self) -> bool:
        now = time.monotonic()
        waited = {place: place.seconds_waited(now) for place in self._taken}
        seconds = {place: value for place, value in waited.items() if value is not None}
        if not seconds:
            return False
        victim = max(seconds, key=seconds.__getitem__)
        self._revoke(victim)
        metrics.CONNECTIONS_DISPLACED.inc()
        return True

    def _revoke(self, place: Place) -> None:
        place.revoke()
        self._taken.remove(place)


def _not_sent(connection: socket.socket) -> int:
    """Return how much the kernel keeps until the peer has room for it; 0 where it doesn't tell.

    Otherwise a client that reads nothing would seem to take at once what is buffered for it.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _NOT_SENT.size)
            if len(information) == _NOT_SENT.size:
                return int(_NOT_SENT.unpack(information)[0])
    return 0
