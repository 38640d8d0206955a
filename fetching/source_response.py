"""What the status and headers of an origin's answer mean to us.

Pure: values in, values or errors out. `image_downloader` reads the bodies.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from errors import ErrorCode, ImageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from address_policy import SourceUrl

MAX_RETRY_AFTER_SECONDS = 600.0  # a request must not stand still for longer than that

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LENGTH = re.compile(r"[0-9]{1,18}")
_SECONDS = re.compile(r"[0-9]{1,9}")
_VALIDATOR = re.compile(r"[\x20-\x7e]{1,1000}")

# The headers here are urllib3's: names without regard to case, repeated ones joined by commas.


def redirect_target(source: SourceUrl, status: int, headers: Mapping[str, str]) -> str | None:
    """Return where the answer redirects to, still to be judged; None if it does not.

    A redirect without a place is none. Raises ImageError `invalid_url`.
    """
    location = headers.get("Location", "")
    if status not in _REDIRECTS or not location:
        return None
    with suppress(UnicodeError):  # sent as UTF-8 if not as ASCII, but read as Latin-1
        location = location.encode("latin-1").decode()
    try:
        return urljoin(source.url, location)
    except ValueError:
        raise ImageError(
            ErrorCode.INVALID_URL, "The URL is redirected to one that is not valid."
        ) from None


def refusal(status: int, headers: Mapping[str, str]) -> ImageError:
    """Make the error of an answer that carries no image."""
    is_limit = status == HTTPStatus.TOO_MANY_REQUESTS
    return ImageError(
        ErrorCode.RATE_LIMITED if is_limit else f"http_{status}",
        f"The origin answered with HTTP status {status}.",
        http_status=status,
        retry_after=retry_after(headers.get("Retry-After", "")),
    )


def retry_after(value: str, at_most: float = MAX_RETRY_AFTER_SECONDS) -> float | None:
    """Return the seconds to wait by either form of RFC 9110 section 10.2.3, None by neither."""
    if _SECONDS.fullmatch(value.strip()):
        seconds = float(value)
    else:
        try:
            date = parsedate_to_datetime(value)
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), at_most)


def declared_length(headers: Mapping[str, str]) -> int | None:
    """Return the body's length in bytes, None when it is not declared.

    Raises ImageError `connect_error` when the framing can't be relied on (RFC 9112 section 6.3).
    """
    coding = headers.get("Transfer-Encoding")
    if coding is not None and coding.strip().lower() != "chunked":
        raise ImageError(
            ErrorCode.CONNECT_ERROR, "The origin uses a transfer encoding that nobody asked for."
        )
    declared = headers.get("Content-Length")
    if coding is not None or declared is None:
        return None
    lengths = {value.strip() for value in declared.split(",")}
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise ImageError(
            ErrorCode.CONNECT_ERROR, "The origin does not say clearly how long the image is."
        )
    return int(length)


def check_encoding(headers: Mapping[str, str]) -> None:
    """Raise ImageError `unsupported_format` unless the body is the image as it is."""
    if headers.get("Content-Encoding", "").strip().lower() not in {"", "identity"}:
        raise ImageError(
            ErrorCode.UNSUPPORTED_FORMAT,
            "The origin sent the image with a content encoding although none was asked for.",
        )


def validator(headers: Mapping[str, str], name: str) -> str | None:
    """Return an `ETag` or `Last-Modified` that is fit to be stored and sent back."""
    value = headers.get(name, "")
    return value if _VALIDATOR.fullmatch(value) else None
