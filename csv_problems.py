"""What can be wrong with a CSV, and how the client hears of it.

Owns the vocabulary of the `errors` in a refusal, their order and their number. Finding
them is the business of `csv_rows` (the text) and `csv_validator` (the products).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING

from errors import HttpError

if TYPE_CHECKING:
    from errors import ImageError

MAX_ERRORS_LISTED = 100  # the rest are only counted
_EXCERPT_CHARS = 100  # of a cell or header, in an error


class CsvCode(StrEnum):
    """What is wrong with a CSV."""

    NOT_DECODABLE = "not_decodable"  # neither UTF-8 nor UTF-16 with a BOM
    NUL = "nul"  # a NUL character
    UNCLOSED_QUOTE = "unclosed_quote"  # the file ends inside a quoted cell
    STRAY_QUOTE = "stray_quote"  # text after the closing quote of a cell
    FIELD_TOO_LARGE = "field_too_large"  # a cell over MAX_FIELD_BYTES
    ROW_TOO_LONG = "row_too_long"  # a row over MAX_ROW_CHARS
    MISSING_HEADER = "missing_header"  # a required column isn't there
    DOUBLED_HEADER = "doubled_header"  # a required column is there twice
    TOO_MANY_COLUMNS = "too_many_columns"  # more than MAX_COLUMNS
    NO_PRODUCT = "no_product"  # nothing below the header
    TOO_MANY_CELLS = "too_many_cells"  # a row with more cells than the header
    INVALID_SERIAL_NUMBER = "invalid_serial_number"  # not a whole number
    DUPLICATE_SERIAL_NUMBER = "duplicate_serial_number"  # an earlier row has it
    EMPTY_PRODUCT_NAME = "empty_product_name"
    NO_URL = "no_url"  # a product without any
    TOO_MANY_URLS = "too_many_urls"  # more than CsvLimits.max_urls_per_row
    INVALID_URL = "invalid_url"  # only looked for when an upload is strict
    TOO_MANY_ROWS = "too_many_rows"  # more than CsvLimits allow; read no further


_MALFORMED = frozenset(
    {
        CsvCode.NOT_DECODABLE,
        CsvCode.NUL,
        CsvCode.UNCLOSED_QUOTE,
        CsvCode.STRAY_QUOTE,
        CsvCode.FIELD_TOO_LARGE,
        CsvCode.ROW_TOO_LONG,
    }
)


@dataclass(frozen=True, slots=True)
class CsvProblem:
    """One thing that is wrong; `column` is the header as in the file, or None.

    The code is a CsvCode, or a URL's ErrorCode.
    """

    line: int
    column: str | None
    code: str
    detail: str


class CsvProblems:
    """What is wrong with a CSV: the first MAX_ERRORS_LISTED in line order, and how many in all."""

    def __init__(self) -> None:
        self.listed: list[CsvProblem] = []
        self.total = 0
        self.codes: set[str] = set()

    @property
    def status(self) -> HTTPStatus:
        """What the whole file's refusal is in HTTP."""
        if CsvCode.TOO_MANY_ROWS in self.codes:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        if self.codes & _MALFORMED:
            return HTTPStatus.BAD_REQUEST
        return HTTPStatus.UNPROCESSABLE_ENTITY

    def add(self, line: int, column: str | None, code: str, detail: str) -> None:
        """Take one more; lines come in ascending order."""
        self.total += 1
        self.codes.add(code)
        if len(self.listed) < MAX_ERRORS_LISTED:
            self.listed.append(CsvProblem(line, column, code, detail))

    def add_url(self, line: int, column: str, url: str, error: ImageError) -> None:
        """Take a URL that can't be fetched as it stands, and why."""
        self.add(line, column, error.code, f"{excerpt(url)!r}: {error.detail}")

    def merge(self, later: CsvProblems) -> None:
        """Take those that another pass over the same lines found."""
        self.total += later.total
        self.codes |= later.codes
        together = sorted(self.listed + later.listed, key=lambda problem: problem.line)
        self.listed = together[:MAX_ERRORS_LISTED]


class CsvRefusedError(HttpError):
    """The CSV can't be taken; the members `errors` and `errors_total` say why.

    The status is 400 for a malformed file, 413 for too many rows, else 422.
    """

    def __init__(self, problems: CsvProblems) -> None:
        first = problems.listed[0]
        more = f" ({problems.total} problems in all)" if problems.total > 1 else ""
        super().__init__(
            problems.status,
            f"the CSV was refused: line {first.line}: {first.detail}{more}",
            members={
                "errors": [asdict(problem) for problem in problems.listed],
                "errors_total": problems.total,
            },
        )


def excerpt(text: str) -> str:
    """Return as much of a cell or header as an error should repeat."""
    return text[:_EXCERPT_CHARS]


def too_many_rows(line: int, detail: str) -> CsvRefusedError:
    """Return the refusal of a file that goes on beyond its limit, whatever else is wrong."""
    problems = CsvProblems()
    problems.add(line, None, CsvCode.TOO_MANY_ROWS, f"{detail}; read no further")
    return CsvRefusedError(problems)
