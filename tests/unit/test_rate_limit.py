"""The rate limit, by a clock that stands still until it is told."""

from __future__ import annotations

import pytest

import rate_limit
from rate_limit import BURST_SECONDS, RateLimit
from tests.waiting import Clock


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


def take_all(limit: RateLimit, client: str, cost: float = 1) -> int:
    """Ask until refused; return how often it was granted."""
    granted = 0
    while not limit.take(client, cost):
        granted += 1
    return granted


def test_a_burst_is_what_a_minute_gives(clock: Clock) -> None:
    """So much comes at once, and then one more each time the rate allows it."""
    limit = RateLimit(2, clock)
    assert take_all(limit, "a") == 2 * BURST_SECONDS
    assert limit.take("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert limit.take("a") == 0
    assert limit.take("a") == pytest.approx(0.5)


def test_who_waits_as_told_is_admitted(clock: Clock) -> None:
    """Also for what costs more; asking too early is charged nothing."""
    limit = RateLimit(3, clock)
    assert take_all(limit, "a", 10) == 3 * BURST_SECONDS // 10
    for _ in range(5):
        wait = limit.take("a", 10)
    clock.now += wait - 0.01
    assert limit.take("a", 10) == pytest.approx(0.01)
    clock.now += 0.02
    assert limit.take("a", 10) == 0


def test_clients_are_counted_apart(clock: Clock) -> None:
    """What one has used up is not another's."""
    limit = RateLimit(1, clock)
    take_all(limit, "a")
    assert take_all(limit, "b") == BURST_SECONDS


def test_time_gives_no_more_than_a_burst(clock: Clock) -> None:
    """However long a client was away."""
    limit = RateLimit(1, clock)
    take_all(limit, "a")
    clock.now += 1_000_000
    assert take_all(limit, "a") == BURST_SECONDS


def test_nothing_is_limited_without_a_rate(clock: Clock) -> None:
    """Zero is no limit."""
    limit = RateLimit(0, clock)
    assert not any(limit.take("a", 1000) for _ in range(1000))


def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many clients those that were silent longest are forgotten; the new ones still count."""
    monkeypatch.setattr(rate_limit, "MAX_CLIENTS", 100)
    limit = RateLimit(1, clock)
    for number in range(1000):
        limit.take(number)
    assert len(limit._used_up_at) <= 100  # what is to be bounded
    take_all(limit, "late")
    limit.take("another")
    assert limit.take("late") > 0


def test_who_is_refused_is_remembered(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many strangers come by meanwhile, for as long as it goes on asking."""
    monkeypatch.setattr(rate_limit, "MAX_CLIENTS", 100)
    limit = RateLimit(1, clock)
    take_all(limit, "greedy")
    for number in range(1000):
        limit.take(number)
        assert limit.take("greedy") > 0


def test_idle_clients_are_forgotten_first(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has used something up outlives any number of those that have not."""
    monkeypatch.setattr(rate_limit, "MAX_CLIENTS", 100)
    limit = RateLimit(1, clock)
    take_all(limit, "busy")
    for number in range(1000):
        clock.now += 0.05
        limit.take(number, 0.01)
    assert limit.take("busy", BURST_SECONDS) > 0
