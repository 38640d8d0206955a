"""The search for a size finds the best that fits, and tries little for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from codec.size_search import Curve, TooLarge, find_best

CURVE = Curve({1: -2.5, 20: -1.1, 50: -0.45, 80: 0.2, 90: 0.7, 100: 1.8})


@dataclass(frozen=True)
class Encoded:
    """What stands for an image."""

    number: int
    data: bytes


@dataclass
class Encoder:
    """Takes bytes along the curve, bent and with bumps, or in steps; remembers what was asked."""

    bend: float = 1.0
    bump: float = 0.0
    step: int = 1
    asked: list[int] = field(default_factory=list)

    def size(self, number: int) -> int:
        """Return the bytes at a number."""
        number = number // self.step * self.step
        bump = self.bump * math.sin(number * 1.7)
        return round(20_000 * math.exp(self.bend * CURVE.at(number) + bump))

    def __call__(self, number: int) -> Encoded:
        """Encode with a number."""
        self.asked.append(number)
        return Encoded(number, bytes(self.size(number)))

    def find(
        self, ceiling: int, lowest: int = 1, highest: int = 90, most_trials: int = 9
    ) -> Encoded:
        """Search below a number that is too large."""
        too_large = TooLarge(highest, self.size(highest))
        return find_best(self, lowest, too_large, ceiling, CURVE, most_trials=most_trials)


ENCODERS = [
    (bend, bump, step) for bend in (0.5, 1.0, 1.6) for bump in (0.0, 0.01) for step in (1, 3)
]


@pytest.mark.parametrize(("bend", "bump", "step"), ENCODERS)
def test_finds_the_best_that_fits(bend: float, bump: float, step: int) -> None:
    """The next number is too large, or less than a fiftieth of the ceiling is left."""
    for share in (0.95, 0.8, 0.6, 0.4, 0.25):
        encoder = Encoder(bend, bump, step)
        ceiling = round(encoder.size(90) * share)
        best = encoder.find(ceiling)
        assert len(best.data) <= ceiling
        assert encoder.size(best.number + 1) > ceiling or len(best.data) >= 0.98 * ceiling


def test_takes_few_trials() -> None:
    """On the average three, beside the one that was too large."""
    trials = []
    for bend, bump, step in ENCODERS:
        for percent in range(20, 100, 5):
            encoder = Encoder(bend, bump, step)
            encoder.find(encoder.size(90) * percent // 100)
            trials.append(len(encoder.asked))
    assert sum(trials) / len(trials) <= 3
    assert max(trials) <= 6


def test_tries_no_number_twice_and_none_outside() -> None:
    """Each trial costs an encode."""
    for percent in range(5, 100, 5):
        encoder = Encoder(0.7, 0.02)
        encoder.find(encoder.size(90) * percent // 100, lowest=30)
        assert len(encoder.asked) == len(set(encoder.asked))
        assert all(30 <= number < 90 for number in encoder.asked)


@pytest.mark.parametrize("most_trials", [3, 5])
def test_ends_in_time_with_what_fits(most_trials: int) -> None:
    """However odd the sizes are: what fits is found, and is the best that was tried."""
    for bend, bump, step in [*ENCODERS, (3.0, 0.5, 1), (1.0, 0.9, 7), (0.1, 0.3, 1)]:
        for percent in range(1, 100, 7):
            encoder = Encoder(bend, bump, step)
            ceiling = max(encoder.size(90) * percent // 100, encoder.size(1))
            best = encoder.find(ceiling, most_trials=most_trials)
            assert len(encoder.asked) <= most_trials
            fitting = [number for number in encoder.asked if encoder.size(number) <= ceiling]
            assert best.number == max(fitting)


def test_gives_the_lowest_where_none_fits() -> None:
    """The caller sees by its size that it doesn't."""
    encoder = Encoder()
    best = encoder.find(encoder.size(30) - 1, lowest=30)
    assert best.number == 30


def test_a_wrong_guess_of_what_is_too_large_costs_only_trials() -> None:
    """The size of the first number may be a guess."""
    encoder = Encoder()
    for guess in (10, 100_000_000):
        ceiling = encoder.size(60)
        best = find_best(encoder, 1, TooLarge(90, guess), ceiling, CURVE, most_trials=30)
        assert best.number in {59, 60}


@pytest.mark.parametrize(("number", "logarithm"), [(1, 0.0), (5, 2.0), (9, 4.0), (13, 6.0)])
def test_a_curve_runs_straight_between_knots_and_beyond(number: int, logarithm: float) -> None:
    """Knots are where the slope changes."""
    assert Curve({1: 0.0, 3: 1.0, 9: 4.0}).at(number) == pytest.approx(logarithm)
