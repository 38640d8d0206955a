"""Waiting for conditions instead of times, and a clock that is set by hand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS: Final = 90.0  # that only a hang reaches, however busy the machine


def wait_until(is_met: Callable[[], Any]) -> None:
    """Poll until the condition is met; fail when it never is."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_met():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Clock:
    """A clock that goes on by `step` seconds with each look at it; stands in for `time` as well."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 1000.0
        self._step = step

    def monotonic(self) -> float:
        """Return the seconds that it shows."""
        self.now += self._step
        return self.now

    __call__ = monotonic
