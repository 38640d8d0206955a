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

    `usual` is right on average; photos took `lowest` to `highest`. Each feature has its weight.
    """

    trial: int
    usual: int
    lowest: int
    highest: int
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
# JPEG's efforts give the same pixels.
_JPEG: Final = Formula(
    65, 69, 41, 88, 111.25,
    (-0.2709, -0.0072, -3.8889, 37.6845, -4.2678, 12.179, -10.5671, 23.2103, 1.4821, 0.6913),
)
FORMULAS: Final = {(TargetFormat.JPEG, effort): _JPEG for effort in Effort} | {
    (TargetFormat.WEBP, Effort.FAST): Formula(
        45, 56, 21, 79, 196.27,
        (-0.9614, -0.0138, -15.1275, -0.1683, -3.6187, -30.263, 12.6981, -7.9547, -4.2535, 0.9123),
    ),
    (TargetFormat.WEBP, Effort.BALANCED): Formula(
        45, 58, 20, 79, 242.12,
        (-1.1975, -0.0179, -13.664, -26.577, -7.083, -36.455, -6.618, -15.365, -11.261, 1.1861),
    ),
    (TargetFormat.WEBP, Effort.BEST): Formula(
        45, 58, 23, 81, 133.84,
        (-0.4592, -0.0108, 3.382, -30.852, -0.991, -14.1333, -24.807, -3.1273, -4.5485, 0.9048),
    ),
    (TargetFormat.AVIF, Effort.FAST): Formula(
        50, 58, 33, 77, 109.52,
        (-0.4526, -0.0067, 1.101, -3.67, -1.5475, -16.8974, 20.6298, -2.8464, -3.1159, 0.7741),
    ),
    (TargetFormat.AVIF, Effort.BALANCED): Formula(
        50, 57, 32, 76, 123.72,
        (-0.5249, -0.0078, 0.6089, -7.5007, -3.1548, -17.0842, 18.7611, -6.6479, -4.4146, 0.7537),
    ),
    (TargetFormat.AVIF, Effort.BEST): Formula(
        50, 56, 31, 74, 118.3,
        (-0.5322, -0.0072, 2.4047, -14.5153, -1.4707, -22.0172, 16.0341, -6.2317, -4.3492, 0.8574),
    ),
}
# fmt: on
