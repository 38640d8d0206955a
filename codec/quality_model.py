"""What quality encoders take for a photo: formulas that `benchmarks/fit_auto.py` fits.

Owns their form and their numbers. What goes in is `quality_predictor`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from codec.image_format import TargetFormat
from request_options import Effort

# Of libwebp's scale: 75 asks for half of what 100 does, so that a point counts thrice above it.
_QUALITIES, _LEVELS = (0, 75, 100), (0, 50, 100)


@dataclass(frozen=True, slots=True)
class Formula:
    """Tells the level at which a picture looks right from what was observed at the level `trial`.

    `usual` is right on average; photos took `lowest` to `highest`, and few of them scored below
    `least_score` in the trial. Each feature has its weight.
    """

    trial: int
    usual: int
    lowest: int
    highest: int
    least_score: int
    constant: float
    weights: tuple[float, ...]

    def level(self, features: tuple[float, ...]) -> float:
        """Return the level, within what photos take."""
        parts = (weight * feature for weight, feature in zip(self.weights, features, strict=True))
        return min(max(self.constant + sum(parts), self.lowest), self.highest)


def to_level(target: TargetFormat, quality: float) -> float:
    """Return a quality on a scale on which all points count alike."""
    is_webp = target is TargetFormat.WEBP
    return float(np.interp(quality, _QUALITIES, _LEVELS)) if is_webp else quality


def to_quality(target: TargetFormat, level: float) -> int:
    """Return the quality of a level."""
    is_webp = target is TargetFormat.WEBP
    return round(float(np.interp(level, _LEVELS, _QUALITIES)) if is_webp else level)


# fmt: off
_JPEG: Final = Formula(
    65, 69, 41, 88, 63, 111.25,
    (-0.2709, -0.0072, -3.889, 37.684, -4.268, 12.179, -10.567, 23.21, 1.482, 0.6913),
)
FORMULAS: Final = {(TargetFormat.JPEG, effort): _JPEG for effort in Effort} | {
    (TargetFormat.WEBP, Effort.FAST): Formula(
        45, 56, 21, 79, 60, 196.27,
        (-0.9614, -0.0138, -15.127, -0.168, -3.619, -30.263, 12.698, -7.955, -4.253, 0.9123),
    ),
    (TargetFormat.WEBP, Effort.BALANCED): Formula(
        45, 58, 20, 79, 59, 242.12,
        (-1.1975, -0.0179, -13.664, -26.577, -7.083, -36.455, -6.618, -15.365, -11.261, 1.1861),
    ),
    (TargetFormat.WEBP, Effort.BEST): Formula(
        45, 58, 23, 81, 59, 192.12,
        (-0.9163, -0.0141, -13.796, 13.754, -7.826, -27.416, 12.071, -5.033, -6.508, 1.1306),
    ),
    (TargetFormat.AVIF, Effort.FAST): Formula(
        50, 58, 33, 77, 53, 109.52,
        (-0.4526, -0.0067, 1.101, -3.67, -1.548, -16.897, 20.63, -2.846, -3.116, 0.7741),
    ),
    (TargetFormat.AVIF, Effort.BALANCED): Formula(
        50, 57, 32, 76, 55, 123.72,
        (-0.5249, -0.0078, 0.609, -7.501, -3.155, -17.084, 18.761, -6.648, -4.415, 0.7537),
    ),
    (TargetFormat.AVIF, Effort.BEST): Formula(
        50, 56, 31, 74, 56, 118.3,
        (-0.5322, -0.0072, 2.405, -14.515, -1.471, -22.017, 16.034, -6.232, -4.349, 0.8574),
    ),
}
# fmt: on
