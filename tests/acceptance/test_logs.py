"""The log of a running service as JSON: an object a line, and which request it is about."""

from __future__ import annotations

import base64
import json
import re
import secrets
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance import misbehaving_decoder
from tests.images import photo, saved
from tests.origin import Reply
from tests.outages import allow_connections, cut_connections
from tests.service import Service, WithDecoder, csv_of

if TYPE_CHECKING:
    from database_helper import Database
    from tests.origin import Origin

ID = re.compile(r"\b[0-9a-f]{32}\b")
DECODER = Path(__file__).with_name("misbehaving_decoder.py")
STUMBLES = misbehaving_decoder.MARK + b"stumble;"


class JsonLog:
    """A service's log; the line for people on standard output is left out."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every line as an object. Raises ValueError where one is none."""
        texts = self._service.log.read_text().splitlines(keepends=True)
        whole = [text for text in texts if text.endswith("\n")]  # the last is just being written
        return [json.loads(text) for text in whole if not self._service.says.match(text)]

    def of(self, logger: str) -> list[dict[str, Any]]:
        """Return the lines of a module."""
        return [line for line in self.lines if line["logger"] == logger]


def _send_webhooks() -> dict[str, str]:
    return {"WEBHOOK_SECRET": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()}


def test_every_line_says_which_request_it_is_about(
    database: Database, origin: Origin, tmp_path: Path
) -> None:
    """A job that fails in parts, one that is cancelled, a webhook, a fault, and no database."""
    photos = [saved(photo(), "JPEG"), saved(photo(), "JPEG", comment=STUMBLES)]
    good, bad = (origin.serve(f"/{n}.jpg", data) for n, data in enumerate(photos))
    goes_on = Event()
    slow = origin.serve_in_turn("/slow.jpg", Reply(photos[0], until=goes_on))
    receiver = origin.serve("/receiver", status=410)
    settings = {"LOG_FORMAT": "json", "ALLOWED_SOURCES": origin.authority, **_send_webhooks()}
    with WithDecoder(tmp_path, database, DECODER, **settings) as service:
        log = JsonLog(service)
        job = service.run(csv_of(good, bad, origin.url("/none.jpg")), webhook_url=receiver)
        job_id = job["request_id"]
        assert job["errors_by_code"] == {"http_404": 1, "internal_error": 1}
        cancelled_id = service.upload(csv_of(slow, good)).json()["request_id"]
        service.wait_until(lambda: origin.count("/slow.jpg"))
        service.request("DELETE", f"/status/{cancelled_id}")
        goes_on.set()
        assert service.finish(cancelled_id)["status"] == "cancelled"
        unknown_id = "0" * 32
        assert service.get(f"/status/{unknown_id}").status_code == 404
        service.get("/nothing")
        service.wait_until(lambda: log.of("worker_steps"))
        allow_connections(database, allow=False)
        try:
            cut_connections(database)
            assert service.get(f"/status/{job_id}").status_code == 503
            service.wait_until(lambda: log.of("politeness.origin_gate"))
        finally:
            allow_connections(database, allow=True)
    lines = log.lines
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)
        mentioned = set(ID.findall(line["message"])) & {job_id, cancelled_id, unknown_id}
        assert mentioned <= {line.get("request_id")}, line
    assert {line["request_id"] for line in lines if "request_id" in line} == {
        *(job_id, cancelled_id, unknown_id),
    }
    (fault,) = log.of("decoder.decoder_pool")  # in a thread, by a module that knows no request
    assert fault["request_id"] == job_id
    assert "ZeroDivisionError" in fault["message"]
    (event,) = log.of("worker_steps")
    assert event["request_id"] == job_id
    (away,) = (line for line in log.of("http_router") if line["level"] == "warning")
    assert away["request_id"] == job_id
    answers = [
        (line["method"], line["route"], line["status"], line.get("request_id"))
        for line in log.of("httpd.http_connection")
    ]
    assert answers == [
        ("POST", "/upload", 202, job_id),
        ("POST", "/upload", 202, cancelled_id),
        ("DELETE", "/status/{id}", 202, cancelled_id),
        ("GET", "/status/{id}", 404, unknown_id),
        ("GET", "other", 404, None),
        ("GET", "/status/{id}", 503, job_id),
    ]
    assert all(line["bytes"] > 0 for line in log.of("httpd.http_connection"))


def test_why_it_does_not_start_is_a_line_of_the_log(database: Database, tmp_path: Path) -> None:
    """Where the log is JSON, so is the last line of a process that can't start."""
    (tmp_path / "file").touch()
    settings = {"LOG_FORMAT": "json", "STORAGE_URL": f"file:{tmp_path}/file"}
    with pytest.raises(AssertionError) as failed, Service(tmp_path, database, **settings):
        pass
    line = json.loads(str(failed.value).splitlines()[-1])
    assert line["level"] == "critical"
    assert line["message"].startswith("cannot start: STORAGE_URL=")
