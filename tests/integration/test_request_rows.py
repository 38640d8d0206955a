"""Requests and images as views read them: page by page, in their order."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import request_rows
from csv_validator import ProductRow
from request_rows import select_images, select_request, select_requests
from tests.queued import upload

if TYPE_CHECKING:
    from database_helper import Database

ID = "ab" * 16


def _product(text: str = "x", **fields: Any) -> ProductRow:
    """Make a product all of whose cells are `text`, but for those given."""
    product = ProductRow(2, text, text, text, None, [text])
    return product._replace(**fields)


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def test_a_request_is_read_with_the_database_s_clock(database: Database) -> None:
    """Ages are told by the clock that wrote the times."""
    upload(database, ID, [_product()])
    with database.transaction() as cursor:
        request = select_request(cursor, ID)
        assert select_request(cursor, "cd" * 16) is None
    assert request
    assert timedelta() <= request["now"] - request["created_at"] < timedelta(minutes=1)
    assert (request["status"], request["products"], request["images"]) == ("pending", 1, 1)


def test_requests_are_paged_newest_first(database: Database) -> None:
    """Pages join without gap or overlap, also where requests came in the same moment."""
    ids = sorted((uuid.uuid4().hex for _ in range(7)), reverse=True)
    with database.transaction() as cursor:
        for place, request_id in enumerate(ids):
            cursor.execute(
                """insert into requests (id, options, columns, base_url, created_at, owner)
                   values (%s, '{}', '{}', 'http://a', now() - make_interval(hours => %s), %s)""",
                (request_id, place // 3, "me" if place % 2 else "you"),
            )
    seen, before = [], None
    with database.transaction() as cursor:
        while page := select_requests(cursor, limit=2, before=before, owner=None):
            seen += [row["id"] for row in page]
            before = (page[-1]["created_at"], page[-1]["id"])
        mine = select_requests(cursor, limit=100, before=None, owner="me")
    assert seen == ids
    assert [row["id"] for row in mine] == ids[1::2]


def test_images_are_paged_in_input_order(database: Database) -> None:
    """A page goes on behind a number, with the cells of each image's product, by state or failure if asked."""
    upload(database, ID, [_product(f"{n}", image_urls=["u", "v"]) for n in range(1, 5)])
    upload(database, "cd" * 16, [_product("other")])
    with database.transaction() as cursor:
        cursor.execute("update images set state = 'failed' where n in (3, 8)")
        page, has_more = select_images(cursor, ID, state=None, after=2, limit=3)
        failed, _ = select_images(cursor, ID, state="failed", after=0, limit=100)
        rest, has_rest = select_images(cursor, ID, state="failed", after=3, limit=1)
        cursor.execute("update images set error_code = case n when 3 then 'timeout' else 'x' end")
        slow, _ = select_images(cursor, ID, code="timeout", limit=100)
        others, _ = select_images(cursor, ID, code="x", limit=100)
    assert [(row["n"], row["serial_number"], row["position"]) for row in page] == [
        (3, "2", 1),
        (4, "2", 2),
        (5, "3", 1),
    ]
    assert [row["n"] for row in failed] == [3, 8]
    assert [row["n"] for row in rest] == [8]
    assert [row["n"] for row in slow] == [3]
    assert [row["n"] for row in others] == [8]
    assert (has_more, has_rest) == (True, False)


@pytest.mark.parametrize(
    ("name", "url", "images", "rest"),
    [
        ("x" * 99, "u", [1], [2]),
        ("x" * 49, "u", [1, 2], [3, 4]),
        ("x", "u" * 99, [1], [2]),
        ("x", "u", [1, 2, 3, 4], []),
    ],
)
def test_a_page_ends_early_when_cells_are_long(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    url: str,
    images: list[int],
    rest: list[int],
) -> None:
    """Each image repeats its product's name, and a page may be of a thousand; one always comes."""
    monkeypatch.setattr(request_rows, "PAGE_BYTES", 100)
    upload(database, ID, [_product("1", product_name=name, image_urls=[url] * 4)])
    with database.transaction() as cursor:
        page, has_more = select_images(cursor, ID, state=None, after=0, limit=4)
        behind, _ = select_images(cursor, ID, state=None, after=len(images), limit=4)
    assert [row["n"] for row in page] == images
    assert [row["n"] for row in behind] == rest
    assert has_more == bool(rest)
