"""How much one client may ask for: a long-run rate with room for bursts, in memory. Pure.

The generic cell rate algorithm (ITU-T I.371): of each client one number is kept, the moment at
which all that it has asked for would be used up at the allowed rate. Who is one client is
`client_address`' and `access_control`'s business.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

BURST_SECONDS: Final = 60.0  # what the rate gives in this time may come at once
MAX_CLIENTS: Final = 50_000  # remembered at a time; of more, those not heard of for longest go


class RateLimit:
    """Counts what clients ask for. Shared by threads; `per_second` 0 lets everything pass."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._used_up_at: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    def take(self, client: Hashable, cost: float = 1.0) -> float:
        """Return 0 when the client may ask for this much now, else the seconds to wait.

        Who has to wait is charged nothing.
        """
        if not self._per_second:
            return 0.0
        with self._lock:
            now = self._clock()
            used_up_at = max(now, self._used_up_at.pop(client, now))  # and it is the newest again
            wait = used_up_at + cost / self._per_second - now - BURST_SECONDS
            self._used_up_at[client] = used_up_at + (cost / self._per_second if wait <= 0 else 0)
            if len(self._used_up_at) > MAX_CLIENTS:
                self._forget(now)
            return max(0.0, wait)

    def _forget(self, now: float) -> None:
        """Make room: who has nothing used up is as good as new; then who is silent the longest."""
        kept = [item for item in self._used_up_at.items() if item[1] > now]
        self._used_up_at = dict(kept[-MAX_CLIENTS // 2 :])
