"""Chooses the few colours that stand best for those of a picture.

Owns the distinct colours of a picture, how far they are apart to the eye, and the choice:
boxes halved where they are widest, then Lloyd's algorithm. Whether the result looks right is
`png_palette`'s business. The same picture always gives the same colours.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.ma  # `unique` would load it later, when no file can be opened
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Bytes = NDArray[np.uint8]
_Indexes = NDArray[np.integer]

_OPAQUE = np.uint32(255 << 24)
_LLOYD_ROUNDS = 4
_CHUNK = 4096  # colours at a time, so that their distances stay in the processor's cache

_TO_CONES: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_TO_OKLAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)


@dataclass(frozen=True, slots=True)
class Colours:
    """The distinct colours of a picture, and which of them each pixel has."""

    levels: _Bytes  # red, green, blue, alpha
    counts: NDArray[np.int64]
    index: _Indexes  # height by width
    places: _Floats  # in OKLab

    @classmethod
    def of(cls, packed: NDArray[np.uint32]) -> Colours:
        """Count the numbers of pixels, red in the lowest byte and alpha in the highest."""
        distinct, index = _distinct(packed)
        levels = distinct.astype("<u4").view(np.uint8).reshape(-1, 4)
        counts = np.bincount(index.ravel(), minlength=len(levels))
        return cls(levels, counts, index, oklab(levels[:, :3]))


@dataclass(frozen=True, slots=True)
class Palette:
    """What each distinct colour of a picture becomes, and how far that is off on the average."""

    levels: _Bytes
    error: float  # root mean square, in OKLab


def quantise(colours: Colours, entries: int, *, by_alpha: bool) -> Palette:
    """Choose colours: boxes halved where they are widest, then Lloyd's algorithm.

    `by_alpha` counts pairs of colour and alpha, of which each alpha needs one; else colours
    alone count, and alpha says how much each weighs.
    """
    alpha = colours.levels[:, 3]
    weights = colours.counts * (np.maximum(alpha, 1) / 255)
    groups = np.unique(alpha, return_inverse=True)[1] if by_alpha else np.zeros_like(alpha, np.intp)
    boxes = _split(colours.places, weights, groups, entries)
    levels = colours.levels.copy()
    for group in range(int(groups.max()) + 1):
        own = [box for box in boxes if groups[box[0]] == group]
        members = np.concatenate(own)
        owners = np.repeat(np.arange(len(own)), [len(box) for box in own])
        levels[members, :3] = _settled(levels[members, :3], weights[members], owners)
    levels[alpha == 0] = 0
    squares = np.square(oklab(levels[:, :3]) - colours.places).sum(axis=1)
    return Palette(levels, math.sqrt(np.average(squares, weights=weights)))


def _split(
    places: _Floats, weights: NDArray[np.float64], groups: _Indexes, entries: int
) -> list[_Indexes]:
    """Divide the colours into so many boxes, none over two groups; fewer if there are no more."""
    heap: list[tuple[float, int, int, float, _Indexes]] = []
    numbers = itertools.count()  # so that boxes of one spread have an order

    def push(box: _Indexes) -> None:
        share = weights[box, None]
        mean = (share * places[box]).sum(axis=0) / share.sum()
        spread = (share * (places[box] - mean) ** 2).sum(axis=0)
        axis = int(spread.argmax())
        entry = (-float(spread.sum()), next(numbers), axis, float(mean[axis]), box)
        heapq.heappush(heap, entry)

    for group in range(int(groups.max()) + 1):
        push(np.flatnonzero(groups == group))
    while len(heap) < entries and heap[0][0] < 0:
        _, number, axis, middle, box = heapq.heappop(heap)
        is_above = places[box, axis] > middle
        if is_above.all() or not is_above.any():
            heapq.heappush(heap, (0.0, number, axis, middle, box))  # one colour, but for rounding
            continue
        push(box[is_above])
        push(box[~is_above])
    return [box for *_, box in heap]


def _settled(rgb: _Bytes, weights: NDArray[np.float64], owners: _Indexes) -> _Bytes:
    """Return for each colour the one that stands for it, after some rounds of Lloyd's algorithm."""
    places = oklab(rgb)
    for _ in range(_LLOYD_ROUNDS):
        owners = _nearest(places, oklab(_centres(rgb, weights, owners)))
    _, owners = np.unique(owners, return_inverse=True)
    return _centres(rgb, weights, owners)[owners]


def _centres(rgb: _Bytes, weights: NDArray[np.float64], owners: _Indexes) -> _Bytes:
    """Return the mean of each owner's colours, or the one of them that is most of it.

    So backgrounds and the colours of a logo stay what they are.
    """
    _, owners = np.unique(owners, return_inverse=True)  # some may own nothing any more
    totals = np.bincount(owners, weights)
    sums = [np.bincount(owners, weights * band) for band in rgb.T]
    means = np.rint(np.stack(sums, axis=1) / totals[:, None]).astype(np.uint8)
    order = np.argsort(weights, kind="stable")
    heaviest = np.zeros(len(totals), np.intp)
    heaviest[owners[order]] = order
    is_most = weights[heaviest] > totals / 2
    return np.where(is_most[:, None], rgb[heaviest], means)


def _nearest(places: _Floats, centres: _Floats) -> _Indexes:
    """Return the nearest centre of each place."""
    squares = np.square(centres).sum(axis=1)
    nearest = [
        (squares - 2 * (places[start : start + _CHUNK] @ centres.T)).argmin(axis=1)
        for start in range(0, len(places), _CHUNK)
    ]
    return np.concatenate(nearest)


def _distinct(packed: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], _Indexes]:
    """Return the numbers that there are, and which of them stands where.

    Does what `np.unique` does, but sorts no opaque pixels, which are most.
    """
    opaque = packed >= _OPAQUE
    colours = packed[opaque] & ~_OPAQUE
    is_there = np.zeros(1 << 24, np.bool_)
    is_there[colours] = True
    solid = np.flatnonzero(is_there).astype(np.uint32)
    places = np.empty(1 << 24, np.int32)
    places[solid] = np.arange(len(solid), dtype=np.int32)
    rest, rest_index = np.unique(packed[~opaque], return_inverse=True)
    index = np.empty(packed.shape, np.int32)
    index[opaque] = places[colours]
    index[~opaque] = rest_index + len(solid)
    return np.concatenate([solid | _OPAQUE, rest]), index


def oklab(rgb: _Bytes) -> _Floats:
    """Return places in OKLab (Björn Ottosson, 2020), where distances are what eyes see."""
    places: _Floats = np.cbrt(_LINEAR[rgb] @ _TO_CONES.T) @ _TO_OKLAB.T
    return places


def _linear() -> _Floats:
    # Exactly: `ssimulacra2_colour` rounds the curve as its reference does, to other colours here.
    encoded = np.arange(256, dtype=np.float32) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )


_LINEAR: Final = _linear()
