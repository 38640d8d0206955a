"""Tells how alike two images look: SSIMULACRA 2.1, with numpy alone.

Owns the metric. 100 says "the same", 90 that nobody sees a difference when the images flicker in
one place, 70 that it takes a comparison to see one, 30 that the quality is low; bad enough images
have scores below 0. Which score is good enough, and which pixels are compared, is the callers'
business: images are upright, in sRGB, of one size and of mode L, LA, RGB or RGBA.

The metric is Jon Sneyers' (https://github.com/cloudinary/ssimulacra2), the scores are those of its
program in libjxl 0.11. Near 100 they hang on how that program rounds: exact arithmetic would give
up to 3 points more. So `ssimulacra2_colour` and `ssimulacra2_blur` round as it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from codec.ssimulacra2_blur import blur
from codec.ssimulacra2_colour import COMPONENTS, halved, linear_strips, strips, xyb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    _Pair = tuple[Floats, Floats]  # of the original, of the other

_MOST_SCALES = 6  # 1:1 to 1:32
_SMALLEST_SIDE = 8  # of an image, and of a scale that a smaller one is made from
STABILISER = np.float32(0.0009)  # SSIM's C2
_DARK_AND_LIGHT = (0.1, 0.9)  # backgrounds of an original with transparency
_MEDIUM = (0.5,)  # that of the other image where the original has none

# The published parameters, from the reference's source. A row for each component (X, Y, B) at
# each scale: the weights of the 1-norms of the maps of structure, ringing and blurring, then of
# their 4-norms. Weights below 0.01 are left out: all together they move no score by 0.01.
WEIGHTS: Final = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1.1041726, 0, 0],
        [0, 0, 0, 1.8422456, 11.4411726, 0],
        [0, 0, 0, 1.8787595, 10.9490699, 0],
        [0, 0.9677937, 0, 0, 0.9981767, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 7.4668903, 0, 17.4458340],
        [0, 0, 0, 6.6836781, 0, 1.0278899],
        [225.2051530, 0, 0, 19.2132382, 0, 0],
        [176.3931760, 0, 0, 24.4330100, 0.2852080, 0],
        [0, 0, 0, 34.7790634, 44.8356253, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 8.8269828, 23.1924334, 0],
        [95.1080499, 0.9863978, 0.9834383, 0, 171.2667256, 0.9807859],
        [0, 0, 0, 0, 0, 0],
    ]
)


def score(original: Image.Image, other: Image.Image) -> float:
    """Return how much `other` looks like `original`; ValueError when their sizes differ."""
    return Judge(original).score(other)


class Judge:
    """Scores any number of images against one original, whose half of the work is done once.

    It keeps 25 bytes for each pixel of the original, 45 with transparency, and takes another 25 for
    the time of a call. A megapixel takes about 0.15 seconds, then 0.2 for each of the others; twice
    that with transparency.
    """

    def __init__(self, original: Image.Image) -> None:
        plain = _plain(original)
        self._size = original.size
        self._weights = _weights(_count_scales(*plain.size))
        self._studies = {
            background: [_Study.of(planes) for planes in self._scales(plain, background)]
            for background in (_DARK_AND_LIGHT if plain.mode == "RGBA" else _MEDIUM)
        }

    def score(self, other: Image.Image) -> float:
        """Return how much `other` looks like the original: over the worse of two backgrounds.

        Raises ValueError when its size is not the original's.
        """
        if other.size != self._size:
            raise ValueError("images of different sizes have no score")
        plain = _plain(other)
        return min(score_of(self._error(plain, background)) for background in self._studies)

    def _error(self, other: Image.Image, background: float) -> float:
        scales = self._scales(other, background)
        return sum(
            float(np.vdot(list(weights.values()), study.norms(planes)))
            for weights, study, planes in zip(
                self._weights, self._studies[background], scales, strict=True
            )
        )

    def _scales(self, image: Image.Image, background: float) -> Iterator[Floats]:
        """Yield the components that have a weight, stacked, scale by scale."""
        width, height = image.size
        linear = linear_strips(image, background)
        for weights in self._weights:
            planes = np.empty((len(weights), height, width), np.float32)
            smaller = np.empty((3, -(-height // 2), -(-width // 2)), np.float32)
            for (top, bottom), strip in zip(strips(height, width), linear, strict=True):
                planes[:, top:bottom] = xyb(strip, weights)
                smaller[:, top // 2 : -(-bottom // 2)] = halved(strip)
            yield planes
            height, width = smaller.shape[1:]
            linear = _cut(smaller)


@dataclass(frozen=True)
class _Study:
    """The original at one scale: planes, their local means, and those of their squares."""

    planes: Floats
    means: Floats
    squares: Floats

    @classmethod
    def of(cls, planes: Floats) -> _Study:
        """Do the original's half of the work."""
        means, squares = stack = np.empty((2, *planes.shape), np.float32)
        means[:] = planes
        np.multiply(planes, planes, out=squares)
        blur(stack)
        return cls(planes, means, squares)

    def norms(self, others: Floats) -> NDArray[np.float64]:
        """Return plane by norm (1, 4) by map (structure, ringing, blurring)."""
        means, squares, products = stack = np.empty((3, *others.shape), np.float32)
        means[:] = others
        np.multiply(others, others, out=squares)
        np.multiply(others, self.planes, out=products)
        blur(stack)
        count, height, width = others.shape
        sums = np.zeros((count, 2, 3))
        for which in range(count):
            for top, bottom in strips(height, width):
                part = (which, slice(top, bottom))
                maps = (
                    _structure(
                        (self.means[part], means[part]),
                        (self.squares[part], squares[part]),
                        products[part],
                    ),
                    *_edges((self.planes[part], others[part]), (self.means[part], means[part])),
                )
                for index, error in enumerate(maps):
                    squared = error * error
                    sums[which, :, index] += error.sum(), np.vdot(squared, squared)
        sums /= height * width
        sums[:, 1] **= 0.25
        return sums


