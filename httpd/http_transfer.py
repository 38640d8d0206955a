"""Bytes over one socket under deadlines: how slowly they may come and go, a request's body.

Owns the time limits of a transfer. `http_connection` says what is read and sent,
`connection_places` who gives way while it goes slowly.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from errors import HttpError
from httpd.connection_places import LOWEST_RATE, ConnectionOverError, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from httpd.connection_places import Place

WINDOW_SECONDS: Final = 30.0  # in which WINDOW_BYTES move, or all that is left
WINDOW_BYTES: Final = 32 * 1024
GRACE_SECONDS: Final = 60.0  # on top of what LOWEST_RATE grants to the whole
PIECE_BYTES: Final = 64 * 1024
GIVEN_WAY_SECONDS: Final = 10  # after which a body that gave way may come again
_OPTIONS: Final = {
    "TCP_NODELAY": 1,
    # Else megabytes wait in the kernel for a slow reader, who so seems to be quick.
    "TCP_NOTSENT_LOWAT": 128 * 1024,
    # Milliseconds in which what waits there has to move, also when we have closed our end.
    "TCP_USER_TIMEOUT": 60_000,
}
_MORE: Final = getattr(socket, "MSG_MORE", 0)  # Linux; others send a packet more
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Pace:
    """How slowly a peer may send or take so many bytes.

    Each WINDOW_SECONDS move WINDOW_BYTES or all that is left, so that what came quickly earns no
    right to stall; and the whole has GRACE_SECONDS beside its time at LOWEST_RATE.
    """

    def __init__(self, length: int) -> None:
        now = time.monotonic()
        self._end = now + GRACE_SECONDS + length / LOWEST_RATE
        self._window_end = now + WINDOW_SECONDS
        self._window_left = WINDOW_BYTES

    @property
    def deadline(self) -> float:
        """When the next byte is too late, on the monotonic clock."""
        return min(self._end, self._window_end)

    def count(self, moved: int) -> None:
        """Take note of bytes that moved."""
        self._window_left -= moved
        if self._window_left <= 0:
            self._window_left = WINDOW_BYTES
            self._window_end = time.monotonic() + WINDOW_SECONDS


class SocketReader:
    """Reads a socket up to a deadline on the monotonic clock, however slowly it trickles.

    It calls `before_waiting` when nothing is there, and before nothing else.
    """

    def __init__(self, connection: socket.socket, before_waiting: Callable[[], None]) -> None:
        self._connection = connection
        self._before_waiting = before_waiting
        self._received = b""  # and not read yet
        self.deadline = 0.0

    @property
    def holds_more(self) -> bool:
        """Whether something was received and not read yet."""
        return bool(self._received)

    def receive(self) -> None:
        """Take what has come, if anything has. Raises ConnectionOverError at the end."""
        with suppress(BlockingIOError):
            received = self._connection.recv(PIECE_BYTES)
            if not received:
                raise ConnectionOverError
            self._received += received

    def read(self, at_most: int) -> bytes:
        """Return some bytes, none at the end.

        Raises TimeoutError, and ConnectionOverError when all is lost.
        """
        return self._take(at_most) if self._received else self._read_socket(at_most)

    def read_line(self, at_most: int) -> bytes:
        """Return what comes up to a line feed, so many bytes, or the end. Raises as `read` does."""
        while not (end := self._received.find(b"\n", 0, at_most) + 1):
            if len(self._received) >= at_most or not (piece := self._read_socket(PIECE_BYTES)):
                break
            self._received += piece
        return self._take(end or at_most)

    def _take(self, at_most: int) -> bytes:
        taken, self._received = self._received[:at_most], self._received[at_most:]
        return taken

    def _read_socket(self, at_most: int) -> bytes:
        try:
            while True:
                try:
                    return self._connection.recv(at_most)
                except BlockingIOError:
                    self._before_waiting()
                    _wait_for(self._connection, select.POLLIN, self.deadline)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionOverError from error


class ArrivingBody:
    """The body of a request as it comes from the socket; `begin` is called before it is read."""

    def __init__(
        self, length: int | None, reader: SocketReader, place: Place, begin: Callable[[], None]
    ) -> None:
        self.length = length
        self._left = length or 0
        self._reader = reader
        self._place = place
        self._begin = begin

    @property
    def is_read(self) -> bool:
        """Whether the next request on the connection starts where we stand."""
        return self._left == 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body. Raises HttpError 400 when it is cut short, 408 when it is too slow.

        503 when it was slow and another connection needed its place.
        """
        self._begin()
        self._place.enter(Phase.RECEIVING)
        pace = Pace(self._left)
        while self._left:
            self._reader.deadline = pace.deadline
            piece = self._read()
            pace.count(len(piece))
            self._place.moved += len(piece)
            self._left -= len(piece)
            yield piece
        try:
            self._place.enter(Phase.WORKING)
        except ConnectionOverError:  # revoked since its last byte was read
            raise _given_way() from None

    def _read(self) -> bytes:
        try:
            with self._place.waiting():
                piece = self._reader.read(min(PIECE_BYTES, self._left))
        except TimeoutError:
            raise HttpError(
                HTTPStatus.REQUEST_TIMEOUT,
                "the body arrived too slowly: the least is "
                f"{WINDOW_BYTES // 1024} KiB in each {WINDOW_SECONDS:g} s",
            ) from None
        if self._place.is_revoked:
            raise _given_way()
        if not piece:
            raise HttpError(
                HTTPStatus.BAD_REQUEST,
                "the body ended before its Content-Length; send it again whole",
            )
        return piece


