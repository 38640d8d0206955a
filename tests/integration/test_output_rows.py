"""Rows for the output CSVs, page by page, and the cells that come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import output_rows
from csv_validator import ProductRow
from output_rows import (
    NAMES,
    OUTPUTS,
    PRODUCTS,
    REPORTED,
    Rows,
    select_rows,
    update_output_urls,
)
from upload_rows import copy_products

if TYPE_CHECKING:
    from collections.abc import Sequence

    from database_helper import Database

ID = "ab" * 16
OTHER = "cd" * 16
ALL = (OUTPUTS, REPORTED, PRODUCTS, NAMES)


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def _upload(database: Database, request_id: str, *products: ProductRow) -> None:
    with database.transaction() as cursor:
        copy_products(cursor, request_id, products)


def _product(name: str = "x", cell: str = "u", other: str = "", url: str = "u") -> ProductRow:
    return ProductRow(2, "1", name, cell, [other], [url])


def _select(
    database: Database, rows: Rows, after: int = 0, limit: int = 9
) -> Sequence[dict[str, Any]]:
    with database.transaction() as cursor:
        return select_rows(cursor, ID, rows, after=after, limit=limit)


@pytest.mark.parametrize("rows", ALL)
def test_pages_follow_each_other_in_input_order(database: Database, rows: Rows) -> None:
    """Of one request, behind a number, up to a limit; nothing behind the last."""
    _upload(database, ID, *[_product(f"{number}") for number in range(5)])
    _upload(database, OTHER, _product())
    pages = [_select(database, rows, after, 2) for after in (0, 2, 4, 5)]
    assert [[row[rows.number] for row in page] for page in pages] == [[1, 2], [3, 4], [5], []]


@pytest.mark.parametrize(
    ("rows", "cells"),
    [
        (REPORTED, {"url": "x" * 150}),
        (PRODUCTS, {"name": "x" * 150}),
        (PRODUCTS, {"cell": "x" * 150}),
        (PRODUCTS, {"other": "x" * 150}),
        (NAMES, {"name": "x" * 150}),
    ],
)
def test_a_page_ends_early_when_texts_are_long(
    database: Database, monkeypatch: pytest.MonkeyPatch, rows: Rows, cells: dict[str, str]
) -> None:
    """A page is held in memory, and cells may have 128 KiB; one row always comes."""
    _upload(database, ID, *[_product(**cells)] * 4)
    monkeypatch.setattr(output_rows, "PAGE_BYTES", 200)
    assert len(_select(database, rows)) == 2
    monkeypatch.setattr(output_rows, "PAGE_BYTES", 1)
    assert len(_select(database, rows)) == 1


def test_output_cells_go_to_their_products(database: Database) -> None:
    """Only the rows named change, and only of this request."""
    for request_id in (ID, OTHER):
        _upload(database, request_id, *[_product() for _ in range(3)])
    with database.transaction() as cursor:
        update_output_urls(cursor, ID, [])
        update_output_urls(cursor, ID, [(3, "http://a/,,"), (1, "")])
        cursor.execute("select output_image_urls from image_links order by request_id, row")
        cells = [row["output_image_urls"] for row in cursor.fetchall()]
    assert cells == ["", None, "http://a/,,", *[None] * 3]
