"""Targets: a connection without a socket: what the server understands and answers, read by a strict eye."""

from __future__ import annotations

import atexit
import io
import re
import tempfile
import threading
from functools import cache
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from database_helper import Database, DatabaseUnavailableError
from http_api import Api
from httpd.connection_places import Place
from httpd.http_connection import HttpHandler
from httpd.http_protocol import MAX_HEADER_BYTES, Response
from settings import Settings
from storage.folder_store import FolderStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from httpd.http_connection import Site
    from httpd.http_protocol import Request

MAX_BYTES: Final = 4 * MAX_HEADER_BYTES
# RFC 9112 without anything that two parsers might read in two ways.
_REQUEST: Final = re.compile(
    rb"(?:\r\n)*(TOKEN) ([!-~]+) HTTP/1\.[0-9]\r\n((?:TOKEN:[^\r\n\0]*\r\n)*)\r\n".replace(
        b"TOKEN", rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    )
)
_LENGTH: Final = re.compile(rb"(?im)^content-length:[ \t]*([0-9]+)[ \t]*\r$")
_FRAMING: Final = re.compile(rb"(?im)^(?:content-length|transfer-encoding):")
_ORIGIN: Final = re.compile(r"^https?://[^/]*", re.IGNORECASE)
_RESPONSE: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [ -~]*\r\n((?:[!-9;-~]+: [ -~]*\r\n)*)\r\n")
_OUR_FAULTS: Final = {500, 502, 504}
_SETTINGS: Final = {"rate_limit": 1_000_000, "webhook_secret": "whsec_" + "c2VjcmV0" * 4}
_REFUSALS: Final = {400, 411, 414, 417, 431}

Understood = tuple[str, str, bytes]  # method, path and body of a request


class _Wire:
    """What a connection needs of a socket: the client's bytes in pieces, their end; what we send."""

    def __init__(self, data: bytes, piece: int) -> None:
        self._data = io.BytesIO(data)
        self._piece = piece
        self.sent = bytearray()

    def recv(self, at_most: int) -> bytes:
        return self._data.read(min(at_most, self._piece))

    def send(self, data: memoryview, flags: int) -> int:  # noqa: ARG002  # as a socket's
        self.sent += data
        return len(data)

    def _ignore(self, *_: object) -> None:
        pass

    settimeout = setsockopt = shutdown = _ignore


class _Site:
    """Answers every request and keeps what was understood."""

    is_draining = False

    def __init__(self) -> None:
        self.understood: list[Understood] = []

    def answer(self, request: Request) -> Response:
        body = b"".join(request.body)
        self.understood.append((request.method, request.path, body))
        return Response(HTTPStatus.OK, b"{}")


def http_connection(data: bytes) -> None:
    """Have a connection's bytes answered, at once and piece by piece."""
    data = data[:MAX_BYTES]
    understood, statuses = _converse(data, MAX_BYTES)
    assert (understood, statuses) == _converse(data, 7)
    assert understood == list(islice(_strict_reading(data), len(understood)))
    assert statuses[: len(understood)] == [HTTPStatus.OK] * len(understood)
    assert statuses[len(understood) :] in [[], *([status] for status in _REFUSALS)]


def service_connection(data: bytes) -> None:
    """Have a connection's bytes answered by the service, whose database is away."""
    statuses = _answers(data[:MAX_BYTES], MAX_BYTES, _api())
    assert not _OUR_FAULTS & set(statuses)


def _converse(data: bytes, piece: int) -> tuple[list[Understood], list[int]]:
    site = _Site()
    return site.understood, _answers(data, piece, site)


def _answers(data: bytes, piece: int, site: Site) -> list[int]:
    wire = cast("Any", _Wire(data, piece))
    place = Place(wire, threading.Condition())
    handler = HttpHandler(wire, ("127.0.0.1", 0), site, place, lambda _: None)
    while not handler.close_connection:
        handler.handle()
    return list(statuses_of(bytes(wire.sent)))


class _NoDatabase(Database):
    """A database that is away."""

    def transaction(self, seconds: float | None = None) -> NoReturn:  # noqa: ARG002  # as inherited
        raise DatabaseUnavailableError("away")

    def reading(self) -> NoReturn:
        raise DatabaseUnavailableError("away")


@cache
def _api() -> Api:
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Api(Settings.model_validate(_SETTINGS), _NoDatabase(""), FolderStore(Path(folder.name)))


def _strict_reading(data: bytes) -> Iterator[Understood]:
    """Yield the requests that every parser finds in these bytes."""
    while request := _REQUEST.match(data):
        method, target, headers = request.groups()
        lengths = _LENGTH.findall(headers)
        if len(_FRAMING.findall(headers)) != len(lengths) or len(lengths) > 1:
            return
        end = request.end() + int(lengths[0] if lengths else 0)
        if end > len(data):
            return
        path = _ORIGIN.sub("", target.decode().partition("?")[0]) or "/"
        yield method.decode(), path, data[request.end() : end]
        data = data[end:]


def statuses_of(sent: bytes) -> Iterator[int]:
    """Yield the status of each final response; each must be whole, and the last where it says so."""
    while sent:
        response = _RESPONSE.match(sent)
        assert response, sent[:200]
        status, headers = int(response[1]), response[2].lower()
        sent = sent[response.end() :]
        if status == HTTPStatus.CONTINUE:
            continue
        if not (b"HTTP/1.1 ").startswith(sent[:9]):  # it has a body, unlike after HEAD
            length = re.search(rb"content-length: ([0-9]+)\r\n", headers)
            assert length
            assert len(sent) >= int(length[1])
            sent = sent[int(length[1]) :]
        yield status
        assert not (b"connection: close" in headers and sent)
