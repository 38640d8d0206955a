"""One connection: requests are read, answered one after the other, their responses sent.

Owns how long may be waited for a request, and how its errors become problem+json (RFC 9457); who
finds no place is told by `http_server`. After a head that is not understood, or a body that was not
read, nobody knows where the next request would begin: the connection ends with the answer.
"""

from __future__ import annotations

import logging
import socket
import time
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Final, Protocol

import metrics
from errors import HttpError, ServiceError
from httpd.connection_places import ConnectionOverError, Phase
from httpd.http_protocol import (
    MAX_HEADER_BYTES,
    Request,
    RequestHead,
    RequestNotes,
    Response,
    parse_request_line,
    problem_response,
    render_head,
)
from httpd.http_transfer import PIECE_BYTES, ArrivingBody, Pace, SocketReader, SocketWriter
from storage.local_file import FilePart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from httpd.connection_places import Place
    from httpd.http_protocol import RequestLine

HEADER_SECONDS: Final = 10.0
LINGER_SECONDS: Final = 2.0
LINGER_PIECES: Final = 64  # of a body that nobody wants

logger = logging.getLogger(__name__)


class Site(Protocol):
    """What answers the requests of all connections."""

    @property
    def is_draining(self) -> bool:
        """Whether each connection ends with its next response."""

    def answer(self, request: Request) -> Response:
        """Return the response to a request. Raises HttpError; anything else is a bug."""


