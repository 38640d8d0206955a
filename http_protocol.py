"""HTTP/1.1 on the standard library's server, made fit for strangers.

Owns connections (how many, how slow, how large), the parsing that the standard library is too
kind about, and the one place where an error becomes problem+json (RFC 9457). What a request
means is `server`'s: it takes a `Request` and returns a `Response`, or raises `HttpError`.
"""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from email.message import Message

MAX_CONNECTIONS: Final = 512  # at once; one more is answered 503
BACKLOG: Final = 128
IDLE_SECONDS: Final = 30.0  # a kept-alive connection without a request
HEADER_SECONDS: Final = 10.0
SEND_SECONDS: Final = 60.0  # for one piece of a response
MAX_HEADER_BYTES: Final = 16 * 1024  # request line and headers together
BODY_GRACE_SECONDS: Final = 30.0
LOWEST_BODY_RATE: Final = 1024  # bytes a second, after the grace
PIECE_BYTES: Final = 64 * 1024
MAX_QUERY_FIELDS: Final = 50
LINGER_SECONDS: Final = 2.0
LINGER_PIECES: Final = 64  # of a body that nobody wants

# RFC 9112 section 5, without folding: the standard library passes over what it can't read.
_HEADER_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r?\n|\r?\n")
_CONTENT_LENGTH: Final = re.compile(r"[0-9]{1,15}")

logger = logging.getLogger(__name__)


class RequestBody:
    """The body of a request, read in pieces; `length` is None when none was declared."""

    def __init__(
        self, length: int | None, reader: _SocketReader, begin: Callable[[], None]
    ) -> None:
        self.length = length
        self.received = 0
        self._reader = reader
        self._begin = begin

    @property
    def is_read(self) -> bool:
        """Whether the next request on the connection starts where we stand."""
        return self.received == (self.length or 0)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body. Raises HttpError 400 when it is cut short, 408 when it is too slow."""
        self._begin()
        length, started = self.length or 0, time.monotonic()
        while self.received < length:
            self._reader.deadline = started + BODY_GRACE_SECONDS + self.received / LOWEST_BODY_RATE
            try:
                piece = self._reader.buffered.read1(min(PIECE_BYTES, length - self.received))
            except TimeoutError:
                raise HttpError(HTTPStatus.REQUEST_TIMEOUT, "the body arrived too slowly") from None
            if not piece:
                raise HttpError(HTTPStatus.BAD_REQUEST, "the body ended before its length")
            self.received += len(piece)
            yield piece


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. `path` is as it was sent, without the query; `peer` is an address."""

    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: RequestBody
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """What it gets. A body in pieces needs a Content-Length among the headers."""

    status: HTTPStatus
    body: bytes | Iterable[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_response(
    document: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """Return a document as JSON."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(status, body, {"Content-Type": "application/json"} | (headers or {}))


def problem_response(error: HttpError) -> Response:
    """Return an error as an RFC 9457 problem document."""
    document = {
        "type": "about:blank",
        "title": error.status.phrase,
        "status": error.status.value,
        "detail": error.detail,
    }
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    return json_response(document | error.members, error.status, headers | error.headers)


class HttpServer(ThreadingHTTPServer):
    """A bounded number of connections, a thread each, answered by one function."""

    daemon_threads = True
    request_queue_size = BACKLOG

    answer: Callable[[Request], Response]

    def __init__(self, host: str, port: int) -> None:
        self.is_draining = False
        self._answering = 0
        self._changed = threading.Condition()
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host.strip("[]"), port), HttpHandler)

    def drain(self, seconds: float) -> None:
        """Take no connection more, and wait so long for the answers under way."""
        self.is_draining = True
        self.shutdown()
        with self._changed:
            self._changed.wait_for(lambda: not self._answering, seconds)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count an answer under way."""
        with self._changed:
            self._answering += 1
        try:
            yield
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()

    def start(self, answer: Callable[[Request], Response]) -> None:
        """Answer requests by this function, in threads of our own, until `shutdown`."""
        self.answer = answer
        threading.Thread(target=self.serve_forever, name="http", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread, or refuse it when there are too many."""
        if not self._free.acquire(blocking=False):
            request.settimeout(0)
            with suppress(OSError):  # it has to come again either way
                request.sendall(_TOO_MANY_CONNECTIONS)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log what no handler expected."""
        logger.exception("connection failed")  # noqa: LOG004  # called while one is handled


_NO_ROOM: Final = (
    b'{"type":"about:blank","title":"Service Unavailable","status":503,'
    b'"detail":"there are too many connections, try again later"}'
)
_TOO_MANY_CONNECTIONS: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_NO_ROOM), _NO_ROOM)
)


