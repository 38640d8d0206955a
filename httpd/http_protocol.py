"""HTTP/1.1 as bytes: what a request may look like, and how responses and problems are written.

Stricter than RFC 9112 asks: what two parsers could read in two ways is refused, so that nothing
can be smuggled past a proxy in front. Opens no socket: `http_connection` reads and sends,
`http_server` has the connections, and what a request means is `http_api`'s business.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.message import Message
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qsl

from errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_HEADER_BYTES: Final = 16 * 1024  # request line and headers together
MAX_HEADERS: Final = 100
MAX_QUERY_FIELDS: Final = 50

_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TEXT: Final = r"[\t\x20-\x7e\x80-\xff]*"
_REQUEST_LINE: Final = re.compile(rf"({_NAME}) ([!-~]+) HTTP/([0-9])\.([0-9])")
_HEADER: Final = re.compile(rf"({_NAME}):({_TEXT})")  # RFC 9112 section 5, without folding
_HEADERS: Final = re.compile(rf"(?:{_HEADER.pattern}\r\n)*")
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
_HOST: Final = re.compile(r"([0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_CONTENT_LENGTH: Final = re.compile(r"[0-9]{1,15}")

# One of two would have to be passed over, and a proxy may choose the other.
_AT_MOST_ONCE: Final = (
    *("Host", "Content-Length", "Content-Type", "Authorization"),
    *("Expect", "Range", "If-Range", "Origin"),
)
# A proxy removes what `Connection` names; then we would read another request than it did.
_END_TO_END: Final = frozenset({"host", "content-length", "transfer-encoding", "authorization"})


# Of every response that doesn't say otherwise: it is what it is called, runs nothing, tells other
# sites nothing of ours, and is embedded by none of them.
_COMMON_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
}


class RequestBody(Protocol):
    """The body of a request, to be read once, in pieces; `length` is None if none was declared."""

    @property
    def length(self) -> int | None:
        """The declared length in bytes."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body. Raises HttpError 400 when it is cut short, 408 when it is too slow."""


@dataclass(slots=True)
class RequestNotes:
    """What is found out about a request on the way, to be counted and logged with its answer.

    `route` is the template of its path, `request_id` of the upload that it is about.
    """

    route: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. `path` is as it was sent, without the query; `peer` is an address.

    What is opened for the response is put into `closing`, which is closed when it was sent. Before
    the answer waits for anything but a disk it calls `before_waiting`, so that others go on.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: RequestBody
    peer: str = ""
    closing: ExitStack = field(default_factory=ExitStack)
    before_waiting: Callable[[], None] = lambda: None
    notes: RequestNotes = field(default_factory=RequestNotes)


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


def render_head(response: Response, *, closes: bool) -> bytes:
    """Return status line and headers. Raises ValueError for a header that would break out."""
    headers = {"Date": http_date(int(time.time())), **_COMMON_HEADERS, **response.headers}
    if isinstance(response.body, bytes) and response.status != HTTPStatus.NOT_MODIFIED:
        headers["Content-Length"] = str(len(response.body))
    if closes:
        headers["Connection"] = "close"
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not _HEADERS.fullmatch(lines) or lines.count("\n") > len(headers):
        raise ValueError("a response header is malformed")
    return f"{_status_line(response.status)}\r\n{lines}\r\n".encode("latin-1")


@lru_cache
def _status_line(status: HTTPStatus) -> str:
    return f"HTTP/1.1 {status.value} {status.phrase}"


@lru_cache(maxsize=1024)
def http_date(seconds: int) -> str:
    """Return seconds since the epoch as RFC 9110 section 5.6.7 has it."""
    return formatdate(seconds, usegmt=True)


class RequestLine(NamedTuple):
    """The first line of a request; `minor` is that of HTTP/1."""

    method: str
    target: str
    minor: int


def parse_request_line(line: bytes) -> RequestLine:
    """Take a request's first line apart. Raises HttpError 400."""
    match = _REQUEST_LINE.fullmatch(line.decode("latin-1"))
    if not match:
        raise _bad_request("this is not an HTTP/1.1 request")
    method, target, major, minor = match.groups()
    if major != "1":
        raise _bad_request("only HTTP/1.1 is spoken here")
    return RequestLine(method, target, int(minor))


