"""What several targets share: text of any bytes, and what a refusal has to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from httpd.http_protocol import problem_response

if TYPE_CHECKING:
    from errors import HttpError


def any_text(data: bytes) -> str:
    """Return any text, lone surrogates among it."""
    return data.decode("utf-8", "surrogateescape")


def check_refusal(refusal: HttpError, *statuses: int) -> int:
    """Check a refusal and that it can be told, which is in UTF-8; return its status."""
    assert refusal.status in statuses
    assert problem_response(refusal).body
    return refusal.status
