"""The origin of the benchmarks: whole files, late answers, and a mark where a job begins."""

from __future__ import annotations

import http.client
import os
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from benchmarks.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LATENCY_SECONDS = 0.1
PHOTO = os.urandom(20_000_000)  # more than a connection takes at once


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[http.client.HTTPConnection]:
    """Connect to an origin over a folder with one photo."""
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    command = ["benchmarks/origin.py", "--latency", f"{1000 * LATENCY_SECONDS:.0f}"]
    with (
        running(command, tmp_path, r"Serving on (\S+)") as (_, found),
        closing(http.client.HTTPConnection(found[1], timeout=30)) as client,
    ):
        yield client


def test_photo_comes_whole_and_late_over_one_connection(
    connection: http.client.HTTPConnection,
) -> None:
    """A photo comes whole under any URL that ends with its name, after the latency each time."""
    for number in range(3):
        start = time.monotonic()
        connection.request("GET", f"/job/{number}/photo.jpg")
        answer = connection.getresponse()
        assert time.monotonic() - start >= LATENCY_SECONDS
        assert (answer.status, answer.read()) == (200, PHOTO)


def test_unknown_name_is_not_found(connection: http.client.HTTPConnection) -> None:
    """What is not in the folder is answered with 404, and the connection goes on."""
    for name, status in (("other.jpg", 404), ("photo.jpg", 200)):
        connection.request("GET", f"/job/0/{name}")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status


def test_job_is_marked_when_it_begins(
    connection: http.client.HTTPConnection, tmp_path: Path
) -> None:
    """The first request of a job leaves a file by its name, before the answer comes."""
    assert not list(tmp_path.glob("*.began"))
    connection.request("GET", "/job7/0/photo.jpg")
    connection.getresponse().read()
    assert [path.name for path in tmp_path.glob("*.began")] == ["job7.began"]
