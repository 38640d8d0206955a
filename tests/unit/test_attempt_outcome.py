"""Tests of the pauses before another try."""

from __future__ import annotations

import pytest

from attempt_outcome import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, retry_seconds


@pytest.mark.parametrize("attempts", range(12))
def test_pauses_grow_up_to_a_limit_and_are_spread(attempts: int) -> None:
    """Each pause is about twice the one before, with jitter, so that retries don't march."""
    expected = min(FIRST_RETRY_SECONDS * 2**attempts, LONGEST_RETRY_SECONDS)
    pauses = {retry_seconds(attempts, None) for _ in range(50)}
    assert len(pauses) > 40
    assert all(0.5 * expected <= pause <= 1.5 * expected for pause in pauses)


@pytest.mark.parametrize(("asked", "least"), [(0.0, 0.0), (0.1, 0.5), (30.0, 30.0), (600.0, 600.0)])
def test_an_origin_s_longer_pause_goes_before(asked: float, least: float) -> None:
    """Retry-After may lengthen a pause, not shorten it."""
    pause = retry_seconds(0, asked)
    assert pause >= least
    assert pause <= max(asked, 1.5 * FIRST_RETRY_SECONDS)
