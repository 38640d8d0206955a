"""Says a PNG in few colours, where that looks right: flat art, screenshots, many cut-outs.

Owns how many colours, and the judgement whether the picture still looks right; which colours is
`colour_quantiser`'s business. The result is a picture of the same mode with fewer colours; packing
it, with a palette of 1 to 8 bits where there are no more than 256 pairs of colour and transparency,
is the encoder's. Alpha is never touched. Pure, and the same picture always gives the same colours.

There is no dithering: its noise takes more bytes than the palette saves. A gradient that would
show bands stays as it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import oxipng
from PIL import Image

from codec import ssimulacra2
from codec.colour_quantiser import Colours, Palette, oklab, quantise
from codec.likeness import AIM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_Number = TypeVar("_Number", bound=np.generic)

LARGEST_PIXELS = 25_000_000  # of more, all colours are kept
MOST_COLOURS = 256
# From 16 colours on a pixel takes 4 bits; with fewer, smooth edges become ragged.
_LADDER = (16, 32, 64, 128, MOST_COLOURS)
_LOW_BITS = np.uint32(0x030303)
_MOST_DISTINCT = 300_000  # more is no art; and each takes time
_TILE = 64  # the shortest side of the parts that a picture is judged by, unless it is smaller
_GLANCE_PIXELS = 1 << 18
_JUDGED_PIXELS = 1 << 20
_CLEARLY_SMALLER = 0.85

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
    glance = Colours.of(_mosaic(packed, _GLANCE_PIXELS))
    if len(glance.levels) > MOST_COLOURS and not _could_pass(glance, least_score):
        return None
    colours = Colours.of(packed)
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
    distinct = Colours.of(packed)
    if len(distinct.levels) > _MOST_DISTINCT:
        packed = packed & ~_LOW_BITS | packed >> np.uint32(6) & _LOW_BITS
        distinct = Colours.of(packed)
    by_alpha = 2 * len(np.unique(distinct.levels[:, 3])) <= colours
    return _painted(image, distinct, quantise(distinct, colours, by_alpha=by_alpha))


def _pack(image: Image.Image) -> NDArray[np.uint32]:
    """Return a number for each pixel; all of no alpha are the same."""
    pixels = np.asarray(image.convert("RGBA"))
    packed = pixels.view("<u4")[..., 0].astype(np.uint32)
    packed[pixels[..., 3] == 0] = 0
    return packed


def _mosaic(pixels: NDArray[_Number], most: int) -> NDArray[_Number]:
    """Return so many pixels at most: parts of the picture, spread evenly, side by side.

    They are of one size, which leaves next to nothing over. Parts of one colour alone are left out:
    nothing in them can look wrong, and a wide empty background would hide what does.
    """
    height, width = pixels.shape
    rows, columns = (max(1, side // _TILE) for side in pixels.shape)
    high, wide = -(-height // rows), -(-width // columns)
    padded = np.pad(pixels, ((0, rows * high - height), (0, columns * wide - width)), mode="edge")
    tiles = padded.reshape(rows, high, columns, wide).swapaxes(1, 2).reshape(-1, high, wide)
    is_flat = tiles.min(axis=(1, 2)) == tiles.max(axis=(1, 2))
    chosen = np.flatnonzero(~is_flat) if not is_flat.all() else np.zeros(1, np.intp)
    most_tiles = most // (high * wide)
    if len(chosen) > most_tiles:
        chosen = chosen[np.linspace(0, len(chosen) - 1, most_tiles).astype(np.intp)]
    across = math.ceil(math.sqrt(len(chosen)))
    down = math.ceil(len(chosen) / across)
    shown = tiles[np.resize(chosen, across * down)].reshape(down, across, high, wide)
    return shown.swapaxes(1, 2).reshape(down * high, across * wide)


def _could_pass(glance: Colours, least_score: float) -> bool:
    """Tell from a part of the picture whether all of it could look right. Most photos can't."""
    palette = quantise(glance, MOST_COLOURS, by_alpha=False)
    return _is_near(palette, least_score) and not _has_bands(glance, palette)


def _is_near(palette: Palette, least_score: float) -> bool:
    """Tell whether a score can be reached: with colours farther off than that it never was."""
    return palette.error < 0.0125 + 0.00025 * (AIM - least_score)


def _has_bands(colours: Colours, palette: Palette) -> bool:
    """Tell whether smooth parts of the picture have got steps."""
    # What is more transparent is seen less, and so are its steps.
    seen = colours.levels[:, 3:] / np.float32(255)
    levels = (colours.levels[:, :3] * seen)[colours.index]
    moves = ((oklab(palette.levels[:, :3]) - colours.places) * seen)[colours.index]
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

    def __init__(self, colours: Colours, least_score: float) -> None:
        self._least_score = least_score
        self.colours = colours
        index = _mosaic(colours.index, _JUDGED_PIXELS)
        self._part = Colours(colours.levels, colours.counts, index, colours.places)
        self._original = Image.fromarray(colours.levels[index])
        self._judge: ssimulacra2.Judge | None = None

    def looks_right(self, palette: Palette) -> bool:
        """Tell whether nobody would mind the difference."""
        if not _is_near(palette, self._least_score) or _has_bands(self._part, palette):
            return False
        if self._judge is None:
            self._judge = ssimulacra2.Judge(self._original)
        return self._judge.score(self._shown(palette)) >= self._least_score

    def packs_clearly_smaller(self, palette: Palette) -> bool:
        """Tell from the part, packed fast, whether the palette saves enough to be worth it."""
        before, after = (_packed_bytes(image) for image in (self._original, self._shown(palette)))
        return after < _CLEARLY_SMALLER * before

    def _shown(self, palette: Palette) -> Image.Image:
        return Image.fromarray(palette.levels[self._part.index])


def _packed_bytes(image: Image.Image) -> int:
    raw = oxipng.RawImage(
        image.tobytes(), image.width, image.height, color_type=oxipng.ColorType.rgba()
    )
    return len(raw.create_optimized_png(level=0))


def _ways(colours: Colours) -> Iterator[tuple[Sequence[int], bool]]:
    """Yield numbers of entries to try: of pairs of colour and alpha, then of colours alone."""
    alphas = len(np.unique(colours.levels[:, 3]))
    fewer = [entries for entries in _LADDER if entries < len(colours.levels)]
    yield [entries for entries in fewer if 2 * alphas <= entries], True
    if alphas > 1:
        yield fewer, False


def _fewest(view: _View, ladder: Sequence[int], *, by_alpha: bool) -> Palette | None:
    """Return the palette of the fewest entries that looks right, by bisection."""
    best, low, high = None, 0, len(ladder) - 1
    while low <= high:
        middle = (low + high) // 2
        palette = quantise(view.colours, ladder[middle], by_alpha=by_alpha)
        if view.looks_right(palette):
            best, high = palette, middle - 1
        else:
            low = middle + 1
    return best


def _painted(image: Image.Image, colours: Colours, palette: Palette) -> Image.Image:
    """Return the picture in the palette's colours."""
    return Image.fromarray(palette.levels[colours.index]).convert(image.mode)
