"""Finds the best encoding that fits under a ceiling of bytes, in few trials.

Owns the search alone: what a number stands for (quality, colours, a share of each side) and how
a trial is made is the caller's. Bytes grow about exponentially with such numbers, so the search
interpolates their logarithm along a typical curve, bent to what the trials have shown so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# So little of the ceiling left unused ends the search: one step of quality takes more as a rule.
_SPARE_SHARE = 0.02
_TRIALS_WITH_CARE = 2  # the last ones, if nothing has fitted yet: half-way down, then all the way
_LEAST_BEND = 0.3  # of the typical curve's slope: a few equal trials say nothing about the rest


class Encoded(Protocol):
    """What a trial gives."""

    @property
    def data(self) -> bytes:
        """Return the bytes that have to fit."""


AnyEncoded = TypeVar("AnyEncoded", bound=Encoded)


@dataclass(frozen=True, slots=True)
class Curve:
    """How the logarithm of bytes goes with a number: straight lines between knots."""

    knots: Mapping[int, float]

    def at(self, number: int) -> float:
        """Return the logarithm at a number, up to a constant; the ends go straight on."""
        stops = sorted(self.knots)
        left, right = next(
            (pair for pair in pairwise(stops) if number <= pair[1]), (stops[-2], stops[-1])
        )
        share = (number - left) / (right - left)
        return self.knots[left] + share * (self.knots[right] - self.knots[left])


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A number whose encoding doesn't fit, and its bytes, which may be a guess."""

    number: int
    size_bytes: float


class _Point(NamedTuple):
    """A trial: its number, and the logarithm of its bytes."""

    number: int
    size: float


def find_best(
    encode: Callable[[int], AnyEncoded],
    lowest: int,
    too_large: TooLarge,
    ceiling: int,
    curve: Curve,
    *,
    most_trials: int,
) -> AnyEncoded:
    """Encode with the highest number that fits, from `lowest` to the one below `too_large`.

    A lower number is taken when less than a fiftieth of the ceiling is left unused, or after
    `most_trials`. When not even `lowest` fits, its encoding is returned: the caller looks at its
    size.
    """
    wanted = math.log(ceiling)
    above = _Point(too_large.number, math.log(too_large.size_bytes))
    below, best, bend, trials = None, None, 1.0, most_trials
    while trials and above.number - (below.number if below else lowest - 1) > 1:
        least = below.number + 1 if below else lowest
        number = min(max(_guess(curve, above, bend, wanted), least), above.number - 1)
        if best is None and trials <= _TRIALS_WITH_CARE:
            number = lowest + (number - lowest) * (trials - 1) // _TRIALS_WITH_CARE
        trials -= 1
        trial = encode(number)
        point = _Point(number, math.log(len(trial.data)))
        is_fitting = point.size <= wanted
        other = above if is_fitting else below or above
        bend = (point.size - other.size) / (curve.at(number) - curve.at(other.number))
        if is_fitting:
            best, below = trial, point
        elif number == lowest:
            return trial
        else:
            above = point
        if is_fitting and len(trial.data) >= ceiling * (1 - _SPARE_SHARE):
            break
    assert best is not None  # noqa: S101  `lowest` fits, or was returned
    return best


def _guess(curve: Curve, above: _Point, bend: float, wanted: float) -> int:
    """Return the highest number that should fit, seen from one that doesn't."""
    slope, start = max(bend, _LEAST_BEND), curve.at(above.number)
    number = above.number
    while number > 0 and above.size + slope * (curve.at(number) - start) > wanted:
        number -= 1
    return number
