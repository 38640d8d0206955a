"""Product rows out of an uploaded CSV, or everything that is wrong with it.

Owns what headers, cells and products may be, and how URLs stand in a cell. Reads as a stream,
so that memory doesn't grow with rows. The text itself is the business of `csv_rows`, receiving
the bytes `upload_parser`'s, storing the rows `upload_rows`'s.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NamedTuple

from address_policy import parse_source_url
from csv_problems import CsvCode, CsvProblems, CsvRefusedError, excerpt, too_many_rows
from csv_rows import read_rows
from errors import ImageError
from serial_numbers import SerialNumbers, is_whole_number, value_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

_COLUMNS_LISTED = 10  # in an error
MAX_COLUMNS = 1_000  # far beyond any shop's export, and still cheap to carry

_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_MAX_SHARED_IN_MEMORY = 100_000  # slots whose serial numbers are compared at a time: 30 MiB
_REQUIRED = {  # how a header may read once normalised, for each required column
    "Serial Number": {"serialnumber", "s.no", "serialno"},
    "Product Name": {"productname"},
    "Input Image Urls": {"inputimageurls", "urls"},
}
_BETWEEN_ENDS = re.compile(r"[^\W_](?:.*[^\W_])?")  # from the first letter or digit to the last
_URL_SEPARATOR = re.compile(r",(?=[\s,]|\Z|[A-Za-z][A-Za-z0-9+.-]*://)")


@dataclass(frozen=True, slots=True)
class CsvLimits:
    """How much one CSV may hold: MAX_CSV_ROWS and MAX_URLS_PER_ROW of the settings."""

    max_rows: int
    max_urls_per_row: int

    @property
    def max_lines(self) -> int:
        """Physical lines, so that blank ones can't keep us busy: ten a row and a million."""
        return 10 * self.max_rows + 1_000_000


class ProductRow(NamedTuple):
    """One product. The cells are exactly as they were; `image_urls` are split and stripped.

    `line` is the physical line on which the row starts. `other_cells` are those of the further
    columns in their order, None when the file has only the required ones.
    """

    line: int
    serial_number: str
    product_name: str
    input_image_urls: str
    other_cells: list[str] | None
    image_urls: list[str]


class ColumnPlaces(NamedTuple):
    """Where in a row the required columns stand, and the further ones in their order."""

    serial_number: int
    product_name: int
    input_image_urls: int
    others: list[int]


def _normalised(header: str) -> str:
    """Return a header without case, white space, and punctuation at its ends."""
    text = _BETWEEN_ENDS.search("".join(header.split()).casefold())
    return text[0] if text else ""


def _places_by_header(columns: Sequence[str]) -> dict[str, list[int]]:
    """Return for each required header the places where a file has it."""
    normalised = [_normalised(column) for column in columns]
    return {
        header: [place for place, name in enumerate(normalised) if name in names]
        for header, names in _REQUIRED.items()
    }


def locate_columns(columns: Sequence[str], line: int = 1) -> ColumnPlaces:
    """Find the required columns; `line` is the header's.

    Raises CsvRefusedError that names each required column that is missing or doubled.
    """
    found = _places_by_header(columns)
    problems = CsvProblems()
    for header, places in found.items():
        if not places:
            detail = f"there is no column {header!r}; those of the file are {_listed(columns)}"
            problems.add(line, None, CsvCode.MISSING_HEADER, detail)
        for place in places[1:]:
            detail = f"there is more than one column {header!r}; rename or drop the others"
            problems.add(line, excerpt(columns[place]), CsvCode.DOUBLED_HEADER, detail)
    if problems.total:
        raise CsvRefusedError(problems)
    required = [places[0] for places in found.values()]
    others = [place for place in range(len(columns)) if place not in required]
    return ColumnPlaces(required[0], required[1], required[2], others)


