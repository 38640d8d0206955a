"""The output and report CSV: columns, slots, quoting, neutralised cells, flat memory."""

from __future__ import annotations

import csv
import io
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csv_problems import CsvRefusedError
from csv_validator import CsvLimits, ProductReader
from output_csv import (
    CHUNK_CHARS,
    OutputProduct,
    ReportImage,
    output_cell,
    write_output,
    write_report,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ["S. No.", "Product Name", "Input Image Urls"]
SUCCEEDED = ReportImage(
    row=2,
    serial_number="1",
    product_name="Vase",
    position=1,
    input_url="http://a/1.jpg",
    output_url="http://o/1.jpg",
    state="succeeded",
    code=None,
    detail=None,
    http_status=200,
    attempts=1,
    bytes_in=900,
    bytes_out=300,
    width=40,
    height=30,
    format="jpeg",
    quality="original",
    hint="As WebP it would have fewer bytes.",
)


def product(
    *cells: str, further: list[str] | None = None, urls: tuple[str | None, ...] = ()
) -> OutputProduct:
    """Return a product."""
    serial_number, product_name, input_image_urls = cells
    return OutputProduct(serial_number, product_name, input_image_urls, further, output_cell(urls))


def output(columns: list[str], *products: OutputProduct) -> bytes:
    """Return the whole output CSV."""
    return b"".join(write_output(columns, products))


def test_the_bytes() -> None:
    """RFC 4180: CRLF behind every line, quotes where they are needed, UTF-8 without a mark."""
    written = output(
        COLUMNS,
        product("1", "Vase, é", "http://a/1, http://a/2", urls=("http://o/1", "http://o/2")),
        product("2", 'A "cup"', "http://a/3", urls=("http://o/3",)),
    )
    assert (
        written
        == (
            "S. No.,Product Name,Input Image Urls,Output Image Urls\r\n"
            '1,"Vase, é","http://a/1, http://a/2","http://o/1,http://o/2"\r\n'
            '2,"A ""cup""",http://a/3,http://o/3\r\n'
        ).encode()
    )


@pytest.mark.parametrize(
    ("urls", "cell"),
    [
        (("http://o/1",), "http://o/1"),
        (("http://o/1", None), "http://o/1,"),
        ((None, "http://o/2"), ",http://o/2"),
        (("http://o/1", None, "http://o/3"), "http://o/1,,http://o/3"),
        ((None,), ""),
        ((None, None), ","),
    ],
)
def test_slots(urls: tuple[str | None, ...], cell: str) -> None:
    """There is one slot for each input URL in the same sequence, empty where it failed."""
    written = output(COLUMNS, product("1", "Vase", "x", urls=urls)).decode()
    assert list(csv.reader(io.StringIO(written)))[1][3] == cell


def test_columns_keep_their_order() -> None:
    """Cells stand where the input had them, the output at the end."""
    columns = ["Size", "URLs", "", "Product Name", "Serial No", "URLs of ours"]
    row = product("1", "Vase", "http://a/1", further=["XL", "e", "u"], urls=("http://o/1",))
    assert output(columns, row).splitlines() == [
        b"Size,URLs,,Product Name,Serial No,URLs of ours,Output Image Urls",
        b"XL,http://a/1,e,Vase,1,u,http://o/1",
    ]


def test_a_header_that_was_never_accepted() -> None:
    """Columns without the required ones are refused before anything is written."""
    with pytest.raises(CsvRefusedError):
        next(write_output(["a", "b"], []))


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1",
        "=HYPERLINK(A1)",
        "+49 170 1",
        "-",
        "-x",
        "@SUM(A1)",
        "\t1",
        "\r=1",
        "-1-1",
        "+1e",
        "=1",
        "-0x1",
        "--1",
        "-١",
        "-1\n",
    ],
)
def test_cells_that_a_spreadsheet_would_run(cell: str) -> None:
    """They get a leading apostrophe, in whatever column, and in the header too."""
    columns = [*COLUMNS, cell]
    row = product("1", cell, cell, further=[cell], urls=("http://o/1",))
    written = io.StringIO(output(columns, row).decode(), newline="")
    header, cells = csv.reader(written)
    assert header[3] == f"'{cell}"
    assert cells == ["1", f"'{cell}", f"'{cell}", f"'{cell}", "http://o/1"]


