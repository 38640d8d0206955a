"""The byte budget: never more lent than there is, first come first served."""

from __future__ import annotations

from threading import Thread
from time import sleep
from typing import TYPE_CHECKING

import pytest

from fetching.byte_budget import ByteBudget, Reservation

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 30.0


class Borrower(Thread):
    """A thread that asks for bytes and keeps them."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        super().__init__(daemon=True)
        self.budget = budget
        self.size = size
        self.reservation: Reservation | None = None
        self.start()

    def run(self) -> None:
        """Ask, and wait for the answer."""
        self.reservation = self.budget.reserve(self.size)

    def served(self) -> Reservation:
        """Wait for the reservation."""
        self.join(PATIENCE_SECONDS)
        assert self.reservation
        return self.reservation


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds; the test's time-out ends a vain wait."""
    while not condition():
        sleep(0.001)


def test_reservations_are_taken_and_given_back() -> None:
    """What is reserved is missing until released, and released once only."""
    budget = ByteBudget(100, 0)
    with budget.reserve(30) as first:
        assert (first.size, budget.free) == (30, (70, 0))
        second = budget.reserve(70)
        assert budget.free == (0, 0)
        second.release()
        second.release()
        assert budget.free == (70, 0)
    assert budget.free == (100, 0)


def test_a_reservation_shrinks_and_not_the_other_way() -> None:
    """Surplus bytes go back at once; asking for more than there was changes nothing."""
    budget = ByteBudget(100, 0)
    reservation = budget.reserve(80)
    reservation.shrink(25)
    assert (reservation.size, budget.free) == (25, (75, 0))
    reservation.shrink(60)
    assert (reservation.size, budget.free) == (25, (75, 0))


def test_a_reservation_is_released_when_its_holder_fails() -> None:
    """An exception inside `with` gives the bytes back."""
    budget = ByteBudget(10, 0)
    with pytest.raises(LookupError), budget.reserve(10):
        raise LookupError
    assert budget.free == (10, 0)


def test_more_than_the_budget_takes_all_of_it() -> None:
    """A size beyond the capacity waits for the whole budget instead of for ever."""
    budget = ByteBudget(10, 0)
    with budget.reserve(1000) as reservation:
        assert (reservation.size, budget.free) == (10, (0, 0))
    assert budget.free == (10, 0)


def test_a_thread_waits_until_enough_is_free() -> None:
    """A reservation that doesn't fit is served as soon as it does, by shrinking too."""
    budget = ByteBudget(10, 0)
    held = budget.reserve(10)
    waiter = Borrower(budget, 6)
    wait_until(lambda: budget.waiting == 1)
    held.shrink(5)
    assert budget.waiting == 1
    held.shrink(4)
    assert waiter.served().size == 6
    assert budget.free == (0, 0)


def test_nobody_overtakes() -> None:
    """A small reservation waits behind a large one although it would fit."""
    budget = ByteBudget(10, 0)
    held = budget.reserve(5)
    large = Borrower(budget, 10)
    wait_until(lambda: budget.waiting == 1)
    small = Borrower(budget, 1)
    wait_until(lambda: budget.waiting == 2)
    assert budget.free == (5, 0)
    held.release()
    large.served().release()
    assert small.served().size == 1


def test_many_threads_never_hold_more_than_the_capacity() -> None:
    """Under contention the sum of what is held stays within the budget, and all get through."""
    budget = ByteBudget(10, 0)
    lows: list[int] = []

    def borrow(size: int) -> None:
        for _ in range(50):
            with budget.reserve(size):
                lows.append(min(budget.free))

    threads = [Thread(target=borrow, args=(size,), daemon=True) for size in (1, 3, 5, 7, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert len(lows) == 50 * len(threads)
    assert min(lows) >= 0
    assert budget.free == (10, 0)


def test_growth_keeps_nobody_from_beginning() -> None:
    """The large have bytes of their own: however many they hold or wait for, small ones begin."""
    budget = ByteBudget(10, 20)
    large, other = budget.reserve(1), budget.reserve(1)
    large.grow(51)
    assert (large.size, budget.free) == (51, (8, -30))
    grower = Thread(target=other.grow, args=(2,), daemon=True)
    grower.start()
    wait_until(budget.is_short)
    assert budget.reserve(8).size == 8
    large.shrink(31)
    assert budget.free == (0, -10)
    large.shrink(1)
    grower.join(PATIENCE_SECONDS)
    assert (budget.free, budget.is_short()) == ((0, 19), False)
    large.release()
    assert budget.free == (1, 19)


def test_one_at_a_time_grows_beyond_what_there_is() -> None:
    """All would wait for each other else; the next one does so when that one is done."""
    budget = ByteBudget(10, 2)
    first, second = budget.reserve(5), budget.reserve(5)
    first.grow(8)
    assert budget.free == (0, -1)
    grower = Thread(target=second.grow, args=(10,), daemon=True)
    grower.start()
    wait_until(lambda: budget.waiting == 1)
    first.grow(9)
    assert (first.size, budget.free, budget.waiting) == (9, (0, -2), 1)
    first.release()
    grower.join(PATIENCE_SECONDS)
    assert (second.size, budget.free, budget.waiting) == (10, (5, -3), 0)
    second.release()
    assert budget.free == (10, 2)


def test_many_that_grow_all_get_through() -> None:
    """However little there is, nobody waits for ever, and one alone is ever beyond it."""
    budget = ByteBudget(6, 4)
    lows: list[int] = []

    def borrow() -> None:
        for _ in range(50):
            with budget.reserve(1) as reservation:
                for size in (2, 4, 8):
                    reservation.grow(size)
                    lows.append(min(budget.free))

    threads = [Thread(target=borrow, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert len(lows) == 50 * 3 * len(threads)
    assert min(lows) > -8
    assert budget.free == (6, 4)


def test_a_budget_without_bytes_is_refused() -> None:
    """A capacity that could never lend anything is a mistake of the caller."""
    with pytest.raises(ValueError, match="begin"):
        ByteBudget(0, 1)
