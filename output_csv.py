"""The output and the report CSV of a request.

Owns how both files read: their columns, quoting, and what is done to cells that a spreadsheet
would run. Rows in, bytes out, in pieces: reading the rows is `output_rows`'s, writing
the file whole or not at all `image_store`'s business. The same rows give the same bytes.
"""

from __future__ import annotations

import csv
import io
import re
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from csv_validator import locate_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

OUTPUT_COLUMN = "Output Image Urls"
CHUNK_CHARS = 64 * 1024  # a piece ends with the row that passes this

_STARTS_A_FORMULA = frozenset("=+-@\t\r")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class OutputProduct(NamedTuple):
    """One line of the output CSV: a product's cells as they came in, and what became of it.

    `other_cells` are those of the further columns in their order, None when there are none.
    """

    serial_number: str
    product_name: str
    input_image_urls: str
    other_cells: Sequence[str] | None
    output_cell: str


class ReportImage(NamedTuple):
    """One line of the report CSV, named as in `GET /status/{id}/images`; None is an empty cell.

    `row` is the product's number in the input from 1, `position` the image's place in its cell
    from 1; sizes in bytes and pixels; `quality` is 1 to 100, `lossless`, `palette` or `original`;
    `hint` says what would have saved more.
    """

    row: int
    serial_number: str
    product_name: str
    position: int
    input_url: str
    output_url: str | None
    state: str
    code: str | None
    detail: str | None
    http_status: int | None
    attempts: int
    bytes_in: int | None
    bytes_out: int | None
    width: int | None
    height: int | None
    format: str | None
    quality: str | None
    hint: str | None


def write_output(columns: Sequence[str], products: Iterable[OutputProduct]) -> Iterator[bytes]:
    """Yield the output CSV: the input's columns in its order, then OUTPUT_COLUMN.

    `columns` is the input's header as it was; CsvRefusedError if that is not a valid one.
    """
    return _write([*columns, OUTPUT_COLUMN], _output_lines(columns, products))


def write_report(images: Iterable[ReportImage]) -> Iterator[bytes]:
    """Yield the report CSV: a line for each image, in the order given."""
    return _write(ReportImage._fields, images)


def output_cell(output_urls: Iterable[str | None]) -> str:
    """Return one slot for each input URL in sequence, empty where the image failed."""
    return ",".join([url or "" for url in output_urls])


def _output_lines(
    columns: Sequence[str], products: Iterable[OutputProduct]
) -> Iterator[Sequence[str]]:
    places = locate_columns(columns)
    order = [*places[:3], *places.others]  # where each of a product's cells was in the input
    in_input_order = itemgetter(*sorted(range(len(order)), key=order.__getitem__))
    for serial_number, product_name, input_image_urls, other_cells, output in products:
        cells = (serial_number, product_name, input_image_urls, *(other_cells or ()))
        yield [*in_input_order(cells), output]


def _write(header: Sequence[str], lines: Iterable[Sequence[object]]) -> Iterator[bytes]:
    """Yield RFC 4180 in UTF-8, in pieces of about CHUNK_CHARS whatever the number of lines."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    for line in chain([header], lines):
        writer.writerow([_neutralised(cell) if isinstance(cell, str) else cell for cell in line])
        if buffer.tell() >= CHUNK_CHARS:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    if buffer.tell():
        yield buffer.getvalue().encode()


def _neutralised(cell: str) -> str:
    """Return the cell, with a leading ' if a spreadsheet would run it."""
    is_run = cell[:1] in _STARTS_A_FORMULA and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_run else cell
