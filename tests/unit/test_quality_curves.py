"""Bytes at equal score: what is read between the points, and which points are tried."""

from __future__ import annotations

import math

import pytest

from benchmarks.quality_curves import Point, bytes_at, interpolate, score_at, trace
from benchmarks.quality_scores import BUTTERAUGLI, SSIMULACRA2


def point(quality: int, score: float) -> Point:
    """Return a point whose bytes grow by 4 % with each point of score."""
    scores = {SSIMULACRA2: score, BUTTERAUGLI: 10 - score / 10}
    return Point(quality, round(100_000 * math.exp(0.04 * score)), scores)


@pytest.mark.parametrize(("x", "y"), [(1, 10), (2, 20), (3, 40), (4, 60), (0.9, None), (4.1, None)])
def test_interpolation(x: float, y: float | None) -> None:
    """Between points lies a line, at points their own value, and beyond them nothing."""
    assert interpolate([(4, 60), (1, 10), (2, 20)], x) == y


def test_bytes_at_a_score() -> None:
    """Bytes that grow by a constant share with the score are read exactly, by any judge."""
    curve = [point(quality, quality) for quality in (60, 70, 85)]
    wanted = 100_000 * math.exp(0.04 * 75)
    assert bytes_at(curve, SSIMULACRA2, 75) == pytest.approx(wanted, rel=1e-6)
    assert score_at(curve, BUTTERAUGLI, 75) == pytest.approx(2.5)
    assert bytes_at(curve, BUTTERAUGLI, 2.5) == pytest.approx(wanted, rel=1e-6)
    assert bytes_at(curve, SSIMULACRA2, 86) is None


@pytest.mark.parametrize("outer", [(60, 90), (75, 76), (10, 30), (90, 99)])
def test_trace_encloses_the_targets(outer: tuple[int, int]) -> None:
    """Wherever the search begins, there are points beyond either end and near what lies between."""
    scores = sorted(each.scores[SSIMULACRA2] for each in trace(lambda q: point(q, q), outer))
    assert scores[0] <= 67
    assert scores[-1] >= 83
    assert all(any(abs(score - wanted) <= 2 for score in scores) for wanted in (72.5, 77.5))


def test_trace_ends_where_the_scale_does() -> None:
    """An encoder that never reaches a score is tried up to its best quality and no further."""
    curve = trace(lambda quality: point(quality, 0.78 * quality), (60, 90))
    assert max(each.quality for each in curve) == 100
    assert bytes_at(curve, SSIMULACRA2, 80) is None
    assert bytes_at(curve, SSIMULACRA2, 75)
