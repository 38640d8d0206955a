"""The vocabulary of errors: closed, and clear about what another attempt may mend."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from errors import ErrorCode, HttpError, ImageError, ServiceError, is_retryable

PROMISED = """
    invalid_url blocked_address dns_error connect_error tls_error timeout http_4xx http_5xx
    rate_limited too_many_redirects too_large truncated not_an_image unsupported_format decode_error
    too_many_pixels too_many_frames compress_timeout compress_crash max_bytes_unreachable
    storage_error cancelled internal_error
"""
BY_STATUS = {"http_4xx", "http_5xx"}  # written with the status in full
RETRIED = {"timeout", "connect_error", "dns_error", "truncated", "rate_limited", "storage_error"}


def test_the_vocabulary_is_the_promised_one() -> None:
    """Clients are promised these codes: none is missing, and no other exists."""
    assert set(ErrorCode) == set(PROMISED.split()) - BY_STATUS


@pytest.mark.parametrize("code", sorted(ErrorCode))
def test_only_passing_troubles_are_retried(code: ErrorCode) -> None:
    """A failure of the network or the store is tried again, one of the image is not."""
    assert is_retryable(code) is (code in RETRIED)


@pytest.mark.parametrize(
    ("status", "is_retried"),
    [
        *[(400, False), (401, False), (403, False), (404, False), (410, False), (451, False)],
        *[(408, True), (425, True), (429, True)],
        *[(500, True), (502, True), (503, True), (504, True), (599, True)],
        *[(204, False), (304, False), (600, False)],
    ],
)
def test_an_origin_s_status_tells_whether_to_retry(status: int, *, is_retried: bool) -> None:
    """408, 425, 429 and every 5xx are tried again; other statuses are final."""
    assert is_retryable(f"http_{status}") is is_retried


def test_an_image_error_carries_what_a_row_needs() -> None:
    """The code is plain text, ready for JSON and SQL, whatever it was given as."""
    error = ImageError(ErrorCode.RATE_LIMITED, "slow down", http_status=429, retry_after=3.5)
    assert type(error.code) is str
    assert (error.code, error.detail, str(error)) == ("rate_limited", "slow down", "slow down")
    assert (error.http_status, error.retry_after, error.is_retryable) == (429, 3.5, True)


def test_an_http_error_has_members_and_headers_of_its_own() -> None:
    """Two errors without members or headers don't share the empty ones."""
    first, second = (HttpError(HTTPStatus.NOT_FOUND, "nothing") for _ in range(2))
    first.members["line"] = 1
    first.headers["Allow"] = "GET"
    assert (second.members, second.headers) == ({}, {})
    assert isinstance(second, ServiceError)
