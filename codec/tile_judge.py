"""Takes tiles of a picture, and tells quickly how far from them is what an encoder makes of them.

Owns the sample, and a short way to the errors that SSIMULACRA 2 adds up: by matrix products, and of
brightness alone at the two finest scales. They are not the picture's, but lead to its score in a
hundredth of the time (`quality_predictor`). The metric itself is `ssimulacra2`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codec import ssimulacra2, ssimulacra2_colour
from codec.image_colour import flatten

if TYPE_CHECKING:
    from collections.abc import Iterator

_Planes = NDArray[np.float32]  # component, tile, row, column

SMALLEST_SIDE: Final = 16  # pixels, of a picture that can be sampled
_TILE: Final = 64  # pixels a side
_GRID: Final = 16  # tiles begin at its multiples, as blocks of the encoders do
_FEWEST_TILES: Final = 6
_FINE_SCALES: Final = 2  # 1:1 and 1:2
_SMALLEST_PLANE: Final = 4  # pixels a side, at the coarsest scale
_SIGMA: Final = 1.5
_REACH: Final = 5  # pixels
_WEIGHTS: Final = ssimulacra2.WEIGHTS.reshape(3, 6, 2, 3)  # component, scale, norm, map
_X, _Y, _B = ssimulacra2_colour.COMPONENTS
_SCALES: Final = 5  # 1:1 to 1:16; in brightness nothing counts beyond


@dataclass(frozen=True, slots=True)
class Sample:
    """Tiles of a picture from top to bottom; in it they stood in rows and columns."""

    image: Image.Image
    rows: int
    columns: int

    @classmethod
    def take(cls, frame: Image.Image, pixels_per_tile: int, most_tiles: int) -> Sample:
        """Take tiles that stand evenly over a frame with sides of at least `SMALLEST_SIDE`."""
        width, height = frame.size
        wanted = min(max(width * height // pixels_per_tile, _FEWEST_TILES), most_tiles)
        wide, high = (min(_TILE, side // _GRID * _GRID) for side in frame.size)
        columns = min(max(round(math.sqrt(wanted * width / height)), 1), width // wide, wanted)
        rows = min(max(round(wanted / columns), 1), height // high)
        image = Image.new(frame.mode, (wide, rows * columns * high))
        for index, (row, column) in enumerate(product(range(rows), range(columns))):
            left = (width - wide) * (2 * column + 1) // (2 * columns) // _GRID * _GRID
            top = (height - high) * (2 * row + 1) // (2 * rows) // _GRID * _GRID
            tile = frame.crop((left, top, left + wide, top + high))
            image.paste(tile, (0, index * high))
        return cls(image, rows, columns)


class TileJudge:
    """Tells how far from a sample is what encoders make of it."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._studies = [
            _Study(planes, max(1, 1 << _FINE_SCALES >> scale))
            for scale, planes in enumerate(self._scales(sample.image))
        ]

    def errors(self, image: Image.Image) -> tuple[float, ...]:
        """Return the parts of SSIMULACRA 2's error for an image of the sample's size.

        Those of brightness from the scale 1:1 to 1:16, and of redness and blueness at all scales.
        """
        brightness = [0.0] * _SCALES
        redness = blueness = 0.0
        for scale, planes in enumerate(self._scales(image)):
            norms = self._studies[scale].norms(planes)
            if scale < _FINE_SCALES:
                brightness[scale] = _weigh(_Y, scale, norms[0])
            else:
                redness += _weigh(_X, scale, norms[_X])
                brightness[scale] = _weigh(_Y, scale, norms[_Y])
                blueness += _weigh(_B, scale, norms[_B])
        return (*brightness, redness, blueness)

    def _scales(self, image: Image.Image) -> Iterator[_Planes]:
        """Yield the components, scale by scale; at the coarse ones tiles stand side by side."""
        seen = _seen(image)
        yield from _fine_scales(self._tiles(np.asarray(seen.convert("L"))))
        tiles = self._tiles(_small_light(np.asarray(seen), 1 << _FINE_SCALES))
        high, wide = tiles.shape[-2:]
        grid = tiles.reshape(3, self._sample.rows, self._sample.columns, high, wide)
        whole = grid.swapaxes(2, 3).reshape(3, 1, self._sample.rows * high, -1)
        yield from _coarse_scales(whole)

    def _tiles(self, pixels: NDArray[Any]) -> NDArray[Any]:
        *bands, height, width = pixels.shape
        tiles = self._sample.rows * self._sample.columns
        return pixels.reshape(*bands, tiles, height // tiles, width)


class _Study:
    """The sample's half of the maps at one scale.

    Of each `step` pixels across and down one is judged: blurred, the others are much like it.
    """

    def __init__(self, planes: _Planes, step: int) -> None:
        self._step = step
        self._planes = planes
        self._means = _blur(planes, step)
        self._variance = _blur(planes * planes, step) - self._means * self._means
        self._edges = np.abs(planes[..., ::step, ::step] - self._means)

    def norms(self, others: _Planes) -> NDArray[np.float32]:
        """Return component by norm (1, 4) by map (structure, ringing, blurring)."""
        differing = self._planes - others
        blurred = _blur(
            np.concatenate([others, differing * differing, others * others]), self._step
        )
        means, differing, squares = np.split(blurred, 3)
        gap = (self._means - means) ** 2
        spread = self._variance + squares - means * means + ssimulacra2.STABILISER
        structure = gap + (1 - gap) * (differing - gap) / spread
        edges = np.abs(others[..., :: self._step, :: self._step] - means)
        change = (edges - self._edges) / (1 + self._edges)
        maps = np.maximum(np.stack([structure, change, -change], axis=1), 0)
        maps = maps.reshape(*maps.shape[:2], -1)
        squared = maps * maps
        fourth = np.einsum("cmp,cmp->cm", squared, squared) / maps.shape[2]
        return np.stack([maps.mean(axis=2), fourth**0.25], axis=1)


def _weigh(component: int, scale: int, norms: NDArray[np.float32]) -> float:
    return float(np.vdot(_WEIGHTS[component, scale], norms))


def _seen(image: Image.Image) -> Image.Image:
    """Return RGB; what is transparent is seen over white, as on most pages."""
    return flatten(image, "#ffffff").convert("RGB")


def _fine_scales(luma: NDArray[np.uint8]) -> Iterator[_Planes]:
    """Yield brightness alone, taken for that of greys."""
    planes = _BRIGHTNESS_OF_GREYS.take(luma)[np.newaxis]
    for _ in range(_FINE_SCALES):
        yield planes
        planes = _shrunk(planes, 2)


def _small_light(pixels: NDArray[np.uint8], count: int) -> _Planes:
    """Return linear red, green and blue of RGB pixels, of `count` by `count` the mean."""
    height, width, colours = pixels.shape
    light = ssimulacra2_colour.LINEAR.take(pixels)
    sums = light.reshape(-1, count, width * colours).sum(axis=1).reshape(-1, count * colours)
    means = sums @ np.tile(np.eye(colours, dtype=np.float32) / count**2, (count, 1))
    return np.moveaxis(means.reshape(height // count, width // count, colours), 2, 0)


def _coarse_scales(linear: _Planes) -> Iterator[_Planes]:
    for _ in range(_FINE_SCALES, _SCALES):
        yield _to_xyb(linear)
        if min(linear.shape[-2:]) < 2 * _SMALLEST_PLANE:
            return
        linear = _shrunk(linear, 2)


def _to_xyb(linear: _Planes) -> _Planes:
    cones = np.cbrt(np.tensordot(ssimulacra2_colour.CONES, linear, 1) + ssimulacra2_colour.BIAS)
    planes: _Planes = np.tensordot(_OPPONENTS, cones, 1) + _OFFSETS
    return planes


def _blur(planes: _Planes, step: int) -> _Planes:
    """Return every so many pixels of the blurred planes."""
    rows, columns = (_blurring(side)[::step] for side in planes.shape[-2:])
    return np.asarray(rows @ planes @ columns.T)


def _shrunk(planes: _Planes, count: int) -> _Planes:
    shrunk: _Planes = _averaging(planes.shape[-2], count) @ planes
    return shrunk @ _averaging(planes.shape[-1], count).T


@lru_cache(maxsize=64)
def _blurring(side: int) -> NDArray[np.float32]:
    """Return the matrix of the metric's blur along a side; what is beyond has no weight."""
    distances = np.subtract.outer(np.arange(side), np.arange(side))
    taps = np.exp(-(distances**2) / (2 * _SIGMA**2)) * (abs(distances) <= _REACH)
    return np.asarray(taps / taps.sum(axis=1, keepdims=True), np.float32)


@lru_cache(maxsize=64)
def _averaging(side: int, count: int) -> NDArray[np.float32]:
    """Return the matrix that makes one of `count` pixels along a side; a rest is left out."""
    whole = np.repeat(np.eye(side // count) / count, count, axis=1)
    return np.pad(whole, ((0, 0), (0, side % count))).astype(np.float32)


# X, Y and B less Y, each brought near the range 0 to 1.
_OPPONENTS: Final = np.array([[7, -7, 0], [0.5, 0.5, 0], [-0.5, -0.5, 1]], np.float32)
_OFFSETS: Final = np.array([0.42, 0.01 - np.cbrt(ssimulacra2_colour.BIAS), 0.55], np.float32)[
    :, np.newaxis, np.newaxis, np.newaxis
]
_BRIGHTNESS_OF_GREYS: Final = (
    np.cbrt(ssimulacra2_colour.LINEAR + ssimulacra2_colour.BIAS) + _OFFSETS[1].ravel()
)
