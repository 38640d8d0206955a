"""Encodes a frame as JPEG: the quantisation tables, the resolution of colours, the efforts.

The tables are the project's own. `benchmarks/fit_jpeg_tables.py` fitted them over crops of photos,
for the fewest bytes at equal SSIMULACRA 2 and butteraugli, and prints the numbers below. A quality
has about the score that libjpeg's tables have on photos at the same number, in fewer bytes.
"""

from __future__ import annotations

import io
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import mozjpeg_lossless_optimization  # type: ignore[import-untyped]  # it has no annotations
import numpy as np
from PIL import Image, ImageFile

from request_options import Effort

if TYPE_CHECKING:
    from numpy.typing import NDArray

Table = list[int]

# Entries in row order, in tenths, of brightness, blueness and redness: at quality `LOW` and below,
# and at `HIGH` and above; between these they are mixed. Then those of colours at full resolution.
LOW, HIGH = 50, 80
# fmt: off
_TABLES_AT_LOW: Final = (
    [
        46, 84, 107, 136, 171, 214, 263, 319,
        84, 119, 139, 164, 199, 241, 291, 347,
        107, 139, 168, 198, 233, 277, 327, 384,
        136, 164, 198, 233, 273, 319, 371, 428,
        171, 199, 233, 273, 317, 366, 420, 478,
        214, 241, 277, 319, 366, 417, 473, 531,
        263, 291, 327, 371, 420, 473, 529, 587,
        319, 347, 384, 428, 478, 531, 587, 642,
    ],
    [
        38, 106, 144, 190, 243, 302, 365, 428,
        106, 220, 248, 283, 331, 387, 449, 511,
        144, 248, 330, 384, 436, 492, 551, 611,
        190, 283, 384, 466, 536, 600, 661, 718,
        243, 331, 436, 536, 623, 699, 766, 823,
        302, 387, 492, 600, 699, 786, 859, 917,
        365, 449, 551, 661, 766, 859, 936, 995,
        428, 511, 611, 718, 823, 917, 995, 1052,
    ],
    [
        42, 105, 102, 105, 113, 127, 150, 185,
        105, 142, 132, 128, 132, 145, 169, 206,
        102, 132, 143, 146, 153, 167, 193, 235,
        105, 128, 146, 159, 172, 192, 224, 272,
        113, 132, 153, 172, 193, 221, 262, 322,
        127, 145, 167, 192, 221, 259, 312, 389,
        150, 169, 193, 224, 262, 312, 381, 482,
        185, 206, 235, 272, 322, 389, 482, 617,
    ],
)
_TABLES_AT_HIGH: Final = (
    [
        52, 95, 119, 146, 177, 211, 249, 288,
        95, 125, 144, 168, 197, 230, 267, 306,
        119, 144, 168, 193, 222, 255, 291, 329,
        146, 168, 193, 221, 250, 283, 318, 356,
        177, 197, 222, 250, 281, 314, 349, 386,
        211, 230, 255, 283, 314, 347, 382, 417,
        249, 267, 291, 318, 349, 382, 415, 449,
        288, 306, 329, 356, 386, 417, 449, 481,
    ],
    [
        42, 88, 122, 164, 213, 266, 323, 377,
        88, 156, 186, 222, 269, 321, 377, 430,
        122, 186, 241, 288, 336, 389, 442, 493,
        164, 222, 288, 348, 404, 460, 512, 560,
        213, 269, 336, 404, 469, 528, 580, 625,
        266, 321, 389, 460, 528, 589, 641, 682,
        323, 377, 442, 512, 580, 641, 691, 727,
        377, 430, 493, 560, 625, 682, 727, 757,
    ],
    [
        48, 106, 104, 105, 110, 118, 132, 151,
        106, 165, 150, 139, 137, 142, 154, 174,
        104, 150, 165, 163, 163, 168, 180, 201,
        105, 139, 163, 175, 183, 193, 208, 233,
        110, 137, 163, 183, 199, 216, 238, 268,
        118, 142, 168, 193, 216, 241, 271, 310,
        132, 154, 180, 208, 238, 271, 311, 361,
        151, 174, 201, 233, 268, 310, 361, 427,
    ],
)
_TABLES_OF_FULL_COLOURS: Final = (
    [
        115, 411, 474, 558, 674, 835, 1058, 1375,
        411, 415, 473, 559, 676, 838, 1064, 1384,
        474, 473, 517, 597, 716, 883, 1117, 1449,
        558, 559, 597, 676, 798, 973, 1223, 1580,
        674, 676, 716, 798, 928, 1120, 1395, 1790,
        835, 838, 883, 973, 1120, 1337, 1651, 2103,
        1058, 1064, 1117, 1223, 1395, 1651, 2023, 2558,
        1375, 1384, 1449, 1580, 1790, 2103, 2558, 3212,
    ],
    [
        140, 365, 265, 221, 212, 235, 300, 441,
        365, 415, 313, 257, 243, 267, 337, 492,
        265, 313, 298, 274, 274, 308, 396, 583,
        221, 257, 274, 284, 307, 365, 485, 733,
        212, 243, 274, 307, 359, 452, 630, 984,
        235, 267, 308, 365, 452, 602, 878, 1426,
        300, 337, 396, 485, 630, 878, 1338, 2258,
        441, 492, 583, 733, 984, 1426, 2258, 3948,
    ],
)
# fmt: on
# What they are multiplied by at a quality; on the way to the next, linearly.
_SCALES: Final = (
    (1, 132.573),
    (4, 33.1434),
    (8, 17.2203),
    (15, 7.8643),
    (25, 4.1693),
    (40, 2.3968),
    (50, 1.8307),
    (60, 1.4421),
    (70, 1.1068),
    (80, 0.7806),
    (88, 0.4492),
    (94, 0.2489),
    (95, 0.2141),
    (97, 0.1904),
    (99, 0.1394),
    (100, 0),
)
_FINENESS: Final = 10
# From here on colours have the resolution of brightness: below, it costs 11 % more at equal score.
FULL_COLOUR_QUALITY = 95
_LARGEST_ENTRY = 255  # more takes two bytes, which baseline decoders don't read
_COLOUR_EDGE = 96  # levels that red or blue, less green, differ by
_MANY_COLOUR_EDGES = 0.003  # a share: photos have less, small red print has ten times as many
_MOST_ROWS, _LEAST_ROWS_APART = 64, 8  # of the squares that are looked at for them


