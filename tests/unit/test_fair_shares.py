"""Shares of a host: fair, never more than there is, and by turns where there are too few."""

from __future__ import annotations

from itertools import product

import pytest

from politeness.fair_shares import Place, fair_shares, grant

TURN = 2.0


@pytest.mark.parametrize(
    ("slots", "wanted", "shares"),
    [
        (8, [], []),
        (8, [100], [8]),
        (8, [3], [3]),
        (8, [100, 100], [4, 4]),
        (8, [1, 100], [1, 7]),
        (8, [100, 2, 100], [3, 2, 3]),
        (8, [100, 100, 100], [3, 3, 2]),
        (9, [2, 3, 100, 100], [2, 3, 2, 2]),
        (2, [5, 5, 5], [1, 1, 0]),
        (1, [1, 1], [1, 0]),
        (0, [4], [0]),
        (8, [0, 0], [0, 0]),
        (1000, [10**6, 1], [999, 1]),
    ],
)
def test_shares(slots: int, wanted: list[int], shares: list[int]) -> None:
    """Who wants little gets it, the others get alike, the first in the line the odd ones."""
    assert fair_shares(slots, wanted) == shares


def test_no_exchange_would_be_fairer() -> None:
    """In every small case all slots are used that are wanted, and nobody envies another."""
    for slots, *wanted in product(range(7), range(5), range(5), range(5)):
        shares = fair_shares(slots, wanted)
        assert sum(shares) == min(slots, sum(wanted))
        for share, want in zip(shares, wanted, strict=True):
            assert share <= want
            assert share == want or share >= max(shares) - 1


def _line(*places: tuple[str, int, int, float | None]) -> list[Place]:
    return [Place(*place) for place in places]


@pytest.mark.parametrize(
    ("line", "held", "limit", "slots"),
    [
        pytest.param([("me", 1, 0, None)], 0, 8, 8, id="alone: all, whatever is wanted now"),
        pytest.param([("you", 50, 8, 1), ("me", 50, 0, None)], 0, 0, 0, id="nothing is free yet"),
        pytest.param([("you", 50, 5, 1), ("me", 50, 0, None)], 0, 3, 3, id="what is free"),
        pytest.param([("you", 50, 4, 1), ("me", 50, 0, None)], 0, 4, 4, id="the half"),
        pytest.param([("me", 50, 8, 1), ("you", 50, 0, None)], 8, 4, 8, id="must go down"),
        pytest.param([("me", 50, 8, 1), ("you", 50, 0, None)], 6, 4, 6, id="is on its way"),
        pytest.param([("me", 50, 8, 1), ("you", 1, 1, 1)], 7, 7, 7, id="the other wants little"),
        pytest.param([("you", 1, 1, 1), ("me", 1, 0, None)], 0, 4, 4, id="spare ones are spread"),
        pytest.param([("you", 9, 16, 1), ("me", 9, 0, None)], 0, 0, 0, id="another's own limit"),
    ],
)
def test_grants(
    line: list[tuple[str, int, int, float | None]], held: int, limit: int, slots: int
) -> None:
    """A worker may use its fair share of what is free, and counts for what it still holds."""
    granted = grant(_line(*line), "me", held=held, capacity=8, turn_seconds=TURN)
    assert (granted.limit, granted.slots, granted.is_moved_back) == (limit, slots, False)


@pytest.mark.parametrize(
    ("line", "limit", "is_moved_back"),
    [
        pytest.param([("me", 9, 1, 2.1), ("you", 9, 0, None)], 0, True, id="the turn is over"),
        pytest.param([("me", 9, 1, 1.9), ("you", 9, 0, None)], 1, False, id="not yet"),
        pytest.param([("me", 9, 1, 99.0)], 1, False, id="nobody waits"),
        pytest.param([("you", 9, 1, 9.0), ("me", 9, 0, None)], 0, False, id="it is not my turn"),
        pytest.param([("you", 9, 0, None), ("me", 9, 0, None)], 0, False, id="you come first"),
        pytest.param([("me", 9, 0, None), ("you", 9, 1, 9.0)], 0, False, id="you are not done yet"),
    ],
)
def test_turns(
    line: list[tuple[str, int, int, float | None]], limit: int, *, is_moved_back: bool
) -> None:
    """With one slot for two workers, who had it long enough goes to the end of the line."""
    held = line[[place[0] for place in line].index("me")][2]
    granted = grant(_line(*line), "me", held=held, capacity=1, turn_seconds=TURN)
    assert (granted.limit, granted.slots, granted.is_moved_back) == (
        limit,
        max(limit, held),
        is_moved_back,
    )
