"""Who gives way when there is no place left, by a clock of the tests' own."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from httpd import connection_places
from httpd.connection_places import (
    LOWEST_RATE,
    ConnectionOverError,
    ConnectionPlaces,
    Phase,
    Place,
)
from tests.counting import Counting
from tests.waiting import PATIENCE_SECONDS, Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

IDLE, HEAD, RECEIVING, SENDING, WORKING = Phase
LONG = 50  # seconds
SLACK = 5  # more than the clock goes on by itself between two steps of a test
QUICK = 2 * LONG * LOWEST_RATE  # bytes
FRESH = (IDLE, 0)


class Trial:
    """Two places, and connections that want one."""

    def __init__(self, stack: ExitStack) -> None:
        self.places = ConnectionPlaces(2)
        self._stack = stack

    def connect(self) -> socket.socket:
        """Return one end of a connection."""
        mine, theirs = socket.socketpair()
        self._stack.enter_context(mine)
        self._stack.enter_context(theirs)
        return mine

    def is_let_in(self) -> bool:
        """Have a newcomer ask for a place."""
        return self.places.take(self.connect()) is not None

    def take(
        self, phase: Phase, moved: int = 0, *, connection: socket.socket | None = None
    ) -> Place:
        """Take a place and enter a phase; a transfer waits for its client from then on."""
        place = self.places.take(connection or self.connect())
        assert place
        place.enter(IDLE)
        if phase is not IDLE:
            place.enter(phase)
        if phase in {RECEIVING, SENDING}:
            place.moved = moved
            self._stack.enter_context(place.waiting())
        return place


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock that places go by."""
    clock = Clock(step=1.0)
    monkeypatch.setattr(connection_places, "time", clock)
    return clock


@pytest.fixture
def trial() -> Iterator[Trial]:
    """Give two places that nobody has yet."""
    with ExitStack() as stack:
        yield Trial(stack)


@pytest.mark.parametrize(
    ("first", "second", "revoked"),
    [
        (FRESH, FRESH, 0),
        (FRESH, (HEAD, 0), 0),
        ((HEAD, 0), FRESH, 0),
        ((HEAD, 0), (HEAD, 0), 0),
        ((RECEIVING, 0), FRESH, 0),
        ((SENDING, 0), (HEAD, 0), 0),
        ((HEAD, 0), (SENDING, 0), 0),
        ((RECEIVING, QUICK), FRESH, 1),
        ((SENDING, QUICK), (RECEIVING, 0), 1),
        ((WORKING, 0), (HEAD, 0), 1),
        ((WORKING, 0), (SENDING, 0), 1),
        ((WORKING, 0), (WORKING, 0), None),
        ((WORKING, 0), (RECEIVING, QUICK), None),
        ((SENDING, QUICK), (WORKING, 0), None),
    ],
)
@pytest.mark.parametrize("age", [0, LONG])
def test_who_is_waited_for_longest_gives_way(
    trial: Trial,
    clock: Clock,
    first: tuple[Phase, int],
    second: tuple[Phase, int],
    revoked: int | None,
    age: int,
) -> None:
    """Whatever it is that we wait for, and however young it is; who works or is quick stays."""
    taken = [trial.take(*first), trial.take(*second)]
    clock.now += age
    assert trial.is_let_in() == (revoked is not None)
    assert [place.is_revoked for place in taken] == [n == revoked for n in range(2)]


def test_who_gives_way_is_counted(trial: Trial) -> None:
    """And who finds no place leaves all of them as they are."""
    trial.take(IDLE)
    with Counting() as counted:
        trial.take(WORKING)
        assert trial.is_let_in()
        assert len(trial.places) == 2
    assert counted.by == {("http_connections_displaced_total",): 1}


def test_each_newcomer_takes_another_place(trial: Trial) -> None:
    """Who gave way has no place any more that could be taken."""
    taken = [trial.take(IDLE), trial.take(IDLE)]
    assert all(trial.is_let_in() for _ in taken)
    assert all(place.is_revoked for place in taken)


def test_headers_are_waited_for_since_the_connection_was_idle(trial: Trial) -> None:
    """A first byte after a long silence makes nobody a newcomer."""
    silent, younger = trial.take(IDLE), trial.take(IDLE)
    silent.enter(HEAD)
    assert trial.is_let_in()
    assert (silent.is_revoked, younger.is_revoked) == (True, False)


def test_nobody_waits_for_the_start_of_our_own_thread(trial: Trial) -> None:
    """Who was let in, but whose thread has not begun to read, does not give way."""
    assert trial.is_let_in()
    idle = trial.take(IDLE)
    assert trial.is_let_in()
    assert idle.is_revoked
    assert not trial.is_let_in()


def test_our_own_work_on_a_transfer_is_not_its_client_s(trial: Trial, clock: Clock) -> None:
    """While our store or disk keeps a transfer waiting it stays, and it is no older for that."""
    transfer, other = trial.take(WORKING), trial.take(WORKING)
    transfer.enter(SENDING)
    with transfer.waiting():
        pass
    clock.now += LONG
    assert not trial.is_let_in()
    trial.places.leave(other)
    idle = trial.take(IDLE)
    clock.now += 2 * SLACK
    with transfer.waiting():
        assert trial.is_let_in()
    assert (transfer.is_revoked, idle.is_revoked) == (False, True)


def test_what_a_transfer_moved_pays_for_its_time(trial: Trial, clock: Clock) -> None:
    """Who fell a little behind the lowest rate is not waited for as long as who did nothing."""
    transfer = trial.take(RECEIVING, (LONG - SLACK) * LOWEST_RATE)
    clock.now += LONG - 3 * SLACK
    idle = trial.take(IDLE)
    clock.now += 3 * SLACK
    assert trial.is_let_in()
    assert (transfer.is_revoked, idle.is_revoked) == (False, True)


