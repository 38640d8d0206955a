"""Pages of a list: the `limit` and `cursor` of a query, and the cursor of the next page.

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

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
MAX_IMAGE_NUMBER: Final = 2**31 - 1
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,9}")
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


def parse_image_cursor(query: Mapping[str, str]) -> int:
    """Return the number of the image behind which the page starts; 0 is the first page."""
    if "cursor" not in query:
        return 0
    number = _decode(query["cursor"])
    # JSON's true is an int to Python, but not to the column that this is for.
    if type(number) is not int or not 0 <= number <= MAX_IMAGE_NUMBER:
        raise _unknown_cursor()
    return number


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
