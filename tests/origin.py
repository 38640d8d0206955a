"""An origin of images for tests: a loopback HTTP server that can be as odd as the real ones.

    with Origin() as origin:
        origin.serve("/a.jpg", b"...", headers={"ETag": '"1"'})
        origin.serve_in_turn("/b.jpg", Reply(status=503), Reply(b"..."))
        fetch(origin.url("/a.jpg"))
        assert origin.count("/a.jpg") == 1

A path that nothing is served at answers 404; one whose validators the client has, 304. `authority`
is what `ALLOWED_SOURCES` takes.
"""

from __future__ import annotations

import socket
import socketserver
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

LONGEST_WAIT_SECONDS = 60.0  # for an event that never comes


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the origin; each field is a way to be odd.

    `repeat` sends the body so many times over, for huge ones. `framing` tells how the body's
    end is known; with `none` there is no body. `declared` is a Content-Length other than the true
    one. `cut_after` closes the connection after so many bytes of the body. `piece` and `pause` send
    in pieces of so many bytes with so many seconds between. `delay` is seconds before the first
    byte, `until` an event that has to come before it. `raw` goes out verbatim instead of everything
    else, and the connection is closed; `silent` takes the request and says nothing until the client
    or the test ends. Every answer has a `Date`, now unless `headers` say another.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = "image/jpeg"
    repeat: int = 1
    framing: Literal["length", "chunked", "close", "none"] = "length"
    declared: int | None = None
    cut_after: int | None = None
    piece: int = 65536
    pause: float = 0.0
    delay: float = 0.0
    until: Event | None = None
    raw: bytes | None = None
    silent: bool = False

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow on the connection."""
        return self.framing != "close" and self.cut_after is None and self.raw is None

    def is_known(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a client with these headers has it (RFC 9110 section 13.2.2)."""
        name = "If-None-Match" if "if-none-match" in headers else "If-Modified-Since"
        validator = "ETag" if name == "If-None-Match" else "Last-Modified"
        condition = headers.get(name.lower())
        return (
            self.status == 200
            and condition is not None
            and (condition == self.headers.get(validator))
        )

    def unchanged(self) -> Reply:
        """Return what is said to who has it: 304 with the same headers."""
        return replace(self, body=b"", status=304, content_type=None, framing="length", raw=None)

    def head(self) -> bytes:
        """Return status line and headers."""
        lines = [f"HTTP/1.1 {self.status} Reply"]
        if self.content_type:
            lines.append(f"Content-Type: {self.content_type}")
        if self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        elif self.framing == "length" and self.status != 304:
            length = len(self.body) * self.repeat if self.declared is None else self.declared
            lines.append(f"Content-Length: {length}")
        if "Date" not in self.headers:
            lines.append(f"Date: {formatdate(usegmt=True)}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def pieces(self) -> Iterator[bytes]:
        """Yield what goes over the wire, in the pieces it goes in."""
        if self.raw is not None:
            yield from _cut(self.raw, self.piece)
            return
        yield self.head()
        body = self.body if self.cut_after is None else self.body[: self.cut_after]
        for _ in range(self.repeat):
            for piece in _cut(body, self.piece):
                is_chunk = self.framing == "chunked"
                yield b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunk else piece
        if self.framing == "chunked" and self.cut_after is None:
            yield b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that the origin took; header names in lower case, `at` by the monotonic clock."""

    method: str
    path: str
    headers: Mapping[str, str]
    connection: int
    body: bytes = b""
    at: float = field(default_factory=monotonic)


class Origin:
    """The server: listens from the start, on a port of loopback, until closed.

    With a `tls` context it speaks https and calls itself `localhost`.
    """

    def __init__(
        self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.requests: list[RecordedRequest] = []
        self.connections = 0
        self.waiting = 0  # requests that wait for the first byte of their answer
        self.peak = 0  # the most of them at a time
        self.closing = Event()
        self.tls = tls
        self.lock = Lock()
        self.open_sockets: set[socket.socket] = set()
        self._replies: dict[str, list[Reply]] = {}
        self._server = _Server(host, port, self)
        self.port: int = self._server.server_address[1]
        name = "localhost" if tls else host
        self.authority = f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def url(self, path: str = "/") -> str:
        """Return the URL of a path."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{path}"

    def serve(self, path: str, body: bytes = b"", **oddities: Any) -> str:
        """Serve a body at a path from now on; the rest as in `Reply`. Returns the URL."""
        return self.serve_in_turn(path, Reply(body, **oddities))

    def serve_in_turn(self, path: str, *replies: Reply) -> str:
        """Serve one reply after the other, and the last one again and again. Returns the URL."""
        with self.lock:
            self._replies[path] = list(replies)
        return self.url(path)

    def redirect(self, path: str, target: str, status: int = 302) -> str:
        """Redirect a path to a target, which goes into `Location` as it is. Returns the URL."""
        return self.serve(path, status=status, headers={"Location": target}, content_type=None)

    def count(self, path: str) -> int:
        """Return how many requests came for a path."""
        return self.counts[path]

    @property
    def counts(self) -> Counter[str]:
        """How many requests came, by path."""
        with self.lock:
            return Counter(request.path for request in self.requests)

    def reply_to(self, request: RecordedRequest) -> Reply:
        """Record a request and choose its reply; only the server calls this."""
        with self.lock:
            self.requests.append(request)
            replies = self._replies.get(request.path)
            if not replies:
                return Reply(b"not found", status=404, content_type="text/plain")
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
        return reply.unchanged() if reply.is_known(request.headers) else reply

    def drop_connections(self) -> None:
        """Close every connection that is open now, as an origin does with idle ones."""
        with self.lock:
            for sock in self.open_sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop listening and end what is under way."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self.drop_connections()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, host: str, port: int, origin: Origin) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.origin = origin
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are the point


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    disable_nagle_algorithm = True

    def setup(self) -> None:
        self.origin = self.server.origin
        with self.origin.lock:
            self.origin.connections += 1
            self.number = self.origin.connections
            self.origin.open_sockets.add(self.request)
        if self.origin.tls:
            plain = self.request
            self.request = self.origin.tls.wrap_socket(plain, server_side=True)
            with self.origin.lock:
                self.origin.open_sockets.discard(plain)
                self.origin.open_sockets.add(self.request)
        super().setup()

    def handle(self) -> None:
        while request := self._read_request():
            reply = self.origin.reply_to(request)
            if not self._send(reply) or not reply.keeps_alive:
                return

    def finish(self) -> None:
        with self.origin.lock:
            self.origin.open_sockets.discard(self.request)
        super().finish()

    def _read_request(self) -> RecordedRequest | None:
        if self.rfile.peek(1)[:1] == b"\x16":  # type: ignore[attr-defined]  # TLS, spoken to a plain server
            self.rfile.read(int.from_bytes(self.rfile.read(5)[3:], "big"))
            self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            return None
        words = self.rfile.readline(65536).decode("latin-1").split()
        if len(words) != 3:  # method, path, version
            return None
        headers = {}
        while line := self.rfile.readline(65536).decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", "0")))
        return RecordedRequest(words[0], words[1], headers, self.number, body)

    def _send(self, reply: Reply) -> bool:
        if reply.silent:
            with suppress(OSError):
                self.rfile.read(1)  # until the client hangs up, or the origin is closed
            return False
        if self._delay(reply.delay):
            return False
        if reply.until:
            reply.until.wait(LONGEST_WAIT_SECONDS)
        for piece in reply.pieces():
            self.wfile.write(piece)
            if reply.pause and self.origin.closing.wait(reply.pause):
                return False
        return True

    def _delay(self, seconds: float) -> bool:
        """Let the client wait; tell whether the origin was closed meanwhile."""
        with self.origin.lock:
            self.origin.waiting += 1
            self.origin.peak = max(self.origin.peak, self.origin.waiting)
        is_closing = self.origin.closing.wait(seconds)
        with self.origin.lock:
            self.origin.waiting -= 1
        return is_closing


def _cut(body: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
