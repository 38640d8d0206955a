"""The blur of SSIMULACRA 2: a Gaussian of sigma 1.5, rounded as libjxl rounds it.

Each signal, a row or a column, drives three oscillators whose sum is the blurred signal
(Charalampidis, "Recursive Implementation of the Gaussian Filter Using Truncated Cosine Functions",
2016). Nothing damps them: rounding errors gather along the signal, and scores near 100 are made of
these errors. So every sum here is made in the order of libjxl's `FastGaussian`, and rounded to
single precision only where a processor's fused multiplication and addition rounds. A product of
two singles is exact in double precision, which leaves one rounding, to double, too many to matter.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

_RADIUS = 5
_ABREAST = 4  # samples of a row that libjxl makes at once, where no border is near
_SIGNALS = 2048  # filtered at a time: what they take stays in the processor's cache

_ANGLES = np.array([[1], [3], [5]]) * (math.pi / (2 * _RADIUS))
_AMPLITUDES = np.array([[0.17893914164149127], [0.07272614473619018], [0.012955819110517063]])
# What is left of an oscillator's state, and of an input, after 0, 1, 2, … samples.
_AFTER = np.array([np.sin((n + 1) * _ANGLES) / np.sin(_ANGLES) for n in range(_ABREAST + 1)])
_GAINS_AFTER = -_AMPLITUDES * np.cos(_ANGLES * (_RADIUS + 1)) * _AFTER[:_ABREAST]
_STATES: Final[Doubles] = _AFTER.astype(np.float32).astype(np.float64)
_GAINS: Final[Doubles] = _GAINS_AFTER.astype(np.float32).astype(np.float64)


def blur(stack: Floats) -> None:
    """Blur every plane of a stack in place; rows and columns are its last two axes.

    Beyond its borders a plane is 0. The stack is contiguous.
    """
    height, width = stack.shape[-2:]
    rows = stack.reshape(-1, width)
    for top in range(0, len(rows), _SIGNALS):
        some = rows[top : top + _SIGNALS]
        some[...] = _filtered_across(some.T).T
    planes = rows.reshape(-1, height, width)
    step = max(1, _SIGNALS // len(planes))
    for left in range(0, width, step):
        columns = planes[:, :, left : left + step].transpose(1, 0, 2)
        columns[...] = _filtered_down(columns.reshape(height, -1)).reshape(columns.shape)


def _driving(signals: Floats) -> Floats:
    """Return what drives the oscillators: the sums of the samples entering and leaving.

    The first sum is due `_RADIUS` - 1 samples before the signal begins.
    """
    length, count = signals.shape
    sums = np.zeros((length + _RADIUS - 1, count), np.float32)
    sums[:length] = signals
    sums[2 * _RADIUS :] += signals[: max(0, length - _RADIUS - 1)]
    return sums


def _filtered_down(signals: Floats) -> Floats:
    """Filter signals that run along the first axis, in the order in which libjxl does columns."""
    output = np.empty_like(signals)
    last, before = np.zeros((2, 3, signals.shape[1]))
    for moment, driving in enumerate(_driving(signals), 1 - _RADIUS):
        made = _rounded(_STATES[1] * last - before)
        made += _GAINS[0] * driving
        before, last = last, _rounded(made)
        if moment >= 0:
            output[moment] = _sum_of(last)
    return output


def _filtered_across(signals: Floats) -> Floats:
    """Filter signals that run along the first axis, in the order in which libjxl does rows."""
    length, count = signals.shape
    output = np.empty_like(signals)
    driving = _driving(signals)
    state = np.zeros((2, 3, count))
    moment = 1 - _RADIUS
    while moment < length:
        is_inside = 2 * _ABREAST <= moment < length - _RADIUS - 2
        until = moment + (_ABREAST if is_inside else 1)
        made = _made_abreast(driving[moment + _RADIUS - 1 : until + _RADIUS - 1], state)
        if moment >= 0:
            output[moment:until] = _sum_of(made.swapaxes(0, 1))
        state = np.concatenate([state, made])[-2:]
        moment = until
    return output


def _made_abreast(driving: Floats, state: Doubles) -> Doubles:
    """Return the next samples of each oscillator, one for each input, from its last two."""
    count = len(driving)
    before, last = state
    first, *others = driving[:, np.newaxis].astype(np.float64)
    made = _GAINS[:count] * first
    for late, driven in enumerate(others, 1):
        made = _rounded(made)
        made[late:] += _GAINS[: count - late] * driven
    made = _rounded(made)
    made -= _STATES[:count] * before
    made = _rounded(made)
    made += _STATES[1 : count + 1] * last
    return _rounded(made)


def _sum_of(oscillators: Doubles) -> Floats:
    first, second, third = oscillators.astype(np.float32)
    total: Floats = first + (second + third)
    return total


def _rounded(values: Doubles) -> Doubles:
    return values.astype(np.float32).astype(np.float64)
