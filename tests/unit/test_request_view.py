"""Rows as clients see them: every promised member, nulls for what is not known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from request_view import image_document, is_finished, output_url, status_document

ID = "0123456789abcdef" * 2
BASE = "https://images.example"
NOON = datetime(2031, 2, 3, 12, tzinfo=UTC)


def _request(**columns: Any) -> dict[str, Any]:
    """Make a row of `requests` that has just been accepted."""
    return {
        "id": ID,
        "status": "pending",
        "owner": "digest of a key",
        "options": {"quality": "auto"},
        "columns": ["Serial Number"],
        "created_at": NOON,
        "started_at": None,
        "finished_at": None,
        "products": 2,
        "images": 8,
        "succeeded": 0,
        "failed": 0,
        "cancelled": 0,
        "done_before": 0,
        "bytes_in": 0,
        "bytes_out": 0,
        "errors_by_code": {},
        "webhook_deliveries": [],
        "now": NOON + timedelta(seconds=1),
    } | columns


def _image(**columns: Any) -> dict[str, Any]:
    """Make a row of `images` that nobody has claimed, with its product's cells."""
    unknown = (
        *("error_code", "error_detail", "http_status", "bytes_in", "bytes_out", "width"),
        *("height", "format", "quality", "sha256", "etag", "last_modified", "other_cells"),
    )
    return dict.fromkeys(unknown) | {
        "request_id": ID,
        "n": 7,
        "row": 2,
        "position": 3,
        "serial_number": "002",
        "product_name": "Lamp",
        "input_image_urls": "https://a.example/1.tiff",
        "input_url": "https://a.example/1.tiff",
        "state": "pending",
        "reused": False,
        "attempts": 0,
        "fence": 0,
        **columns,
    }


def test_a_request_that_nobody_has_begun() -> None:
    """Every promised member is there, null where nothing is known yet, and nothing inward."""
    assert status_document(_request(), BASE) == {
        "request_id": ID,
        "status": "pending",
        "created_at": "2031-02-03T12:00:00.000Z",
        "started_at": None,
        "finished_at": None,
        "options": {"quality": "auto"},
        "products": 2,
        "progress": {
            "total": 8,
            "done": 0,
            "succeeded": 0,
            "failed": 0,
            "percent": 0.0,
            "images_per_second": None,
            "eta_seconds": None,
        },
        "bytes_in": 0,
        "bytes_out": 0,
        "saved_percent": None,
        "errors_by_code": {},
        "webhook": None,
        "links": {
            "self": f"{BASE}/status/{ID}",
            "images": f"{BASE}/status/{ID}/images",
            "output_csv": None,
            "report_csv": None,
        },
    }


def test_a_request_under_way() -> None:
    """Rate and remaining time follow from what is done since the start, failures included; what
    was cancelled took no time.
    """
    row = _request(
        status="processing",
        started_at=NOON,
        now=NOON + timedelta(seconds=12),
        succeeded=2,
        failed=1,
        cancelled=1,
        bytes_in=3000,
        bytes_out=1999,
    )
    document = status_document(row, BASE)
    assert document["progress"] == {
        "total": 8,
        "done": 4,
        "succeeded": 2,
        "failed": 1,
        "percent": 50.0,
        "images_per_second": 0.25,
        "eta_seconds": 16,
    }
    assert document["saved_percent"] == 33.4


def test_a_finished_request_stands_still() -> None:
    """The rate is that of the work, however much later the question comes; the CSVs are there."""
    row = _request(
        status="completed",
        started_at=NOON,
        finished_at=NOON + timedelta(seconds=4),
        now=NOON + timedelta(days=3),
        succeeded=8,
    )
    document = status_document(row, BASE)
    assert is_finished(row)
    assert document["progress"]["images_per_second"] == 2.0
    assert document["progress"]["eta_seconds"] == 0
    assert document["links"]["output_csv"] == f"{BASE}/static/{ID}.csv"
    assert document["links"]["report_csv"] == f"{BASE}/static/{ID}-report.csv"


def test_a_percentage_is_not_whole_before_the_end() -> None:
    """One image of a million is left: that is not 100 percent."""
    row = _request(status="processing", images=1_000_000, succeeded=999_999, started_at=NOON)
    assert status_document(row, BASE)["progress"]["percent"] == 99.9


def test_an_end_in_the_very_moment_of_the_start_is_no_trouble() -> None:
    """The clock may not have moved between start and end."""
    row = _request(status="completed", started_at=NOON, finished_at=NOON, succeeded=8)
    assert status_document(row, BASE)["progress"]["images_per_second"] == 8000.0


def test_outputs_that_are_larger_show_a_negative_saving() -> None:
    """A format that was asked for may cost bytes, and the figure says so."""
    assert status_document(_request(bytes_in=100, bytes_out=150), BASE)["saved_percent"] == -50.0


def test_times_are_in_utc() -> None:
    """Whatever zone the database speaks in, clients read RFC 3339 with a Z."""
    moment = datetime(2031, 2, 3, 1, 2, 3, 456_789, timezone(timedelta(hours=5, minutes=30)))
    document = status_document(_request(created_at=moment), BASE)
    assert document["created_at"] == "2031-02-02T19:32:03.456Z"


HOOK = {"quality": "auto", "webhook_url": "https://shop.example/hook"}


def _event(**columns: Any) -> dict[str, Any]:
    """Make an event as the database puts it beside its request's row."""
    return {
        "id": "msg_2",
        "state": "pending",
        "attempts": 0,
        "last_status": None,
        "last_error": None,
        "due_at": "2031-02-03T12:00:05+00:00",
        "delivered_at": None,
    } | columns


