"""Places for connections: how many there are, and who gives way when there is none left.

A connection that we wait for costs its client nothing, so it may not keep another one out: the one
that we have waited for longest gives way, be it silent, or slow with its headers, its body or in
reading. So a newcomer, being the youngest, has time for its request however many crowd in with it.
What we work on ourselves is never touched.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from enum import IntEnum
from typing import Final

MAX_CONNECTIONS: Final = 512  # at once
LOWEST_RATE: Final = 16 * 1024  # bytes a second; a transfer that is slower gives way
SETTLING_SECONDS: Final = 5.0  # before a transfer's rate is judged


class ConnectionOverError(Exception):
    """There is nobody to answer: the client is gone, too slow, or had to give way."""


class Phase(IntEnum):
    """What a connection is at."""

    IDLE = 0  # no request yet, or no further one
    HEAD = 1  # a request line, and headers that are not complete
    RECEIVING = 2  # a body
    SENDING = 3  # a piece of a response
    WORKING = 4


class Place:
    """One connection's place. Its thread enters phases and counts `moved` bytes in each."""

    def __init__(self, connection: socket.socket, changed: threading.Condition) -> None:
        self.phase = Phase.IDLE
        self.moved = 0
        self.is_revoked = False
        self._since = time.monotonic()
        self._connection = connection
        self._changed = changed

    def enter(self, phase: Phase) -> None:
        """Begin a phase. Raises ConnectionOverError when the place was lost.

        Who loses it while sending a body may go on to say why.
        """
        with self._changed:
            if self.is_revoked and self.phase is not Phase.RECEIVING:
                raise ConnectionOverError
            if self.is_revoked:
                return
            if phase is not Phase.HEAD:  # it has been waited for since it was idle
                self.moved, self._since = 0, time.monotonic()
            self.phase = phase
            self._changed.notify_all()

    def waits_since(self, now: float) -> float | None:
        """Return since when its client lets us wait; None if it doesn't."""
        seconds = now - self._since
        is_moving = seconds < SETTLING_SECONDS or self.moved >= seconds * LOWEST_RATE
        if self.phase is Phase.WORKING or (self.phase > Phase.HEAD and is_moving):
            return None
        return self._since

    def revoke(self) -> None:
        """Wake the connection's thread up to its end. Only with the lock, while it has its place.

        Then the socket can't have been closed, and its number be another's already.
        """
        self.is_revoked = True
        may_answer = self.phase is Phase.RECEIVING
        with suppress(OSError):  # the client was quicker
            self._connection.shutdown(socket.SHUT_RD if may_answer else socket.SHUT_RDWR)


class ConnectionPlaces:
    """All places; shared by the thread that accepts and those that serve."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: set[Place] = set()

    def take(self, connection: socket.socket) -> Place | None:
        """Return a place, another's if need be; None when all are at work."""
        with self._changed:
            if len(self._taken) >= MAX_CONNECTIONS and not self._make_room():
                return None
            place = Place(connection, self._changed)
            self._taken.add(place)
            return place

    def leave(self, place: Place) -> None:
        """Give a place back, before its socket is closed."""
        with self._changed:
            self._taken.discard(place)
            self._changed.notify_all()

    def wait_until_quiet(self, seconds: float) -> None:
        """Return when no request is being answered, or after so long."""
        with self._changed:
            self._changed.wait_for(self._is_quiet, seconds)

    def _is_quiet(self) -> bool:
        return all(place.phase <= Phase.HEAD for place in self._taken)

    def _make_room(self) -> bool:
        now = time.monotonic()
        waiting = {place: place.waits_since(now) for place in self._taken}
        since = {place: begun for place, begun in waiting.items() if begun is not None}
        if not since:
            return False
        victim = min(since, key=since.__getitem__)
        victim.revoke()
        self._taken.remove(victim)
        return True
