"""CSV to products: headers, cells, URLs, serial numbers, and every way to be refused."""

from __future__ import annotations

import io
import tempfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import csv_validator
from csv_problems import CsvRefusedError
from csv_validator import (
    MAX_COLUMNS,
    CsvLimits,
    ProductReader,
    ProductRow,
    locate_columns,
    split_urls,
)

HEADER = "S. No.,Product Name,Input Image Urls\n"
LIMITS = CsvLimits(max_rows=1000, max_urls_per_row=3)


def read(text: str | bytes, limits: CsvLimits = LIMITS, *, strict: bool = False) -> ProductReader:
    """Open a CSV."""
    data = text if isinstance(text, bytes) else text.encode()
    return ProductReader(io.BytesIO(data), limits, strict=strict)


def refusal(
    text: str | bytes, limits: CsvLimits = LIMITS, *, strict: bool = False
) -> CsvRefusedError:
    """Read a CSV to its refusal."""
    with pytest.raises(CsvRefusedError) as refused:
        list(read(text, limits, strict=strict))
    return refused.value


def errors_of(refused: CsvRefusedError) -> list[tuple[object, ...]]:
    """Return line, column and code of each error."""
    return [(e["line"], e["column"], str(e["code"])) for e in refused.members["errors"]]


def test_a_product() -> None:
    """The cells come out exactly as they were, the URLs split and stripped."""
    reader = read(HEADER + ' 007 , Red vase ,"http://a/1.jpg, http://a/2.jpg "\r\n')
    assert reader.columns == ["S. No.", "Product Name", "Input Image Urls"]
    assert list(reader) == [
        ProductRow(
            line=2,
            serial_number=" 007 ",
            product_name=" Red vase ",
            input_image_urls="http://a/1.jpg, http://a/2.jpg ",
            other_cells=None,
            image_urls=["http://a/1.jpg", "http://a/2.jpg"],
        )
    ]


def test_further_columns_are_kept() -> None:
    """Columns may stand in any order; the further ones' cells come in theirs."""
    reader = read("Size,URLs,Colour,Product Name,Serial No\nXL,http://a/1,red,Vase,1\n")
    assert [(row.serial_number, row.product_name) for row in reader] == [("1", "Vase")]
    assert [row.other_cells for row in reader] == [["XL", "red"]]


def test_iterating_again_starts_anew() -> None:
    """One iteration can validate and the next store."""
    reader = read(HEADER + "1,Vase,http://a/1\n2,Bowl,http://a/2\n")
    assert next(iter(reader)).line == 2
    assert list(reader) == list(reader)
    assert [row.line for row in reader] == [2, 3]


@pytest.mark.parametrize(
    "serial",
    ["Serial Number", "S. No.", "S.No", "Serial No", "s.no.", "SERIAL  NO.", " serial\nnumber:"],
)
@pytest.mark.parametrize(
    "name", ["Product Name", "product name", "*Product\u00a0Name*", "ProductName"]
)
@pytest.mark.parametrize("urls", ["Input Image Urls", "INPUT IMAGE URLS", "(URLs)", "urls "])
def test_headers(serial: str, name: str, urls: str) -> None:
    """Case, white space and punctuation at the ends of a header say nothing."""
    assert locate_columns(["x", urls, serial, name]) == (2, 3, 1, [0])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_delimiters(delimiter: str, quote: str) -> None:
    """The delimiter is the one that gives the required headers, quoted or not."""
    headers = ["Size, x; y", "S. No.", "Product Name", "URLs"]
    cells = ["a;b,c", "1", "Vase", "http://a/1,http://a/2"]
    lines = [
        delimiter.join(f'"{cell}"' if quote or delimiter in cell else cell for cell in line)
        for line in (headers, cells)
    ]
    reader = read("\r\n".join(lines))
    assert reader.columns == headers
    (row,) = reader
    assert row.other_cells == ["a;b,c"]
    assert row.image_urls == ["http://a/1", "http://a/2"]


def test_blank_lines_are_passed_over() -> None:
    """So are lines of empty cells, before and behind the header; the others keep their lines."""
    reader = read(
        "\n , ,\n" + HEADER + "\n1,Vase,http://a/1\n,,\n  \n , , ,,\n2,Bowl,http://a/2\n\n"
    )
    assert [row.line for row in reader] == [5, 9]


