"""Stored files over HTTP: validators, ranges, and headers that let nothing run."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest
import requests

from file_response import file_response
from httpd.http_server import HttpServer
from storage.folder_store import FolderStore
from storage.local_file import PIECE_BYTES
from tests.descriptors import watch_descriptors
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from httpd.http_protocol import Request, Response

    Get = Callable[..., requests.Response]

KEY = "uploads/a/a-1.jpg"
CONTENT = bytes(range(256)) * 2400  # several pieces of the store
SIZE = len(CONTENT)


@pytest.fixture(scope="module")
def get(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Get]:
    """Serve one stored file and give a function that asks for it with headers."""
    store = FolderStore(tmp_path_factory.mktemp("store"))
    store.put(KEY, CONTENT)

    def answer(request: Request) -> Response:
        file = store.open(KEY, request.closing)
        assert file is not None
        return file_response(request, store, file, {"Content-Type": "image/jpeg"})

    with HttpServer("127.0.0.1", 0) as server, requests.Session() as session:
        server.start(answer)
        session.trust_env = False

        def ask(method: str = "GET", **headers: str) -> requests.Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            url = f"http://127.0.0.1:{server.server_port}/"
            return session.request(method, url, headers=named, timeout=10)

        try:
            yield ask
        finally:
            server.shutdown()


def test_whole_file(get: Get) -> None:
    """The file comes whole, with its validators and a policy under which nothing runs."""
    assert SIZE > 2 * PIECE_BYTES
    answer = get()
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert parsedate_to_datetime(answer.headers["Last-Modified"]).tzinfo is not None
    assert answer.headers["ETag"] == get().headers["ETag"]
    assert answer.headers["ETag"].startswith('"')
    assert answer.headers["ETag"].endswith('"')


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', '"other",W/{}', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_copy_that_is_still_good(get: Get, form: str, method: str) -> None:
    """A client that has the file already gets 304 and no byte of it."""
    etag = get().headers["ETag"]
    answer = get(method, If_None_Match=form.format(etag))
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["ETag"] == etag
    assert "Content-Security-Policy" in answer.headers


@pytest.mark.parametrize("known", ['"other"', "", "nonsense", 'W/"other"'])
def test_copy_that_is_stale(get: Get, known: str) -> None:
    """A client with another file's tag gets this one."""
    assert get(If_None_Match=known).content == CONTENT


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        (f"bytes={PIECE_BYTES - 1}-{PIECE_BYTES}", PIECE_BYTES - 1, PIECE_BYTES + 1),
        ("bytes=10-99999999", 10, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=-300", SIZE - 300, SIZE),
        ("bytes=-99999999", 0, SIZE),
    ],
)
def test_range(get: Get, asked: str, start: int, end: int) -> None:
    """One range gives 206 with just these bytes."""
    answer = get(Range=asked)
    assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(end - start)
    assert answer.headers["ETag"] == get().headers["ETag"]


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}", "bytes=-0"])
def test_range_beyond_the_file(get: Get, asked: str) -> None:
    """A range of nothing is 416, which tells how large the file is."""
    answer = get(Range=asked)
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == 416


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=0-1,3-4", "bytes=-", "bytes=a-b", "items=0-1", "0-1", "bytes 0-1", ""],
)
def test_range_of_another_form(get: Get, asked: str) -> None:
    """Several ranges, other units and nonsense get the whole file."""
    answer = get(Range=asked)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "Content-Range" not in answer.headers


def test_range_of_the_same_file(get: Get) -> None:
    """If-Range with the tag of the file gives the range."""
    answer = get(Range="bytes=1-2", If_Range=get().headers["ETag"])
    assert (answer.status_code, answer.content) == (206, CONTENT[1:3])


@pytest.mark.parametrize("known", ['"other"', "W/{}", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_range_of_a_file_that_changed(get: Get, known: str) -> None:
    """If-Range with anything but the very tag gives the whole file."""
    etag = get().headers["ETag"]
    answer = get(Range="bytes=1-2", If_Range=known.format(etag))
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_copy_that_is_good_needs_no_range(get: Get) -> None:
    """If-None-Match is judged before Range."""
    assert get(Range="bytes=0-1", If_None_Match=get().headers["ETag"]).status_code == 304


@pytest.mark.parametrize("wanted", ["{}", "*", '"other", {}'])
def test_the_file_that_is_wanted(get: Get, wanted: str) -> None:
    """If-Match with the tag of the file, or with any, changes nothing."""
    etag = get().headers["ETag"]
    answer = get(If_Match=wanted.format(etag), Range="bytes=1-2")
    assert (answer.status_code, answer.content) == (206, CONTENT[1:3])


@pytest.mark.parametrize("wanted", ['"other"', "W/{}", ""])
def test_another_file_is_wanted(get: Get, wanted: str) -> None:
    """If-Match with other tags is 412, before all other conditions (RFC 9110, 13.2.2)."""
    etag = get().headers["ETag"]
    answer = get(If_Match=wanted.format(etag), If_None_Match=etag, Range="bytes=1-2")
    assert answer.status_code == 412
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "ETag" not in answer.headers


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-1"}])
def test_head(get: Get, headers: dict[str, str]) -> None:
    """HEAD tells about the whole file: ranges are defined for GET alone (RFC 9110, 14.2)."""
    answer = get("HEAD", **headers)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["ETag"] == get().headers["ETag"]


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("GET", {"Range": "bytes=0-9"}, 206),
        ("GET", {"If-None-Match": "*"}, 304),
        ("GET", {"If-Match": '"other"'}, 412),
        ("GET", {"Range": f"bytes={SIZE}-"}, 416),
        ("HEAD", {}, 200),
    ],
)
def test_file_is_closed_after_every_answer(
    get: Get, monkeypatch: pytest.MonkeyPatch, method: str, headers: dict[str, str], status: int
) -> None:
    """Also when nothing of it is sent; the next request would find it open otherwise."""
    held = watch_descriptors(monkeypatch)
    assert get(method, **headers).status_code == status
    wait_until(lambda: not held)
