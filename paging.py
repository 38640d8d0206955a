"""Pages of a list: the `limit`, `cursor` and filters of a query, and the next page's cursor.

Cursors are opaque to clients and mean a place in the order, not a number of rows: a page costs
the same wherever it stands.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from errors import HttpError
from image_queue import ImageState

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
MAX_IMAGE_NUMBER: Final = 2**31 - 1
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_ERROR_CODE: Final = re.compile(r"[a-z0-9_]{1,40}")
_REQUEST_ID: Final = re.compile(r"[0-9a-f]{32}")


def parse_limit(query: Mapping[str, str]) -> int:
    """Return how many rows a page shall have. Raises HttpError 422."""
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not _WHOLE_NUMBER.fullmatch(text) or not 1 <= int(text) <= MAX_LIMIT:
        raise _refusal(f"limit: {text[:100]!r} is not a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def image_cursor(row: Mapping[str, Any]) -> str:
    """Return the cursor behind an image."""
    return _encode(row["n"])


def parse_image_place(query: Mapping[str, str]) -> int:
    """Return the number of the image behind which the page starts; 0 is the first page.

    Named by `cursor`, or by `from`, the number of its first image. Raises HttpError 422.
    """
    if "cursor" in query and "from" in query:
        raise _refusal("from: a page starts there or at a cursor, not at both")
    if "from" in query:
        return _parse_first(query["from"]) - 1
    if "cursor" not in query:
        return 0
    number = _decode(query["cursor"])
    # JSON's true is an int to Python, but not to the column that this is for.
    if type(number) is not int or not 0 <= number <= MAX_IMAGE_NUMBER:
        raise _unknown_cursor()
    return number


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
    return _encode([row["created_at"].isoformat(), row["id"]])


def parse_request_cursor(query: Mapping[str, str]) -> tuple[datetime, str] | None:
    """Return creation time and id of the request behind which the page starts."""
    if "cursor" not in query:
        return None
    match _decode(query["cursor"]):
        case [str(created_at), str(request_id)] if _REQUEST_ID.fullmatch(request_id):
            try:
                return datetime.fromisoformat(created_at).astimezone(UTC), request_id
            except (ValueError, OverflowError):
                pass
    raise _unknown_cursor()


def _encode(place: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def _decode(cursor: str) -> Any:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return json.loads(base64.b64decode(padded, altchars="-_", validate=True))
    except (ValueError, RecursionError):
        raise _unknown_cursor() from None


def _unknown_cursor() -> HttpError:
    return _refusal("cursor: not one that this service gave out")


def _refusal(detail: str) -> HttpError:
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
