"""An upload's rows: what goes in comes out to the letter, whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import upload_rows
from csv_validator import ProductRow
from tests.queued import upload
from upload_rows import UploadCounts, copy_products

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_helper import Database

ID = "ab" * 16
HOSTILE = [
    *["\\", "\\\\", r"\.", r"\N", r"\x41", "\\\t\\", "\t", "\n", "\r", "\r\n", " \n\\.\n "],
    *["'", '"', '""', "{}", "{a,b}", "NULL", "null", ",", ";", "%s", "%(id)s", "$1", "--", "/*"],
    *[
        "",
        " ",
        "\x01\x1f\x7f\x85\u2028",
        "größe",
        "日本語",
        "😀" * 3,
        "e\u0301",
        "\ufeff",
        "\u202e",
    ],
    *["'; drop table images; --", "a" * 100_000, "\\" * 5001],
]


def _product(text: str = "x", **fields: Any) -> ProductRow:
    """Make a product all of whose cells are `text`, but for those given."""
    product = ProductRow(2, text, text, text, None, [text])
    return product._replace(**fields)


def _rows(database: Database, statement: str, *values: Any) -> list[dict[str, Any]]:
    with database.transaction() as cursor:
        cursor.execute(statement, values)
        return [dict(row) for row in cursor.fetchall()]


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def test_hostile_text_is_kept_to_the_letter(database: Database) -> None:
    """Whatever a cell holds, COPY gives it back as it was, in fields and in arrays."""
    products = [
        _product(text, other_cells=[text, *HOSTILE, text], image_urls=[text, "", text])
        for text in HOSTILE
    ]
    upload(database, ID, products)
    links = _rows(database, "select * from image_links order by row")
    for row, (link, product) in enumerate(zip(links, products, strict=True), 1):
        assert link == {
            "request_id": ID,
            "row": row,
            "line": 2,
            "serial_number": product.serial_number,
            "product_name": product.product_name,
            "input_image_urls": product.input_image_urls,
            "other_cells": product.other_cells,
            "output_image_urls": None,
        }
    urls = [(url, place) for text in HOSTILE for place, url in enumerate((text, "", text), 1)]
    images = _rows(database, "select n, input_url, position from images order by n")
    assert [(image["input_url"], image["position"]) for image in images] == urls
    assert [image["n"] for image in images] == list(range(1, len(urls) + 1))


@pytest.mark.parametrize("cells", [None, [], [""], ["", ""], ["NULL"]])
def test_further_columns_may_be_none_or_empty(database: Database, cells: list[str] | None) -> None:
    """A file without further columns is told from one whose further cells are empty."""
    upload(database, ID, [_product(other_cells=cells)])
    assert _rows(database, "select other_cells from image_links")[0]["other_cells"] == cells


@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_batches_make_no_difference(
    database: Database, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """However small the batches, numbers run on and every row is copied once."""
    monkeypatch.setattr(upload_rows, "COPY_BATCH_CHARACTERS", size)
    products = [_product(f"{n}", image_urls=[f"u{n}"] * (n % 4)) for n in range(1, 31)]
    with database.transaction() as cursor:
        counts = copy_products(cursor, ID, iter(products))
    assert counts == UploadCounts(products=30, images=sum(n % 4 for n in range(1, 31)))
    links = _rows(database, "select row, serial_number from image_links order by row")
    assert [(link["row"], link["serial_number"]) for link in links] == [
        (n, str(n)) for n in range(1, 31)
    ]
    images = _rows(database, "select n, row, position, input_url from images order by n")
    places = [(n, place) for n in range(1, 31) for place in range(1, n % 4 + 1)]
    assert [tuple(image.values()) for image in images] == [
        (number, row, place, f"u{row}") for number, (row, place) in enumerate(places, 1)
    ]


def test_no_product_is_no_row(database: Database) -> None:
    """An empty upload copies nothing and says so."""
    with database.transaction() as cursor:
        assert copy_products(cursor, ID, []) == UploadCounts(products=0, images=0)


def test_a_refusal_midway_leaves_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the last line of a file is bad, the batches before it are gone too."""
    monkeypatch.setattr(upload_rows, "COPY_BATCH_CHARACTERS", 1)

    def products() -> Iterator[ProductRow]:
        yield _product()
        yield _product()
        raise ArithmeticError("line 4 is bad")

    with pytest.raises(ArithmeticError, match="line 4 is bad"):
        upload(database, ID, products())
    for table in ("image_links", "images", "requests"):
        assert _rows(database, f"select * from {table}") == []  # noqa: S608  # our own names
    upload(database, ID, [_product()])
    assert len(_rows(database, "select * from images")) == 1
