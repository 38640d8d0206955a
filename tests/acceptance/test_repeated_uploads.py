"""`Idempotency-Key` over HTTP: a client that doesn't know whether its upload arrived repeats it."""

from __future__ import annotations

import hashlib
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import requests

from tests.service import Service, assert_problem, csv_of

if TYPE_CHECKING:
    from pathlib import Path

    from database_helper import Database

CSV = csv_of("ftp://files.example/a.jpg")  # fails at once, without a download
COUNT = (
    "select (select count(*) from requests) as requests, (select count(*) from images) as images"
)
ONE = [{"requests": 1, "images": 1}]


def key(text: str = "k") -> dict[str, str]:
    """Return the header."""
    return {"Idempotency-Key": f'"{text}"'}


def form(boundary: str, quality: str = "50") -> tuple[bytes, dict[str, str]]:
    """Return a form with this boundary as body and headers."""
    lines = [
        *[f"--{boundary}", 'Content-Disposition: form-data; name="quality"', "", quality],
        *[
            f"--{boundary}",
            'Content-Disposition: form-data; name="file"; filename="a.csv"',
            "",
            CSV,
        ],
        f"--{boundary}--",
    ]
    body = "\r\n".join([*lines, ""]).encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def post(service: Service, body: bytes, headers: dict[str, str], **query: str) -> requests.Response:
    """POST a body as it stands."""
    return service.request("POST", "/upload", data=body, headers=headers, params=query)


def test_a_repeated_upload(tmp_path: Path, database: Database) -> None:
    """The same CSV and options are the same content, whatever they are wrapped in."""
    with Service(tmp_path, database, "--no-worker") as service:
        body, headers = form("first")
        first = post(service, body, headers | key())
        body, headers = form("second-boundary")
        again = post(service, body, headers | {"Idempotency-Key": "k"})
        raw = post(service, CSV.encode(), {"Content-Type": "text/csv"} | key(), quality="50")
        assert [answer.status_code for answer in (first, again, raw)] == [202] * 3
        assert first.content == again.content == raw.content
        assert first.headers["Location"] == again.headers["Location"] == raw.headers["Location"]
        assert "Idempotency-Replayed" not in first.headers
        assert again.headers["Idempotency-Replayed"] == "true"
        body, headers = form("first", quality="51")
        assert (
            "Idempotency-Key" in assert_problem(post(service, body, headers | key()), 422)["detail"]
        )
        assert_problem(post(service, body, headers | {"Idempotency-Key": '"k'}), 422)
        assert service.query(COUNT) == ONE
        service.query(
            "update idempotency_keys set created_at = now() - interval '25 hours' returning 1"
        )
        assert (
            post(service, body, headers | key()).json()["request_id"] != first.json()["request_id"]
        )


def test_each_owner_has_keys_of_its_own(tmp_path: Path, database: Database) -> None:
    """Two shops that both number their uploads from 1 don't meet."""
    digests = ",".join(hashlib.sha256(name.encode()).hexdigest() for name in "ab")
    with Service(tmp_path, database, "--no-worker", API_KEYS=digests) as service:
        answers = [
            service.upload(CSV, headers=key("1") | {"Authorization": f"Bearer {name}"})
            for name in ("a", "b", "a")
        ]
        assert answers[0].content == answers[2].content
        assert answers[0].content != answers[1].content
        assert service.query(COUNT) == [{"requests": 2, "images": 2}]


def _upload_in_vain(service: Service) -> threading.Thread:
    """Upload in a thread, where the answer is lost."""

    def upload() -> None:
        with suppress(requests.ConnectionError):
            service.upload(CSV, headers=key())

    thread = threading.Thread(target=upload)
    thread.start()
    return thread


def test_a_server_that_is_killed_after_the_commit(tmp_path: Path, database: Database) -> None:
    """The client has no answer; it repeats its upload and gets that of the request that is there."""
    with Service(tmp_path, database, "--no-worker") as service:
        upload = _upload_in_vain(service)
        service.wait_until(lambda: service.query(COUNT) == ONE)
        service.stop(signal.SIGKILL)
        upload.join()
    with Service(tmp_path, database, "--no-worker") as service:
        answer = service.upload(CSV, headers=key())
        assert answer.headers["Idempotency-Replayed"] == "true"
        assert service.query("select id from requests") == [{"id": answer.json()["request_id"]}]


def test_a_server_that_is_killed_before_the_commit(tmp_path: Path, database: Database) -> None:
    """Neither rows nor key are there: the repeated upload is the first."""
    is_waiting = (
        "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
        " and query like '%%insert into requests%%' and datname = current_database()"
    )
    with (
        Service(tmp_path, database, "--no-worker") as service,
        database.transaction() as cursor,
    ):
        cursor.execute("lock table requests in share mode")
        upload = _upload_in_vain(service)
        service.wait_until(lambda: service.query(is_waiting))
        service.stop(signal.SIGKILL)
        upload.join()
    with Service(tmp_path, database, "--no-worker") as service:
        answer = service.upload(CSV, headers=key())
        assert answer.status_code == 202
        assert "Idempotency-Replayed" not in answer.headers
        assert service.query(COUNT) == ONE