def encode(
    frame: Image.Image, quality: int, effort: Effort, *, is_colour_halved: bool = False
) -> bytes:
    """Encode a frame of mode L or RGB; quality is 1 to 100, where all entries of the tables are 1.

    `is_colour_halved`: its colours have half the resolution of brightness as it is. `best` is
    progressive where that is smaller; to encode takes some five times as long.
    """
    halves = quality < FULL_COLOUR_QUALITY and (is_colour_halved or not has_colour_edges(frame))
    settings = {
        "qtables": tables(quality, is_colour_halved=halves),
        "subsampling": "4:2:0" if halves else "4:4:4",
        "optimize": effort is not Effort.FAST,
    }
    # With `optimize` the encoder can't go on in a second buffer, and noise takes more than Pillow
    # expects: up to 2 bytes a pixel, at 100 up to 3. From 32 MiB on, a buffer costs page faults.
    bytes_per_pixel = 3 if quality < FULL_COLOUR_QUALITY else 6
    ImageFile.MAXBLOCK = max(65536, bytes_per_pixel * frame.width * frame.height)
    sink = io.BytesIO()
    frame.save(sink, "JPEG", **settings)
    jpeg = sink.getvalue()
    if effort is not Effort.BEST:
        return jpeg
    # The same coefficients in the smallest of many divisions into scans.
    smaller: bytes = mozjpeg_lossless_optimization.optimize(jpeg)
    return min(jpeg, smaller, key=len)


@cache
def tables(quality: int, *, is_colour_halved: bool) -> list[Table]:
    """Return the tables of brightness, blueness and redness, each in row order, 1 to 255."""
    scale = _scale(quality)
    above = min(max((quality - LOW) / (HIGH - LOW), 0), 1)
    brightness, *colours = (
        [low + (high - low) * above for low, high in zip(*pair, strict=True)]
        for pair in zip(_TABLES_AT_LOW, _TABLES_AT_HIGH, strict=True)
    )
    chosen = [brightness, *(colours if is_colour_halved else _TABLES_OF_FULL_COLOURS)]
    return [
        [min(max(round(entry * scale / _FINENESS), 1), _LARGEST_ENTRY) for entry in table]
        for table in chosen
    ]


def _scale(quality: int) -> float:
    for (below, first), (above, last) in pairwise(_SCALES):
        if quality <= above:
            return first + (last - first) * (quality - below) / (above - below)
    return 0


def has_colour_edges(frame: Image.Image) -> bool:
    """Tell whether half the resolution would spoil colours: of a text, a drawing, no photo."""
    return _share_of_colour_edges(frame) >= _MANY_COLOUR_EDGES


def _share_of_colour_edges(frame: Image.Image) -> float:
    """Return how many squares of two by two pixels have an edge between strong colours.

    Half the resolution gives such a square one colour: red letters blur. Of every other square in
    so many rows the first pixel is held against those to the right and below.
    """
    columns, rows = frame.width // 4, frame.height // 2
    if frame.mode in {"L", "LA"} or not (columns and rows):
        return 0
    apart = max(_LEAST_ROWS_APART, -(-rows // _MOST_ROWS))
    squares = columns, -(-rows // apart)
    taken = np.stack(
        [_pixels(frame, squares, at, (4, 2 * apart)) for at in ((0, 0), (1, 0), (0, 1))]
    )
    signed = taken.astype(np.int16)
    changes = signed[1:] - signed[0]
    red, green, blue = (changes[..., band] for band in range(3))
    edges = np.maximum(abs(red - green), abs(blue - green)).max(axis=0) > _COLOUR_EDGE
    return float(np.count_nonzero(edges) / edges.size)


def _pixels(
    frame: Image.Image, size: tuple[int, int], first: tuple[int, int], step: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the pixels that stand a step apart."""
    # By Pillow, which maps the middle of each pixel: numpy would copy the whole frame.
    (left, top), (across, down) = first, step
    matrix = (across, 0, left + (1 - across) / 2, 0, down, top + (1 - down) / 2)
    return np.asarray(frame.transform(size, Image.Transform.AFFINE, matrix))
