"""What can go wrong, and what a client may hear of it.

Owns the base class of every error that the service raises on purpose and the closed
vocabulary of image error codes. Turning an `HttpError` into a response is `http_protocol`'s
business, turning an `ImageError` into an outcome is `image_pipeline`'s. Anything that is not
a `ServiceError` is a bug: it is logged with its traceback and told to nobody.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from http import HTTPStatus


class ErrorCode(StrEnum):
    """Why an image failed. HTTP answers of an origin add `http_<status>` to these."""

    INVALID_URL = "invalid_url"  # not http(s), or can't be parsed
    BLOCKED_ADDRESS = "blocked_address"  # address or port that we don't fetch from
    DNS_ERROR = "dns_error"  # the host has no address, or the resolver failed
    CONNECT_ERROR = "connect_error"  # refused, reset, or no HTTP spoken
    TLS_ERROR = "tls_error"  # certificate or handshake
    TIMEOUT = "timeout"  # CONNECT_SECONDS or DOWNLOAD_SECONDS are over
    RATE_LIMITED = "rate_limited"  # the origin answered 429
    TOO_MANY_REDIRECTS = "too_many_redirects"  # more than five
    TOO_LARGE = "too_large"  # more than MAX_IMAGE_BYTES
    TRUNCATED = "truncated"  # fewer bytes than declared, or half an image
    NOT_AN_IMAGE = "not_an_image"  # HTML, text, nothing
    UNSUPPORTED_FORMAT = "unsupported_format"  # an image, but of a kind that we don't take
    DECODE_ERROR = "decode_error"  # the right kind, but broken
    TOO_MANY_PIXELS = "too_many_pixels"  # more than MAX_IMAGE_PIXELS, all frames together
    TOO_MANY_FRAMES = "too_many_frames"  # more than MAX_IMAGE_FRAMES
    COMPRESS_TIMEOUT = "compress_timeout"  # COMPRESS_SECONDS are over
    COMPRESS_CRASH = "compress_crash"  # the decoder died of this image
    MAX_BYTES_UNREACHABLE = "max_bytes_unreachable"  # no quality or size fits max_bytes
    STORAGE_ERROR = "storage_error"  # disk or object store failed
    CANCELLED = "cancelled"  # the request was cancelled first
    INTERNAL_ERROR = "internal_error"  # our fault


_RETRYABLE = frozenset(
    {
        ErrorCode.TIMEOUT,
        ErrorCode.CONNECT_ERROR,
        ErrorCode.DNS_ERROR,
        ErrorCode.TRUNCATED,
        ErrorCode.RATE_LIMITED,
        ErrorCode.STORAGE_ERROR,
        "http_408",
        "http_425",
        "http_429",
    }
)


def is_retryable(code: str) -> bool:
    """Tell whether another attempt may end better than one that failed with `code`."""
    return code in _RETRYABLE or code.startswith("http_5")


def first_line(text: str) -> str:
    """Return the first line of what a library or server said: the rest is for its own log."""
    return text.strip().partition("\n")[0]


class ServiceError(Exception):
    """An error that the service knows; `detail` is one sentence that a client may read."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class SettingsError(ServiceError):
    """The environment asks for what can't be; `detail` has a line per bad setting."""


class HttpError(ServiceError):
    """An HTTP answer that is not a success.

    `members` are further members of the problem document (RFC 9457 section 3.2), `headers`
    further header fields of the response.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        members: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.members = members or {}
        self.headers = headers or {}


class ImageError(ServiceError):
    """One image's failure; it never touches another image.

    `http_status` is the origin's answer where there was one, `retry_after` the seconds that
    the origin asked us to wait.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        http_status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = str(code)
        self.http_status = http_status
        self.retry_after = retry_after

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt may end better."""
        return is_retryable(self.code)
