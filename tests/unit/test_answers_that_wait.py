"""Before an answer waits for the database others are let go on; what is quick stays in the lead."""

from __future__ import annotations

from contextlib import suppress
from email.message import Message
from typing import TYPE_CHECKING, NoReturn

import pytest

from database_helper import Database, DatabaseUnavailableError
from errors import HttpError
from http_api import Api
from httpd.http_protocol import Request
from httpd.http_transfer import ArrivingBody
from settings import Settings
from storage.folder_store import FolderStore

if TYPE_CHECKING:
    from pathlib import Path

ID = 32 * "a"


class _Database(Database):
    """A database that is away, and says so when it is asked."""

    def __init__(self, events: list[str]) -> None:
        super().__init__("")
        self._events = events

    def transaction(self, seconds: float | None = None) -> NoReturn:  # noqa: ARG002  # as inherited
        self._events.append("asks")
        raise DatabaseUnavailableError("away")

    def reading(self) -> NoReturn:
        self.transaction()


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", []),
        ("GET", "/healthz", []),
        ("GET", f"/uploads/{ID}/{ID}-1.jpg", []),
        ("GET", f"/uploads/{ID}/{ID}-2.jpg", ["waits", "asks"]),
        ("GET", f"/status/{ID}", ["waits", "asks"]),
        ("DELETE", f"/status/{ID}", ["waits", "asks"]),
        ("GET", f"/status/{ID}/images", ["waits", "asks"]),
        ("GET", "/requests", ["waits", "asks"]),
        ("GET", f"/static/{ID}.csv", ["waits", "asks"]),
        ("GET", "/readyz", ["waits", "asks"]),
        ("POST", "/upload", ["waits"]),
    ],
)
def test_who_waits_says_so(tmp_path: Path, method: str, path: str, expected: list[str]) -> None:
    """Of the images only the one that is there is sent without a question."""
    store = FolderStore(tmp_path)
    store.put(f"uploads/{ID}/{ID}-1.jpg", b"image")
    events: list[str] = []
    api = Api(Settings(), _Database(events), store)
    body = ArrivingBody(0, None, None, None)  # type: ignore[arg-type]  # nobody reads it
    request = Request(
        method, path, {}, Message(), body, before_waiting=lambda: events.append("waits")
    )
    with suppress(HttpError), request.closing:
        api.answer(request)
    assert list(dict.fromkeys(events)) == expected
