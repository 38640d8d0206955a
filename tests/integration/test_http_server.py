"""HTTP over raw sockets of loopback: what is answered, refused, and cut off."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import socket
import socketserver
import struct
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from errors import HttpError, ImageError
from httpd import connection_places, http_connection, http_server, http_transfer
from httpd.connection_places import Phase
from httpd.http_protocol import Request, Response, json_response
from httpd.http_server import HttpServer
from storage.local_file import FilePart, open_file
from tests.counting import Counting
from tests.waiting import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
LEAK = "select 1 from /etc/passwd"
HUGE_PIECES = 512  # of PIECE_BYTES: more than any socket buffers
CUT_BYTES = 100_000
HUGE_BYTES = HUGE_PIECES * http_transfer.PIECE_BYTES
# Their lengths as they are found, and once they are open.
FILES = {
    "file": (HUGE_BYTES, HUGE_BYTES),
    "empty": (0, 0),
    "cut": (HUGE_BYTES, CUT_BYTES),
    "clipped": (1000, 100),
}

FIXED = {
    "/split": Response(HTTPStatus.OK, b"", {"X-A": "b\r\nSet-Cookie: c"}),
    "/short": Response(HTTPStatus.OK, [b"abc"], {"Content-Length": "4"}),
    "/long": Response(HTTPStatus.OK, [b"abc", b"defg"], {"Content-Length": "4"}),
    "/unread": json_response({}),
    "/unchanged": Response(HTTPStatus.NOT_MODIFIED, b"", {"ETag": '"1"'}),
}


def post(body: bytes, *headers: bytes) -> bytes:
    """Return a POST with further header lines."""
    lines = [b"POST /echo HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


@dataclass(frozen=True)
class Answer:
    """One response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which has to be JSON."""
        return json.loads(self.body)

    def assert_problem(self, status: int, *, is_last: bool = True) -> None:
        """Check that this is an RFC 9457 document, which ends the connection or doesn't."""
        assert (self.status, self.headers["content-type"]) == (status, "application/problem+json")
        assert self.json["status"] == status
        assert {"type", "title", "detail"} <= self.json.keys()
        assert all(isinstance(self.json[name], str) for name in ("type", "title", "detail"))
        assert ("connection" in self.headers) == is_last


class Client:
    """A connection to a server, byte by byte."""

    def __init__(self, server: HttpServer) -> None:
        self.sock = socket.create_connection(("127.0.0.1", server.server_port), PATIENCE_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.sock.close()

    def ask(self, data: bytes, *, has_body: bool = True) -> Answer:
        """Send bytes and read one response."""
        self.sock.sendall(data)
        return self.read(has_body=has_body)

    def read(self, *, has_body: bool = True) -> Answer:
        """Read the next response."""
        status = self._file.readline().split()
        assert status, "the connection was closed without an answer"
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0)) if has_body else 0
        body = self._file.read(length)
        assert len(body) == length
        return Answer(int(status[1]), headers, body)

    def rest(self) -> bytes:
        """Read up to the connection's end."""
        return self._file.read()

    def is_closed(self) -> bool:
        """Wait for the server's end of the connection; False when there is more to read."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


class Site:
    """A few paths to ask for, and what became of the last answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.was_dropped = threading.Event()
        self.leave = threading.Event()
        self.torn_by = Exception()

    def answer(self, request: Request) -> Response:
        """Answer as the path says."""
        match request.path:
            case "/echo":
                return _echo(request)
            case "/broken":
                raise RuntimeError(LEAK)
            case "/refused":
                raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not this", headers={"X-A": "b"})
            case "/judged":
                assert all(request.body)
                raise HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, "not that")
            case "/huge":
                length = str(HUGE_BYTES)
                return Response(HTTPStatus.OK, self._huge(), {"Content-Length": length})
            case "/file" | "/empty" | "/cut" | "/clipped":
                return self._file(request)
            case "/late":
                assert all(request.body)
                assert self.leave.wait(PATIENCE_SECONDS)
                return json_response({})
            case "/torn":
                return Response(HTTPStatus.OK, self._torn(), {"Content-Length": "4"})
        if request.path in FIXED:
            return FIXED[request.path]
        raise HttpError(HTTPStatus.NOT_FOUND, "nothing here")

    def _file(self, request: Request) -> Response:
        name = request.path.removeprefix("/")
        length, cut_to = FILES[name]
        (self._folder / name).write_bytes(b"")
        os.truncate(self._folder / name, length)
        request.closing.callback(self.was_dropped.set)
        descriptor, _ = open_file(
            self._folder.parent, f"{self._folder.name}/{name}", request.closing
        )
        os.truncate(self._folder / name, cut_to)
        part = FilePart(descriptor, 0, length)
        return Response(HTTPStatus.OK, part, {"Content-Length": str(length)})

    def _torn(self) -> Iterator[bytes]:
        yield b"abc"
        raise self.torn_by

    def _huge(self) -> Iterator[bytes]:
        try:
            for _ in range(HUGE_PIECES):
                yield bytes(http_transfer.PIECE_BYTES)
        finally:
            self.was_dropped.set()


