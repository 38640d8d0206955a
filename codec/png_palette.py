"""Says a PNG in few colours, where that looks right: flat art, screenshots, many cut-outs.

Owns the choice of the colours and the judgement whether the picture still looks right. The result
is a picture of the same mode with fewer colours; packing it, with a palette of 1 to 8 bits where
there are no more than 256 pairs of colour and transparency, is the encoder's business. Alpha is
never touched. Pure, and the same picture always gives the same colours.

There is no dithering: its noise takes more bytes than the palette saves. A gradient that would
show bands stays as it is.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.ma  # `unique` would load it later, when no file can be opened
import oxipng
from numpy.typing import NDArray
from PIL import Image

from codec import ssimulacra2
from codec.likeness import AIM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_Floats = NDArray[np.float32]
_Bytes = NDArray[np.uint8]
_Indexes = NDArray[np.integer]
_Number = TypeVar("_Number", bound=np.generic)

LARGEST_PIXELS = 25_000_000  # of more, all colours are kept
MOST_COLOURS = 256
# From 16 colours on a pixel takes 4 bits; with fewer, smooth edges become ragged.
_LADDER = (16, 32, 64, 128, MOST_COLOURS)
_OPAQUE = np.uint32(255 << 24)
_LOW_BITS = np.uint32(0x030303)
_MOST_DISTINCT = 300_000  # more is no art; and each takes time
_TILE = 64  # side of the squares that a picture is judged by
_GLANCE_PIXELS = 1 << 18
_JUDGED_PIXELS = 1 << 20
_CLEARLY_SMALLER = 0.85
_LLOYD_ROUNDS = 4
_CHUNK = 4096  # colours at a time, so that their distances stay in the processor's cache

# What a JPEG of that quality scores on average; the last is for the qualities below 100.
_QUALITIES = (1, 40, 65, 75, 90, 100)
_SCORES = (30.0, 55.0, 70.0, AIM, 85.0, 95.0)

# Bands: steps of this height (in OKLab) that the source hasn't, where its neighbours differ by no
# more than so many levels, between so many of all neighbours. Found by eye: the score alone lets
# bands pass at 80 and more.
_BAND_STEP = 0.0075
_SMOOTH_STEP = 2.5
_SMOOTH_REACH = 3
_MOST_BANDS = 0.001

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


def score_for(quality: int | None) -> float:
    """Return the score that a quality from 1 to 99 stands for, None for `auto`."""
    if quality is None:
        return AIM
    return float(np.interp(quality, _QUALITIES, _SCORES))


def reduce(image: Image.Image, least_score: float) -> Image.Image | None:
    """Return the picture (L, LA, RGB or RGBA) in the fewest colours that look right.

    None where none do, or where the file wouldn't get clearly smaller.
    """
    if math.prod(image.size) > LARGEST_PIXELS:
        return None
    packed = _pack(image)
    glance = _Colours.of(_mosaic(packed, _GLANCE_PIXELS))
    if len(glance.levels) > MOST_COLOURS and not _could_pass(glance, least_score):
        return None
    colours = _Colours.of(packed)
    if len(colours.levels) > _MOST_DISTINCT:
        return None
    view = _View(colours, least_score)
    for ladder, by_alpha in _ways(colours):
        best = _fewest(view, ladder, by_alpha=by_alpha)
        if best is not None and view.packs_clearly_smaller(best):
            return _painted(image, colours, best)
    return None


def fit(image: Image.Image, colours: int) -> Image.Image:
    """Return the picture in at most so many colours, whatever it looks like then.

    Transparency is kept as it is, so pairs of colour and alpha may be more. A picture of very many
    colours is first brought to 6 bits a channel.
    """
    packed = _pack(image)
    distinct = _Colours.of(packed)
    if len(distinct.levels) > _MOST_DISTINCT:
        packed = packed & ~_LOW_BITS | packed >> np.uint32(6) & _LOW_BITS
        distinct = _Colours.of(packed)
    by_alpha = 2 * len(np.unique(distinct.levels[:, 3])) <= colours
    return _painted(image, distinct, _quantise(distinct, colours, by_alpha=by_alpha))


@dataclass(frozen=True, slots=True)
class _Colours:
    """The distinct colours of a picture, and which of them each pixel has."""

    levels: _Bytes  # red, green, blue, alpha
    counts: NDArray[np.int64]
    index: _Indexes  # height by width
    places: _Floats  # in OKLab

    @classmethod
    def of(cls, packed: NDArray[np.uint32]) -> _Colours:
        distinct, index = _distinct(packed)
        levels = distinct.astype("<u4").view(np.uint8).reshape(-1, 4)
        counts = np.bincount(index.ravel(), minlength=len(levels))
        return cls(levels, counts, index, _oklab(levels[:, :3]))


@dataclass(frozen=True, slots=True)
class _Palette:
    """What each distinct colour of a picture becomes, and how far that is off on the average."""

    levels: _Bytes
    error: float  # root mean square, in OKLab


def _pack(image: Image.Image) -> NDArray[np.uint32]:
    """Return a number for each pixel; all of no alpha are the same."""
    pixels = np.asarray(image.convert("RGBA"))
    packed = pixels.view("<u4")[..., 0].astype(np.uint32)
    packed[pixels[..., 3] == 0] = 0
    return packed


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


def _oklab(rgb: _Bytes) -> _Floats:
    """Return places in OKLab (Björn Ottosson, 2020), where distances are what eyes see."""
    places: _Floats = np.cbrt(_LINEAR[rgb] @ _TO_CONES.T) @ _TO_OKLAB.T
    return places


def _linear() -> _Floats:
    encoded = np.arange(256, dtype=np.float32) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )


_LINEAR: Final = _linear()


def _mosaic(pixels: NDArray[_Number], most: int) -> NDArray[_Number]:
    """Return so many pixels at most: squares of the picture, spread evenly, side by side.

    Squares of one colour alone are left out: nothing in them can look wrong, and a wide empty
    background would hide what does.
    """
    height, width = pixels.shape
    padded = np.pad(pixels, ((0, -height % _TILE), (0, -width % _TILE)), mode="edge")
    rows, columns = (side // _TILE for side in padded.shape)
    tiles = padded.reshape(rows, _TILE, columns, _TILE).swapaxes(1, 2).reshape(-1, _TILE, _TILE)
    is_flat = tiles.min(axis=(1, 2)) == tiles.max(axis=(1, 2))
    chosen = np.flatnonzero(~is_flat) if not is_flat.all() else np.zeros(1, np.intp)
    most_tiles = most // _TILE**2
    if len(chosen) > most_tiles:
        chosen = chosen[np.linspace(0, len(chosen) - 1, most_tiles).astype(np.intp)]
    across = math.ceil(math.sqrt(len(chosen)))
    down = math.ceil(len(chosen) / across)
    shown = tiles[np.resize(chosen, across * down)].reshape(down, across, _TILE, _TILE)
    return shown.swapaxes(1, 2).reshape(down * _TILE, across * _TILE)


def _could_pass(glance: _Colours, least_score: float) -> bool:
    """Tell from a part of the picture whether all of it could look right. Most photos can't."""
    palette = _quantise(glance, MOST_COLOURS, by_alpha=False)
    return _is_near(palette, least_score) and not _has_bands(glance, palette)


