"""Refusals as clients read them: each says what was wrong, where, and what to do about it."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from tests.service import CSV_HEADER, Service, assert_problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from database_helper import Database

KEY = "the key of a shop"
ID = "0" * 32
CSV = f"{CSV_HEADER}\r\n1,Vase,https://shop.example/vase.jpg\r\n"
TYPE = {"Content-Type": "text/csv"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, module_database: Database
) -> Iterator[Service]:
    """Serve uploads of 2 KB, two products and two URLs, under a key; nothing is fetched."""
    folder: Path = tmp_path_factory.mktemp("service")
    with Service(
        folder,
        module_database,
        "--no-worker",
        API_KEYS=sha256(KEY.encode()).hexdigest(),
        MAX_CSV_BYTES="2000",
        MAX_CSV_ROWS="2",
        MAX_URLS_PER_ROW="2",
    ) as running:
        yield running


REFUSED: list[tuple[str, str, dict[str, Any], int, list[str]]] = [
    ("GET", "/uplaod", {}, 404, ["/upload", "/status/{id}", "/openapi.json"]),
    ("GET", f"/status/{ID}", {}, 404, ["no such request of yours", "GET /requests"]),
    ("GET", f"/static/{ID}.csv", {}, 404, ["no CSV yet", f"/status/{ID}"]),
    ("GET", f"/uploads/{ID}/{ID}-1.jpg", {}, 404, ["no such file", "status"]),
    ("PUT", "/upload", {"data": CSV}, 405, ["/upload takes POST"]),
    ("PATCH", f"/status/{ID}", {}, 405, ["/status/{id} takes GET and DELETE and HEAD"]),
    ("POST", "/upload", {"data": iter([b"a"]), "headers": TYPE}, 411, ["Content-Length", "chunks"]),
    (
        "POST",
        "/upload",
        {"data": "x" * 2_000_000, "headers": TYPE},
        413,
        ["2000000 bytes", "2000", "MAX_CSV_BYTES", "several files"],
    ),
    ("POST", "/upload", {"data": "x" * 2_500, "headers": TYPE}, 413, ["2000", "MAX_CSV_BYTES"]),
    (
        "POST",
        "/upload",
        {"data": "{}", "headers": {"Content-Type": "application/json"}},
        415,
        ["multipart/form-data", "part 'file'", "text/csv", "'application/json'"],
    ),
    (
        "POST",
        "/upload",
        {"data": CSV, "headers": {"Content-Type": "text/csv; charset=latin1"}},
        415,
        ["charset", "save the CSV as UTF-8"],
    ),
    (
        "POST",
        "/upload",
        {"data": CSV, "headers": TYPE | {"Content-Encoding": "gzip"}},
        415,
        ["not packed", "Content-Encoding"],
    ),
    (
        "POST",
        "/upload",
        {"data": "--x\r\n", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        ["boundary", "library"],
    ),
    (
        "POST",
        "/upload",
        {
            "data": b'--x\r\nContent-Disposition: form-data; name="csv"\r\n\r\na\r\n--x--',
            "headers": FORM,
        },
        400,
        ["no part named 'file'"],
    ),
    (
        "POST",
        "/upload?qualty=80",
        {"data": CSV, "headers": TYPE},
        422,
        ["'qualty'", "perhaps quality is meant", "max_width"],
    ),
    (
        "POST",
        "/upload?quality=101",
        {"data": CSV, "headers": TYPE},
        422,
        ["quality: '101'", "auto or a whole number from 1 to 100"],
    ),
    (
        "POST",
        "/upload?format=jpg",
        {"data": CSV, "headers": TYPE},
        422,
        ["format: 'jpg'", "keep, jpeg, png, webp, avif"],
    ),
    (
        "POST",
        "/upload?webhook_url=https://shop.example",
        {"data": CSV, "headers": TYPE},
        422,
        ["webhook_url", "WEBHOOK_SECRET"],
    ),
    (
        "POST",
        "/upload",
        {"data": "sku;title;pictures\r\n1;Vase;u\r\n", "headers": TYPE},
        422,
        ["line 1", "no column 'Serial Number'", "'sku;title;pictures'"],
    ),
    (
        "POST",
        "/upload",
        {"data": CSV + "2,B,http://b\r\n3,C,http://c\r\n", "headers": TYPE},
        413,
        ["line 4", "2 (MAX_CSV_ROWS) products"],
    ),
    (
        "POST",
        "/upload",
        {"data": CSV + '2,B,"http://a http://b, http://c, http://d"\r\n', "headers": TYPE},
        422,
        ["line 3", "3 image URLs", "MAX_URLS_PER_ROW is 2"],
    ),
    (
        "POST",
        "/upload",
        {"data": CSV.encode() + b"2,\xe9,http://b\r\n", "headers": TYPE},
        400,
        ["line 3", "save the file as UTF-8"],
    ),
    ("GET", "/requests?limit=5000", {}, 422, ["limit: '5000'", "1 to 1000"]),
    ("GET", "/requests?cursor=x", {}, 422, ["cursor", "next_cursor of the page before"]),
    ("GET", "/requests?limit=1&limit=2", {}, 400, ["query parameter stands twice"]),
]


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "words"),
    REFUSED,
    ids=[f"{status} {path[:40]}" for _, path, _, status, _ in REFUSED],
)
def test_a_refusal_helps(
    service: Service,
    method: str,
    path: str,
    options: dict[str, Any],
    status: int,
    words: list[str],
) -> None:
    """The detail names what was wrong, where, and what is taken instead."""
    headers = {"Authorization": f"Bearer {KEY}"} | options.get("headers", {})
    answer = service.request(method, path, **(options | {"headers": headers}))
    detail = assert_problem(answer, status)["detail"]
    assert [word for word in words if word not in detail] == [], detail


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer guessed"}])
def test_a_missing_key_is_named(service: Service, header: dict[str, str]) -> None:
    """Whoever has no key, or a wrong one, learns how one is sent, and not which it was."""
    answer = service.request("GET", "/requests", headers=header)
    assert "Authorization: Bearer KEY" in assert_problem(answer, 401)["detail"]