@pytest.mark.parametrize(
    "cell",
    ["-1", "+1", "-1.5", "-.5", "+5.", "-1e-5", "+1E10", "1=1", " =1", "'=1", "", "a@b", "\n=1"],
)
def test_cells_that_stay_as_they_are(cell: str) -> None:
    """Numbers, and what only contains such a character, are not touched."""
    written = io.StringIO(output(COLUMNS, product("1", cell, "x")).decode(), newline="")
    assert list(csv.reader(written))[1][1] == cell


def test_report() -> None:
    """A line for each image under the names of the API, nothing where nothing is known."""
    failed = SUCCEEDED._replace(
        position=2,
        product_name="=1+1",
        output_url=None,
        state="failed",
        code="http_404",
        detail="the origin said: no, never",
        http_status=404,
        bytes_in=None,
        bytes_out=None,
        width=None,
        height=None,
        format=None,
        quality=None,
        hint=None,
    )
    assert b"".join(write_report([SUCCEEDED, failed])).decode() == (
        "row,serial_number,product_name,position,input_url,output_url,state,code,detail,"
        "http_status,attempts,bytes_in,bytes_out,width,height,format,quality,hint\r\n"
        "2,1,Vase,1,http://a/1.jpg,http://o/1.jpg,succeeded,,,200,1,900,300,40,30,jpeg,original,"
        "As WebP it would have fewer bytes.\r\n"
        '2,1,\'=1+1,2,http://a/1.jpg,,failed,http_404,"the origin said: no, never",'
        "404,1,,,,,,,\r\n"
    )


def test_a_report_without_images_is_its_header() -> None:
    """There is always at least one piece."""
    assert b"".join(write_report([])).startswith(b"row,serial_number,")


def test_pieces_and_memory() -> None:
    """Many rows come out in pieces of a moderate size, made as they are asked for."""

    def products() -> Iterator[OutputProduct]:
        for n in range(30_000):
            yield product(str(n), "Vase", f"http://a/{n}.jpg", urls=(f"http://o/{n}.jpg",))

    tracemalloc.start()
    try:
        sizes, lines = [], 0
        for piece in write_output(COLUMNS, products()):
            sizes.append(len(piece))
            lines += piece.count(b"\r\n")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lines == 30_001
    assert len(sizes) > 10
    assert all(CHUNK_CHARS <= size < CHUNK_CHARS + 1000 for size in sizes[:-1])
    assert peak < sum(sizes) / 2


CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
PRODUCTS = st.builds(
    OutputProduct,
    CELLS,
    CELLS,
    CELLS,
    st.tuples(CELLS),
    st.lists(st.sampled_from([None, "u"]), min_size=1, max_size=4).map(output_cell),
)


@given(st.lists(PRODUCTS, max_size=5))
def test_a_csv_reader_finds_every_cell(products: list[OutputProduct]) -> None:
    """Every cell comes back from a strict reader, but for the apostrophe of some."""
    written = output([*COLUMNS, "Note"], *products)
    lines = list(csv.reader(io.StringIO(written.decode(), newline=""), strict=True))
    assert len(lines) == 1 + len(products)
    for line, row in zip(lines[1:], products, strict=True):
        cells = [*row[:3], *(row.other_cells or ())]
        assert [
            cell in {as_it_was, f"'{as_it_was}"}
            for cell, as_it_was in zip(line, cells, strict=False)
        ] == [True] * 4
        assert line[4].count(",") == row.output_cell.count(",")
    assert output([*COLUMNS, "Note"], *products) == written


def test_the_output_is_valid_input() -> None:
    """An output CSV can be uploaded again and has the same products."""
    data = b'Product Name,S. No.,URLs,Size\r\n"Vase, red",7,"http://a/1, http://a/2",XL\r\n'
    limits = CsvLimits(max_rows=10, max_urls_per_row=10)
    reader = ProductReader(io.BytesIO(data), limits)
    products = [OutputProduct(*row[1:5], output_cell="http://o/1,") for row in reader]
    again = ProductReader(io.BytesIO(output(reader.columns, *products)), limits)
    assert again.columns == [*reader.columns, "Output Image Urls"]
    (row,) = again
    assert row[1:4] == ("7", "Vase, red", "http://a/1, http://a/2")
    assert row.other_cells == ["XL", "http://o/1,"]
