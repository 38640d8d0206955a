"""Threads for connections: one leads, others follow or are with an answer that takes long.

Whoever leads waits for all connections at once and answers one after the other by itself: to hand
each to another thread costs more than the answer, as both then want Python's lock. Before an answer
would wait for something, its thread leaves the lead to a follower and goes on with that connection
alone. So there are as many threads as connections that we wait with, and none for idle ones.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from httpd.connection_places import ConnectionOverError

if TYPE_CHECKING:
    from collections.abc import Callable

    from httpd.http_connection import HttpHandler

SPARE_THREADS: Final = 8  # that follow; others end after their answer
WARY_SECONDS: Final = 10.0  # in which each answer has a thread, after one that kept the lead

logger = logging.getLogger(__name__)


class ConnectionThreads:
    """Answers the requests of connections; hands those that are over to `close`."""

    def __init__(self, close: Callable[[HttpHandler], None]) -> None:
        self._close = close
        self._selector = selectors.DefaultSelector()
        self._stopped, self._stop = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self._lead = threading.Lock()
        self._changing = threading.Lock()  # what follows
        self._followers = 0
        self._answered_by_lead: socket.socket | None = None
        self._answers = 0  # that were begun in the lead
        self._answers_seen = -1
        self._wary_until = 0.0

    def start(self) -> None:
        """Begin to answer. Raises RuntimeError when the system has no thread."""
        with self._changing:
            self._add_follower()

    def stop(self) -> None:
        """Take no further request; what is being answered goes on."""
        self._stop.close()

    def add(self, handler: HttpHandler) -> None:
        """Answer the next request of a connection when it comes, or close it if we can't wait."""
        try:
            self._selector.register(handler.connection, selectors.EVENT_READ, handler)
        except OSError:  # the system has no room for one more
            self._close(handler)

    def leave_lead(self, connection: socket.socket) -> None:
        """Let others be answered while this one waits. Raises ConnectionOverError without a thread.

        Does nothing where it is answered beside the lead already.
        """
        with self._changing:
            if self._answered_by_lead is not connection:
                return
            if not self._followers:
                try:
                    self._add_follower()
                except RuntimeError as error:  # the system has no thread left
                    raise ConnectionOverError from error
            self._selector.unregister(connection)
            self._answered_by_lead = None
        self._lead.release()

    def check(self) -> None:
        """Take the lead from an answer that keeps it since the last call: a disk may hang."""
        connection = self._answered_by_lead
        if connection and self._answers == self._answers_seen:
            self._wary_until = time.monotonic() + WARY_SECONDS
            with suppress(ConnectionOverError):
                self.leave_lead(connection)
        self._answers_seen = self._answers

    def _add_follower(self) -> None:
        threading.Thread(target=self._run, name="http", daemon=True).start()
        self._followers += 1

    def _run(self) -> None:
        while True:
            self._lead.acquire()
            with self._changing:
                self._followers -= 1
            if not self._answer_all():
                self._lead.release()
                return
            with self._changing:
                if self._followers >= SPARE_THREADS:
                    return
                self._followers += 1

    def _answer_all(self) -> bool:
        """Answer in the lead until an answer has left it; False when we are stopped before."""
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return False
                if not self._answer(key.data):
                    return True

    def _answer(self, handler: HttpHandler) -> bool:
        """Answer what has come on a connection; tell whether we still lead."""
        self._answers += 1
        self._answered_by_lead = handler.connection
        try:
            if self._wary_until and time.monotonic() < self._wary_until:
                with suppress(ConnectionOverError):
                    self.leave_lead(handler.connection)
            handler.handle()
        except Exception:
            logger.exception("connection failed")
            handler.close_connection = True
        with self._changing:
            leads = self._answered_by_lead is handler.connection
            if leads:
                self._answered_by_lead = None
                if handler.close_connection:
                    self._selector.unregister(handler.connection)
        if handler.close_connection:
            self._close(handler)
        elif not leads:
            self.add(handler)
        return leads
