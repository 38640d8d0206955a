"""How slowly bytes may come and go, by a clock of the tests' own."""

from __future__ import annotations

import socket
import threading

import pytest

from errors import HttpError
from httpd import http_transfer
from httpd.connection_places import LOWEST_RATE, Place
from httpd.http_transfer import (
    GRACE_SECONDS,
    WINDOW_BYTES,
    WINDOW_SECONDS,
    ArrivingBody,
    Pace,
    SocketReader,
)
from tests.waiting import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock that transfers go by."""
    clock = Clock()
    monkeypatch.setattr(http_transfer, "time", clock)
    return clock


def test_a_window_is_earned_byte_by_byte(clock: Clock) -> None:
    """The next window begins when this one's bytes are there, not before."""
    pace = Pace(10 * WINDOW_BYTES)
    clock.now += 1
    pace.count(WINDOW_BYTES - 1)
    assert pace.deadline == 1000 + WINDOW_SECONDS
    pace.count(1)
    assert pace.deadline == 1001 + WINDOW_SECONDS


def test_what_came_quickly_earns_no_right_to_stall(clock: Clock) -> None:
    """After most of a large body at once, there is one window for what comes next."""
    pace = Pace(50 * 2**20)
    for _ in range(1000):
        pace.count(WINDOW_BYTES)
    assert pace.deadline == 1000 + WINDOW_SECONDS


def test_the_whole_has_its_time(clock: Clock) -> None:
    """Who keeps to every window still has to end, in proportion to the length."""
    seconds = GRACE_SECONDS + WINDOW_SECONDS
    pace = Pace(int(LOWEST_RATE * (seconds - GRACE_SECONDS)))
    while clock.now < 1000 + seconds - WINDOW_SECONDS / 2:
        clock.now += WINDOW_SECONDS / 2
        pace.count(WINDOW_BYTES)
    assert pace.deadline == 1000 + seconds


def test_a_body_whose_place_is_lost_at_its_end_is_refused() -> None:
    """Between the last byte and the work on it, too: without a place nothing is worked on."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        place = Place(mine, threading.Condition())
        theirs.sendall(b"abc")
        body = iter(ArrivingBody(3, SocketReader(mine, lambda: None), place, lambda: None))
        assert next(body) == b"abc"
        place.revoke()
        with pytest.raises(HttpError) as caught:
            next(body)
    assert caught.value.status == 503
    assert int(caught.value.headers["Retry-After"]) > 0
