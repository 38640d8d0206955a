"""A connection to PostgreSQL on which no call waits for ever.

libpq waits for an answer without a limit. The kernel gives up a TCP peer that is gone, but a
server that is stopped, or whose disk hangs, keeps its connections alive, and a unix socket has no
time-out at all. So a thread looks after the calls under way, and shuts the socket of an overdue
one down: the call then fails as if the connection were lost. How long is too long is
`database_helper`'s business.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from psycopg2.extensions import connection as Connection  # noqa: N812  # it is a class

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

CHECK_SECONDS: Final = 0.5

logger = logging.getLogger(__name__)


class WatchedSocket:
    """The socket of one connection, held by a descriptor of its own; `close` it with that."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._lock = threading.Lock()  # a descriptor that was closed may be somebody else's
        self._seconds = self._overdue_at = math.inf

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Let the call in the block take so long, give or take CHECK_SECONDS."""
        self._seconds, self._overdue_at = seconds, time.monotonic() + seconds
        try:
            yield
        finally:
            self._overdue_at = math.inf

    def shut_if_overdue(self) -> None:
        """End the call under way if its time is over.

        One that ends by itself in this very moment may be hit: then the next call fails.
        """
        if time.monotonic() < self._overdue_at:
            return
        self._overdue_at = math.inf
        logger.warning("PostgreSQL gave no answer for %g s: leaving the connection", self._seconds)
        with self._lock:
            if self._socket.fileno() >= 0:
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Watch no longer."""
        with self._lock:
            self._socket.close()


class StatementWatchdog:
    """The thread. There is one for all connections of the process; it starts with the first."""

    def __init__(self) -> None:
        self._sockets: WeakSet[WatchedSocket] = WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, descriptor: int) -> WatchedSocket:
        """Return the socket behind a connection's descriptor, watched as long as it is kept."""
        watched = WatchedSocket(descriptor)
        with self._lock:
            self._sockets.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()
        return watched

    def _run(self) -> None:
        while True:
            time.sleep(CHECK_SECONDS)
            with self._lock:
                sockets = list(self._sockets)
            for watched in sockets:
                try:
                    watched.shut_if_overdue()
                except Exception:  # without this thread a hanging server would hang all others
                    logger.exception("a connection could not be shut down")


_watchdog: Final = StatementWatchdog()


class WatchedConnection(Connection):
    """A connection of psycopg2; `seconds` is the longest that a call on it may take.

    Connecting itself is held to libpq's `connect_timeout`, from the first packet to the last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds = math.inf
        self._watched = _watchdog.watch(self.fileno())

    def limit(self) -> AbstractContextManager[None]:
        """Hold the calls in the block to their time."""
        return self._watched.limit(self.seconds)

    def commit(self) -> None:
        """Commit, in time."""
        with self.limit():
            super().commit()

    def rollback(self) -> None:
        """Roll back, in time."""
        with self.limit():
            super().rollback()

    def close(self) -> None:
        """Say good-bye, in time, and close the socket."""
        with self.limit():
            super().close()
        self._watched.close()
