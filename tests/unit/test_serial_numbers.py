"""Where two serial numbers may be equal."""

from __future__ import annotations

import random

import pytest

from serial_numbers import SerialNumbers, is_whole_number, value_of


@pytest.mark.parametrize(
    ("serial", "expected"),
    [
        ("0", True),
        ("007", True),
        ("9" * 5000, True),
        ("", False),
        ("-1", False),
        ("+1", False),
        ("1.0", False),
        ("1e3", False),
        ("1 2", False),
        ("1_000", False),
        ("٣", False),
        ("²", False),
    ],
)
def test_whole_numbers(serial: str, expected: bool) -> None:  # noqa: FBT001  # a table's column
    """A whole number is one or more ASCII digits."""
    assert is_whole_number(serial) is expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("7", "007", True),
        ("0", "0" * 40, True),
        ("12", "0" * 5000 + "12", True),
        ("9" * 30, "0" + "9" * 30, True),
        ("1" + "0" * 18, "2" + "0" * 18, False),
        ("9" * 5000, "9" * 5001, False),
        ("1", "10", False),
    ],
)
def test_values(one: str, other: str, same: bool) -> None:  # noqa: FBT001  # a table's column
    """Serial numbers are told apart by value, however long they are."""
    assert (value_of(one) == value_of(other)) is same


@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_evenly_spaced_numbers_share_no_slot(step: int) -> None:
    """The usual file needs no second pass."""
    serials = SerialNumbers(10_000)
    for value in range(0, 10_000 * step, step):
        serials.add(value)
    assert serials.shared == 0


def test_equal_numbers_share_a_slot() -> None:
    """A number that comes three times makes one shared slot, whose turn comes once."""
    serials = SerialNumbers(100)
    for value in (5, 6, 5, 5):
        serials.add(value)
    assert serials.shared == 1
    assert serials.is_shared(5, 0, 1)
    assert not serials.is_shared(6, 0, 1)
    assert sum(serials.is_shared(5, turn, 7) for turn in range(7)) == 1


def test_random_numbers_share_few_slots() -> None:
    """Numbers without any order share a slot the more rarely, the more rows there may be."""
    draw = random.Random(1)  # noqa: S311  # the same numbers in every run
    serials = SerialNumbers(1_000_000)
    for _ in range(20_000):
        serials.add(draw.randrange(10**13))
    assert serials.shared < 60