@pytest.mark.parametrize("event", [None, _event(state="delivered", attempts=1)])
def test_a_webhook_waits_for_the_end(event: dict[str, Any] | None) -> None:
    """Before the end, also that of a retry, nothing is there to be sent."""
    row = _request(options=HOOK, status="processing", webhook=event)
    assert status_document(row, BASE)["webhook"] == {
        "id": None,
        "url": "https://shop.example/hook",
        "state": "waiting",
        "attempts": 0,
        "last_status": None,
        "last_error": None,
        "next_attempt_at": None,
        "delivered_at": None,
        "deliveries": [],
    }


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (None, {"state": "pending", "next_attempt_at": None}),
        (
            _event(),
            {"id": "msg_2", "state": "pending", "next_attempt_at": "2031-02-03T12:00:05.000Z"},
        ),
        (
            _event(attempts=2, last_status=500, last_error="It broke."),
            {"state": "pending", "attempts": 2, "last_status": 500, "last_error": "It broke."},
        ),
        (
            _event(state="failed", attempts=10),
            {"state": "failed", "attempts": 10, "next_attempt_at": None},
        ),
        (
            _event(state="delivered", delivered_at="2031-02-03T13:00:01.5+01:00"),
            {"state": "delivered", "delivered_at": "2031-02-03T12:00:01.500Z"},
        ),
    ],
)
def test_a_webhook_of_a_finished_request(
    event: dict[str, Any] | None, shown: dict[str, Any]
) -> None:
    """The newest event tells what became of it, and when the next try is, while one follows."""
    row = _request(options=HOOK, status="failed", finished_at=NOON, started_at=NOON, webhook=event)
    document = status_document(row, BASE)["webhook"]
    assert {name: document[name] for name in shown} == shown
    if document["state"] != "pending":
        assert document["next_attempt_at"] is None


@pytest.mark.parametrize("finished_at", [None, NOON])
def test_deliveries_are_shown_as_they_were_noted(finished_at: datetime | None) -> None:
    """Those of earlier ends too, also while a retry runs."""
    refused = {
        "webhook_id": "msg_1",
        "at": "2031-02-03T12:00:01.250Z",
        "attempt": 1,
        "replay": False,
        "status": 500,
        "error": "The receiver answered with HTTP status 500.",
        "seconds": 0.012,
    }
    delivered = refused | {"webhook_id": "msg_2", "replay": True, "status": 204, "error": None}
    row = _request(
        options=HOOK,
        started_at=NOON,
        finished_at=finished_at,
        webhook=_event(),
        webhook_deliveries=[delivered, refused],
    )
    assert status_document(row, BASE)["webhook"]["deliveries"] == [delivered, refused]


def test_a_request_of_before_webhooks_has_none() -> None:
    """Rows of an older version don't know the option."""
    assert status_document(_request(options={"quality": "auto"}), BASE)["webhook"] is None


def test_an_image_that_waits() -> None:
    """Every promised member is there, and nothing of the queue's own."""
    assert image_document(_image(), BASE) == {
        "row": 2,
        "serial_number": "002",
        "product_name": "Lamp",
        "position": 3,
        "input_url": "https://a.example/1.tiff",
        "output_url": None,
        "state": "pending",
        "reused": False,
        "error": None,
        "attempts": 0,
        "bytes_in": None,
        "bytes_out": None,
        "width": None,
        "height": None,
        "format": None,
        "quality": None,
        "sha256": None,
    }


def test_credentials_of_an_image_s_url_are_not_shown() -> None:
    """What the status is read by, and kept in, is not what the CSV's writer trusted with them."""
    row = _image(input_url="https://me:hunter2@a.example/1@2.tiff")
    assert image_document(row, BASE)["input_url"] == "https://***@2.tiff"


@pytest.mark.parametrize(
    ("image_format", "extension"),
    [("jpeg", "jpg"), ("png", "png"), ("webp", "webp"), ("gif", "gif"), ("avif", "avif")],
)
def test_an_image_that_succeeded_has_a_url(image_format: str, extension: str) -> None:
    """The URL ends in what the output is, not in what the input's name was."""
    row = _image(state="succeeded", format=image_format)
    assert output_url(row, BASE) == f"{BASE}/uploads/{ID}/{ID}-7.{extension}"
    assert image_document(row, BASE)["output_url"] == output_url(row, BASE)


@pytest.mark.parametrize(
    ("text", "shown"), [("82", 82), ("lossless", "lossless"), ("original", "original")]
)
def test_a_quality_is_a_number_where_it_is_one(text: str, shown: int | str) -> None:
    """Clients compare numbers; the words stay words."""
    assert image_document(_image(quality=text), BASE)["quality"] == shown


@pytest.mark.parametrize(
    ("code", "http_status", "is_retryable"),
    [("http_503", 503, True), ("http_404", 404, False), ("timeout", None, True)],
)
def test_a_failure_is_told(code: str, http_status: int | None, *, is_retryable: bool) -> None:
    """A failed image has an error and no URL, even where an earlier format is known."""
    row = _image(
        state="failed",
        format="jpeg",
        error_code=code,
        error_detail="It went wrong.",
        http_status=http_status,
    )
    document = image_document(row, BASE)
    assert document["output_url"] is None
    assert document["error"] == {
        "code": code,
        "detail": "It went wrong.",
        "http_status": http_status,
        "retryable": is_retryable,
    }