def test_lines_behind_quoted_newlines() -> None:
    """A product has the physical line on which it starts."""
    reader = read(
        '"S. No.",Product Name,"Input\nImage Urls"\n1,"Red\r\nvase",http://a/1\n2,Bowl,http://a/2\n'
    )
    assert [row.line for row in reader] == [3, 5]


def test_short_rows_are_filled_up() -> None:
    """Cells that are missing at a row's end are empty ones."""
    reader = read("S. No.,Product Name,URLs,Size,Colour\n1,Vase,http://a/1\n2,Bowl,http://a/2,XL\n")
    assert [row.other_cells for row in reader] == [["", ""], ["XL", ""]]


def test_empty_cells_beyond_the_header_are_passed_over() -> None:
    """Spreadsheets leave delimiters at the ends of rows."""
    (row,) = read(HEADER + "1,Vase,http://a/1,, ,\n")
    assert row.other_cells is None


@pytest.mark.parametrize(
    ("cell", "urls"),
    [
        ("http://a/1", ["http://a/1"]),
        (" http://a/1\n", ["http://a/1"]),
        ("http://a/1,http://a/2", ["http://a/1", "http://a/2"]),
        ("http://a/1, http://a/2", ["http://a/1", "http://a/2"]),
        ("http://a/1,\n\thttp://a/2", ["http://a/1", "http://a/2"]),
        ("http://a/1 , b", ["http://a/1", "b"]),
        ("http://a/w_1,h_2/x.jpg", ["http://a/w_1,h_2/x.jpg"]),
        (
            "http://a/w_1,h_2/http://b/x,y.jpg,https://c",
            ["http://a/w_1,h_2/http://b/x,y.jpg", "https://c"],
        ),
        ("http://a/1,ftp://b/2", ["http://a/1", "ftp://b/2"]),
        ("http://a/1,Git+SSH2.x-y://b", ["http://a/1", "Git+SSH2.x-y://b"]),
        ("http://a/1,2http://b", ["http://a/1,2http://b"]),
        ("http://a/1,//b/2", ["http://a/1,//b/2"]),
        ("http://a/1,", ["http://a/1"]),
        ("http://a/1,,", ["http://a/1"]),
        (",http://a/1", ["http://a/1"]),
        ("http://a/1,,x", ["http://a/1", ",x"]),
        ("http://a/1,,,http://a/2", ["http://a/1", "http://a/2"]),
        (",x", [",x"]),
        ("http://a/1 http://a/2", ["http://a/1 http://a/2"]),
        ("http://a/1;http://a/2", ["http://a/1;http://a/2"]),
        ("not a url", ["not a url"]),
        ("", []),
        (" , ,,\n", []),
    ],
)
def test_urls_in_a_cell(cell: str, urls: list[str]) -> None:
    """A comma separates before white space, a comma, the end and a scheme; else it belongs."""
    assert split_urls(cell) == urls


@given(st.lists(st.text("ahtps:/. ,\n", max_size=12), max_size=6).map(",".join))
def test_urls_lose_nothing(cell: str) -> None:
    """What is split holds every character of the cell but separators and white space."""
    urls = split_urls(cell)
    assert all(url and url == url.strip() for url in urls)
    letters = str.maketrans("", "", ", \n")
    assert "".join(urls).translate(letters) == cell.translate(letters)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", [(1, None, "missing_header")] * 3),
        ("\n\n", [(1, None, "missing_header")] * 3),
        ("1,Vase,http://a/1\n", [(1, None, "missing_header")] * 3),
        ("S. No.,Product Name\n1,Vase\n", [(1, None, "missing_header")]),
        ("\nS. No.,URLs\n1,http://a/1\n", [(2, None, "missing_header")]),
        ("Product Name;URLs;Serial\n", [(1, None, "missing_header")]),
        ("S. No.,Serial No,Product Name,URLs\n", [(1, "Serial No", "doubled_header")]),
        ("S. No.,Product Name,product name.,URLs\n", [(1, "product name.", "doubled_header")]),
        (
            "URLs,S. No.,Product Name,Input Image URLs\n",
            [(1, "Input Image URLs", "doubled_header")],
        ),
        (
            "S. No.,S.No,URLs\n",
            [(1, "S.No", "doubled_header"), (1, None, "missing_header")],
        ),
        ("a," * MAX_COLUMNS + HEADER, [(1, None, "too_many_columns")]),
        ('"a","b","c"\n', [(1, None, "missing_header")] * 3),
        ('URLs;x,"y\n', [(1, None, "missing_header")] * 2),
    ],
)
def test_refused_headers(header: str, expected: list[tuple[object, ...]]) -> None:
    """A required column that is missing or doubled is told before any row is read."""
    with pytest.raises(CsvRefusedError) as refused:
        read(header)
    assert refused.value.status == 422
    assert errors_of(refused.value) == expected