class _HeadersTooLargeError(Exception):
    """More than MAX_HEADER_BYTES before the blank line."""


class _SocketReader(io.RawIOBase):
    """Reads a socket up to a deadline on the monotonic clock, however slowly it trickles."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = 0.0
        self.buffered = io.BufferedReader(self, PIECE_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _HeaderLines(io.BytesIO):
    """The lines before the body, of which there may be so many bytes."""

    def __init__(self, reader: _SocketReader) -> None:
        super().__init__()
        self._reader = reader
        self._left = MAX_HEADER_BYTES

    def request_line(self) -> bytes:
        """Return the first line that isn't empty (RFC 9112 section 2.2)."""
        while (line := self._next()) in {b"\r\n", b"\n"}:
            pass
        return line

    def readline(self, size: int | None = -1) -> bytes:  # noqa: ARG002  # the standard library's limit
        """Return the next header line, or the empty one behind the last."""
        line = self._next()
        if not _HEADER_LINE.fullmatch(line):
            raise HttpError(HTTPStatus.BAD_REQUEST, "malformed header")
        return line

    def _next(self) -> bytes:
        line = self._reader.buffered.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise _HeadersTooLargeError
        return line


class HttpHandler(BaseHTTPRequestHandler):
    """One connection. Everything that goes wrong before a request is understood ends it."""

    protocol_version = "HTTP/1.1"
    server: HttpServer
    _reader: _SocketReader
    _body: RequestBody | None

    def setup(self) -> None:
        """Read with deadlines instead of time-outs, and send without delay."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = _SocketReader(self.connection)

    def handle_one_request(self) -> None:
        """Answer the next request of the connection, or close it."""
        self.close_connection = True  # until a request is understood and answered
        self.command, self.path, self._body = "", "", None
        try:
            if not self._wait_for_request():
                return
            with self.server.answering():
                self._send(self._understand_and_answer())
        except OSError:
            self.close_connection = True  # the client went away, or is too slow
            return
        if self.close_connection and not self._is_body_read():
            self._linger()

    def _is_body_read(self) -> bool:
        return self._body is None or self._body.is_read

    def _linger(self) -> None:
        """Let a client that is still sending read our answer before the connection ends.

        Closing on unread bytes would reset it, and the answer could be lost (RFC 9112, 9.6).
        """
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self._reader.deadline = time.monotonic() + LINGER_SECONDS
            for _ in range(LINGER_PIECES):
                if not self._reader.buffered.read1(PIECE_BYTES):
                    return

    def _wait_for_request(self) -> bool:
        self._reader.deadline = time.monotonic() + IDLE_SECONDS
        if not self._reader.buffered.peek(1):
            return False
        self._reader.deadline = time.monotonic() + HEADER_SECONDS
        return True

    def _understand_and_answer(self) -> Response:
        started = time.monotonic()
        try:
            request = self._parse()
            response = self.server.answer(request)
        except HttpError as error:
            self.close_connection = True
            response = problem_response(error)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            logger.exception("%s %s", self.command, self.path)
            self.close_connection = True
            response = problem_response(_bug())
        else:
            self.close_connection = self.close_connection or not self._is_body_read()
        self.close_connection = self.close_connection or self.server.is_draining
        _log_access(self.command, self.path, response.status, time.monotonic() - started)
        return response

    def _parse(self) -> Request:
        """Return the request whose bytes come next. Raises HttpError for what we don't take."""
        self._refusal = HttpError(HTTPStatus.BAD_REQUEST, "there is no request line")
        lines = _HeaderLines(self._reader)
        self.rfile = lines  # all that parse_request needs of it
        try:
            self.raw_requestline = lines.request_line()
            if not self.parse_request():
                raise self._refusal
        except _HeadersTooLargeError:
            raise HttpError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the request line and headers are larger than {MAX_HEADER_BYTES} bytes",
            ) from None
        finally:
            self.rfile = self._reader.buffered
        self._check_headers()
        target = _split_target(self.path)
        self._body = RequestBody(self._content_length(), self._reader, self._continue)
        return Request(
            method=self.command,
            path=target.path,
            query=_parse_query(target.query),
            headers=self.headers,
            body=self._body,
            peer=self.client_address[0],
        )

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Keep what the standard library found wrong; `_parse` raises it."""
        self._refusal = HttpError(
            HTTPStatus(code), message or explain or HTTPStatus(code).description
        )

    def handle_expect_100(self) -> bool:
        """Don't invite the body yet: the request may be refused by its headers."""
        return True

    def _check_headers(self) -> None:
        if self.request_version == "HTTP/0.9":
            raise HttpError(HTTPStatus.BAD_REQUEST, "HTTP/0.9 is not spoken here")
        if codings := self.headers.get_all("Transfer-Encoding"):
            # RFC 9112 section 6.3: chunks are legal, and a server may ask for a length instead.
            is_legal = codings == ["chunked"] and "Content-Length" not in self.headers
            raise HttpError(
                HTTPStatus.LENGTH_REQUIRED if is_legal else HTTPStatus.NOT_IMPLEMENTED,
                "send the body with a Content-Length, not in chunks",
            )
        if self.request_version == "HTTP/1.1" and len(self.headers.get_all("Host", [])) != 1:
            raise HttpError(HTTPStatus.BAD_REQUEST, "exactly one Host header is needed")

    def _content_length(self) -> int | None:
        values = self.headers.get_all("Content-Length", [])
        if not values:
            return None
        if len(values) > 1 or not _CONTENT_LENGTH.fullmatch(values[0].strip()):
            raise HttpError(HTTPStatus.BAD_REQUEST, "malformed Content-Length")
        return int(values[0])

    def _continue(self) -> None:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.connection.settimeout(SEND_SECONDS)
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _send(self, response: Response) -> None:
        headers = {
            "Date": formatdate(usegmt=True),
            "X-Content-Type-Options": "nosniff",
            **response.headers,
        }
        if isinstance(response.body, bytes) and response.status != HTTPStatus.NOT_MODIFIED:
            headers["Content-Length"] = str(len(response.body))
        if self.close_connection:
            headers["Connection"] = "close"
        head = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
        head += [f"{name}: {_one_line(value)}" for name, value in headers.items()]
        has_body = self.command != "HEAD" and response.status != HTTPStatus.NOT_MODIFIED
        self.connection.settimeout(SEND_SECONDS)
        start = "\r\n".join([*head, "", ""]).encode("latin-1")
        if isinstance(response.body, bytes):
            self.wfile.write(start + (response.body if has_body else b""))
            return
        self.wfile.write(start)
        if has_body:
            for piece in response.body:
                self.wfile.write(piece)


def _bug() -> HttpError:
    return HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "something went wrong on our side")


def _split_target(target: str) -> SplitResult:
    try:
        return urlsplit(target)
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "malformed target") from None


def _parse_query(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "malformed query") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise HttpError(HTTPStatus.BAD_REQUEST, "a query parameter stands twice")
    return fields


def _one_line(value: str) -> str:
    if "\r" in value or "\n" in value:
        raise ValueError("a header value has a line break")
    return value


def _log_access(method: str, target: str, status: HTTPStatus, seconds: float) -> None:
    # Reading is asked often and tells little; what was refused or changed something is kept.
    level = logging.DEBUG if method in {"GET", "HEAD"} and status < 400 else logging.INFO
    path = ascii(target.partition("?")[0])[1:-1]  # a stranger's control characters stay out
    logger.log(level, "%s %s %d %.3f s", method or "-", path, status, seconds)