def _is_near(palette: _Palette, least_score: float) -> bool:
    """Tell whether a score can be reached: with colours farther off than that it never was."""
    return palette.error < 0.0125 + 0.00025 * (AIM - least_score)


def _has_bands(colours: _Colours, palette: _Palette) -> bool:
    """Tell whether smooth parts of the picture have got steps."""
    # What is more transparent is seen less, and so are its steps.
    seen = colours.levels[:, 3:] / np.float32(255)
    levels = (colours.levels[:, :3] * seen)[colours.index]
    moves = ((_oklab(palette.levels[:, :3]) - colours.places) * seen)[colours.index]
    steps = sum(_count_steps(levels.swapaxes(0, axis), moves.swapaxes(0, axis)) for axis in (0, 1))
    return steps > _MOST_BANDS * 2 * colours.index.size


def _count_steps(levels: NDArray[np.floating], moves: NDArray[np.floating]) -> int:
    """Count edges between a row and the next that are steps where the source is smooth."""
    rough = np.abs(np.diff(levels, axis=0)).max(axis=-1) > _SMOOTH_STEP
    near = rough.copy()
    for reach in range(1, _SMOOTH_REACH + 1):
        near[reach:] |= rough[:-reach]
        near[:-reach] |= rough[reach:]
    return int(np.count_nonzero((_lengths(np.diff(moves, axis=0)) > _BAND_STEP) & ~near))