def test_a_missing_header_is_named() -> None:
    """The detail says which column is missing."""
    assert "'Product Name'" in refusal("S. No.,URLs\n").detail


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b'S. No.,Product Name,"URLs\n1,Vase,http://a/1\n', "unclosed_quote"),
        (b'S. No.;Product Name;"URLs\n1;Vase;http://a/1\n', "unclosed_quote"),
        (b'"S. No." ,"Product Name","URLs"\n', "stray_quote"),
        (b"S. No.,Product Name,URLs,caf\xe9\n", "not_decodable"),
        (b"S. No.,Product Name,URLs,\x00\n", "nul"),
        (HEADER.encode("utf-16-le"), "nul"),
        (b"x" * 200_000 + b"," + HEADER.encode(), "field_too_large"),
    ],
)
def test_malformed_headers(header: bytes, code: str) -> None:
    """A header whose text is broken is 400, whatever the delimiter may be."""
    with pytest.raises(CsvRefusedError) as refused:
        read(header)
    assert refused.value.status == 400
    assert set(errors_of(refused.value)) == {(1, None, code)}


def test_the_most_columns_are_taken() -> None:
    """MAX_COLUMNS are no problem."""
    reader = read(
        "a," * (MAX_COLUMNS - 3) + HEADER + "," * (MAX_COLUMNS - 3) + "1,Vase,http://a/1\n"
    )
    assert len(list(reader)) == 1


@pytest.mark.parametrize(
    ("row", "column", "code"),
    [
        ("one,Vase,http://a/1", "S. No.", "invalid_serial_number"),
        (",Vase,http://a/1", "S. No.", "invalid_serial_number"),
        ("-1,Vase,http://a/1", "S. No.", "invalid_serial_number"),
        ("1.0,Vase,http://a/1", "S. No.", "invalid_serial_number"),
        ("١,Vase,http://a/1", "S. No.", "invalid_serial_number"),
        ("1,,http://a/1", "Product Name", "empty_product_name"),
        ("1,\u00a0 ,http://a/1", "Product Name", "empty_product_name"),
        ("1,Vase,", "Input Image Urls", "no_url"),
        ('1,Vase," , "', "Input Image Urls", "no_url"),
        ("1,Vase", "Input Image Urls", "no_url"),
        ('1,Vase,"h://1,h://2,h://3,h://4"', "Input Image Urls", "too_many_urls"),
        ("1,Vase,http://a/1,http://a/2", None, "too_many_cells"),
    ],
)
def test_refused_rows(row: str, column: str | None, code: str) -> None:
    """Each thing that is wrong with a product is told with its line and column, as 422."""
    refused = refusal(HEADER + "8,Cup,http://a/8\n" + row + "\n9,Mug,http://a/9\n")
    assert refused.status == 422
    assert errors_of(refused) == [(3, column, code)]


@pytest.mark.parametrize(
    ("row", "column", "code"),
    [
        (b'1,"Vase,http://a/1\n', None, "unclosed_quote"),
        (b'1,"Vase"s,http://a/1\n', None, "stray_quote"),
        (b"1,Vas\x00e,http://a/1\n", "Product Name", "nul"),
        (b"1,Vase,http://a/\xe9\n", "Input Image Urls", "not_decodable"),
        (b"1," + b"x" * 131_073 + b",http://a/1\n", None, "field_too_large"),
        (b"1," + "é".encode() * 65_537 + b",http://a/1\n", "Product Name", "field_too_large"),
        (b"1," * 3_000_000, None, "row_too_long"),
    ],
)
def test_malformed_rows(row: bytes, column: str | None, code: str) -> None:
    """Broken text is told with its line, as 400."""
    refused = refusal(HEADER.encode() + b"8,Cup,http://a/8\n" + row)
    assert refused.status == 400
    assert errors_of(refused) == [(3, column, code)]


