"""Webhooks: the event, a signature that others can check, and what an answer means."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from webhook import (
    RETRY_SECONDS,
    Answer,
    WebhookState,
    event_body,
    judge,
    new_webhook_id,
    parse_secrets,
    signed_headers,
)

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
NOON = "2031-02-03T12:00:00.000Z"


def _document(status: str = "completed") -> dict[str, Any]:
    """Make what the status says of a finished request."""
    return {"request_id": "ab", "status": status, "finished_at": NOON, "name": "Lämp"}


@pytest.mark.parametrize(
    ("status", "event_type"),
    [
        ("completed", "request.completed"),
        ("completed_with_errors", "request.completed"),
        ("failed", "request.failed"),
        ("cancelled", "request.cancelled"),
    ],
)
def test_an_event_is_the_status_at_the_end(status: str, event_type: str) -> None:
    """The event has the type that its end calls for, the time of the end, and the status."""
    document = _document(status)
    event = {"type": event_type, "timestamp": NOON, "data": document}
    assert json.loads(event_body(document)) == event


def test_a_signature_is_one_that_the_standard_s_own_library_takes() -> None:
    """What is signed now verifies with the secret, and with nothing changed."""
    body = event_body(_document()).encode()
    headers = signed_headers(parse_secrets(SECRET), new_webhook_id(), body, int(time.time()))
    judge_of_signatures = Webhook(SECRET)
    assert judge_of_signatures.verify(body, headers) == json.loads(body)
    for changed in (
        {"webhook-id": "msg_other"},
        {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)},
    ):
        with pytest.raises(WebhookVerificationError):
            judge_of_signatures.verify(body, headers | changed)
    with pytest.raises(WebhookVerificationError):
        judge_of_signatures.verify(body + b" ", headers)


def test_an_old_signature_is_not_taken() -> None:
    """The time that is signed is that of the try, so a replayed message is noticed."""
    headers = signed_headers([KEY], "msg_1", b"{}", int(time.time()) - 600)
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(SECRET).verify(b"{}", headers)


def test_a_signature_as_the_standard_shows_it() -> None:
    """The example of the specification comes out to the letter."""
    keys = parse_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers(
        keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', 1614265330
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_while_a_secret_is_replaced_both_sign() -> None:
    """Receivers with either one take the event; those with another one don't."""
    new, old, other = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2, 3))
    body = event_body(_document()).encode()
    headers = signed_headers(parse_secrets(f"{new},{old}"), "msg_1", body, int(time.time()))
    for secret in (new, old):
        assert Webhook(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(body, headers)
    (alone,) = parse_secrets(new)
    first = signed_headers([alone], "msg_1", body, int(headers["webhook-timestamp"]))
    assert headers["webhook-signature"].startswith(first["webhook-signature"] + " v1,")


def test_ids_are_of_their_own() -> None:
    """Receivers tell events apart by their id; a full stop would make the signature ambiguous."""
    ids = {new_webhook_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(name.startswith("msg_") and name.isascii() and "." not in name for name in ids)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_success_delivers(status: int) -> None:
    """Every 2xx ends it well, also at the last try."""
    for attempts in range(len(RETRY_SECONDS) + 1):
        delivery = judge(Answer(status=status), attempts)
        assert delivery.state is WebhookState.DELIVERED
        assert (delivery.attempts, delivery.last_status) == (attempts + 1, status)
        assert delivery.last_error is None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        *[
            (Answer(status=status), f"The receiver answered with HTTP status {status}.")
            for status in (199, 400, 401, 404, 409, 429, 500, 503, 599)
        ],
        *[
            (
                Answer(status=status),
                f"The receiver answered with HTTP status {status}; redirects are not followed.",
            )
            for status in (300, 301, 302, 304, 307, 308)
        ],
        (Answer(error="a.example has no address."), "a.example has no address."),
    ],
)
def test_anything_else_is_tried_again_by_the_schedule(answer: Answer, error: str) -> None:
    """Ten tries at the standard's times, a little later but never earlier; then it has failed."""
    for attempts, seconds in enumerate(RETRY_SECONDS):
        delivery = judge(answer, attempts)
        assert delivery.state is WebhookState.PENDING
        assert seconds <= delivery.retry_seconds <= 1.1 * seconds
        assert (delivery.attempts, delivery.last_status) == (attempts + 1, answer.status)
        assert delivery.last_error == error
    last = judge(answer, len(RETRY_SECONDS))
    assert (last.state, last.attempts) == (WebhookState.FAILED, 10)
    assert last.last_error == error


def test_the_schedule_is_the_standard_s() -> None:
    """5 s, 5 and 30 minutes, 2, 5, 10, 14, 20 and 24 hours after the first try."""
    hours = [seconds / 3600 for seconds in RETRY_SECONDS]
    assert hours == [5 / 3600, 5 / 60, 30 / 60, 2, 5, 10, 14, 20, 24]


def test_jitter_spreads_the_tries() -> None:
    """Receivers that were away together are not all tried again in the same moment."""
    assert len({judge(Answer(status=500), 1).retry_seconds for _ in range(20)}) > 10


def test_a_receiver_that_is_gone_ends_it() -> None:
    """410 says that nobody wants this any more: no try follows."""
    delivery = judge(Answer(status=410), 0)
    assert delivery.state is WebhookState.FAILED
    assert delivery.last_error == "The receiver answered with HTTP status 410: it takes no more."


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_receiver_s_wish_is_kept_to(status: int) -> None:
    """Retry-After of 429 and 503 counts where it is longer than the schedule's time."""
    assert judge(Answer(status=status, retry_after=100.0), 0).retry_seconds == 100.0
    assert judge(Answer(status=status, retry_after=1.0), 0).retry_seconds >= 5
    assert judge(Answer(status=status), 0).retry_seconds < 6


def test_nobody_else_has_a_wish() -> None:
    """A redirect's or a client error's Retry-After does not put a try off."""
    assert judge(Answer(status=302, retry_after=100.0), 0).retry_seconds < 6
