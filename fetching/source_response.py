"""What the status and headers of an origin's answer mean to us.

Pure: values in, values or errors out. `image_downloader` reads the bodies.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin

from errors import ErrorCode, ImageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from address_policy import SourceUrl

MAX_RETRY_AFTER_SECONDS = 600.0  # a request must not stand still for longer than that

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LENGTH = re.compile(r"[0-9]{1,18}")
_SECONDS = re.compile(r"[0-9]{1,9}")
# RFC 9110 sections 8.8.3 and 5.6.7, but no bytes beyond ASCII and no form that is long obsolete.
_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,1000}"')
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII)

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


class Validators(NamedTuple):
    """What tells one state of a resource from others; it means nothing to another URL."""

    url: str
    etag: str | None
    last_modified: str | None

    def conditions(self, url: str) -> dict[str, str]:
        """Return the headers that ask a URL for an image only if it has changed.

        Another URL gets none: where a redirect leads elsewhere by now, the date of the one file
        says nothing of the other, and its tag is not for strangers.
        """
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value and url == self.url}

    def agree(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a 304 is about the state that these are of (RFC 9111 section 4.3.4).

        The tag decides where both have one, else the date; a 304 may be without either.
        """
        etag, date = headers.get("ETag"), headers.get("Last-Modified")
        if self.etag and etag:
            return etag.removeprefix("W/") == self.etag.removeprefix("W/")
        return not self.last_modified or not date or date == self.last_modified


def validators(url: str, headers: Mapping[str, str]) -> Validators:
    """Return the validators of an answer that are fit to be stored and sent back.

    A date tells states apart only when a second has passed since (RFC 9110 section 8.8.2.2): else
    the image may have changed once more within it.
    """
    etag, last_modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    changed_at, sent_at = _date(last_modified), _date(headers.get("Date", ""))
    is_past = changed_at and sent_at and changed_at < sent_at  # in whole seconds
    return Validators(
        url,
        etag if _ENTITY_TAG.fullmatch(etag) else None,
        last_modified if is_past else None,
    )


def _date(value: str) -> datetime | None:
    """Return a date in the form of today, None if it is none."""
    if _HTTP_DATE.fullmatch(value):
        with suppress(ValueError, OverflowError):
            return parsedate_to_datetime(value)
    return None