def test_unquoted_urls_are_explained() -> None:
    """Who forgot to quote a list of URLs learns what to do."""
    text = HEADER.replace(",", ";") + "1;Vase;http://a/1;http://a/2\n"
    assert "contains a semicolon, like a list of URLs, must be in quotes" in refusal(text).detail


def test_no_product() -> None:
    """A header with nothing but blank lines below is refused, on its own line."""
    refused = refusal("\n" + HEADER + "\n,,\n")
    assert refused.status == 422
    assert errors_of(refused) == [(2, None, "no_product")]


def test_broken_rows_are_not_no_product() -> None:
    """A file whose only row is broken is told just that."""
    assert errors_of(refusal(HEADER + '1,"a"b,http://a/1\n')) == [(2, None, "stray_quote")]


def test_too_many_rows() -> None:
    """Reading stops at the first row over the limit, and that is all that is told."""
    text = HEADER + "x,,\n" + "1,Vase,http://a/1\n" * 3
    refused = refusal(text, CsvLimits(max_rows=3, max_urls_per_row=1))
    assert refused.status == 413
    assert errors_of(refused) == [(5, None, "too_many_rows")]


def test_as_many_rows_and_urls_as_allowed() -> None:
    """The limits themselves are within the limits; blank lines don't count."""
    text = HEADER + '1,Vase,"h://1,h://2"\n\n,,\n2,Bowl,h://1\n\n'
    assert len(list(read(text, CsvLimits(max_rows=2, max_urls_per_row=2)))) == 2


def test_too_many_lines() -> None:
    """Blank lines alone end at ten for each row allowed and a million, as 413."""
    limits = CsvLimits(max_rows=1, max_urls_per_row=1)
    refused = refusal(HEADER.encode() + b"\n" * 1_000_010, limits)
    assert refused.status == 413
    assert errors_of(refused) == [(1_000_011, None, "too_many_rows")]


def test_every_problem_is_told() -> None:
    """One bad row doesn't hide another, nor one cell the next; malformed text makes it 400."""
    refused = refusal(HEADER + 'x,,\n1,Vase,http://a/1\n2,"a"b,c\n3,Bowl,\n1,Cup,h://x,y\n')
    assert refused.status == 400
    assert errors_of(refused) == [
        (2, "S. No.", "invalid_serial_number"),
        (2, "Product Name", "empty_product_name"),
        (2, "Input Image Urls", "no_url"),
        (4, None, "stray_quote"),
        (5, "Input Image Urls", "no_url"),
        (6, None, "too_many_cells"),
        (6, "S. No.", "duplicate_serial_number"),
    ]
    assert refused.members["errors_total"] == 7


def test_the_first_hundred_problems_are_listed() -> None:
    """The rest are counted."""
    refused = refusal(HEADER + "x,Vase,http://a/1\n" * 250)
    assert [line for line, _, _ in errors_of(refused)] == list(range(2, 102))
    assert refused.members["errors_total"] == 250


def test_nothing_is_yielded_after_a_problem() -> None:
    """What came before it did come out, and the refusal comes at the end."""
    rows = iter(read(HEADER + "1,Vase,http://a/1\n2,,http://a/2\n3,Cup,http://a/3\n"))
    assert next(rows).line == 2
    with pytest.raises(CsvRefusedError):
        next(rows)