class RequestHead:
    """All of a request before its body. Raises HttpError for what is not taken.

    Of an absolute target only the path is kept; its host has to be that of the Host header.
    """

    def __init__(self, line: RequestLine, header_lines: list[bytes]) -> None:
        self.method = line.method
        self.headers = _parse_headers(header_lines)
        self._is_http_1_1 = line.minor > 0
        self._check_framing()
        self._check_host()
        self.length = self._content_length()
        self.path, query = self._split_target(line.target)
        self.query = _parse_query(query)
        self.expects_continue = self._is_http_1_1 and self._expects_continue()

    @property
    def keeps_alive(self) -> bool:
        """Whether the client wants the connection to go on."""
        return self._is_http_1_1 and "close" not in self._connection_options()

    def _check_framing(self) -> None:
        """Refuse chunks, which a server may (RFC 9112 section 6.3), and headers that stand twice.

        Raises HttpError.
        """
        if codings := self.headers.get_all("Transfer-Encoding"):
            has_two_ends = len(codings) > 1 or "Content-Length" in self.headers
            raise HttpError(
                HTTPStatus.BAD_REQUEST if has_two_ends else HTTPStatus.LENGTH_REQUIRED,
                "send the body with a Content-Length, not in chunks with a Transfer-Encoding",
            )
        if len(self.headers) > len({name.lower() for name in self.headers}):
            self._check_repeated()
        if self._connection_options() & _END_TO_END:
            raise _bad_request(
                "the Connection header names a header that is for the service itself"
            )

    def _check_repeated(self) -> None:
        for name in _AT_MOST_ONCE:
            if len(self.headers.get_all(name, [])) > 1:
                raise _bad_request(f"the {name} header stands twice")

    def _connection_options(self) -> set[str]:
        values = ",".join(self.headers.get_all("Connection", []))
        return {option.strip().lower() for option in values.split(",")}

    def _check_host(self) -> None:
        host = self.headers.get("Host")
        if host is None and self._is_http_1_1:
            raise _bad_request("a Host header is needed")
        if host is not None and not _HOST.fullmatch(host):
            raise _bad_request("malformed Host header: it takes a host name or address, and a port")

    def _content_length(self) -> int | None:
        value = self.headers.get("Content-Length")
        if value is None:
            return None
        if not _CONTENT_LENGTH.fullmatch(value):
            raise _bad_request("malformed Content-Length: it takes digits, at most 15")
        return int(value)

    def _split_target(self, target: str) -> tuple[str, str]:
        """Return path and query (RFC 9112 section 3.2)."""
        if match := _ABSOLUTE.fullmatch(target):
            host, target = match.groups()
            if host.lower() != self.headers.get("Host", host).lower() or not _HOST.fullmatch(host):
                raise _bad_request("the target's host is not that of the Host header")
            target = target if target.startswith("/") else f"/{target}"
        is_known = target.startswith("/") or (target, self.method) == ("*", "OPTIONS")
        if not is_known or "#" in target:
            raise _bad_request(
                "malformed target: it has to begin with a slash and have no fragment"
            )
        path, _, query = target.partition("?")
        return path, query

    def _expects_continue(self) -> bool:
        value = self.headers.get("Expect")
        if value is not None and value.lower() != "100-continue":
            raise HttpError(HTTPStatus.EXPECTATION_FAILED, "Expect takes 100-continue alone")
        return value is not None


def _parse_headers(lines: list[bytes]) -> Message:
    if len(lines) > MAX_HEADERS:
        raise HttpError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"there are more than {MAX_HEADERS} headers; send fewer",
        )
    headers = Message()
    for line in lines:
        match = _HEADER.fullmatch(line.decode("latin-1"))
        if not match:
            raise _bad_request(
                "malformed header: a line takes a name, a colon and printable characters"
            )
        headers[match[1]] = match[2].strip(" \t")
    return headers


def _parse_query(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError:
        raise _bad_request(
            f"malformed query: it takes up to {MAX_QUERY_FIELDS} name=value, percent-encoded UTF-8"
        ) from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _bad_request("a query parameter stands twice; give each once")
    return fields


def _bad_request(detail: str) -> HttpError:
    return HttpError(HTTPStatus.BAD_REQUEST, detail)
