"""The clock of what a decoder is asked: how long it is waited for, and who is to blame at the end.

Counted is the time for which the decoder ran or slept. What it waited for a processor is the
machine's; but what it ran is counted, however many of its threads waited meanwhile. So an image
has its time on a busy machine too, and whoever has taken a decoder over has no more of it.
"""

from __future__ import annotations

import contextlib
import select
import time
from enum import Enum, auto
from pathlib import Path

LONGEST = 10  # times the limit by the wall's clock: a nice decoder has a tenth of a busy processor
_WORK_SHARE = 0.1  # of the limit: a decoder that ran for less of it was stopped
_GLANCE_SHARE = 0.01  # of the limit, between two looks when it is over


class Blame(Enum):
    """Whose fault it is that time is over."""

    IMAGE = auto()
    """The decoder had its time, and used it."""
    STOPPED = auto()
    """It had its time and hardly ran: it was stopped, or sleeps because of the image."""
    MACHINE = auto()
    """It did not have its time: it waited for a processor, which no image can bring about."""


class Clock:
    """The time that a process may take from now on.

    It is looked at first after a tenth of the limit, which counts whole, as a look takes as much
    time as all else that a small image is worth.
    """

    def __init__(self, process: int, seconds: float) -> None:
        self._process = process
        self._seconds = seconds
        self._began_at = time.monotonic()
        self._looks_at = self._began_at + seconds * _WORK_SHARE
        self._used_before = _used_seconds(process)
        self._waited_before: float | None = None
        self._used = self._counted = 0.0

    def wait(self, descriptor: int, events: int) -> None:
        """Wait until a pipe is ready. Raises TimeoutError, also where one is, but time is over."""
        poll = select.poll()
        poll.register(descriptor, events)
        while not poll.poll(self._time_to_next_look() * 1000):
            pass

    @property
    def blame(self) -> Blame:
        """Whose fault it is, once time is over."""
        if self._counted < self._seconds:
            return Blame.MACHINE
        return Blame.IMAGE if self._used >= self._seconds * _WORK_SHARE else Blame.STOPPED

    def _time_to_next_look(self) -> float:
        now = time.monotonic()
        if now >= self._looks_at:
            ends_at = self._began_at + self._seconds * LONGEST
            rest = self._look(now)
            if rest <= 0 or now >= ends_at:
                raise TimeoutError
            self._looks_at = min(now + max(rest, self._seconds * _GLANCE_SHARE), ends_at)
        return self._looks_at - now

    def _look(self, now: float) -> float:
        """Count, and return the seconds that are left."""
        waited = _waited_seconds(self._process)
        if self._waited_before is None:
            self._waited_before = waited
        self._used = _used_seconds(self._process) - self._used_before
        passed = now - self._began_at
        self._counted = max(self._used, passed - (waited - self._waited_before))
        return self._seconds - self._counted


def _used_seconds(process: int) -> float:
    """Return the processor time of all threads of a process; where there is no such clock, all."""
    try:
        return time.clock_gettime(~process << 3 | 2)  # as Linux numbers the clocks of processes
    except OSError:
        return time.monotonic()


def _waited_seconds(process: int) -> float:
    """Return for how long the threads of a process have waited for a processor, as far as is known.

    Linux counts nanoseconds (Documentation/scheduler/sched-stats.rst), when the wait is over.
    """
    nanoseconds = 0
    with contextlib.suppress(OSError, ValueError):
        for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
            _, waited, _ = path.read_bytes().split()
            nanoseconds += int(waited)
    return nanoseconds / 1e9
