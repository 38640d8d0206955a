"""Origins: pauses, the breaker and its probe, as reports of downloads make them."""

from __future__ import annotations

import pytest

from politeness.origin_state import FAILURES_TO_OPEN, OriginReport, OriginState

OPEN = 5.0
FAILURE = OriginReport(failures=1, code="connect_error")
ANSWER = OriginReport(is_answered=True)
PAUSE = OriginReport(pause_seconds=30.0, code="rate_limited")
SERVED = OriginReport(is_served=True)
BROKEN = OriginState(failures=FAILURES_TO_OPEN, code="timeout", open_seconds=3.0)
HALF_OPEN = BROKEN.after(3.0)
PROBED = HALF_OPEN.probed(75.0)


def _told(state: OriginState, *reports: OriginReport) -> OriginState:
    for report in reports:
        state = state.told(report, open_seconds=OPEN)
    return state


def test_failures_in_a_row_open_the_breaker() -> None:
    """It opens with the tenth, and the last one's code stays."""
    before = _told(OriginState(), *[FAILURE] * (FAILURES_TO_OPEN - 1))
    assert (before.is_broken, before.open_seconds) == (False, 0.0)
    after = _told(before, OriginReport(failures=1, code="dns_error"))
    assert (after.is_broken, after.open_seconds, after.code) == (True, OPEN, "dns_error")


def test_an_answer_between_keeps_it_closed() -> None:
    """Only failures in a row count."""
    reports = [FAILURE] * (FAILURES_TO_OPEN - 1)
    assert not _told(OriginState(), *reports, ANSWER, *reports).is_broken


@pytest.mark.parametrize("state", [BROKEN, HALF_OPEN, PROBED])
def test_an_answer_closes_it(state: OriginState) -> None:
    """Whoever hears one, probe or not."""
    closed = _told(state, ANSWER)
    assert (closed.is_broken, closed.open_seconds, closed.probe_seconds) == (False, 0.0, 0.0)


def test_a_late_failure_does_not_keep_it_open_longer() -> None:
    """What was under way when it opened tells nothing new."""
    assert _told(BROKEN, FAILURE).open_seconds == BROKEN.open_seconds


def test_a_probe_that_fails_opens_it_again() -> None:
    """And another probe may go when that time is over."""
    state = _told(PROBED, FAILURE, OriginReport(is_probed=True))
    assert (state.open_seconds, state.probe_seconds) == (OPEN, 0.0)
    assert state.after(OPEN).needs_probe


def test_a_probe_that_tells_nothing_leaves_room_for_another() -> None:
    """It may have been cancelled."""
    assert _told(PROBED, OriginReport(is_probed=True)).needs_probe


@pytest.mark.parametrize(
    ("state", "needs_probe"),
    [
        (OriginState(), False),
        (BROKEN, False),
        (HALF_OPEN, True),
        (PROBED, False),
        (PROBED.after(75.0), True),
    ],
)
def test_one_probe_at_a_time(state: OriginState, *, needs_probe: bool) -> None:
    """It is due when the breaker was open long enough and no other is under way."""
    assert state.needs_probe is needs_probe


def test_pauses_last_as_long_as_the_longest() -> None:
    """A shorter one does not end a longer one, and answers don't either."""
    state = _told(OriginState(), PAUSE, OriginReport(pause_seconds=2.0), ANSWER, SERVED)
    assert state.pause_seconds == PAUSE.pause_seconds
    assert state.after(10.0).pause_seconds == 20.0
    assert state.after(1000.0).pause_seconds == 0.0


def test_pauses_in_a_row_are_counted_once_each() -> None:
    """Refusals within one pause are the same one; an image or another answer ends the row."""
    state = _told(OriginState(), PAUSE, PAUSE)
    assert state.refusals == 1
    state = _told(state.after(30.0), PAUSE)
    assert (state.refusals, state.code) == (2, "rate_limited")
    assert _told(state, SERVED).refusals == 0


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (FAILURE, FAILURE, OriginReport(failures=2, code="connect_error")),
        (FAILURE, ANSWER, OriginReport(code="connect_error", is_answered=True)),
        (ANSWER, FAILURE, OriginReport(failures=1, code="connect_error", is_answered=True)),
        (PAUSE, FAILURE, OriginReport(failures=1, code="connect_error", pause_seconds=30.0)),
        (SERVED, PAUSE, OriginReport(pause_seconds=30.0, code="rate_limited", is_served=True)),
    ],
)
def test_reports_are_summed_up(
    first: OriginReport, second: OriginReport, both: OriginReport
) -> None:
    """Several reports go to the database as one that says the same."""
    assert first.then(second) == both
    for state in (OriginState(), BROKEN, HALF_OPEN):
        one_by_one, at_once = _told(state, first, second), _told(state, both)
        assert one_by_one.failures == at_once.failures
        assert one_by_one.open_seconds == at_once.open_seconds
