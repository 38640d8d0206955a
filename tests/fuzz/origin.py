"""Target: an origin without a network: its bytes lie in a pair of local sockets before they are asked for."""

from __future__ import annotations

import os
import socket
from http import HTTPStatus
from typing import Final

from address_policy import AddressPolicy
from errors import ErrorCode, ImageError
from fetching.image_downloader import DownloadLimits, ImageDownloader
from fetching.source_connection import Network

MAX_BYTES: Final = 16 * 1024  # of an answer; they fit into a socket's buffer
_PUBLIC: Final = "93.184.216.34"
_MAX_IMAGE_BYTES: Final = 5000


class _Origin:
    """Answers every connection with the same bytes, and ends it."""

    def __init__(self) -> None:
        self.answer = b""
        self._ends: list[socket.socket] = []

    def connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Put a pair of local sockets in the place of a connection."""
        ours, theirs = socket.socketpair()
        self._ends.append(theirs)
        with ours:
            os.dup2(ours.fileno(), sock.fileno())
        sock.getpeername = lambda: address  # type: ignore[method-assign]
        theirs.sendall(self.answer)
        theirs.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End what is left of all connections."""
        while self._ends:
            self._ends.pop().close()


_ORIGIN: Final = _Origin()
_DOWNLOADER: Final = ImageDownloader(
    AddressPolicy(),
    DownloadLimits(max_bytes=_MAX_IMAGE_BYTES, connect_seconds=5, total_seconds=5),
    connections=1,
    network=Network(resolve=lambda *_: [_PUBLIC], connect=_ORIGIN.connect),
)


def origin_answer(data: bytes) -> None:
    """Download from an origin that answers so: an image, or an error that an owner may read."""
    _ORIGIN.answer = data[:MAX_BYTES]
    try:
        with _DOWNLOADER.download(f"http://{_PUBLIC}/a") as image:
            assert 0 < len(image.data) <= _MAX_IMAGE_BYTES
            _check_text(*filter(None, image.validators))
    except ImageError as error:
        _check_error(error)
    finally:
        _DOWNLOADER.close()  # that is, the kept connections
        _ORIGIN.close()


def _check_error(error: ImageError) -> None:
    assert error.code in set(ErrorCode) - {ErrorCode.INTERNAL_ERROR, ErrorCode.TIMEOUT} or (
        error.code == f"http_{error.http_status}"
    )
    assert error.http_status is None or HTTPStatus.CONTINUE <= error.http_status <= 999
    assert error.retry_after is None or 0 <= error.retry_after < 10**6
    assert error.detail.endswith(".")
    _check_text(error.detail)


def _check_text(*texts: str) -> None:
    """Demand what the database takes, and a log shows as it is."""
    for text in texts:
        assert text.isprintable()
        text.encode()