def _echo(request: Request) -> Response:
    body = b"".join(request.body).decode("latin-1")
    return json_response(
        {"method": request.method, "path": request.path, "query": request.query, "body": body}
    )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Give what the servers answer with."""
    with tempfile.TemporaryDirectory() as folder:
        yield Site(Path(folder))


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[HttpServer]:
    """Run a server with the limits as they are."""
    with _running(site) as running:
        yield running


@pytest.fixture
def client(server: HttpServer) -> Iterator[Client]:
    """Give a connection to it."""
    with Client(server) as connection:
        yield connection


@contextmanager
def _running(site: Site) -> Iterator[HttpServer]:
    """Run a server of the block's own, so that a test may turn its limits down first."""
    with HttpServer("127.0.0.1", 0) as server:
        server.start(site.answer)
        try:
            yield server
        finally:
            server.drain(0)


def test_connection_is_kept(client: Client) -> None:
    """One connection carries one request after the other, with bodies and without."""
    for body in (b"", b"abc", b""):
        answer = client.ask(post(body))
        assert (answer.status, answer.json["body"]) == (200, body.decode())
        assert "connection" not in answer.headers
        assert client.ask(GET).json["method"] == "GET"


def assert_common_headers(answer: Answer) -> None:
    """Check what every response has: its date, and what keeps browsers from harm."""
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["date"].endswith(" GMT")


@pytest.mark.parametrize(
    "request_bytes", [GET, b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", b"?\r\n"]
)
def test_common_headers(client: Client, request_bytes: bytes) -> None:
    """Answers, refusals and what is said to bytes that are no request have the same headers."""
    assert_common_headers(client.ask(request_bytes))


def test_pipelined_requests_are_answered_in_turn(client: Client) -> None:
    """Requests that are sent without waiting get their answers in their order."""
    client.sock.sendall(post(b"1") + post(b"22") + GET)
    assert [client.read().json["body"] for _ in range(3)] == ["1", "22", ""]


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (b"GET  /echo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(GET), 404),
    ],
)
def test_nothing_is_answered_after_what_was_not_read(
    client: Client, refused: bytes, status: int
) -> None:
    """What follows a request that isn't understood, or whose body isn't read, may be its body."""
    client.sock.sendall(refused + GET)
    client.read().assert_problem(status)
    assert client.is_closed()


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (post(b"abc").replace(b"/echo", b"/judged"), 422),
    ],
)
def test_a_refusal_of_what_was_read_keeps_the_connection(
    client: Client, refused: bytes, status: int
) -> None:
    """Who asks again and again need not connect anew each time that the answer is no."""
    for _ in range(2):
        client.ask(refused).assert_problem(status, is_last=False)
        assert client.ask(GET).status == 200


