"""Webhooks by Standard Webhooks 1.0: the event, its signature, and what an answer means. Pure.

`webhook_queue` keeps the events that are to be sent, `webhook_sender` sends one.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import re
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SECRET: Final = re.compile(r"whsec_([A-Za-z0-9+/]+={0,2})")
_KEY_BYTES: Final = range(24, 65)
# From the end of one try to the next; the first is made at once.
RETRY_SECONDS: Final = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
MAX_RETRY_AFTER_SECONDS: Final = float(RETRY_SECONDS[-1])
_JITTER: Final = 0.1  # at most so much of the delay is added
_BUSY: Final = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_TYPES: Final = {"failed": "request.failed", "cancelled": "request.cancelled"}


class WebhookState(StrEnum):
    """The life cycle of an event; `schema.sql` draws it."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ClaimedWebhook:
    """An event that is ours to send until its lease ends. `attempts` are those before."""

    id: str
    request_id: str
    fence: int
    attempts: int
    url: str
    body: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one try: an HTTP status, or the reason why there is none.

    `retry_after` is the seconds that the receiver asked us to wait, `seconds` what the try took.
    """

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a try makes of its event. A `pending` one is sent again in `retry_seconds`."""

    state: WebhookState
    attempts: int
    retry_seconds: float
    last_status: int | None
    last_error: str | None
    seconds: float = 0.0  # that the try took


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Return the keys of one `whsec_…` secret, or of several with commas or spaces between.

    Raises ValueError, in words for the operator.
    """
    return tuple(_parse_secret(part) for part in text.replace(",", " ").split() or [""])


def _parse_secret(text: str) -> bytes:
    encoded = _SECRET.fullmatch(text)
    with suppress(ValueError):
        if encoded and len(key := base64.b64decode(encoded[1])) in _KEY_BYTES:
            return key
    raise ValueError(
        "takes whsec_ and then the base64 of 24 to 64 random bytes; several, with commas between"
    )


def new_webhook_id() -> str:
    """Return an id for a new event."""
    return f"msg_{uuid.uuid4().hex}"


def event_body(document: Mapping[str, Any]) -> str:
    """Return the event that a finished request's status document makes, as JSON."""
    event = {
        "type": _TYPES.get(document["status"], "request.completed"),
        "timestamp": document["finished_at"],
        "data": document,
    }
    return json.dumps(event, separators=(",", ":"))


def signed_headers(
    keys: Sequence[bytes], webhook_id: str, body: bytes, sent_at: int
) -> dict[str, str]:
    """Return the headers by which a receiver knows the event and its sender.

    `sent_at` is the time of this try in seconds since 1970. Each key signs, in its turn; a receiver
    takes what one of them signed.
    """
    signed = f"{webhook_id}.{sent_at}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(sent_at),
        "webhook-signature": " ".join(f"v1,{signature.decode()}" for signature in signatures),
    }


def judge(answer: Answer, attempts: int) -> Delivery:
    """Return what an answer makes of an event that was tried `attempts` times before."""
    if answer.status is not None and 200 <= answer.status < 300:
        state, error = WebhookState.DELIVERED, None
    else:
        has_ended = answer.status == HTTPStatus.GONE or attempts >= len(RETRY_SECONDS)
        state = WebhookState.FAILED if has_ended else WebhookState.PENDING
        error = answer.error or _refusal(answer.status)
    return Delivery(
        state=state,
        attempts=attempts + 1,
        retry_seconds=_retry_seconds(answer, attempts) if state is WebhookState.PENDING else 0.0,
        last_status=answer.status,
        last_error=error,
        seconds=answer.seconds,
    )


def _refusal(status: int | None) -> str:
    text = f"The receiver answered with HTTP status {status}"
    if status == HTTPStatus.GONE:
        return f"{text}: it takes no more."
    if status is not None and 300 <= status < 400:
        return f"{text}; redirects are not followed."
    return f"{text}."


def _retry_seconds(answer: Answer, attempts: int) -> float:
    scheduled = RETRY_SECONDS[attempts] * random.uniform(1, 1 + _JITTER)  # noqa: S311  # jitter
    asked = answer.retry_after if answer.status in _BUSY else None
    return max(scheduled, asked or 0.0)
