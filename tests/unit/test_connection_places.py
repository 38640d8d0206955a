"""Who gives way when there is no place left, by a clock of the tests' own."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from httpd import connection_places
from httpd.connection_places import (
    LOWEST_RATE,
    SETTLING_SECONDS,
    ConnectionOverError,
    ConnectionPlaces,
    Phase,
    Place,
)
from tests.waiting import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IDLE, HEAD, RECEIVING, SENDING, WORKING = Phase
LONG = 10 * SETTLING_SECONDS
QUICK = 2 * LONG * LOWEST_RATE  # bytes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock that places go by; there are two places."""
    clock = Clock(step=1.0)
    monkeypatch.setattr(connection_places, "time", clock)
    monkeypatch.setattr(connection_places, "MAX_CONNECTIONS", 2)
    return clock


@pytest.fixture
def connect() -> Iterator[Callable[[], socket.socket]]:
    """Give a function that makes one end of a connection."""
    pairs: list[tuple[socket.socket, socket.socket]] = []

    def make() -> socket.socket:
        pairs.append(socket.socketpair())
        return pairs[-1][0]

    yield make
    for pair in pairs:
        for end in pair:
            end.close()


def _take(
    places: ConnectionPlaces, connection: socket.socket, phase: Phase, moved: float = 0
) -> Place:
    place = places.take(connection)
    assert place
    place.enter(phase)
    place.moved = int(moved)
    return place


@pytest.mark.parametrize(
    ("first", "second", "revoked"),
    [
        ((IDLE, 0), (IDLE, 0), 0),
        ((IDLE, 0), (HEAD, 0), 0),
        ((HEAD, 0), (IDLE, 0), 0),
        ((HEAD, 0), (HEAD, 0), 0),
        ((RECEIVING, 0), (IDLE, 0), 0),
        ((SENDING, 0), (HEAD, 0), 0),
        ((HEAD, 0), (SENDING, 0), 0),
        ((RECEIVING, QUICK), (IDLE, 0), 1),
        ((SENDING, QUICK), (RECEIVING, 0), 1),
        ((WORKING, 0), (HEAD, 0), 1),
        ((WORKING, 0), (SENDING, 0), 1),
        ((WORKING, 0), (WORKING, 0), None),
        ((WORKING, 0), (RECEIVING, QUICK), None),
        ((SENDING, QUICK), (WORKING, 0), None),
    ],
)
def test_who_is_waited_for_longest_gives_way(
    clock: Clock,
    connect: Callable[[], socket.socket],
    first: tuple[Phase, float],
    second: tuple[Phase, float],
    revoked: int | None,
) -> None:
    """Whatever it is that we wait for; who works or is quick stays."""
    places = ConnectionPlaces()
    taken = [_take(places, connect(), *first), _take(places, connect(), *second)]
    clock.now += LONG
    assert (places.take(connect()) is None) == (revoked is None)
    assert [place.is_revoked for place in taken] == [n == revoked for n in range(2)]


def test_each_newcomer_takes_another_place(
    clock: Clock, connect: Callable[[], socket.socket]
) -> None:
    """Who gave way has no place any more that could be taken."""
    places = ConnectionPlaces()
    taken = [_take(places, connect(), IDLE), _take(places, connect(), IDLE)]
    assert all(places.take(connect()) for _ in taken)
    assert all(place.is_revoked for place in taken)


def test_headers_are_waited_for_since_the_connection_was_idle(
    clock: Clock, connect: Callable[[], socket.socket]
) -> None:
    """A first byte after a long silence makes nobody a newcomer."""
    places = ConnectionPlaces()
    silent, younger = places.take(connect()), places.take(connect())
    assert silent
    assert younger
    silent.enter(HEAD)
    assert places.take(connect())
    assert (silent.is_revoked, younger.is_revoked) == (True, False)


def test_a_transfer_has_time_to_settle(clock: Clock, connect: Callable[[], socket.socket]) -> None:
    """A body that has just begun is not called slow."""
    places = ConnectionPlaces()
    for _ in range(2):
        _take(places, connect(), RECEIVING)
    assert places.take(connect()) is None


def test_whose_place_is_revoked_wakes_up(
    clock: Clock, connect: Callable[[], socket.socket]
) -> None:
    """Its thread reads the end, and may begin nothing more."""
    places, connection = ConnectionPlaces(), connect()
    place = _take(places, connection, IDLE)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(connection.recv(1)))
    reader.start()
    for _ in range(2):
        assert places.take(connect())
    reader.join(10)
    assert read == [b""]
    with pytest.raises(ConnectionOverError):
        place.enter(HEAD)


def test_whose_body_is_given_up_may_be_told(
    clock: Clock, connect: Callable[[], socket.socket]
) -> None:
    """A slow body reads its end, and an answer can still be sent."""
    places, connection = ConnectionPlaces(), connect()
    place = _take(places, connection, RECEIVING)
    _take(places, connect(), WORKING)
    clock.now += LONG
    assert places.take(connect())
    assert place.is_revoked
    assert connection.recv(1) == b""
    place.enter(SENDING)
    assert connection.send(b"why") == 3


def test_a_place_that_is_left_is_free(clock: Clock, connect: Callable[[], socket.socket]) -> None:
    """Nobody gives way to one for whom there is room."""
    places = ConnectionPlaces()
    idle = _take(places, connect(), IDLE)
    places.leave(_take(places, connect(), IDLE))
    assert places.take(connect())
    assert not idle.is_revoked


def test_a_connection_that_is_gone_already_gives_way(
    clock: Clock, connect: Callable[[], socket.socket]
) -> None:
    """A socket that can't be shut down any more is no reason to refuse the next."""
    places, connection = ConnectionPlaces(), connect()
    _take(places, connection, IDLE)
    _take(places, connect(), WORKING)
    connection.close()
    assert places.take(connect())
