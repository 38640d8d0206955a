"""Bytes to rows: encodings, line ends, quoting, broken text, and memory that stays flat."""

from __future__ import annotations

import csv
import io
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csv_problems import CsvProblems, CsvRefusedError
from csv_rows import MAX_FIELD_BYTES, MAX_ROW_CHARS, read_rows

MANY_LINES = 1_000_000


def rows_of(data: bytes, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """Read everything, and expect nothing to be wrong."""
    problems = CsvProblems()
    rows = list(read_rows(io.BytesIO(data), delimiter, problems, max_lines=MANY_LINES))
    assert problems.listed == []
    return rows


def problems_of(data: bytes, names: tuple[str, ...] = ("A", "B")) -> list[tuple[object, ...]]:
    """Read everything, and return line, column and code of each problem."""
    problems = CsvProblems()
    rows = read_rows(io.BytesIO(data), ",", problems, max_lines=MANY_LINES, names=names)
    list(rows)
    return [(problem.line, problem.column, problem.code) for problem in problems.listed]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16"], ids=["plain", "with BOM", "UTF-16"]
)
@pytest.mark.parametrize("newline", ["\r\n", "\n", "\r"], ids=["CRLF", "LF", "CR"])
def test_encodings_and_line_ends(encoding: str, newline: str) -> None:
    """The same rows come out of every encoding and line end."""
    text = newline.join(["é,ਊ", "1,日本\U0001f600", ""])
    assert rows_of(text.encode(encoding)) == [(1, ["é", "ਊ"]), (2, ["1", "日本\U0001f600"])]


def test_utf_16_big_endian() -> None:
    """A big-endian byte order mark is understood."""
    assert rows_of(b"\xfe\xff" + "a,ß\n".encode("utf-16-be")) == [(1, ["a", "ß"])]


def test_a_byte_order_mark_is_no_part_of_a_quoted_cell() -> None:
    """A quote directly behind the byte order mark opens a quoted cell."""
    assert rows_of(b'\xef\xbb\xbf"a,b",c') == [(1, ["a,b", "c"])]


def test_lines_are_physical() -> None:
    """A row has the line on which it starts, blank lines and quoted newlines counted."""
    data = b'a,b\r\n\r\n"x\r\ny\nz",1\r\nc,d\r\n'
    assert rows_of(data) == [
        (1, ["a", "b"]),
        (2, []),
        (3, ["x\r\ny\nz", "1"]),
        (6, ["c", "d"]),
    ]


