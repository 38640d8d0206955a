"""What is known of an origin: whether it answers, and whether it wants to be left alone.

Pure: a state and a report of what downloads met give the next state. An origin is a host and port.
Two things keep images from it. A *pause* is what it asked for itself, with Retry-After. The
*breaker* opens when it has not answered for several attempts in a row; after a while one attempt
goes through as a *probe*, and the first answer closes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from errors import ErrorCode

FAILURES_TO_OPEN: Final = 10  # in a row, of all workers together
PAUSES_TO_COUNT: Final = 4  # in a row, without an image or any other answer between

# Without an HTTP answer these say that the origin is not there.
CONNECTION_CODES: Final = frozenset(
    {ErrorCode.CONNECT_ERROR, ErrorCode.TIMEOUT, ErrorCode.DNS_ERROR, ErrorCode.TLS_ERROR}
)


@dataclass(frozen=True, slots=True)
class OriginReport:
    """What downloads met at an origin since the last report.

    `failures` counts attempts without an answer since the last answer, `code` is of the newest
    of them or of the refusal that asked for a pause. `is_served` tells of an answer that did not
    ask for one, `is_probed` that our probe has ended.
    """

    failures: int = 0
    code: str | None = None
    pause_seconds: float = 0.0
    is_answered: bool = False
    is_served: bool = False
    is_probed: bool = False

    def then(self, later: OriginReport) -> OriginReport:
        """Return both reports in one."""
        return OriginReport(
            failures=later.failures + (0 if later.is_answered else self.failures),
            code=later.code or self.code,
            pause_seconds=max(self.pause_seconds, later.pause_seconds),
            is_answered=self.is_answered or later.is_answered,
            is_served=self.is_served or later.is_served,
            is_probed=self.is_probed or later.is_probed,
        )


@dataclass(frozen=True, slots=True)
class OriginState:
    """An origin as of some moment; seconds count from it, and there is none left at 0.

    `failures` and `refusals` (pauses) are in a row. `open_seconds` is how long the breaker stays
    open, `probe_seconds` how long a probe that is under way has left.
    """

    failures: int = 0
    refusals: int = 0
    code: str | None = None
    pause_seconds: float = 0.0
    open_seconds: float = 0.0
    probe_seconds: float = 0.0

    @property
    def is_broken(self) -> bool:
        """Whether the breaker is open, or waits for a probe."""
        return self.failures >= FAILURES_TO_OPEN

    @property
    def needs_probe(self) -> bool:
        """Whether one attempt may find out if the origin is there again."""
        return self.is_broken and self.open_seconds <= 0 and self.probe_seconds <= 0

    def after(self, seconds: float) -> OriginState:
        """Return the same state so many seconds later."""
        return replace(
            self,
            pause_seconds=max(0.0, self.pause_seconds - seconds),
            open_seconds=max(0.0, self.open_seconds - seconds),
            probe_seconds=max(0.0, self.probe_seconds - seconds),
        )

    def probed(self, seconds: float) -> OriginState:
        """Return the state while a probe is under way, which is given up after `seconds`."""
        return replace(self, probe_seconds=seconds)

    def told(self, report: OriginReport, *, open_seconds: float) -> OriginState:
        """Return the state after a report; a breaker that it opens stays so for `open_seconds`."""
        failures = report.failures + (0 if report.is_answered else self.failures)
        is_broken = failures >= FAILURES_TO_OPEN
        reopens = report.failures > 0 and (report.is_answered or self.open_seconds <= 0)
        refusals = 0 if report.is_served else self.refusals
        if report.pause_seconds > 0 and not report.is_served and self.pause_seconds <= 0:
            refusals += 1
        return OriginState(
            failures=failures,
            refusals=refusals,
            code=report.code or self.code,
            pause_seconds=max(self.pause_seconds, report.pause_seconds),
            open_seconds=0.0 if not is_broken else open_seconds if reopens else self.open_seconds,
            probe_seconds=0.0 if report.is_probed or not is_broken else self.probe_seconds,
        )