def _lengths(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    lengths: NDArray[np.floating] = np.sqrt(np.einsum("...i,...i", vectors, vectors))
    return lengths


class _View:
    """The part of a picture that palettes are judged by."""

    def __init__(self, colours: _Colours, least_score: float) -> None:
        self._least_score = least_score
        self.colours = colours
        index = _mosaic(colours.index, _JUDGED_PIXELS)
        self._part = _Colours(colours.levels, colours.counts, index, colours.places)
        self._original = Image.fromarray(colours.levels[index])
        self._judge: ssimulacra2.Judge | None = None

    def looks_right(self, palette: _Palette) -> bool:
        """Tell whether nobody would mind the difference."""
        if not _is_near(palette, self._least_score) or _has_bands(self._part, palette):
            return False
        if self._judge is None:
            self._judge = ssimulacra2.Judge(self._original)
        return self._judge.score(self._shown(palette)) >= self._least_score

    def packs_clearly_smaller(self, palette: _Palette) -> bool:
        """Tell from the part, packed fast, whether the palette saves enough to be worth it."""
        before, after = (_packed_bytes(image) for image in (self._original, self._shown(palette)))
        return after < _CLEARLY_SMALLER * before

    def _shown(self, palette: _Palette) -> Image.Image:
        return Image.fromarray(palette.levels[self._part.index])


def _packed_bytes(image: Image.Image) -> int:
    raw = oxipng.RawImage(
        image.tobytes(), image.width, image.height, color_type=oxipng.ColorType.rgba()
    )
    return len(raw.create_optimized_png(level=0))


def _ways(colours: _Colours) -> Iterator[tuple[Sequence[int], bool]]:
    """Yield numbers of entries to try: of pairs of colour and alpha, then of colours alone."""
    alphas = len(np.unique(colours.levels[:, 3]))
    fewer = [entries for entries in _LADDER if entries < len(colours.levels)]
    yield [entries for entries in fewer if 2 * alphas <= entries], True
    if alphas > 1:
        yield fewer, False


def _fewest(view: _View, ladder: Sequence[int], *, by_alpha: bool) -> _Palette | None:
    """Return the palette of the fewest entries that looks right, by bisection."""
    best, low, high = None, 0, len(ladder) - 1
    while low <= high:
        middle = (low + high) // 2
        palette = _quantise(view.colours, ladder[middle], by_alpha=by_alpha)
        if view.looks_right(palette):
            best, high = palette, middle - 1
        else:
            low = middle + 1
    return best


def _painted(image: Image.Image, colours: _Colours, palette: _Palette) -> Image.Image:
    """Return the picture in the palette's colours."""
    return Image.fromarray(palette.levels[colours.index]).convert(image.mode)


def _quantise(colours: _Colours, entries: int, *, by_alpha: bool) -> _Palette:
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
    squares = np.square(_oklab(levels[:, :3]) - colours.places).sum(axis=1)
    return _Palette(levels, math.sqrt(np.average(squares, weights=weights)))


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
    places = _oklab(rgb)
    for _ in range(_LLOYD_ROUNDS):
        owners = _nearest(places, _oklab(_centres(rgb, weights, owners)))
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
