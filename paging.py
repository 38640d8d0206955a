"""Pages of a list: the `limit`, `cursor` and filters of a query, and the next page's cursor.

Cursors are opaque to clients and mean a place in the order, not a number of rows: a page costs
the same wherever it stands.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from errors import HttpError
from image_queue import ImageState

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_ERROR_CODE: Final = re.compile(r"[a-z0-9_]{1,40}")
# openapi.json has both patterns, so all that they let in has to be a place in the order.
_IMAGE_CURSOR: Final = re.compile(r"[0-7][0-9a-f]{7}")  # an image's number
_REQUEST_CURSOR: Final = re.compile(r"([0-9a-f]{13})([0-9a-f]{32})")  # microseconds since 1970, id
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def parse_limit(query: Mapping[str, str]) -> int:
    """Return how many rows a page shall have. Raises HttpError 422."""
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not _WHOLE_NUMBER.fullmatch(text) or not 1 <= int(text) <= MAX_LIMIT:
        raise _refusal(f"limit: {text[:100]!r} is not a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def image_cursor(row: Mapping[str, Any]) -> str:
    """Return the cursor behind an image."""
    return f"{row['n']:08x}"


def parse_image_place(query: Mapping[str, str]) -> int:
    """Return the number of the image behind which the page starts; 0 is the first page.

    Named by `cursor`, or by `from`, the number of its first image; by the later one of both, so
    that the query of a first page goes on with its cursor added. Raises HttpError 422.
    """
    first = _parse_first(query["from"]) if "from" in query else 1
    cursor = query.get("cursor", image_cursor({"n": 0}))
    if not _IMAGE_CURSOR.fullmatch(cursor):
        raise _unknown_cursor()
    return max(first - 1, int(cursor, 16))


def parse_image_filter(query: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the state, and the code of failures, that are asked for. Raises HttpError 422."""
    state, code = query.get("state"), query.get("code")
    if state is not None and state not in set(ImageState):
        raise _refusal(f"state: {state[:100]!r} is not one of {', '.join(ImageState)}")
    if code is not None and not _ERROR_CODE.fullmatch(code):
        raise _refusal(f"code: {code[:100]!r} is not an error code like http_404")
    return state, code


def _parse_first(text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text) or int(text) < 1:
        raise _refusal(f"from: {text[:100]!r} is not the number of an image: 1, 2, …")
    return int(text)


def request_cursor(row: Mapping[str, Any]) -> str:
    """Return the cursor behind a request."""
    return f"{(row['created_at'] - _EPOCH) // _MICROSECOND:013x}{row['id']}"


def parse_request_cursor(query: Mapping[str, str]) -> tuple[datetime, str] | None:
    """Return creation time and id of the request behind which the page starts."""
    if "cursor" not in query:
        return None
    match = _REQUEST_CURSOR.fullmatch(query["cursor"])
    if not match:
        raise _unknown_cursor()
    return _EPOCH + int(match[1], 16) * _MICROSECOND, match[2]


def _unknown_cursor() -> HttpError:
    return _refusal(
        "cursor: not one that this service gave out; take the next_cursor of the page before"
    )


def _refusal(detail: str) -> HttpError:
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
