"""What quality encoders take for a photo: formulas that `benchmarks/fit_auto.py` fits.

Owns their form and their numbers. What goes in is `quality_predictor`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from codec.image_encoder import TargetFormat
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


_JPEG: Final = Formula(
    trial=65,
    usual=69,
    lowest=41,
    highest=88,
    constant=111.25,
    weights=(
        -0.2709,
        -0.0072,
        -3.8889,
        37.6845,
        -4.2678,
        12.179,
        -10.5671,
        23.2103,
        1.4821,
        0.6913,
    ),
)
_WEBP: Final = Formula(
    trial=45,
    usual=58,
    lowest=20,
    highest=79,
    constant=242.12,
    weights=(
        -1.1975,
        -0.0179,
        -13.6636,
        -26.5774,
        -7.0832,
        -36.4552,
        -6.6184,
        -15.3646,
        -11.2611,
        1.1861,
    ),
)
_AVIF: Final = Formula(
    trial=50,
    usual=57,
    lowest=32,
    highest=76,
    constant=123.72,
    weights=(
        -0.5249,
        -0.0078,
        0.6089,
        -7.5007,
        -3.1548,
        -17.0842,
        18.7611,
        -6.6479,
        -4.4146,
        0.7537,
    ),
)
FORMULAS: Final = {
    **{(TargetFormat.JPEG, effort): _JPEG for effort in Effort},
    **{(TargetFormat.WEBP, effort): _WEBP for effort in Effort},
    **{(TargetFormat.AVIF, effort): _AVIF for effort in Effort},
}
