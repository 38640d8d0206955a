"""Targets: an uploaded CSV, a cell of URLs, a form's body, and the output CSV."""

from __future__ import annotations

import csv
import io
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from csv_problems import MAX_ERRORS_LISTED, CsvRefusedError
from csv_validator import CsvLimits, ProductReader, split_urls
from errors import HttpError
from output_csv import OutputProduct, write_output
from tests.fuzz.addresses import check_url
from tests.fuzz.promises import any_text, check_refusal
from upload_parser import UploadParser

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from csv_validator import ProductRow

LIMITS: Final = CsvLimits(max_rows=1000, max_urls_per_row=5)
_MAX_CSV_BYTES: Final = 1000
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BOUNDARY: Final = re.compile(rb"--([0-9A-Za-z_-]{1,70})")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def csv_file(data: bytes) -> None:
    """Read a CSV: products that the database and every other reader take, or a refusal."""
    for strict in (False, True):
        try:
            reader = ProductReader(io.BytesIO(data), LIMITS, strict=strict)
            products = list(reader)
        except CsvRefusedError as refusal:
            _check_csv_refusal(refusal)
        else:
            assert list(reader) == products
            _check_products(reader, products)


def _check_csv_refusal(refusal: CsvRefusedError) -> None:
    check_refusal(refusal, 400, 413, 422)
    errors = refusal.members["errors"]
    assert 1 <= len(errors) <= MAX_ERRORS_LISTED
    assert len(errors) == refusal.members["errors_total"] or len(errors) == MAX_ERRORS_LISTED
    lines = [error["line"] for error in errors]
    assert lines == sorted(lines)
    assert lines[0] >= 1


def _check_products(reader: ProductReader, products: list[ProductRow]) -> None:
    assert 1 <= len(products) <= LIMITS.max_rows
    serials = {product.serial_number.strip().lstrip("0") for product in products}
    assert len(serials) == len(products)
    assert all(re.fullmatch("[0-9]*", serial) for serial in serials)
    assert all(product.product_name.strip() for product in products)
    assert all(1 <= len(product.image_urls) <= LIMITS.max_urls_per_row for product in products)
    assert all(earlier.line < later.line for earlier, later in pairwise(products))
    written = b"".join(write_output(reader.columns, [_output_of(product) for product in products]))
    output = list(csv.reader(io.StringIO(written.decode(), newline=""), strict=True))
    for row, output_row in zip(_other_reading(reader), output, strict=True):
        assert "\0" not in "".join(row)
        for cell, written_cell in zip(row, output_row[:-1], strict=False):
            assert written_cell in {cell, f"'{cell}"}


def _output_of(product: ProductRow) -> OutputProduct:
    serial, name, urls, others = product[1:5]
    return OutputProduct(serial, name, urls, others, "," * (len(product.image_urls) - 1))


def _other_reading(reader: ProductReader) -> Iterator[list[str]]:
    """Yield the rows as the csv module alone finds them."""
    data = reader._file
    data.seek(0)
    content = data.read()
    is_wide = content[:2] in {b"\xff\xfe", b"\xfe\xff"}
    text = content.decode("utf-16" if is_wide else "utf-8-sig")
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=reader._delimiter, strict=True):
        if "".join(row).strip():
            yield row[: len(reader.columns)]


def url_cell(data: bytes) -> None:
    """Split a cell of URLs: as a slow reading letter by letter does, and each sound or refused."""
    cell = any_text(data)
    urls = split_urls(cell)
    assert urls == _split_slowly(cell)
    for url in urls:
        check_url(url)


def _split_slowly(cell: str) -> list[str]:
    pieces = [""]
    for place, letter in enumerate(cell):
        following = cell[place + 1 : place + 2]
        is_end = following in {"", ","} or following.isspace() or _SCHEME.match(cell, place + 1)
        if letter == "," and is_end:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [piece.strip() for piece in pieces if piece.strip()]


def multipart(data: bytes) -> None:
    """Parse an upload's body: one answer, however the body is cut into chunks.

    Its boundary is that of its first line, unless that is a Content-Type.
    """
    if found := _BOUNDARY.match(data):
        content_type, body = f"multipart/form-data; boundary={found[1].decode()}", data
    else:
        first_line, _, body = data.partition(b"\n")
        content_type = first_line.decode("latin-1")
    whole = _upload(content_type, body, max(1, len(body)))
    for step in (1, 2, 7, 61) if len(body) < 300 else (13, 197):
        assert _upload(content_type, body, step) == whole


def _upload(content_type: str, body: bytes, step: int) -> object:
    file = io.BytesIO()
    try:
        parser = UploadParser(content_type, len(body), file, _MAX_CSV_BYTES)
        for start in range(0, len(body), step):
            parser.feed(body[start : start + step])
        options = parser.finish()
    except HttpError as refusal:
        return check_refusal(refusal, 400, 413, 415, 422)
    assert file.getvalue() in body
    return options, file.getvalue(), parser.csv_sha256


def output_rows(data: bytes) -> None:
    """Write an output CSV: its cells are read back by the csv module, and no spreadsheet runs one.

    Cells are apart by a NUL; the first is a further column's name.
    """
    name, *texts = data.decode("utf-8", "ignore").split("\0")
    columns = ["S. No.", "Product Name", "URLs", name]
    rows = [[*texts[at : at + 4], *[""] * 4][:4] for at in range(0, len(texts), 4)]
    products = [OutputProduct(row[0], row[1], row[2], row[3:], ",http://a/1") for row in rows]
    try:
        written = b"".join(write_output(columns, products))
    except CsvRefusedError:
        return  # the name doubles another column's
    found = list(csv.reader(io.StringIO(written.decode(), newline=""), strict=True))
    assert len(found) == len(rows) + 1
    for row, cells in zip([columns, *rows], found, strict=True):
        _check_cells(row, cells)


def _check_cells(cells: Sequence[str], written: Sequence[str]) -> None:
    for cell, found in zip(cells, written[:4], strict=True):
        assert found in {cell, f"'{cell}"}
        assert found[:1] not in set("=+-@\t\r") or _NUMBER.fullmatch(found)