def test_quotes() -> None:
    """Quoted cells may hold delimiters and doubled quotes, unquoted ones single quotes."""
    assert rows_of(b'"a,""b""",12" pipe') == [(1, ['a,"b"', '12" pipe'])]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters(delimiter: str) -> None:
    """Only the delimiter asked for cuts."""
    cells = ["a,", ";b", "c\td"]
    cells = [cell.replace(delimiter, "") for cell in cells]
    assert rows_of(delimiter.join(cells).encode(), delimiter) == [(1, cells)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a,b\n1,caf\xe9\n", [(2, "B", "not_decodable")]),
        (b"a,b\n1,\xed\xa0\x80\n", [(2, "B", "not_decodable")]),
        (b"\xff\xfe" + "a,b\n1,".encode("utf-16-le") + b"\x00\xd8", [(2, "B", "not_decodable")]),
        (b"\xff\xfe" + "a,b\n".encode("utf-16-le") + b"1", [(2, "A", "not_decodable")]),
        (b"a,b\n1\x00,2\n", [(2, "A", "nul")]),
        (b'a,b\n1,2\n"3\n\n\x00",4\n', [(3, "A", "nul")]),
        (b'a,b\n1,"open\n2,x\n', [(2, None, "unclosed_quote")]),
        (b'a,b\n1,"', [(2, None, "unclosed_quote")]),
        (b'a,b\n1,"x"y\n', [(2, None, "stray_quote")]),
        (b'a,b\n1,"x" \n', [(2, None, "stray_quote")]),
        (b"a,b\n1," + b"x" * (MAX_FIELD_BYTES + 1), [(2, None, "field_too_large")]),
        (b'a,b\n1,"' + b"x\n" * MAX_FIELD_BYTES + b'"\n', [(2, None, "field_too_large")]),
        (b"a,b\n1," + "é".encode() * (MAX_FIELD_BYTES // 2 + 1), [(2, "B", "field_too_large")]),
        (b"a,b\n1," + b",x" * (MAX_ROW_CHARS // 2), [(2, None, "row_too_long")]),
        (b"a,b\n" + b'"\n",' * (MAX_ROW_CHARS // 4 + 1), [(2, None, "row_too_long")]),
    ],
    ids=[
        "not UTF-8",
        "a surrogate in UTF-8",
        "a lone surrogate in UTF-16",
        "half a character of UTF-16",
        "NUL",
        "NUL in a quoted cell of several lines",
        "an unclosed quote",
        "a quote at the very end",
        "text after a closing quote",
        "a space after a closing quote",
        "more characters than a cell may have",
        "more than that on many lines",
        "more bytes than a cell may have",
        "a line without an end",
        "a row without an end",
    ],
)
def test_broken_text(data: bytes, expected: list[tuple[object, ...]]) -> None:
    """Each kind of broken text is told with the line on which its row starts."""
    assert problems_of(data) == expected


def test_a_cell_at_the_limit_is_taken() -> None:
    """128 KiB exactly are no problem, counted in bytes of UTF-8."""
    for cell in ("x" * MAX_FIELD_BYTES, "é" * (MAX_FIELD_BYTES // 2)):
        assert rows_of(cell.encode()) == [(1, [cell])]


def test_reading_goes_on_after_broken_text() -> None:
    """All broken rows are told, and the sound rows between them come out."""
    data = b'1,"x"y\n2,ok\n3,\x00\n4,\xff\n5,ok\n6,"open'
    problems = CsvProblems()
    rows = list(read_rows(io.BytesIO(data), ",", problems, max_lines=MANY_LINES, names="AB"))
    assert [row for row in rows if row[1]] == [(2, ["2", "ok"]), (5, ["5", "ok"])]
    assert [(problem.line, problem.code) for problem in problems.listed] == [
        (1, "stray_quote"),
        (3, "nul"),
        (4, "not_decodable"),
        (6, "unclosed_quote"),
    ]


def test_every_broken_cell_of_a_row_is_told() -> None:
    """Cells beyond the known columns are told without a name."""
    assert problems_of(b"\xff,\x00,\x00\n") == [
        (1, "A", "not_decodable"),
        (1, "B", "nul"),
        (1, None, "nul"),
    ]


def test_the_replacement_character_is_a_character() -> None:
    """U+FFFD in the file is not taken for a byte that can't be decoded."""
    assert rows_of("\ufffd".encode()) == [(1, ["\ufffd"])]


def test_too_many_lines() -> None:
    """Blank lines can't go on for ever: 413, with the line where reading stopped."""
    rows = read_rows(io.BytesIO(b"a\n\n\n\nb\n"), ",", CsvProblems(), max_lines=3)
    with pytest.raises(CsvRefusedError) as refused:
        list(rows)
    assert refused.value.status == 413
    assert refused.value.members["errors"][0]["line"] == 4


def test_the_file_stays_open() -> None:
    """Reading begins at the file's start wherever it stands, and leaves it to its owner."""
    with tempfile.SpooledTemporaryFile(max_size=8) as file:
        file.write("a,b\nc,d\n".encode("utf-16"))
        rows = read_rows(file, ",", CsvProblems(), max_lines=MANY_LINES)
        assert next(rows) == (1, ["a", "b"])
        rows.close()
        again = read_rows(file, ",", CsvProblems(), max_lines=MANY_LINES)
        assert [row for _, row in again] == [["a", "b"], ["c", "d"]]
        file.seek(0)
        assert file.read() == "a,b\nc,d\n".encode("utf-16")


CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), max_size=6), st.sampled_from(",;\t"))
def test_what_the_csv_module_writes_is_read_back(rows: list[list[str]], delimiter: str) -> None:
    """Every cell that a CSV can carry comes back as it was."""
    text = io.StringIO(newline="")
    # A first row of letters: a byte order mark at the very start would be taken for one.
    csv.writer(text, delimiter=delimiter).writerows([["x", "y"], *rows])
    assert [row for _, row in rows_of(text.getvalue().encode(), delimiter)] == [["x", "y"], *rows]