def test_a_transfer_s_waits_add_up(trial: Trial, clock: Clock) -> None:
    """Who lets us wait for a little again and again has let us wait for long."""
    transfer = trial.take(WORKING)
    transfer.enter(RECEIVING)
    for _ in range(2):
        with transfer.waiting():
            clock.now += LONG
    idle = trial.take(IDLE)
    transfer.moved = LONG * LOWEST_RATE
    with transfer.waiting():
        assert trial.is_let_in()
    assert (transfer.is_revoked, idle.is_revoked) == (True, False)


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="the system doesn't tell")
def test_what_is_buffered_for_a_client_is_not_taken_by_it(trial: Trial) -> None:
    """A client that reads nothing seems quick only to who asks how much the kernel takes."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(0)
            buffered = connection.send(bytes(2**20))
            assert buffered > SLACK * LOWEST_RATE
            reader = trial.take(SENDING, buffered, connection=connection)
            trial.take(WORKING)
            assert trial.is_let_in()
            assert reader.is_revoked


def test_whose_place_is_revoked_wakes_up(trial: Trial) -> None:
    """Its thread reads the end, and may begin nothing more."""
    connection = trial.connect()
    place = trial.take(IDLE, connection=connection)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(connection.recv(1)))
    reader.start()
    for _ in range(2):
        assert trial.is_let_in()
    reader.join(10)
    assert read == [b""]
    with pytest.raises(ConnectionOverError):
        place.enter(HEAD)


def test_whose_body_is_given_up_may_be_told(trial: Trial) -> None:
    """A slow body reads its end, and an answer can still be sent, but only one."""
    connection = trial.connect()
    place = trial.take(RECEIVING, connection=connection)
    trial.take(WORKING)
    assert trial.is_let_in()
    assert place.is_revoked
    assert connection.recv(1) == b""
    place.enter(SENDING)
    assert connection.send(b"why") == 3
    for phase in Phase:
        with pytest.raises(ConnectionOverError):
            place.enter(phase)


@pytest.mark.parametrize("phase", [IDLE, HEAD, RECEIVING, WORKING])
def test_whose_body_is_given_up_goes_on_with_nothing_else(trial: Trial, phase: Phase) -> None:
    """As when the place was lost between the last byte and our work on it."""
    place = trial.take(RECEIVING)
    trial.take(WORKING)
    assert trial.is_let_in()
    with pytest.raises(ConnectionOverError):
        place.enter(phase)


def test_a_place_that_is_left_is_free(trial: Trial) -> None:
    """Nobody gives way to one for whom there is room."""
    idle = trial.take(IDLE)
    trial.places.leave(trial.take(IDLE))
    assert trial.is_let_in()
    assert not idle.is_revoked


def test_room_is_made_before_all_places_are_taken(trial: Trial) -> None:
    """As when the process can't take a connection for another reason; one gives way."""
    idle = trial.take(IDLE)
    trial.places.make_room()
    assert idle.is_revoked
    trial.places.make_room()


def test_who_was_idle_for_long_gives_way(trial: Trial, clock: Clock) -> None:
    """Whether or not anybody comes; who is at anything else keeps to its own time."""
    places = trial.take(IDLE), trial.take(SENDING)
    trial.places.make_room_of_idle(LONG)
    assert [place.is_revoked for place in places] == [False, False]
    clock.now += LONG + SLACK
    trial.places.make_room_of_idle(LONG)
    assert [place.is_revoked for place in places] == [True, False]


def test_a_connection_that_is_gone_already_gives_way(trial: Trial) -> None:
    """A socket that can't be shut down any more is no reason to refuse the next."""
    connection = trial.connect()
    trial.take(IDLE, connection=connection)
    trial.take(WORKING)
    connection.close()
    assert trial.is_let_in()


@pytest.mark.parametrize(
    ("phase", "is_quiet"),
    [(IDLE, True), (HEAD, True), (RECEIVING, False), (SENDING, False), (WORKING, False)],
)
def test_quiet_is_when_no_request_is_answered(
    trial: Trial,
    phase: Phase,
    is_quiet: bool,  # noqa: FBT001  # parametrize passes it
) -> None:
    """Of any connection; those without a whole request are not waited for."""
    trial.take(phase)
    trial.take(IDLE)
    assert trial.places.wait_until_quiet(0) == is_quiet


def test_a_connection_whose_thread_has_not_begun_is_not_quiet(trial: Trial) -> None:
    """Its request may be there already."""
    assert trial.is_let_in()
    assert not trial.places.wait_until_quiet(0)


def test_the_end_of_an_answer_is_noticed(trial: Trial) -> None:
    """Who waits for quiet is woken up also by a connection that stays."""
    place = trial.take(WORKING)
    waiter = threading.Thread(
        target=trial.places.wait_until_quiet, args=(10 * PATIENCE_SECONDS,), daemon=True
    )
    waiter.start()
    waiter.join(0.1)
    place.enter(IDLE)
    waiter.join(PATIENCE_SECONDS)
    assert not waiter.is_alive()


def test_what_moved_before_does_not_count(trial: Trial, clock: Clock) -> None:
    """A quick body gives nobody the right to be slow in reading the answer."""
    place = trial.take(WORKING)
    place.enter(RECEIVING)
    place.moved = QUICK
    place.enter(WORKING)
    trial.take(WORKING)
    place.enter(SENDING)
    with place.waiting():
        clock.now += LONG
        assert trial.is_let_in()