class HttpHandler(BaseHTTPRequestHandler):
    """The requests of one connection.

    The standard library's handler waits without end, and reads in good faith what two parsers could
    read in two ways; so reading, parsing and sending are our own. And it keeps its thread for as
    long as the connection lasts; this one does nothing until `handle` is called.
    """

    def __init__(
        self,
        connection: socket.socket,
        address: tuple[Any, ...],
        site: Site,
        place: Place,
        before_waiting: Callable[[socket.socket], None],
    ) -> None:
        """Take a connection, which is not read yet. Raises OSError and ConnectionOverError."""
        self.connection, self.client_address, self.place = connection, address, place
        self._site = site
        self._line: RequestLine | None = None
        self._body: ArrivingBody | None = None
        self._notes = RequestNotes()
        # Nothing of ours may lead back to us: the memory would wait for the garbage collector.
        self._before_waiting = partial(before_waiting, connection)
        self.close_connection = False
        connection.settimeout(0)
        self._reader = SocketReader(connection, self._before_waiting)
        self._writer = SocketWriter(connection, place, self._before_waiting)
        place.enter(Phase.IDLE)

    def handle(self) -> None:
        """Answer what has come; `close_connection` then tells whether both sides go on.

        It waits for the rest of a request, but for no further one; the caller closes the socket.
        """
        try:
            self._reader.receive()
            while self._reader.holds_more and not self.close_connection:
                self.handle_one_request()
                if not self.close_connection:
                    self._go_on()
            if self.close_connection and not (self._body and self._body.is_read):
                self._linger()
        except (ConnectionOverError, OSError):  # OSError: gone before the first byte
            self.close_connection = True

    def _go_on(self) -> None:
        self.place.enter(Phase.IDLE)
        if self._reader.holds_more:  # many requests at once leave no other waiting
            self._before_waiting()

    def _linger(self) -> None:
        """Let a client that is still sending read our answer before the connection ends.

        Closing on unread bytes would reset it, and the answer could be lost (RFC 9112, 9.6).
        """
        if not self.place.is_revoked:  # else it hears that it gave way, and has no place for more
            self.place.enter(Phase.IDLE)
        self.connection.shutdown(socket.SHUT_WR)
        self._reader.deadline = time.monotonic() + LINGER_SECONDS
        for _ in range(LINGER_PIECES):
            if not self._reader.read(PIECE_BYTES):
                return

    def handle_one_request(self) -> None:
        """Answer the request whose first byte is there."""
        with ExitStack() as closing:
            self._answer_request(closing)

    def _answer_request(self, closing: ExitStack) -> None:
        started = time.monotonic()
        self._line, self._body, self.close_connection = None, None, True  # until it is understood
        self._notes = RequestNotes()
        try:
            response = self._site.answer(self._read_request(closing))
            head = self._render_head(response)
        except HttpError as error:
            response = problem_response(error)
            head = self._render_head(response)
        except ConnectionOverError:
            raise
        except Exception:
            logger.exception("%s %s", *self._subject(), extra=self._about())
            self.close_connection = True
            response = problem_response(_bug())
            head = self._render_head(response)
        seconds = time.monotonic() - started
        metrics.count_response(
            self._notes.route, self._line.method if self._line else "", response.status, seconds
        )
        self._log_access(response, seconds)
        self._send(head, response)

    def _render_head(self, response: Response) -> bytes:
        """Return the head; it tells whether the connection goes on, which is decided here."""
        is_body_read = self._body is not None and self._body.is_read
        if not is_body_read or self._site.is_draining:
            self.close_connection = True
        return render_head(response, closes=self.close_connection)

    def _read_request(self, closing: ExitStack) -> Request:
        """Return the request whose bytes come next. Raises HttpError for what we don't take."""
        self.place.enter(Phase.HEAD)
        self._reader.deadline = time.monotonic() + HEADER_SECONDS
        try:
            line, header_lines = self._read_head()
        except TimeoutError:
            raise ConnectionOverError from None
        head = RequestHead(line, header_lines)
        self.close_connection = not head.keeps_alive
        begin = partial(_invite_body, self._writer) if head.expects_continue else lambda: None
        self._body = ArrivingBody(head.length, self._reader, self.place, begin)
        self.place.enter(Phase.WORKING)
        peer = str(self.client_address[0])
        return Request(
            *(head.method, head.path, head.query, head.headers),
            *(self._body, peer, closing, self._before_waiting),
            notes=self._notes,
        )

    def _read_head(self) -> tuple[RequestLine, list[bytes]]:
        """Return the request line and the header lines behind it.

        Every line has to end with CR LF; a proxy in front may not take LF alone for an end. Empty
        lines before the first are passed over (RFC 9112 section 2.2).
        """
        left, headers = MAX_HEADER_BYTES, list[bytes]()
        while True:
            line = self._reader.read_line(left + 1)
            left -= len(line)
            if left < 0:
                raise self._too_large()
            if not line.endswith(b"\r\n"):
                raise HttpError(HTTPStatus.BAD_REQUEST, "a line doesn't end with CR LF")
            if self._line is None and line != b"\r\n":
                self._line = parse_request_line(line[:-2])
            elif self._line and line == b"\r\n":
                return self._line, headers
            elif self._line:
                headers.append(line[:-2])

    def _too_large(self) -> HttpError:
        if self._line is None:
            return HttpError(HTTPStatus.REQUEST_URI_TOO_LONG, "the request line is too long")
        return HttpError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request line and headers are larger than {MAX_HEADER_BYTES} bytes",
        )

    def _send(self, head: bytes, response: Response) -> None:
        self.place.enter(Phase.SENDING)
        body = response.body
        is_bare = response.status == HTTPStatus.NOT_MODIFIED or (
            self._line is not None and self._line.method == "HEAD"
        )
        if is_bare:
            self._writer.send(head, Pace(len(head)))
        elif isinstance(body, bytes):
            pace = Pace(len(head) + len(body))
            # Small answers go in one packet, large ones are not copied.
            self._writer.send(head + body[:PIECE_BYTES], pace)
            self._writer.send(memoryview(body)[PIECE_BYTES:], pace)
        else:
            self._stream(head, body, int(response.headers["Content-Length"]))

    def _stream(self, head: bytes, body: Iterable[bytes], length: int) -> None:
        """Send a body in pieces, which has to be as long as its header says.

        Otherwise the client would take our next response for a part of it.
        """
        pace = Pace(len(head) + length)
        try:
            if isinstance(body, FilePart):
                self._send_file(head, body, pace)
                return
            self._writer.send(head, pace)
            for piece in body:
                length -= len(piece)
                if length >= 0:
                    self._writer.send(piece, pace)
        except (ServiceError, OSError) as error:  # of the store: it is too late to say so
            logger.warning("%s %s: %s", *self._subject(), error, extra=self._about())
            raise ConnectionOverError from error
        if length:
            logger.error(
                "%s %s: the body has another length than declared",
                *self._subject(),
                extra=self._about(),
            )
            raise ConnectionOverError

    def _send_file(self, head: bytes, part: FilePart, pace: Pace) -> None:
        if part.end - part.start <= PIECE_BYTES:  # one call with a copy is cheaper than two
            self._writer.send(head + b"".join(part), pace)
            return
        self._writer.send(head, pace, goes_on=True)
        self._writer.send_file(part.descriptor, part.start, part.end, pace)

    def _subject(self) -> tuple[str, str]:
        """Return method and path, which are printable, or dashes."""
        if self._line is None:
            return "-", "-"
        return self._line.method, self._line.target.partition("?")[0]

    def _about(self) -> dict[str, str]:
        """Return the members of a log's line that name the upload, if the request is about one."""
        request_id = self._notes.request_id
        return {"request_id": request_id} if request_id else {}

    def _log_access(self, response: Response, seconds: float) -> None:
        # Reading is asked often and tells little; what was refused or changed something is kept.
        # The metrics have all of it.
        status = response.status
        is_read = self._line is not None and self._line.method in {"GET", "HEAD"}
        level = logging.DEBUG if is_read and status < 400 else logging.INFO
        if not logger.isEnabledFor(level):
            return
        method, path = self._subject()
        body, headers = response.body, response.headers
        members = {
            "method": method,
            "path": path,
            "route": self._notes.route or metrics.OTHER,
            "status": status.value,
            "seconds": round(seconds, 6),
            "bytes": len(body) if isinstance(body, bytes) else int(headers["Content-Length"]),
            "peer": str(self.client_address[0]),
        }
        logger.log(
            level,
            "%s %s %d %.3f s",
            *(method, path, status, seconds),
            extra={**members, **self._about()},
        )


def _invite_body(writer: SocketWriter) -> None:
    writer.send(b"HTTP/1.1 100 Continue\r\n\r\n", Pace(0))


def _bug() -> HttpError:
    return HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "something went wrong on our side")
