"""The head and framing of an origin's answer, read no further than an honest one goes.

Owns the limits on what an answer has beside its body. What the headers mean is `source_response`'s,
how much of the body is taken `image_downloader`'s.
"""

from __future__ import annotations

import http.client
import re
from typing import Any

from errors import ErrorCode, ImageError

MAX_HEADER_BYTES = 64 * 1024  # status line and headers of one answer, 1xx answers included
MAX_FRAMING_BYTES = 512 * 1024  # what stands between a body's chunks and after the last one

_BARE_CR = re.compile(rb"\r(?!\n)")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t\r]*(?:;[^\n]*)?\n")


class _HeaderReader:
    # Stands in for an answer's stream while its headers are read. What the origin calls its image
    # means nothing to us, and the standard library would read a multipart's parameters: in seconds
    # of processor time when they are made for that, or with a TypeError. It would also take a bare
    # CR for the end of a line, where a further header could hide: it stands for a space (RFC 9112
    # section 2.2).

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left = MAX_HEADER_BYTES
        self.close = stream.close

    def readline(self, limit: int) -> bytes:
        line: bytes = self._stream.readline(min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise ImageError(
                ErrorCode.TOO_LARGE,
                f"The origin's answer has more than {MAX_HEADER_BYTES // 1024} KiB of headers.",
            )
        line = _BARE_CR.sub(b" ", line)
        return b"X-" + line if line[:12].lower() == b"content-type" else line


class Answer(http.client.HTTPResponse):
    """http.client's answer, with limits of our own.

    Its own are 64 KiB a line and 100 header lines. It takes chunks of a negative size, extensions
    and trailers without end, and any 1xx but 100 for the final answer.
    """

    _framing_left = MAX_FRAMING_BYTES

    def begin(self) -> None:
        """Read status and headers. Raises ImageError `too_large`."""
        stream: Any = self.fp
        self.fp: Any = _HeaderReader(stream)
        try:
            super().begin()
        finally:
            if self.fp:  # not closed on the way
                self.fp = stream

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)

    def _read_next_chunk_size(self) -> int:
        size = _CHUNK_LINE.fullmatch(self._read_framing())
        if not size:
            raise ValueError("no chunk size")
        return int(size[1], 16)

    def _read_and_discard_trailer(self) -> None:
        while self._read_framing().strip():
            pass

    def _read_framing(self) -> bytes:
        # Lines cost more time than data does: an image of one-byte chunks would keep a core busy.
        line: bytes = self.fp.readline(self._framing_left + 1)
        self._framing_left -= len(line)
        if self._framing_left < 0:
            raise ImageError(
                ErrorCode.TOO_LARGE,
                f"The image came in pieces with more than {MAX_FRAMING_BYTES // 1024} KiB "
                "between them.",
            )
        return line
