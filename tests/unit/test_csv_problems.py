"""What a refused CSV tells: the first hundred problems, and how many in all."""

from __future__ import annotations

import json

import pytest

from csv_problems import CsvCode, CsvProblems, CsvRefusedError


def problems_on(*lines: int, code: CsvCode = CsvCode.NO_URL) -> CsvProblems:
    """Return a problem on each line."""
    problems = CsvProblems()
    for line in lines:
        problems.add(line, "URLs", code, f"detail {line}")
    return problems


def test_the_first_hundred_are_listed_and_all_counted() -> None:
    """The 101st problem is in the total alone."""
    refused = CsvRefusedError(problems_on(*range(2, 152)))
    assert [error["line"] for error in refused.members["errors"]] == list(range(2, 102))
    assert refused.members["errors_total"] == 150


def test_members_are_json() -> None:
    """An error has line, column, code and detail."""
    members = json.loads(json.dumps(CsvRefusedError(problems_on(3)).members))
    assert members == {
        "errors": [{"line": 3, "column": "URLs", "code": "no_url", "detail": "detail 3"}],
        "errors_total": 1,
    }


def test_merged_problems_are_in_line_order() -> None:
    """What another pass found stands where its lines are, and the list stays bounded."""
    problems = problems_on(*range(10, 110))
    problems.merge(problems_on(2, 50, 200, code=CsvCode.DUPLICATE_SERIAL_NUMBER))
    lines = [problem.line for problem in problems.listed]
    assert lines == sorted([2, 50, *range(10, 108)])
    assert problems.total == 103


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ([CsvCode.NO_URL, CsvCode.MISSING_HEADER], 422),
        ([CsvCode.NO_URL, CsvCode.NUL], 400),
        ([CsvCode.TOO_MANY_ROWS], 413),
    ],
)
def test_status(codes: list[CsvCode], status: int) -> None:
    """A malformed file is 400, too much of it 413, anything else 422, merged or not."""
    problems = CsvProblems()
    for code in codes:
        problems.merge(problems_on(2, code=code))
    assert CsvRefusedError(problems).status == status


def test_detail_names_the_first_problem() -> None:
    """Who reads only the detail learns where to begin, and how much more there is."""
    assert CsvRefusedError(problems_on(4)).detail == "the CSV was refused: line 4: detail 4"
    assert CsvRefusedError(problems_on(4, 5)).detail.endswith("(2 problems in all)")
