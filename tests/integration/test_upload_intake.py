"""Uploads' places: so many at a time, and one more is told to come again."""

from __future__ import annotations

from email.message import Message
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

import upload_intake
from errors import HttpError
from http_protocol import Request
from image_store import ImageStore
from settings import Settings
from upload_intake import UploadIntake

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from database_helper import Database

CSV = b"Serial Number,Product Name,Input Image Urls\n1,Lamp,http://localhost/a.jpg\n"


class Body:
    """A body that may do something while it arrives."""

    length = len(CSV)

    def __init__(self, meanwhile: Any = None) -> None:
        self._meanwhile = meanwhile

    def __iter__(self) -> Iterator[bytes]:
        if self._meanwhile:
            self._meanwhile()
        yield CSV


def _upload(body: Body) -> Request:
    headers = Message()
    headers["Content-Type"] = "text/csv"
    return Request("POST", "/upload", {"dry_run": "true"}, headers, body)


def test_one_upload_too_many_is_told_to_come_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all uploads together spool is bounded; a place is free again after each."""
    monkeypatch.setattr(upload_intake, "MAX_UPLOADS", 1)
    intake = UploadIntake(Settings(), database, ImageStore(f"file:{tmp_path}"))
    refusals: list[HttpError] = []

    def another() -> None:
        with pytest.raises(HttpError) as caught:
            intake.take(_upload(Body()), None)
        refusals.append(caught.value)

    assert intake.take(_upload(Body(another)), None).status == HTTPStatus.OK
    assert intake.take(_upload(Body()), None).status == HTTPStatus.OK
    assert [refusal.status for refusal in refusals] == [HTTPStatus.TOO_MANY_REQUESTS]
    assert int(refusals[0].headers["Retry-After"]) > 0
