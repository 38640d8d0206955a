"""Which thread answers whom: what is quick by one, what waits by others, idle ones by none."""

from __future__ import annotations

import gc
import math
import threading
from contextlib import ExitStack
from http.client import HTTPConnection, RemoteDisconnected
from typing import TYPE_CHECKING, Final

import pytest

from httpd import connection_threads
from httpd.http_connection import HttpHandler
from httpd.http_protocol import json_response
from httpd.http_server import HttpServer
from tests.waiting import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from httpd.http_protocol import Request, Response

MANY: Final = 3 * connection_threads.SPARE_THREADS


class Site:
    """A server whose answers tell their thread; those of some paths wait until they may end."""

    def __init__(self, server: HttpServer, stack: ExitStack) -> None:
        self.server = server
        self.may_end = threading.Event()
        self.begun = threading.Semaphore(0)
        self._stack = stack
        self._address = ("127.0.0.1", server.server_port)
        server.start(self._answer)

    def _answer(self, request: Request) -> Response:
        assert all(request.body)
        if request.path == "/waits":
            request.before_waiting()
        if request.path in {"/waits", "/hangs"}:
            self.begun.release()
            assert self.may_end.wait(PATIENCE_SECONDS)
        return json_response(threading.get_ident())

    def connect(self) -> HTTPConnection:
        """Return a connection, to be closed at the end."""
        connection = HTTPConnection(*self._address, timeout=PATIENCE_SECONDS)
        self._stack.callback(connection.close)
        connection.connect()
        return connection

    def kept(self) -> int:
        """Return of how many connections something is in memory."""
        handlers = [thing for thing in gc.get_objects() if isinstance(thing, HttpHandler)]
        return sum(handler._site is self.server for handler in handlers)

    def begin(self, path: str) -> HTTPConnection:
        """Ask for what doesn't end yet, and wait until its answer has begun."""
        connection = self.connect()
        connection.request("GET", path)
        assert self.begun.acquire(timeout=PATIENCE_SECONDS)
        return connection

    def is_watched(self, *, so: bool) -> None:
        """Have answers that hang in the lead be noticed at once, or never."""
        self.server._next_look = 0.0 if so else math.inf


def thread_of(connection: HTTPConnection, path: str = "/") -> int:
    """Ask and return which thread answered."""
    connection.request("GET", path)
    return read(connection)


def read(connection: HTTPConnection) -> int:
    """Return which thread gave the next answer."""
    with connection.getresponse() as response:
        return int(response.read())


def threads() -> int:
    """Return how many threads are there to answer."""
    return sum(thread.name == "http" for thread in threading.enumerate())


@pytest.fixture
def without_gc() -> Iterator[None]:
    """Leave to reference counts alone what is freed."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def site() -> Iterator[Site]:
    """Run a server of the test's own."""
    wait_until(lambda: threads() == 0)  # of an earlier test's
    with ExitStack() as stack, HttpServer("127.0.0.1", 0) as server:
        site = Site(server, stack)
        site.is_watched(so=False)
        yield site
        site.may_end.set()
        server.drain(PATIENCE_SECONDS)


def test_one_thread_answers_what_is_quick(site: Site) -> None:
    """However many connections there are, their answers don't go from thread to thread."""
    connections = [site.connect() for _ in range(MANY)]
    assert len({thread_of(connection) for connection in connections * 2}) == 1


def test_idle_connections_have_no_thread(site: Site) -> None:
    """Neither before nor after a request."""
    before = threads()
    connections = [site.connect() for _ in range(MANY)]
    for connection in connections[::2]:
        thread_of(connection)
    assert threads() == before


@pytest.mark.usefixtures("without_gc")
@pytest.mark.parametrize(
    ("path", "headers"),
    [("/", {}), ("/waits", {}), ("/", {"Connection": "close"}), ("/", {"Expect": "100-continue"})],
)
def test_nothing_is_left_of_a_connection(site: Site, path: str, headers: dict[str, str]) -> None:
    """Its memory is free at once; in a large process the garbage collector comes but seldom."""
    site.may_end.set()
    for _ in range(MANY):
        connection = site.connect()
        connection.request("PUT", path, b"a", headers)
        assert read(connection)
        connection.close()
    # The newest, which stays in a variable of the thread that leads.
    assert thread_of(site.connect())
    wait_until(lambda: site.kept() == 1)


def test_what_waits_delays_no_other(site: Site) -> None:
    """Each answer that waits has a thread; others are given meanwhile, and by one thread."""
    waiting = [site.begin("/waits") for _ in range(MANY)]
    quick = {thread_of(site.connect()) for _ in range(3)}
    site.may_end.set()
    slow = {read(connection) for connection in waiting}
    assert len(quick) == 1
    assert len(slow) == MANY
    assert not quick & slow


def test_a_connection_goes_on_after_an_answer_that_waited(site: Site) -> None:
    """Its next request is waited for like any other's."""
    site.may_end.set()
    connection = site.connect()
    for path in ("/waits", "/", "/waits", "/waits", "/"):
        thread_of(connection, path)
    assert thread_of(site.connect()) == thread_of(connection)


def test_threads_that_are_too_many_end(site: Site) -> None:
    """A crowd of answers that waited leaves but some spare threads behind."""
    waiting = [site.begin("/waits") for _ in range(MANY)]
    assert threads() > MANY
    site.may_end.set()
    for connection in waiting:
        read(connection)
    # The one that leads, the spare ones, and the one that accepts.
    wait_until(lambda: threads() <= connection_threads.SPARE_THREADS + 2)
    assert thread_of(waiting[0])


def test_an_answer_that_hangs_loses_the_lead(site: Site) -> None:
    """Whoever didn't say that it waits, as on a disk that hangs, delays others for a moment."""
    site.is_watched(so=True)
    hanging = site.begin("/hangs")
    other = thread_of(site.connect())
    site.may_end.set()
    assert read(hanging) != other


def test_after_one_that_hung_the_next_delays_nobody(site: Site) -> None:
    """Where one hangs others will: for a while each answer has a thread from its beginning."""
    site.is_watched(so=True)
    hanging = site.begin("/hangs")
    thread_of(site.connect())
    site.is_watched(so=False)
    hanging_too = site.begin("/hangs")
    assert thread_of(site.connect())
    site.may_end.set()
    assert read(hanging) != read(hanging_too)


def test_requests_that_come_at_once_delay_no_other(site: Site) -> None:
    """A connection whose next request is there already is answered beside the others."""
    connection = site.connect()
    connection.sock.sendall(
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /hangs HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert site.begun.acquire(timeout=PATIENCE_SECONDS)
    assert thread_of(site.connect())


def test_without_a_thread_who_would_wait_is_closed(
    monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    """When the system has no thread left others are answered, and it again once there is one."""
    start, failures = threading.Thread.start, [RuntimeError("no thread")]

    def fail_once(thread: threading.Thread) -> None:
        if failures:
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail_once)
    unlucky = site.connect()
    with pytest.raises(RemoteDisconnected):
        thread_of(unlucky, "/waits")
    assert thread_of(site.connect())
    assert site.begin("/waits")
    assert not failures


def test_threads_end_with_the_server(site: Site) -> None:
    """Also those that followed, and while a connection is kept."""
    kept = site.begin("/waits")
    site.may_end.set()
    read(kept)
    site.server.drain(PATIENCE_SECONDS)
    wait_until(lambda: threads() == 0)
