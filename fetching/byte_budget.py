"""A counting semaphore over bytes: how much image data may be in memory at once.

Owns nothing but the count. The downloader reserves before it reads a body, and more as it comes;
whoever uses the data releases the reservation when done with it.
"""

from __future__ import annotations

from collections import deque
from threading import Event, Lock
from typing import Self


class ByteBudget:
    """So many bytes to begin with, and so many to grow by, lent to threads in turn.

    Two counts, so that whoever needs little begins, however much the large ones hold. Both are
    lent first come, first served. Growth that nothing is left for is lent all the same, to one at
    a time, as all would wait for each other's end else: so a single reservation can exceed
    `growth`. A thread must not wait for a second one: one reservation per download.
    """

    def __init__(self, beginnings: int, growth: int) -> None:
        if beginnings < 1:
            raise ValueError("nobody can begin with less than one byte")
        self.beginnings = beginnings
        self._free = beginnings
        self._growth = growth  # that nobody holds; less than nothing if there is a debtor
        self._waiting: deque[tuple[int, Event]] = deque()
        self._growing: deque[tuple[Reservation, int, Event]] = deque()
        self._debtor: Reservation | None = None  # who grew last, beyond what was there or not
        self._lock = Lock()

    @property
    def free(self) -> tuple[int, int]:
        """Bytes to begin with and to grow by that nobody holds; a moment's truth."""
        return self._free, self._growth

    @property
    def waiting(self) -> int:
        """Threads that wait for their turn; a moment's truth."""
        return len(self._waiting) + len(self._growing)

    def is_short(self) -> bool:
        """Tell whether somebody waits to grow; a moment's truth."""
        return bool(self._growing)

    def reserve(self, size: int) -> Reservation:
        """Wait until `size` bytes are free and this thread's turn has come, and take them.

        A size beyond all beginnings takes them all. The caller releases the reservation, best by
        `with`.
        """
        size = min(size, self.beginnings)
        granted = Event()
        with self._lock:
            self._waiting.append((size, granted))
            self._grant()
        granted.wait()
        return Reservation(self, size)

    def lend_more(self, reservation: Reservation, size: int) -> None:
        """Wait for `size` bytes more; only `Reservation` calls this."""
        granted = Event()
        with self._lock:
            if reservation is self._debtor:
                self._growth -= size
                return
            self._growing.append((reservation, size, granted))
            self._grant()
        granted.wait()

    def give_back(self, beginning: int, growth: int) -> None:
        """Return bytes; only `Reservation` calls this."""
        with self._lock:
            self._free += beginning
            self._growth += growth
            self._grant()

    def _grant(self) -> None:
        while self._growing and self._growth >= 0:
            self._debtor, size, granted = self._growing.popleft()
            self._growth -= size
            granted.set()
        while self._waiting and self._waiting[0][0] <= self._free:
            size, granted = self._waiting.popleft()
            self._free -= size
            granted.set()


class Reservation:
    """Bytes of a budget that belong to one holder until released."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self._budget = budget
        self._lock = Lock()
        self._beginning = size
        self.size = size

    def grow(self, size: int) -> None:
        """Wait until `size` bytes in all are held; only while nobody else shrinks it."""
        self._budget.lend_more(self, size - self.size)
        self.size = size

    def shrink(self, size: int) -> None:
        """Give back all but `size` bytes; never grows."""
        with self._lock:
            surplus = max(0, self.size - size)
            growth = min(surplus, self.size - self._beginning)
            self._beginning -= surplus - growth
            self.size -= surplus
        self._budget.give_back(surplus - growth, growth)

    def release(self) -> None:
        """Give everything back; a second call does nothing."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