@pytest.mark.parametrize(
    ("request_bytes", "is_kept"),
    [
        (b"GET /echo HTTP/1.0\r\n\r\n", False),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", False),
        (b"GET /echo HTTP/1.1\r\nHost:a\r\n\r\n", True),
        (b"\r\nGET /echo HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET http://a/echo HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET HTTP://A/echo HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET /echo HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", True),
        (b"GET /echo HTTP/1.2\r\nHost: a\r\n\r\n", True),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", True),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nX:\tb \xe9 \t\r\n\r\n", True),
        (b"GET /echo HTTP/1.0\r\nExpect: 200-ok\r\nConnection: keep-alive\r\n\r\n", False),
        (b"GET /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nGET / HTT", False),
        (b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", False),
    ],
)
def test_connection_ends_when_it_has_to(
    client: Client,
    request_bytes: bytes,
    is_kept: bool,  # noqa: FBT001  # parametrize passes it
) -> None:
    """HTTP/1.0, a wish to close and an unread body end the connection; nothing else does."""
    answer = client.ask(request_bytes)
    assert answer.status == 200
    assert ("connection" not in answer.headers) == is_kept
    if is_kept:
        assert client.ask(GET).status == 200
    else:
        assert client.is_closed()


def test_query_is_decoded(client: Client) -> None:
    """The query's fields arrive decoded, beside a path as it was sent."""
    answer = client.ask(b"GET /echo?a=%C3%BC+b&c= HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.json["query"] == {"a": "ü b", "c": ""}
    assert answer.json["path"] == "/echo"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /echo HTTP/1.1\nHost: a\n\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nX: bc\n\r\n", 400),
        (b"G" * 1_000_000 + b" /echo HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"\r\n" * 16_384, 414),
        (b"GET /echo HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\n" + b"X: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nX: " + b"b" * 16_384 + b"\r\n\r\n", 431),
        (b"GET /echo?" + b"a" * 16_384 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", 417),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    ],
)
def test_malformed_request_is_refused(client: Client, request_bytes: bytes, status: int) -> None:
    """What is not exactly HTTP/1.1 gets a problem document and the end of the connection.

    What the parser alone refuses is in its own tests.
    """
    client.ask(request_bytes).assert_problem(status)
    assert client.is_closed()


def test_headers_up_to_the_limit_are_taken(client: Client) -> None:
    """Request line and headers may have 16 KiB together, not one byte more."""
    room = 16 * 1024 - len(GET) - len(b"X: \r\n")
    start = GET.removesuffix(b"\r\n")
    assert client.ask(start + b"X: " + b"b" * room + b"\r\n\r\n").status == 200
    client.ask(start + b"X: " + b"b" * (room + 1) + b"\r\n\r\n").assert_problem(431)


def test_headers_that_end_too_early_are_no_request(client: Client) -> None:
    """A connection that ends within the headers asked for nothing."""
    client.sock.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\n")
    client.sock.shutdown(socket.SHUT_WR)
    client.read().assert_problem(400)


def test_headers_that_trickle_are_cut_off(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    """A byte now and then does not keep a connection open for longer than the headers may take."""
    monkeypatch.setattr(http_connection, "HEADER_SECONDS", 0.3)
    with _running(site) as server, Client(server) as client:
        client.sock.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\nX: ")
        _trickle_until_cut_off(client)
        assert client.is_closed()


def test_idle_connection_is_cut_off(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    """A connection that asks for nothing, at first or after a request, is closed."""
    monkeypatch.setattr(http_server, "IDLE_SECONDS", 0.2)
    with _running(site) as server, Client(server) as silent, Client(server) as used:
        assert used.ask(GET).status == 200
        assert silent.is_closed()
        assert used.is_closed()
        _wait_for_phases(server, [])


@pytest.mark.parametrize("sent", [1, 500_000])
def test_body_that_stalls_is_refused(
    monkeypatch: pytest.MonkeyPatch, site: Site, sent: int
) -> None:
    """A body that comes at a trickle gets 408, also when much of it came at once."""
    monkeypatch.setattr(http_transfer, "WINDOW_SECONDS", 0.3)
    with _running(site) as server, Client(server) as client:
        client.sock.sendall(post(bytes(1_000_000))[: sent - 1_000_000])
        _trickle_until_cut_off(client)
        client.read().assert_problem(408)


@pytest.mark.parametrize("path", [b"/huge", b"/file"])
def test_response_that_is_not_read_is_given_up(
    monkeypatch: pytest.MonkeyPatch, site: Site, path: bytes
) -> None:
    """A client that asks for much and reads nothing doesn't keep its connection."""
    monkeypatch.setattr(http_transfer, "WINDOW_SECONDS", 0.3)
    site.was_dropped.clear()
    with _running(site) as server, Client(server) as client:
        client.sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert site.was_dropped.wait(PATIENCE_SECONDS)
        poll = select.poll()
        poll.register(client.sock, 0)  # but for errors: the connection was reset
        assert poll.poll(PATIENCE_SECONDS * 1000), "something is kept for it"


@pytest.mark.parametrize("path", [b"/short", b"/long"])
def test_body_of_another_length_ends_the_connection(
    client: Client, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What follows a body that isn't as long as declared can't be taken for a part of it."""
    client.sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    received = client.rest()
    assert received.count(b"HTTP/1.1") == 1
    assert len(received.partition(b"\r\n\r\n")[2]) <= 4
    assert "another length" in caplog.text


def test_body_that_is_cut_short_is_refused(client: Client) -> None:
    """A body that ends before its length is an error, not a shorter body."""
    client.sock.sendall(post(b"abcdef")[:-1])
    client.sock.shutdown(socket.SHUT_WR)
    client.read().assert_problem(400)


@pytest.mark.parametrize("expect", [b"100-continue", b"100-Continue"])
def test_body_is_invited(client: Client, expect: bytes) -> None:
    """A client that waits for 100 Continue gets it, once, and then its answer."""
    client.sock.sendall(post(b"abc", b"Expect: " + expect)[:-3])
    assert client.read().status == 100
    assert client.ask(b"abc").json["body"] == "abc"
    assert client.ask(GET).status == 200


@pytest.mark.parametrize("path", [b"/refused", b"/nowhere"])
def test_body_is_refused_before_it_is_sent(client: Client, path: bytes) -> None:
    """A request that its headers already rule out is refused without asking for the body."""
    client.sock.sendall(
        b"POST "
        + path
        + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    )
    assert client.read().status >= 400


def test_refusal_reaches_a_client_that_is_still_sending(client: Client) -> None:
    """A client that sends its whole body before it reads is not reset, and reads why."""
    body = bytes(3 * 2**20)  # more than the buffers between us take
    head = post(b"").replace(b"/echo", b"/refused").replace(b": 0", b": %d" % len(body))
    client.sock.sendall(head)
    for start in range(0, len(body), 65_536):
        client.sock.sendall(body[start : start + 65_536])
    answer = client.read()
    answer.assert_problem(415)
    assert answer.headers["x-a"] == "b"


@pytest.mark.parametrize(
    ("limits", "piece"), [({"LINGER_SECONDS": 0.3}, 1), ({"LINGER_PIECES": 4}, 65_536)]
)
def test_body_that_nobody_wants_is_not_read_for_ever(
    monkeypatch: pytest.MonkeyPatch, site: Site, limits: dict[str, float], piece: int
) -> None:
    """After a refusal, a client that goes on sending is cut off, be it slow or fast."""
    monkeypatch.setattr(http_connection, "LINGER_SECONDS", 10 * PATIENCE_SECONDS)
    for name, value in limits.items():
        monkeypatch.setattr(http_connection, name, value)
    with _running(site) as server, Client(server) as client:
        client.ask(
            b"POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n"
        ).assert_problem(415)
        with pytest.raises(ConnectionError):
            _send_for_ever(client, bytes(piece))


def test_head_has_headers_only(client: Client) -> None:
    """HEAD gets what GET gets, without the body, and the connection goes on."""
    full = client.ask(GET.replace(b"GET", b"PUT"))
    head = client.ask(GET.replace(b"GET", b"HEAD"), has_body=False)
    assert head.status == full.status
    assert int(head.headers["content-length"]) == len(full.body) + len("HEAD") - len("PUT")
    assert client.ask(GET).status == 200


def test_head_of_an_error_has_no_body(client: Client) -> None:
    """An error that answers HEAD tells its length and has no body either."""
    answer = client.ask(b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", has_body=False)
    assert answer.status == 404
    assert int(answer.headers["content-length"]) > 0
    assert client.ask(GET).status == 200


def test_head_of_a_stream_has_no_body(client: Client) -> None:
    """HEAD of a body in pieces doesn't send the pieces."""
    answer = client.ask(b"HEAD /huge HTTP/1.1\r\nHost: a\r\n\r\n", has_body=False)
    assert int(answer.headers["content-length"]) == HUGE_BYTES
    assert client.ask(GET).status == 200


def test_not_modified_has_neither_body_nor_length(client: Client) -> None:
    """304 is only headers, whatever the method, and the connection goes on."""
    answer = client.ask(b"GET /unchanged HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (answer.status, answer.headers["etag"]) == (304, '"1"')
    assert "content-length" not in answer.headers
    assert client.ask(GET).status == 200


@pytest.mark.parametrize("error", [ImageError("storage_error", "gone"), OSError("gone")])
def test_stream_that_fails_ends_the_connection(
    client: Client, site: Site, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A body that can't be read to its end is cut off and logged, and nothing follows it."""
    site.torn_by = error
    client.sock.sendall(b"GET /torn HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    assert client.rest().partition(b"\r\n\r\n")[2] == b"abc"
    assert [(r.levelname, "gone" in r.message) for r in caplog.records] == [("WARNING", True)]


@pytest.mark.parametrize("path", [b"/huge", b"/file"])
def test_stream_arrives_whole(client: Client, path: bytes) -> None:
    """A body in pieces arrives with every byte, and the connection goes on."""
    answer = client.ask(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert len(answer.body) == HUGE_BYTES
    assert client.ask(GET).status == 200


def test_an_empty_file_is_an_answer(client: Client) -> None:
    """Nothing follows its head, which is sent all the same; the connection goes on."""
    assert client.ask(b"GET /empty HTTP/1.1\r\nHost: a\r\n\r\n").body == b""
    assert client.ask(GET).status == 200


@pytest.mark.parametrize(("path", "received"), [(b"/cut", CUT_BYTES), (b"/clipped", 0)])
def test_file_that_changed_ends_the_connection(
    client: Client, site: Site, path: bytes, received: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is shorter than was said: nothing follows what there was of it."""
    site.was_dropped.clear()
    client.sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    assert client.rest().partition(b"\r\n\r\n")[2] == bytes(received)
    assert [(r.levelname, "meanwhile" in r.message) for r in caplog.records] == [("WARNING", True)]
    assert site.was_dropped.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("path", [b"/huge", b"/file"])
def test_client_that_disappears_ends_its_response(
    client: Client, server: HttpServer, site: Site, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A response to nobody is dropped without a fuss, and others are served."""
    site.was_dropped.clear()
    client.sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.sock.recv(1)
    # Closing with zero linger time resets the connection.
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.__exit__()
    assert site.was_dropped.wait(PATIENCE_SECONDS)
    with Client(server) as other:
        assert other.ask(GET).status == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_unexpected_error_is_told_to_nobody(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug is a plain 500 for the client; the log has the traceback."""
    answer = client.ask(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
    answer.assert_problem(500)
    assert LEAK not in answer.body.decode()
    assert b"Traceback" not in answer.body
    assert b"RuntimeError" not in answer.body
    assert LEAK in caplog.text


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    """While all places are at work one more gets 503 at once; then there is room again."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    site.leave.clear()
    with _running(site) as server, Client(server) as first, Client(server) as second:
        first.sock.sendall(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        second.sock.sendall(post(b"abc").replace(b"/echo", b"/late"))
        _wait_for_phases(server, [Phase.WORKING] * 2)
        with Counting() as counted, Client(server) as third:
            answer = third.read()
            answer.assert_problem(503)
            assert_common_headers(answer)
            assert int(answer.headers["retry-after"]) > 0
            assert third.is_closed()
        assert counted.by == {("http_connections_refused_total",): 1}
        site.leave.set()
        assert first.read().status == second.read().status == 200
        with Client(server) as fourth:
            assert fourth.ask(GET).status == 200


@pytest.mark.parametrize(
    ("begun", "phase"),
    [
        (b"", Phase.IDLE),
        (GET[:-2], Phase.HEAD),
        (post(bytes(1000))[:-999], Phase.RECEIVING),
        (b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n", Phase.SENDING),
        (b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n", Phase.SENDING),
    ],
)
def test_slow_clients_keep_nobody_out(
    monkeypatch: pytest.MonkeyPatch, site: Site, begun: bytes, phase: Phase
) -> None:
    """With all places taken by clients that are slow, an ordinary request is answered."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(connection_places, "LOWEST_RATE", 2**40)  # what the buffers take is slow
    with _running(site) as server, Client(server) as first, Client(server) as second:
        for client in (first, second):
            client.sock.sendall(begun)
        _wait_for_phases(server, [phase] * 2)
        with Client(server) as ordinary:
            assert ordinary.ask(GET).status == 200
            _wait_for_phases(server, [Phase.IDLE, phase])


@pytest.mark.parametrize(
    ("begun", "phase"),
    [
        (post(bytes(2**20))[:-1], Phase.RECEIVING),
        (b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n", Phase.SENDING),
        (b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n", Phase.SENDING),
    ],
)
def test_a_transfer_that_moved_much_keeps_its_place(
    monkeypatch: pytest.MonkeyPatch, site: Site, begun: bytes, phase: Phase
) -> None:
    """All that a client sent or took of one body counts, in however many pieces it went."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(connection_places, "LOWEST_RATE", 1)
    with _running(site) as server, Client(server) as moving:
        moving.sock.sendall(begun)
        _wait_for_phases(server, [phase])
        if phase is Phase.SENDING:
            for _ in range(16):
                assert moving.sock.recv(http_transfer.PIECE_BYTES, socket.MSG_WAITALL)
        (place,) = server._places._taken
        wait_until(lambda: place.moved > 8 * http_transfer.PIECE_BYTES)
        with Client(server) as idle:
            _wait_for_phases(server, [Phase.IDLE, phase])
            with Client(server) as ordinary:
                assert ordinary.ask(GET).status == 200
                assert idle.is_closed()
        assert not place.is_revoked


def test_a_large_answer_arrives_whole(client: Client) -> None:
    """An answer of more than a piece is as it was; the connection goes on."""
    body = bytes(range(256)) * 1024
    answer = client.ask(post(body))
    assert answer.json["body"] == body.decode("latin-1")
    assert client.ask(GET).status == 200


def test_connection_that_cannot_be_taken_makes_room(
    monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    """Without a file for one more, who keeps us waiting gives way, and we look again after a pause."""
    pauses: list[float] = []
    take = socketserver.TCPServer.get_request

    def take_if_there_is_room(server: HttpServer) -> Any:
        if server._places._taken:
            raise OSError(errno.EMFILE, "too many")
        return take(server)

    with _running(site) as server, Client(server) as idle:
        _wait_for_phases(server, [Phase.IDLE])
        monkeypatch.setattr(
            http_server, "time", SimpleNamespace(sleep=pauses.append, monotonic=monotonic)
        )
        monkeypatch.setattr(socketserver.TCPServer, "get_request", take_if_there_is_room)
        with Client(server) as ordinary:
            assert ordinary.ask(GET).status == 200
        assert idle.is_closed()
    assert set(pauses) == {http_server.PAUSE_SECONDS}


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "connections"),
    [
        (256, 256, 256, 96),
        (256, 1024, 1024, 384),
        (1024, resource.RLIM_INFINITY, http_server.FILES, 512),
        (8192, 8192, 8192, 512),
        (64, 64, 64, 1),
    ],
)
def test_connections_are_bounded_by_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, allowed: int, connections: int
) -> None:
    """The process has as many files as it is allowed, and of these the connections not all."""
    limits = (soft, hard)

    def allow(_: int, wanted: tuple[int, int]) -> None:
        nonlocal limits
        limits = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", allow)
    with HttpServer("127.0.0.1", 0) as server:
        assert limits == (allowed, hard)
        assert server._places._count == connections


def test_slow_body_is_told_why_it_gave_way(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    """Whose body was given up for another connection gets 503, and when to come again."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 1)
    with _running(site) as server, Client(server) as slow:
        slow.sock.sendall(post(bytes(1000))[:-999])
        _wait_for_phases(server, [Phase.RECEIVING])
        with Client(server) as ordinary:
            assert ordinary.ask(GET).status == 200
        answer = slow.read()
        answer.assert_problem(503)
        assert int(answer.headers["retry-after"]) > 0


def test_slow_request_delays_no_other(client: Client, server: HttpServer, site: Site) -> None:
    """Connections are answered beside each other."""
    client.sock.sendall(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
    with Client(server) as other:
        assert other.ask(GET).status == 200
    site.leave.set()
    assert client.read().status == 200


def test_request_may_come_in_any_pieces(client: Client) -> None:
    """One request means the same wherever it is cut in two, and byte by byte."""
    request = post(b"a\r\n\0b", b"X: y")
    for cut in range(1, len(request)):
        client.sock.sendall(request[:cut])
        assert client.ask(request[cut:]).json["body"] == "a\r\n\0b"
    for place in range(len(request)):
        client.sock.sendall(request[place : place + 1])
    assert client.read().json["body"] == "a\r\n\0b"


def test_header_value_with_a_line_break_is_never_sent(client: Client) -> None:
    """A response header can't be broken into two."""
    client.sock.sendall(b"GET /split HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"Set-Cookie" not in client.rest()


def _is_readable(client: Client, seconds: float) -> bool:
    client.sock.settimeout(seconds)
    try:
        client.sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    finally:
        client.sock.settimeout(PATIENCE_SECONDS)
    return True


def _trickle_until_cut_off(client: Client) -> None:
    """Send a byte now and then until there is something to read, or the end."""
    deadline = monotonic() + PATIENCE_SECONDS
    while not _is_readable(client, 0.05):
        assert monotonic() < deadline, "the client was never cut off"
        client.sock.sendall(b"b")


def _send_for_ever(client: Client, piece: bytes) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while monotonic() < deadline:
        client.sock.sendall(piece)
        _is_readable(client, 0.02)


def _wait_for_phases(server: HttpServer, phases: list[Phase]) -> None:
    """Wait until the connections that have a place are at these phases."""
    wait_until(lambda: sorted(p.phase for p in list(server._places._taken)) == sorted(phases))


def _is_refused(server: HttpServer) -> bool:
    try:
        Client(server).__exit__()
    except ConnectionRefusedError:
        return True
    return False


def test_draining_waits_for_the_answers_under_way() -> None:
    """A server that stops sends what it began, and closes the connection behind it."""
    began, may_end = threading.Event(), threading.Event()

    def answer(request: Request) -> Response:
        began.set()
        assert may_end.wait(PATIENCE_SECONDS)
        return Response(HTTPStatus.OK, b"whole")

    with HttpServer("127.0.0.1", 0) as server:
        server.start(answer)
        with Client(server) as connection:
            connection.sock.sendall(GET)
            assert began.wait(PATIENCE_SECONDS)
            server.shutdown()  # or that alone would keep it for a while
            draining = threading.Thread(target=server.drain, args=(PATIENCE_SECONDS,))
            draining.start()
            wait_until(lambda: _is_refused(server))
            assert draining.is_alive()
            may_end.set()
            reply = connection.sock.makefile("rb").read()
            draining.join(PATIENCE_SECONDS)
            assert not draining.is_alive()
    assert reply.endswith(b"whole")
    assert b"Connection: close" in reply


def test_draining_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """An answer that doesn't end is left behind after the time that it had, which is logged."""
    began, may_end = threading.Event(), threading.Event()

    def answer(request: Request) -> Response:
        began.set()
        may_end.wait(PATIENCE_SECONDS)
        return Response(HTTPStatus.OK)

    with HttpServer("127.0.0.1", 0) as server:
        server.start(answer)
        with Client(server) as connection:
            connection.sock.sendall(GET)
            assert began.wait(PATIENCE_SECONDS)
            server.drain(0.05)
            may_end.set()
    assert "longer" in caplog.text


def test_control_characters_stay_out_of_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A path that would steer a terminal is refused, and not logged."""
    with caplog.at_level("INFO"):
        client.ask(b"GET /\x1b[31mred\x07 HTTP/1.1\r\nHost: a\r\n\r\n").assert_problem(400)
    assert "red" not in caplog.text


def test_a_server_that_never_started_can_be_drained() -> None:
    """As when the worker beside it could not start."""
    server = HttpServer("127.0.0.1", 0)
    server.drain(1)
    server.server_close()
