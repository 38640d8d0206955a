"""Limits and cursors of lists: what comes back is what was given out, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from errors import HttpError
from paging import (
    DEFAULT_LIMIT,
    image_cursor,
    parse_image_filter,
    parse_image_place,
    parse_limit,
    parse_request_cursor,
    request_cursor,
)

ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("query", "limit"),
    [({}, DEFAULT_LIMIT), ({"limit": "1"}, 1), ({"limit": "007"}, 7), ({"limit": "1000"}, 1000)],
)
def test_a_limit_is_a_number_of_rows(query: dict[str, str], limit: int) -> None:
    """Whole numbers up to 1000 are taken; without one a page has the default."""
    assert parse_limit(query) == limit


@pytest.mark.parametrize(
    "text",
    [
        *["", "0", "-1", "+1", "1001", "1.0", "1e2", " 1", "x", "٣", "²"],
        *["0000000001999", "1" * 5000, "0" * 5000 + "1"],
    ],
)
def test_another_limit_is_refused(text: str) -> None:
    """What is no whole number from 1 to 1000 gets 422, and is shown shortened."""
    with pytest.raises(HttpError, match=r"limit: .* is not a whole number") as caught:
        parse_limit({"limit": text})
    assert caught.value.status == 422
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize("n", [1, 255, 2**31 - 1])
def test_an_image_cursor_comes_back(n: int) -> None:
    """The number of an image goes through its cursor, in characters that need no escape."""
    cursor = image_cursor({"n": n})
    assert cursor.isalnum()
    assert cursor.isascii()
    assert parse_image_place({"cursor": cursor}) == n


def test_without_a_cursor_a_list_starts_at_its_beginning() -> None:
    """The first page is asked for without a cursor."""
    assert parse_image_place({}) == 0
    assert parse_request_cursor({}) is None


@pytest.mark.parametrize(("text", "after"), [("1", 0), ("007", 6), ("999999999", 999_999_998)])
def test_a_list_starts_at_an_image_by_its_number(text: str, after: int) -> None:
    """Whoever wants the middle of a million images need not page up to it."""
    assert parse_image_place({"from": text}) == after


@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "x", "1" * 10, "٣"])
def test_another_number_of_an_image_is_refused(text: str) -> None:
    """What no image can have for its number gets 422."""
    with pytest.raises(HttpError, match=r"from: .* is not the number of an image") as caught:
        parse_image_place({"from": text})
    assert caught.value.status == 422


@pytest.mark.parametrize(("first", "behind"), [(5, 100), (100, 5)])
def test_a_page_starts_at_the_later_place(first: int, behind: int) -> None:
    """Whoever pages on from a number may leave it in the query."""
    query = {"from": str(first), "cursor": image_cursor({"n": behind})}
    assert parse_image_place(query) == max(first - 1, behind)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({}, (None, None)),
        ({"state": "running"}, ("running", None)),
        ({"code": "http_404"}, (None, "http_404")),
        ({"state": "failed", "code": "timeout"}, ("failed", "timeout")),
    ],
)
def test_images_are_filtered(query: dict[str, str], wanted: tuple[str | None, str | None]) -> None:
    """By their state, by why they failed, or by neither."""
    assert parse_image_filter(query) == wanted


@pytest.mark.parametrize(
    "query",
    [{"state": ""}, {"state": "done"}, {"code": ""}, {"code": "HTTP 404"}, {"code": "x" * 41}],
)
def test_another_filter_is_refused(query: dict[str, str]) -> None:
    """What is no state and can be no code gets 422, and is named."""
    with pytest.raises(HttpError, match=rf"{next(iter(query))}: .* is not") as caught:
        parse_image_filter(query)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2031, 2, 3, 4, 5, 6, 789_012, UTC),
        datetime(2031, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    ],
)
def test_a_request_cursor_comes_back(moment: datetime) -> None:
    """Creation time, to the microsecond, and id go through the cursor."""
    cursor = request_cursor({"created_at": moment, "id": ID})
    assert parse_request_cursor({"cursor": cursor}) == (moment, ID)


GARBAGE = [
    "",
    "=",
    "x",
    "é",
    "\udc80",
    "\0",
    "-0000001",
    "0x000001",
    "0000 001",
    "٣" * 8,
    "0" * 9000,
]


@pytest.mark.parametrize("cursor", [*GARBAGE, "1", "80000000", "0000000A", "00000001\n"])
def test_a_foreign_image_cursor_is_refused(cursor: str) -> None:
    """What the service did not give out as an image's cursor gets 422."""
    with pytest.raises(HttpError, match="cursor: not one that this service gave out") as caught:
        parse_image_place({"cursor": cursor})
    assert caught.value.status == 422


@pytest.mark.parametrize("cursor", [*GARBAGE, ID, "-" + "0" * 12 + ID, "0" * 14 + ID])
def test_a_foreign_request_cursor_is_refused(cursor: str) -> None:
    """What would not be a place in the database's order gets 422 before it gets there."""
    with pytest.raises(HttpError, match="cursor: not one that this service gave out") as caught:
        parse_request_cursor({"cursor": cursor})
    assert caught.value.status == 422


@pytest.mark.parametrize("microseconds", ["0" * 13, "f" * 13])
def test_a_request_cursor_is_a_moment_that_the_database_understands(microseconds: str) -> None:
    """Whatever was made up, a time comes out that is within the range of both, and in UTC."""
    place = parse_request_cursor({"cursor": microseconds + ID})
    assert place
    assert 1970 <= place[0].year < 2200
    assert place[0].tzinfo is UTC
