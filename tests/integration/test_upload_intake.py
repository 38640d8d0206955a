"""Uploads beside each other: who waits, who is told to come again, and what the disk has to keep."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import threading
from email.message import Message
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import upload_intake
from csv_validator import ProductReader
from errors import ErrorCode, HttpError, ImageError
from httpd.http_protocol import Request
from settings import Settings
from storage.folder_store import FolderStore
from tests.waiting import PATIENCE_SECONDS, wait_until
from upload_intake import UploadIntake

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from database_helper import Database

GIB = 2**30
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


@pytest.fixture
def intake(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UploadIntake:
    """Give an intake with a single place."""
    monkeypatch.setattr(upload_intake, "MAX_UPLOADS", 1)
    return UploadIntake(Settings(), database, FolderStore(tmp_path))


def test_slow_body_keeps_nobody_out(intake: UploadIntake) -> None:
    """While a body arrives, others come and go."""
    statuses: list[HTTPStatus] = []

    def another() -> None:
        statuses.append(intake.take(_upload(Body()), None).status)

    assert intake.take(_upload(Body(another)), None).status == HTTPStatus.OK
    assert statuses == [HTTPStatus.OK]


def test_one_upload_too_many_is_told_to_come_again(
    intake: UploadIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many have arrived and wait for their turn is bounded; a place is free again after each."""
    refusals: list[HttpError] = []

    class Reader(ProductReader):
        """Has another upload arrive while one is validated."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            with pytest.raises(HttpError) as caught:
                intake.take(_upload(Body()), None)
            refusals.append(caught.value)

    with monkeypatch.context() as patch:
        patch.setattr(upload_intake, "ProductReader", Reader)
        assert intake.take(_upload(Body()), None).status == HTTPStatus.OK
    assert intake.take(_upload(Body()), None).status == HTTPStatus.OK
    assert [refusal.status for refusal in refusals] == [HTTPStatus.TOO_MANY_REQUESTS]
    assert int(refusals[0].headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("seconds", "status"),
    [(PATIENCE_SECONDS, HTTPStatus.OK), (0, HTTPStatus.TOO_MANY_REQUESTS)],
)
def test_an_upload_waits_for_its_turn(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    status: HTTPStatus,
) -> None:
    """While others are validated it waits, but not for ever."""
    monkeypatch.setattr(upload_intake, "MAX_COPIES", 1)
    monkeypatch.setattr(upload_intake, "COPY_WAIT_SECONDS", seconds)
    intake = UploadIntake(Settings(), database, FolderStore(tmp_path))
    statuses: list[HTTPStatus] = []

    def take() -> None:
        try:
            statuses.append(intake.take(_upload(Body()), None).status)
        except HttpError as error:
            statuses.append(error.status)

    second = threading.Thread(target=take)
    with intake._copies.hold(None, 0):
        second.start()
        wait_until(lambda: statuses or intake._places._held.total())
    second.join()
    assert statuses == [status]


@pytest.mark.parametrize(
    ("total", "free", "is_taken"),
    [
        (100 * GIB, GIB + 2 * len(CSV), True),
        (100 * GIB, GIB + len(CSV) - 4096, False),
        (GIB, GIB // 10 + 4096, True),
        (GIB, GIB // 10 - 4096, False),
    ],
)
def test_disk_keeps_its_reserve(
    intake: UploadIntake,
    monkeypatch: pytest.MonkeyPatch,
    total: int,
    free: int,
    is_taken: bool,  # noqa: FBT001  # parametrize passes it
) -> None:
    """An upload that would fill the disk is told to come again before it is read."""
    disk = SimpleNamespace(f_blocks=total, f_bavail=free, f_frsize=1)
    monkeypatch.setattr(os, "fstatvfs", lambda _: disk)
    read: list[bool] = []
    upload = _upload(Body(lambda: read.append(True)))
    if is_taken:
        assert intake.take(upload, None).status == HTTPStatus.OK
        return
    with pytest.raises(HttpError) as caught:
        intake.take(upload, None)
    assert caught.value.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert int(caught.value.headers["Retry-After"]) > 0
    assert not read


def test_disk_that_fills_up_meanwhile_keeps_its_reserve(
    intake: UploadIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload for which there was room is refused when others took it."""
    disk = SimpleNamespace(f_blocks=GIB, f_bavail=GIB, f_frsize=1)
    monkeypatch.setattr(os, "fstatvfs", lambda _: disk)
    with pytest.raises(HttpError) as caught:
        intake.take(_upload(Body(lambda: setattr(disk, "f_bavail", 0))), None)
    assert caught.value.status == HTTPStatus.SERVICE_UNAVAILABLE


@pytest.mark.parametrize("moment", ["write", "seek", "close", "open"])
def test_a_disk_that_fails_is_a_storage_error(
    intake: UploadIntake, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """At whichever moment it shows; the client is to come again, as it is not to blame."""

    class Spool(io.BytesIO):
        def fileno(self) -> int:
            return 0

        def fail(self, *_: Any) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

    def spool() -> Spool:
        if moment == "open":
            raise OSError(errno.ENOSPC, "No space left on device")
        return Spool()

    setattr(Spool, moment, Spool.fail)
    monkeypatch.setattr(tempfile, "TemporaryFile", spool)
    with pytest.raises(ImageError) as caught:
        intake.take(_upload(Body()), None)
    assert caught.value.code == ErrorCode.STORAGE_ERROR
