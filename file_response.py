"""Files over HTTP: validators, one range, and headers that make a stranger's bytes harmless.

RFC 9110 sections 13 (conditional requests) and 14 (ranges); of ranges only a single one.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from errors import HttpError
from httpd.http_protocol import Response, http_date

if TYPE_CHECKING:
    from httpd.http_protocol import Request
    from storage.image_store import ImageStore
    from storage.stored_object import StoredObject

# Images are another's bytes on our origin: nothing in them may run.
INERT: Final = "default-src 'none'; sandbox"

_RANGE: Final = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


def file_response(
    request: Request, store: ImageStore, file: StoredObject, headers: dict[str, str]
) -> Response:
    """Answer GET or HEAD of a stored file: 200, 206, 304, or HttpError 412 and 416."""
    etag = f'"{file.etag}"'
    if _is_another_file(request, etag):
        raise HttpError(
            HTTPStatus.PRECONDITION_FAILED,
            "the file has another ETag than If-Match asks for; ask without If-Match to get it",
        )
    common = {
        "ETag": etag,
        "Last-Modified": http_date(int(file.modified)),
        "Accept-Ranges": "bytes",
        "Content-Security-Policy": INERT,
        **headers,
    }
    if is_unchanged(request, etag):
        return Response(HTTPStatus.NOT_MODIFIED, b"", common)
    span = _requested_range(request, etag, file.size)
    start, end = span or (0, file.size)
    common["Content-Length"] = str(end - start)
    if span:
        common["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    status = HTTPStatus.PARTIAL_CONTENT if span else HTTPStatus.OK
    return Response(status, store.read(file, start, end), common)


def _is_another_file(request: Request, etag: str) -> bool:
    """Tell whether the client wants this file only as it was once (If-Match, strong comparison)."""
    tags = _tags(request.headers.get("If-Match", "*"))
    return etag not in tags and tags != ["*"]


def is_unchanged(request: Request, etag: str) -> bool:
    """Tell whether the client's copy is still good (If-None-Match, weak comparison)."""
    tags = [tag.removeprefix("W/") for tag in _tags(request.headers.get("If-None-Match", ""))]
    return etag in tags or tags == ["*"]


def _tags(field: str) -> list[str]:
    return [tag.strip() for tag in field.split(",")]


def _requested_range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """Return the half-open range that was asked for; None for all of it."""
    match = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if not match or match[0] == "bytes=-" or request.headers.get("If-Range", etag) != etag:
        return None  # several ranges or another unit: the whole is a right answer too
    if request.method != "GET":
        return None  # ranges of anything else are not defined
    first, last = match.groups()
    if first:
        start, end = int(first), min(int(last or size - 1) + 1, size)
        if last and int(last) < start:
            return None
    else:
        start, end = max(0, size - int(last)), size
    if start >= end:
        raise HttpError(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"the range is outside of the file, which has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end