def _plain(image: Image.Image) -> Image.Image:
    """Return RGB or RGBA pixels, stretched where a side is too short for one scale."""
    plain = image.convert("RGBA" if "A" in image.mode else "RGB")
    width, height = (max(side, _SMALLEST_SIDE) for side in image.size)
    return plain.resize((width, height), Image.Resampling.NEAREST)


def _count_scales(width: int, height: int) -> int:
    count = 1
    while min(width, height) >= _SMALLEST_SIDE and count < _MOST_SCALES:
        width, height, count = -(-width // 2), -(-height // 2), count + 1
    return count


def _weights(scales: int) -> list[dict[int, NDArray[np.float64]]]:
    """Return, scale by scale, the components that count, each with norms (1, 4) by maps.

    As in the reference, the rows of weights close up when an image has not all scales. The last
    of all has none that counts.
    """
    rows = WEIGHTS[: 3 * scales].reshape(3, scales, 2, 3)
    all_scales = [
        {
            component: rows[component, scale]
            for component in COMPONENTS
            if rows[component, scale].any()
        }
        for scale in range(scales)
    ]
    return [components for components in all_scales if components]


def _cut(linear: Floats) -> Iterator[Floats]:
    return (linear[:, top:bottom] for top, bottom in strips(*linear.shape[1:]))


def _structure(means: _Pair, squares: _Pair, products: Floats) -> Floats:
    """Return 1 - SSIM, without the part of SSIM that makes errors count more in the dark."""
    mean, other_mean = means
    square, other_square = squares
    gap = mean - other_mean
    alike = (1 - gap * gap) * (2 * (products - mean * other_mean) + STABILISER)
    alike /= (square - mean * mean) + (other_square - other_mean * other_mean) + STABILISER
    return np.maximum(1 - alike, 0)


def _edges(planes: _Pair, means: _Pair) -> _Pair:
    """Return where the other has edges (ringing, blocks), and where only the original (blur)."""
    edge, other_edge = (np.abs(plane - mean) for plane, mean in zip(planes, means, strict=True))
    change = (other_edge - edge) / (1 + edge)
    return np.maximum(change, 0), np.maximum(-change, 0)


def score_of(error: float) -> float:
    """Return the score on the scale of subjective ones, by the reference's curve."""
    error *= 0.9562382616834844
    error = error * (
        2.326765642916932 - error * (0.020884521182843837 - error * 6.248496625763138e-05)
    )
    return 100 - 10 * error**0.6276336467831387 if error > 0 else 100.0
