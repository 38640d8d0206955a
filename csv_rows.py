"""Rows of cells out of a CSV's bytes, each with its line, or what is wrong with the text.

Owns encodings, line ends and quoting, and the bounds that keep memory flat whatever the bytes
are. What a header or a product may be is `csv_validator`'s business.
"""

from __future__ import annotations

import codecs
import csv
import io
from contextlib import closing
from typing import IO, TYPE_CHECKING

from csv_problems import CsvCode, CsvProblems, too_many_rows

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

MAX_FIELD_BYTES = 128 * 1024  # of one cell, in UTF-8
MAX_ROW_CHARS = 4 * 1024 * 1024  # 32 cells at their limit; bounds a line or row without an end

# A row with fewer characters than this can't have a cell over MAX_FIELD_BYTES.
_ROOM_AFTER_SHORT_ROW = MAX_ROW_CHARS - MAX_FIELD_BYTES // 4
_FIELD_TOO_LARGE = f"a cell is over {MAX_FIELD_BYTES // 1024} KiB; perhaps a quote isn't closed"
_NUL = "the cell has a NUL character; UTF-16 needs a byte order mark"
_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_UNDECODABLE = "\udcff"  # a lone surrogate: no valid text has one, in either encoding


def read_rows(
    file: IO[bytes],
    delimiter: str,
    problems: CsvProblems,
    *,
    max_lines: int,
    names: Sequence[str] = (),
) -> Generator[tuple[int, list[str]], None, None]:
    """Yield every row of a seekable file with the physical line on which it starts.

    A row whose text is broken goes to `problems` and comes out empty, as a blank line does;
    `names` are the columns' for that. `max_lines` are physical ones, so that blank lines can't
    keep us busy: CsvRefusedError (413) beyond. Moves the file's position and leaves it open.
    """
    with closing(_Lines(file)) as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            lines.start_row()
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problems.add(line, None, *_explain(error))
                if reader.line_num > line:  # within quotes: what follows can't be told apart
                    return
                row = []
            except _RowTooLongError:
                detail = f"the row is longer than {MAX_ROW_CHARS} characters; read no further"
                problems.add(line, None, CsvCode.ROW_TOO_LONG, detail)
                return
            if line > max_lines:
                raise too_many_rows(line, f"there are more than {max_lines} lines")
            if (lines.is_suspect or lines.room < _ROOM_AFTER_SHORT_ROW) and not _is_sound(
                line, row, problems, names
            ):
                row = []
            yield line, row


def _is_sound(line: int, row: list[str], problems: CsvProblems, names: Sequence[str]) -> bool:
    """Look at the text of every cell; add what is wrong with it."""
    before = problems.total
    for place, cell in enumerate(row):
        name = names[place] if place < len(names) else None
        if "\0" in cell:
            problems.add(line, name, CsvCode.NUL, _NUL)
        elif _UNDECODABLE in cell:
            detail = (
                "save the file as UTF-8: the cell is not, nor is it UTF-16 with a byte order mark"
            )
            problems.add(line, name, CsvCode.NOT_DECODABLE, detail)
        elif len(cell.encode()) > MAX_FIELD_BYTES:
            problems.add(line, name, CsvCode.FIELD_TOO_LARGE, _FIELD_TOO_LARGE)
    return problems.total == before


def _explain(error: csv.Error) -> tuple[CsvCode, str]:
    """Tell by its message, which is all that it has, what the csv module found."""
    message = str(error)
    if "field limit" in message:
        return CsvCode.FIELD_TOO_LARGE, _FIELD_TOO_LARGE
    if "end of data" in message:
        return CsvCode.UNCLOSED_QUOTE, "a quoted cell is not closed before the end of the file"
    return CsvCode.STRAY_QUOTE, (
        "there is text after the closing quote of a cell; a quote inside a quoted cell"
        " must be doubled"
    )


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    """Put a mark where bytes can't be decoded, so that the row that has them can be named."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _UNDECODABLE, error.end


codecs.register_error("csv_rows.mark", _mark_undecodable)


class _RowTooLongError(Exception):
    """A row has used up its room."""


class _Lines:
    """The physical lines of a file, from its start; the file stays open."""

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        start = file.read(3)
        bom = next((bom for bom in _BOMS if start.startswith(bom)), b"")
        file.seek(len(bom))
        encoding = _BOMS.get(bom, "utf-8")
        # newline="" ends lines at CRLF, LF and CR, and leaves them as they are.
        self._text = io.TextIOWrapper(file, encoding, errors="csv_rows.mark", newline="")
        self.start_row()

    def start_row(self) -> None:
        self.room = MAX_ROW_CHARS  # characters that the present row may still have
        self.is_suspect = False  # whether it has a NUL or something undecodable

    def __iter__(self) -> Iterator[str]:
        readline = self._text.readline
        while line := readline(self.room):
            self.room -= len(line)
            if self.room <= 0:
                raise _RowTooLongError
            if "\0" in line or (not line.isascii() and _UNDECODABLE in line):
                self.is_suspect = True
            yield line

    def close(self) -> None:
        self._text.detach()  # or the wrapper would close the file