class SocketWriter:
    """Sends over a socket, however slowly its peer takes it, within a pace.

    In which phase is the caller's business: a response is one, however many pieces it has. It calls
    `before_waiting` like the reader.
    """

    def __init__(
        self, connection: socket.socket, place: Place, before_waiting: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._place = place
        self._before_waiting = before_waiting
        for name, value in _OPTIONS.items():
            if option := getattr(socket, name, None):  # not every system has all of them
                connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def send(self, data: bytes | memoryview, pace: Pace, *, goes_on: bool = False) -> None:
        """Send all of it. Raises ConnectionOverError when it is not taken.

        What `goes_on` waits in the kernel for what comes next, to fill its last packet.
        """
        rest = memoryview(data)
        flags = _MORE if goes_on else 0
        while rest:
            rest = rest[self._move(pace, self._connection.send, rest, flags) :]

    def send_file(self, file: int, start: int, end: int, pace: Pace) -> None:
        """Send bytes of an open file, which the kernel copies by itself.

        Raises OSError when the file ends before, and ConnectionOverError like `send`.
        """
        connection = self._connection.fileno()
        while start < end:
            moved = self._move(pace, os.sendfile, connection, file, start, end - start)
            if not moved:
                raise OSError("the file was cut meanwhile")
            start += moved

    def _move(self, pace: Pace, send: Callable[..., int], *arguments: Any) -> int:
        """Return how much the kernel took; waits until that is something."""
        try:
            while True:
                try:
                    moved = send(*arguments)
                    break
                except BlockingIOError:
                    self._before_waiting()
                    with self._place.waiting():
                        _wait_for(self._connection, select.POLLOUT, pace.deadline)
        except OSError as error:
            # What waits in the kernel for a client that doesn't read goes at once, too.
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            raise ConnectionOverError from error
        pace.count(moved)
        self._place.moved += moved
        return moved


def _given_way() -> HttpError:
    return HttpError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "there are too many connections, and this one was slow; try again later",
        headers={"Retry-After": str(GIVEN_WAY_SECONDS)},
    )


def _wait_for(connection: socket.socket, event: int, deadline: float) -> None:
    """Wait until a socket can be read or written. Raises TimeoutError at the deadline."""
    left = deadline - time.monotonic()
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(connection, event)
    if left <= 0 or not poll.poll(1000 * left):
        raise TimeoutError