def _listed(columns: Sequence[str]) -> str:
    """Return the first few columns as a text: it is seen at once that it is another file."""
    named = ", ".join(repr(excerpt(column)) for column in columns[:_COLUMNS_LISTED])
    return f"{named} and more" if len(columns) > _COLUMNS_LISTED else named or "none"


def split_urls(cell: str) -> list[str]:
    """Return a cell's URLs without the white space around them.

    They stand apart by a comma; one that is directly followed by anything but white space,
    a comma, the cell's end or `scheme://` belongs to its URL.
    """
    pieces = _URL_SEPARATOR.split(cell) if "," in cell else (cell,)
    return [url for piece in pieces if (url := piece.strip())]


class _Header(NamedTuple):
    """A file's header as one delimiter cuts it, and what is wrong with its text."""

    delimiter: str
    line: int
    columns: list[str]
    problems: CsvProblems

    @property
    def rank(self) -> int:
        """How likely this delimiter is the right one.

        Any number of required headers beats a broken text, and that beats no header at all,
        but for stray quotes: a wrong delimiter finds them in every quoted header.
        """
        if CsvCode.STRAY_QUOTE in self.problems.codes:
            return -1
        if self.problems.total:
            return 1
        return 2 * sum(bool(places) for places in _places_by_header(self.columns).values())