@pytest.mark.parametrize(
    ("serials", "expected"),
    [
        (["7", "8", "7"], [(4, "'7' is on line 2 already")]),
        (["7", "007"], [(3, "'007' is on line 2 already")]),
        ([" 7", "7 "], [(3, "'7' is on line 2 already")]),
        (["1", "1", "1"], [(3, "'1' is on line 2"), (4, "'1' is on line 2")]),
        (["5" * 30, "6", "0" + "5" * 30], [(4, "is on line 2")]),
        (["2", "1", "1", "2"], [(4, "'1' is on line 3"), (5, "'2' is on line 2")]),
    ],
)
def test_duplicate_serial_numbers(serials: list[str], expected: list[tuple[int, str]]) -> None:
    """Each later row with a serial number of equal value is told, with the first one's line."""
    refused = refusal(HEADER + "".join(f"{serial},Vase,http://a/1\n" for serial in serials))
    assert refused.status == 422
    found = refused.members["errors"]
    assert {(e["column"], e["code"]) for e in found} == {("S. No.", "duplicate_serial_number")}
    assert [e["line"] for e in found] == [line for line, _ in expected]
    assert all(text in e["detail"] for e, (_, text) in zip(found, expected, strict=True))


def test_serial_numbers_that_only_look_alike() -> None:
    """Long ones with the same end, and any that share a slot of the table, are different."""
    serials = [str(n) + "0" * 20 for n in range(1, 200)]
    rows = "".join(f"{serial},Vase,http://a/1\n" for serial in serials)
    assert len(list(read(HEADER + rows))) == 199


def test_many_duplicates_are_counted_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may be compared at a time are found all the same, in line order."""
    monkeypatch.setattr(csv_validator, "_MAX_SHARED_IN_MEMORY", 10)
    rows = "".join(f"{n % 120},Vase,http://a/1\n" for n in range(240))
    refused = refusal(HEADER + rows)
    assert [line for line, _, _ in errors_of(refused)] == list(range(122, 222))
    assert refused.members["errors_total"] == 120


def test_invalid_urls_are_not_the_files_problem() -> None:
    """A URL that can't be fetched comes out as it stands."""
    (row,) = read(HEADER + '1,Vase,"ftp://a/1, nonsense"\n')
    assert row.image_urls == ["ftp://a/1", "nonsense"]


def test_strict_refuses_invalid_urls() -> None:
    """A strict upload tells each one; a valid file passes it."""
    text = HEADER + '1,Vase,"ftp://a/1, http://a.test/1, nonsense"\n2,Bowl,http://a.test/2\n'
    refused = refusal(text, strict=True)
    assert refused.status == 422
    assert errors_of(refused) == [(2, "Input Image Urls", "invalid_url")] * 2
    assert "'nonsense'" in refused.members["errors"][1]["detail"]
    assert len(list(read(HEADER + "1,Vase,http://a.test/1\n", strict=True))) == 1


def test_strict_reads_no_more_urls_than_allowed() -> None:
    """Of a cell with too many URLs only as many are looked at as a product may have."""
    cell = ",".join(["ftp://a"] * 1000)
    errors = refusal(HEADER + f'1,Vase,"{cell}"\n', strict=True).members["errors"]
    codes = [error["code"] for error in errors]
    assert codes == ["too_many_urls", *["invalid_url"] * LIMITS.max_urls_per_row]


def test_memory_does_not_grow_with_rows() -> None:
    """A file of many rows is read, and its duplicates found, in a fraction of its size."""
    with tempfile.TemporaryFile() as file:
        file.write(HEADER.encode())
        for n in range(40_000):
            file.write(b"%d,Vase with a longer name,http://a.test/%d.jpg\n" % (n % 39_900, n))
        size = file.tell()
        tracemalloc.start()
        try:
            with pytest.raises(CsvRefusedError) as refused:
                for _ in ProductReader(file, CsvLimits(100_000, 10)):
                    pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert refused.value.members["errors_total"] == 100
    assert peak < size / 4


@given(
    st.binary(max_size=60),
    st.sampled_from([b"", HEADER.encode(), b"\xff\xfe", HEADER.encode("utf-16")]),
)
def test_any_bytes_end_in_rows_or_a_refusal(data: bytes, start: bytes) -> None:
    """Whatever arrives, it is products or a refusal that can be told in UTF-8."""
    try:
        for row in read(start + data, strict=True):
            assert row.image_urls
            assert not "".join(row[1:4]).isspace()
            "".join(row[1:4]).encode()
    except CsvRefusedError as refused:
        errors = refused.members["errors"]
        assert 1 <= len(errors) <= refused.members["errors_total"]  # noqa: PT017  # either may come
        for error in errors:
            f"{error['column']} {error['detail']}".encode()
