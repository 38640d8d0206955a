"""The watchdog of sockets: who waits too long is freed, nobody else is touched."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

import watched_connection
from watched_connection import StatementWatchdog, WatchedSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 30.0

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Give two ends of a connection; a read on it waits for ever."""
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def watchdog(monkeypatch: pytest.MonkeyPatch) -> StatementWatchdog:
    """Give a watchdog that looks often."""
    monkeypatch.setattr(watched_connection, "CHECK_SECONDS", 0.02)
    return StatementWatchdog()


def test_a_call_that_takes_too_long_ends(
    watchdog: StatementWatchdog, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """Its socket is shut down, so that the read returns as at the end of a connection."""
    near, _ = pair
    watched = watchdog.watch(near.fileno())
    near.settimeout(PATIENCE_SECONDS)
    started = time.monotonic()
    with watched.limit(0.2):
        assert near.recv(1) == b""
    assert 0.2 <= time.monotonic() - started < PATIENCE_SECONDS
    assert "no answer for 0.2 s" in caplog.text


def test_calls_in_time_are_left_alone(watchdog: StatementWatchdog, pair: Pair) -> None:
    """Neither one under way that has time nor the silence between calls is ended."""
    near, far = pair
    idle, other = socket.socketpair()
    with idle, other:
        watched = watchdog.watch(near.fileno())
        with watched.limit(0.05):
            pass
        sentinel = watchdog.watch(idle.fileno())
        idle.settimeout(PATIENCE_SECONDS)
        with watched.limit(PATIENCE_SECONDS), sentinel.limit(0.3):
            assert idle.recv(1) == b""  # by now the first would have been ended many times
    far.sendall(b"x")
    assert near.recv(1) == b"x"


def test_a_failed_call_is_over_too(watchdog: StatementWatchdog, pair: Pair) -> None:
    """An exception leaves no limit behind."""
    near, _ = pair
    watched = watchdog.watch(near.fileno())
    with pytest.raises(ArithmeticError), watched.limit(0):
        raise ArithmeticError
    watched.shut_if_overdue()
    near.sendall(b"x")


def test_a_closed_socket_is_nobody_s(pair: Pair) -> None:
    """Its descriptor may be another connection's by now."""
    near, far = pair
    watched = WatchedSocket(near.fileno())
    with watched.limit(-1):
        watched.close()
        watched.shut_if_overdue()
    near.sendall(b"x")
    assert far.recv(1) == b"x"


def test_a_socket_that_was_let_go_is_not_watched(watchdog: StatementWatchdog, pair: Pair) -> None:
    """Whoever forgets to close a connection keeps no descriptor open."""
    near, far = pair
    watched = watchdog.watch(near.fileno())
    near.close()
    del watched
    far.settimeout(PATIENCE_SECONDS)
    assert far.recv(1) == b""


def test_the_thread_survives_a_socket_that_fails(
    watchdog: StatementWatchdog, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """One connection that can't be shut down doesn't leave all others alone."""
    near, _ = pair
    unconnected = socket.socket()
    with unconnected:
        broken = watchdog.watch(unconnected.fileno())
        with broken.limit(0):
            watched = watchdog.watch(near.fileno())
            near.settimeout(PATIENCE_SECONDS)
            with watched.limit(0.3):
                assert near.recv(1) == b""
    assert "could not be shut down" in caplog.text
