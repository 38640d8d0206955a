"""An upload's body, taken apart as it arrives: the CSV's bytes and the option fields.

Owns what the body of `POST /upload` may be. Opens no socket: `upload_intake` feeds it what came and
bounds the body's length as a whole; what options mean is `request_options`', what the CSV holds
`csv_validator`'s business.
"""

from __future__ import annotations

import hashlib
import re
from http import HTTPStatus
from typing import IO, TYPE_CHECKING

from multipart import (  # type: ignore[import-untyped]  # it has annotations, but no py.typed
    MultipartError,
    MultipartSegment,
    ParserError,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Callable

FILE_PART = "file"
MAX_OPTION_BYTES = 8 * 1024  # as long as a webhook's URL may reasonably be
MAX_OPTIONS = 32  # twice as many as there are
MAX_PART_HEADERS = 8  # RFC 7578 knows three
MAX_PART_HEADER_BYTES = 4 * 1024  # one header line, with a long file name in it

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 5.1.1
_CSV_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "utf-16"})


class UploadParser:
    """A push parser for one body: feed it every chunk, then finish.

    `csv_file` receives the CSV's bytes and stays the caller's; `content_length` is that of
    the body. Raises HttpError: 415 for another content type, 400 for a multipart body without a
    usable boundary. After any HttpError the parser is of no more use.
    """

    def __init__(
        self, content_type: str, content_length: int, csv_file: IO[bytes], max_csv_bytes: int
    ) -> None:
        self._content_length = content_length
        self._received = 0
        self._csv_file = csv_file
        self._csv_digest = hashlib.sha256()
        self._csv_room = max_csv_bytes
        self._max_csv_bytes = max_csv_bytes
        self._form: _FormParser | None = None
        media_type, parameters = parse_options_header(content_type)
        if media_type == "multipart/form-data":
            boundary = parameters.get("boundary", "")
            self._form = _FormParser(boundary, content_length, self._write_csv)
        elif media_type != "text/csv":
            raise HttpError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"upload a CSV as multipart/form-data with a part {FILE_PART!r}, or as text/csv, "
                f"not as {media_type[:100]!r}",
            )
        elif parameters.get("charset", "utf-8").lower() not in _CSV_CHARSETS:
            raise HttpError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "the charset is neither utf-8 nor utf-16: save the CSV as UTF-8",
            )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body.

        Raises HttpError: 400 for a malformed body, 413 as soon as the CSV, an option or the
        number of parts passes its limit, 422 for an option given twice.
        """
        self._received += len(chunk)
        if self._received > self._content_length:
            raise _malformed("the body is longer than its Content-Length")
        if self._form:
            self._form.feed(chunk)
        else:
            self._write_csv(chunk)

    def finish(self) -> dict[str, str]:
        """Return the option fields of a form, none of a plain CSV, once the body is complete.

        Raises HttpError as `feed` does, and 400 for a body that was cut short or a form without
        the file.
        """
        if self._received < self._content_length:
            raise _malformed("the body is shorter than its Content-Length")
        return self._form.finish() if self._form else {}

    @property
    def csv_sha256(self) -> bytes:
        """The digest of the CSV as far as it has come."""
        return self._csv_digest.digest()

    def _write_csv(self, piece: bytes) -> None:
        self._csv_room -= len(piece)
        if self._csv_room < 0:
            raise _too_large(
                f"the CSV has more than {self._max_csv_bytes} bytes (MAX_CSV_BYTES); "
                "send it as several files"
            )
        self._csv_digest.update(piece)
        self._csv_file.write(piece)


class _SteadyParser(PushMultipartParser):  # type: ignore[misc]  # it has annotations, but no py.typed
    """The underlying parser, which alone judges header lines by how they were cut.

    It finds a bare line feed only in a line whose end hasn't come yet, and counts such a line's CR.
    """

    def _on_segment_headerline(self, line: bytes) -> None:
        if b"\n" in line:
            raise ParserError("a line break in a header")
        if len(line) > MAX_PART_HEADER_BYTES:
            raise ParserError("a header is too long")
        super()._on_segment_headerline(line)


class _FormParser:
    """The multipart side: one part is the file, all others are options.

    Gives the same answer however the body is cut into chunks. The underlying parser alone
    doesn't: whether it passes over or refuses what stands before the first and after the last
    boundary depends on the cut. So the body must begin with its boundary, and as many bytes as
    the last boundary takes are held back to be parsed in one piece.
    """

    def __init__(
        self, boundary: str, content_length: int, write_csv: Callable[[bytes], None]
    ) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise _malformed(
                "the form's Content-Type has no usable boundary: let your HTTP library write it"
            )
        self._parser = _SteadyParser(
            boundary,
            content_length=content_length,
            max_header_size=MAX_PART_HEADER_BYTES + 1,  # with the CR of one that isn't whole yet
            max_header_count=MAX_PART_HEADERS,
            # No part is larger than the body; the file and the options have limits of their own.
            max_segment_size=content_length,
            strict=True,
        )
        self._opening = b"--" + boundary.encode()
        self._hold = len(b"\r\n" + self._opening + b"--\r\n")
        self._held = b""
        self._has_begun = False
        self._write_csv = write_csv
        self._has_file = False
        self._option: str | None = None  # the part under way, unless it is the file
        self._value = bytearray()
        self._options: dict[str, str] = {}

    def feed(self, chunk: bytes) -> None:
        data = self._held + chunk
        if len(data) > self._hold:
            self._parse(data[: -self._hold], data)
        self._held = data[-self._hold :]

    def finish(self) -> dict[str, str]:
        self._parse(self._held, self._held)
        try:
            self._parser.close()
        except MultipartError as error:
            raise _malformed("the multipart body ends before its last boundary") from error
        if not self._has_file:
            raise _malformed(f"the form has no part named {FILE_PART!r}: send the CSV as that")
        return self._options

    def _parse(self, data: bytes, known: bytes) -> None:
        """Parse `data`; `known` is that and what is held back behind it."""
        if not self._has_begun and not known.startswith((self._opening, b"\r\n" + self._opening)):
            raise _malformed("the multipart body doesn't begin with its boundary")
        self._has_begun = True
        try:
            for event in self._parser.parse(data):
                if isinstance(event, MultipartSegment):
                    self._begin_part(event)
                elif event is None:
                    self._end_part()
                else:
                    self._take(event)
        except ParserLimitReached as error:
            raise _malformed(
                f"the multipart body has a part with more than {MAX_PART_HEADERS} header lines,"
                f" or one of over {MAX_PART_HEADER_BYTES} bytes"
            ) from error
        except MultipartError as error:
            raise _malformed(f"the multipart body is malformed: {error.args[0]}") from error

    def _begin_part(self, part: MultipartSegment) -> None:
        name = part.name or ""
        if name == FILE_PART:
            if self._has_file:
                raise _malformed(f"the form has more than one part named {FILE_PART!r}")
            self._has_file = True
            self._option = None
            return
        if part.filename is not None:
            raise _malformed(f"the file must be in a part named {FILE_PART!r}, not {name[:100]!r}")
        if len(self._options) == MAX_OPTIONS:
            raise _too_large(f"the form has more than {MAX_OPTIONS} options")
        if name in self._options:
            raise HttpError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"the option {name[:100]!r} is given twice; give it once",
            )
        self._option = name

    def _take(self, piece: bytes | bytearray) -> None:
        if self._option is None:
            self._write_csv(bytes(piece))
            return
        self._value += piece
        if len(self._value) > MAX_OPTION_BYTES:
            raise _too_large(
                f"the option {self._option[:100]!r} is longer than {MAX_OPTION_BYTES} bytes"
            )

    def _end_part(self) -> None:
        if self._option is None:
            return
        try:
            self._options[self._option] = self._value.decode()
        except UnicodeDecodeError:
            raise _malformed(f"the option {self._option[:100]!r} is not UTF-8") from None
        self._value.clear()


def _malformed(detail: str) -> HttpError:
    return HttpError(HTTPStatus.BAD_REQUEST, detail)


def _too_large(detail: str) -> HttpError:
    return HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