class ProductReader:
    """The products of a CSV: `columns` is the header as it was, iterating gives the rows.

    Each iteration starts anew and moves the file's position, so only one runs at a time. After
    the first problem it yields nothing more, goes on validating to the file's end and
    raises CsvRefusedError there: what came out before must be undone. Only too many rows (413)
    end it on the spot. A wrong header raises CsvRefusedError at once. `strict` makes a URL that
    can't be fetched as it stands a problem. The file stays the caller's to close.
    """

    def __init__(self, file: IO[bytes], limits: CsvLimits, *, strict: bool = False) -> None:
        self._file = file
        self._limits = limits
        self._strict = strict
        self._names: list[str] = []  # the columns', for errors
        header = max(map(self._read_header, _DELIMITERS), key=lambda header: header.rank)
        if header.problems.total:
            raise CsvRefusedError(header.problems)
        self._places = locate_columns(header.columns, header.line)
        self._delimiter = header.delimiter
        self._header_line = header.line
        self._names = [excerpt(column) for column in header.columns]
        self.columns = header.columns

    @property
    def url_column(self) -> str:
        """What the file calls the column of URLs, as errors repeat it."""
        return self._names[self._places.input_image_urls]

    def __iter__(self) -> Iterator[ProductRow]:
        problems = CsvProblems()
        serials = SerialNumbers(self._limits.max_rows)
        serial_at, name_at, urls_at, others = self._places
        most, strict = self._limits.max_urls_per_row, self._strict
        for line, row in self._product_rows(problems):
            name, cell = row[name_at], row[urls_at]
            serial = row[serial_at].strip()
            urls = split_urls(cell)
            is_number = is_whole_number(serial)
            if is_number:
                serials.add(value_of(serial))
            if not (is_number and name.strip() and 0 < len(urls) <= most) or strict:
                self._judge(line, row, urls, problems)
            if not problems.total:
                further = [row[place] for place in others] if others else None
                yield ProductRow(line, row[serial_at], name, cell, further, urls)
        if serials.shared:
            self._find_duplicates(serials, problems)
        if problems.total:
            raise CsvRefusedError(problems)

    def _judge(self, line: int, row: list[str], urls: list[str], problems: CsvProblems) -> None:
        """Add everything that is wrong with the cells of one product."""
        serial_at, name_at, urls_at, _ = self._places
        serial, most = row[serial_at].strip(), self._limits.max_urls_per_row
        if not is_whole_number(serial):
            detail = f"the serial number {excerpt(serial)!r} is not a whole number in digits"
            problems.add(line, self._names[serial_at], CsvCode.INVALID_SERIAL_NUMBER, detail)
        if not row[name_at].strip():
            detail = "the product has no name"
            problems.add(line, self._names[name_at], CsvCode.EMPTY_PRODUCT_NAME, detail)
        if not urls:
            detail = "the product has no image URL"
            problems.add(line, self._names[urls_at], CsvCode.NO_URL, detail)
        elif len(urls) > most:
            detail = f"the product has {len(urls)} image URLs, and MAX_URLS_PER_ROW is {most}"
            problems.add(line, self._names[urls_at], CsvCode.TOO_MANY_URLS, detail)
        for url in urls[:most] if self._strict else ():  # no more is read of a bomb
            try:
                parse_source_url(url)
            except ImageError as error:
                problems.add_url(line, self._names[urls_at], url, error)

    def _find_duplicates(self, serials: SerialNumbers, problems: CsvProblems) -> None:
        """Read the file again and add every row whose serial number an earlier one has.

        In as many turns as keep each one's memory within bounds: nearly always one.
        """
        turns = serials.shared // _MAX_SHARED_IN_MEMORY + 1
        for turn in range(turns):
            found = CsvProblems()
            first_lines: dict[int, int] = {}
            for line, row in self._product_rows(CsvProblems()):
                serial = row[self._places.serial_number].strip()
                if not is_whole_number(serial):
                    continue
                value = value_of(serial)
                if not serials.is_shared(value, turn, turns):
                    continue
                first = first_lines.setdefault(value, line)
                if first != line:
                    name = self._names[self._places.serial_number]
                    detail = f"the serial number {excerpt(serial)!r} is on line {first} already"
                    found.add(line, name, CsvCode.DUPLICATE_SERIAL_NUMBER, detail)
            problems.merge(found)

    def _read_header(self, delimiter: str) -> _Header:
        """Take the first row that isn't blank for the header."""
        problems = CsvProblems()
        line, columns = 1, list[str]()
        with closing(self._rows(delimiter, problems)) as rows:
            for row_line, row in rows:
                if problems.total or not _is_blank(row):
                    line, columns = row_line, row
                    break
        if len(columns) > MAX_COLUMNS:
            detail = f"there are {len(columns)} columns, and {MAX_COLUMNS} are the most"
            problems.add(line, None, CsvCode.TOO_MANY_COLUMNS, detail)
        return _Header(delimiter, line, columns, problems)

    def _product_rows(self, problems: CsvProblems) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows below the header that aren't blank, none shorter than the header."""
        width, header_line = len(self.columns), self._header_line
        room = self._limits.max_rows
        with closing(self._rows(self._delimiter, problems)) as rows:
            for line, row in rows:
                if not row or line <= header_line:
                    continue
                if len(row) != width:
                    self._fit(line, row, problems)
                if not row[0].strip() and _is_blank(row):
                    continue
                room -= 1
                if room < 0:
                    most = self._limits.max_rows
                    raise too_many_rows(line, f"there are more than {most} (MAX_CSV_ROWS) products")
                yield line, row
        if room == self._limits.max_rows and not problems.total:
            detail = "there is no product below the header"
            problems.add(header_line, None, CsvCode.NO_PRODUCT, detail)

    def _rows(
        self, delimiter: str, problems: CsvProblems
    ) -> Generator[tuple[int, list[str]], None, None]:
        max_lines = self._limits.max_lines
        return read_rows(self._file, delimiter, problems, max_lines=max_lines, names=self._names)

    def _fit(self, line: int, row: list[str], problems: CsvProblems) -> None:
        """Make a row at least as wide as the header; cells beyond that must be empty."""
        width = len(self.columns)
        if not _is_blank(row[width:]):
            detail = (
                f"the row has {len(row)} cells and the header {width}; a cell that contains"
                f" {_DELIMITERS[self._delimiter]}, like a list of URLs, must be in quotes"
            )
            problems.add(line, None, CsvCode.TOO_MANY_CELLS, detail)
        row += [""] * (width - len(row))


def _is_blank(row: list[str]) -> bool:
    return not "".join(row).strip()
