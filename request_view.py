"""Rows as the JSON that clients see. Pure: dictionaries in, dictionaries out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from errors import is_retryable
from image_queue import ImageState
from redaction import redact_url
from request_queue import RequestStatus
from storage.storage_keys import image_key, output_csv_key, report_csv_key
from webhook import WebhookState

Row = dict[str, Any]
WAITING = "waiting"  # a webhook's state before its request is finished


def status_document(row: Row, base_url: str) -> dict[str, Any]:
    """Return what `GET /status/{id}` says of a row of `requests` with `now` in it."""
    return {
        "request_id": row["id"],
        "status": row["status"],
        "created_at": _time(row["created_at"]),
        "started_at": _time(row["started_at"]),
        "finished_at": _time(row["finished_at"]),
        "options": row["options"],
        "products": row["products"],
        "progress": _progress(row),
        "bytes_in": row["bytes_in"],
        "bytes_out": row["bytes_out"],
        "saved_percent": _saved_percent(row["bytes_in"], row["bytes_out"]),
        "errors_by_code": row["errors_by_code"],
        "webhook": _webhook(row),
        "links": _links(row, base_url),
    }


def image_document(row: Row, base_url: str) -> dict[str, Any]:
    """Return what `GET /status/{id}/images` says of a row of `images` with its product."""
    shown = (
        *("row", "serial_number", "product_name", "position", "input_url"),
        *("state", "reused", "attempts", "bytes_in", "bytes_out", "width", "height"),
        *("format", "sha256"),
    )
    document = {name: row[name] for name in shown}
    return document | {
        "input_url": redact_url(row["input_url"]),
        "output_url": output_url(row, base_url),
        "quality": _quality(row["quality"]),
        "error": _error(row),
    }


def output_url(row: Row, base_url: str) -> str | None:
    """Return where an image's output is served; None unless it succeeded."""
    if row["state"] != ImageState.SUCCEEDED:
        return None
    return f"{base_url}/{image_key(row['request_id'], row['n'], row['format'])}"


def status_path(request_id: str) -> str:
    """Return the path at which a request's status is served."""
    return f"/status/{request_id}"


def is_finished(row: Row) -> bool:
    """Tell whether nothing of a request will change by itself any more."""
    return row["finished_at"] is not None


def _progress(row: Row) -> dict[str, Any]:
    done = row["succeeded"] + row["failed"] + row["cancelled"]
    left = row["images"] - done
    rate = _images_per_second(row, row["succeeded"] + row["failed"] - row["done_before"])
    return {
        "total": row["images"],
        "done": done,
        "succeeded": row["succeeded"],
        "failed": row["failed"],
        "percent": 1000 * done // row["images"] / 10,  # never 100 before the end
        "images_per_second": rate and round(rate, 2),
        "eta_seconds": round(left / rate)
        if rate and row["status"] != RequestStatus.PENDING
        else None,
    }


def _images_per_second(row: Row, done: int) -> float | None:
    if row["started_at"] is None or not done:
        return None
    end: datetime = row["finished_at"] or row["now"]
    return float(done / max((end - row["started_at"]).total_seconds(), 0.001))


def _saved_percent(bytes_in: int, bytes_out: int) -> float | None:
    return round(100 * (1 - bytes_out / bytes_in), 1) if bytes_in else None


def _webhook(row: Row) -> dict[str, Any] | None:
    """Return what became of the newest finish's event; None if none was asked for.

    Its deliveries are those of earlier finishes, too, each under the id of its event.
    """
    url = row["options"].get("webhook_url")
    if url is None:
        return None
    # While the event itself is made, there is none yet.
    event = (row.get("webhook") if is_finished(row) else None) or {}
    state = event.get("state", WebhookState.PENDING if is_finished(row) else WAITING)
    next_at = event.get("due_at") if state == WebhookState.PENDING else None
    return {
        "id": event.get("id"),
        "url": url,
        "state": state,
        "attempts": event.get("attempts", 0),
        "last_status": event.get("last_status"),
        "last_error": event.get("last_error"),
        "next_attempt_at": _time(_moment(next_at)),
        "delivered_at": _time(_moment(event.get("delivered_at"))),
        "deliveries": row["webhook_deliveries"],
    }


def _links(row: Row, base_url: str) -> dict[str, str | None]:
    self_url, finished = base_url + status_path(row["id"]), is_finished(row)
    return {
        "self": self_url,
        "images": f"{self_url}/images",
        "output_csv": f"{base_url}/{output_csv_key(row['id'])}" if finished else None,
        "report_csv": f"{base_url}/{report_csv_key(row['id'])}" if finished else None,
    }


def _error(row: Row) -> dict[str, Any] | None:
    if row["error_code"] is None:
        return None
    return {
        "code": row["error_code"],
        "detail": row["error_detail"],
        "http_status": row["http_status"],
        "retryable": is_retryable(row["error_code"]),
    }


def _quality(text: str | None) -> int | str | None:
    return int(text) if text and text.isdigit() else text


def _moment(text: str | None) -> datetime | None:
    """Return a time that the database wrote into JSON."""
    return datetime.fromisoformat(text) if text else None


def _time(moment: datetime | None) -> str | None:
    """Return RFC 3339 in UTC with a Z."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
