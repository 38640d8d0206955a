"""Odd PNGs."""

from __future__ import annotations

import random
import struct
import zlib
from functools import partial
from typing import TYPE_CHECKING

from tests.images import png, png_chunk, saved
from tests.odd_images import analytic
from tests.odd_images.odd import Odd, chart, veiled, vips
from tests.odd_images.profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO, grey_profile, padded
from tests.odd_images.reading import managed

if TYPE_CHECKING:
    from PIL import Image

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_SRGB_CHRM = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_P3_CHRM = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
_P3, _BT_2020 = 12, 9
_SRGB, _LINEAR = 13, 8


def _noise(depth: int, colour_type: int, *chunks: bytes) -> bytes:
    """Return a PNG of samples by chance, the same ones every time."""
    chance = random.Random(depth + colour_type)  # noqa: S311  the same picture every time
    bytes_a_row = 64 * _SAMPLES[colour_type] * depth // 8
    return png(depth, colour_type, [chance.randbytes(bytes_a_row) for _ in range(48)], *chunks)


def _of(image: Image.Image, *chunks: bytes) -> bytes:
    """Return a PNG of 8 bits a sample with chunks before its pixels."""
    raw, size = image.tobytes(), image.width * len(image.getbands())
    rows = [raw[at : at + size] for at in range(0, len(raw), size)]
    return png(8, {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[image.mode], rows, *chunks)


def _profile(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"test\0\0" + zlib.compress(profile))


def _gamma(value: float) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def _chromaticities(*values: int) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *values))


def _code_points(primaries: int, transfer: int) -> bytes:
    return png_chunk(b"cICP", bytes([primaries, transfer, 0, 1]))


def with_code_points(rows: list[bytes], primaries: int, transfer: int) -> bytes:
    """Return an RGB PNG that tells its colours by code points."""
    return png(8, 2, rows, _code_points(primaries, transfer))


def text(words: bytes) -> bytes:
    """Return a chunk of text."""
    return png_chunk(b"tEXt", b"Comment\0" + words)


def _palette(depth: int) -> bytes:
    """Return a palette and its transparency, which is shorter."""
    chance = random.Random(depth)  # noqa: S311  the same colours every time
    colours = png_chunk(b"PLTE", chance.randbytes(3 << depth))
    return colours + png_chunk(b"tRNS", chance.randbytes((3 << depth) // 4))


def _interlaced(depth: int) -> bytes:
    picture = vips(chart())
    picture = picture if depth == 8 else picture.colourspace("rgb16")
    data: bytes = picture.pngsave_buffer(interlace=True, bitdepth=depth)
    return data


def _key(*levels: int) -> bytes:
    return png_chunk(b"tRNS", struct.pack(f">{len(levels)}H", *levels))


def _keyed(depth: int, colour_type: int) -> bytes:
    """Return a PNG in which the third pixel of the first row has the transparent colour."""
    data = _noise(depth, colour_type)
    row = zlib.decompress(data[41 : data.index(b"IEND") - 8])[1:]
    if depth < 8:
        return _noise(
            depth,
            colour_type,
            _key(row[0] >> 8 - 3 * depth & 2**depth - 1 if depth < 4 else row[1] >> 4),
        )
    samples = _SAMPLES[colour_type]
    levels = struct.unpack_from(
        f">{samples}{'H' if depth == 16 else 'B'}", row, samples * depth // 4
    )
    return _noise(depth, colour_type, _key(*levels))


def _colours(chunk: bytes, mode: str = "RGB") -> list[bytes]:
    return [_of(chart(mode), chunk)]


ODD: dict[str, Odd] = {
    "PNG, grey of 1, 2, 4 and 8 bits": Odd(0, lambda: [_noise(at, 0) for at in (1, 2, 4, 8)]),
    "PNG, grey of 16 bits": Odd(1, lambda: [_noise(16, 0)]),
    "PNG, grey with alpha of 8 and 16 bits": Odd(0, lambda: [_noise(at, 4) for at in (8, 16)]),
    "PNG, RGB and RGBA of 16 bits": Odd(0, lambda: [_noise(16, 2), _noise(16, 6)]),
    "PNG, palette of 1, 2, 4 and 8 bits with transparency": Odd(
        0, lambda: [_noise(at, 3, _palette(at)) for at in (1, 2, 4, 8)]
    ),
    "PNG, transparent grey of 1, 2, 4 and 8 bits": Odd(
        0, lambda: [_keyed(at, 0) for at in (1, 2, 4, 8)]
    ),
    "PNG, transparent grey of 16 bits": Odd(1, lambda: [_keyed(16, 0)]),
    "PNG, transparent RGB of 8 and 16 bits": Odd(0, lambda: [_keyed(8, 2), _keyed(16, 2)]),
    "PNG, interlaced of 8 and 16 bits": Odd(0, lambda: [_interlaced(8), _interlaced(16)]),
    "PNG, Adobe RGB": Odd(1, lambda: _colours(_profile(ADOBE_RGB))),
    "PNG, Display P3": Odd(1, lambda: _colours(_profile(DISPLAY_P3))),
    "PNG, ProPhoto": Odd(1, lambda: _colours(_profile(PROPHOTO))),
    "PNG, Display P3 with transparency": Odd(1, lambda: [_of(veiled(), _profile(DISPLAY_P3))]),
    "PNG, Display P3 of 16 bits": Odd(11, lambda: [_noise(16, 2, _profile(DISPLAY_P3))]),
    "PNG, grey of 16 bits with gamma 1.0 and 1.8": Odd(
        6,
        lambda: [
            _noise(16, at, _profile(grey_profile(gamma))) for gamma in (1.0, 1.8) for at in (0, 4)
        ],
    ),
    "PNG, palette in Adobe RGB": Odd(
        1, lambda: [saved(chart().quantize(200), "PNG", icc_profile=ADOBE_RGB)]
    ),
    "PNG, profile of 3 MiB": Odd(1, lambda: _colours(_profile(padded(DISPLAY_P3, 3 << 20)))),
    "PNG, profile of 5 MiB, which is not heeded": Odd(
        0, lambda: _colours(_profile(padded(DISPLAY_P3, 5 << 20))), chart
    ),
    "PNG, broken, cut and wrong profiles": Odd(
        0,
        lambda: [
            _of(chart(), chunk)
            for chunk in (
                _profile(b"nonsense"),
                _profile(DISPLAY_P3[:300]),
                _profile(grey_profile(1.8)),
                png_chunk(b"iCCP", b"test\0\0nonsense"),
                png_chunk(b"iCCP", b"test\0\7" + zlib.compress(DISPLAY_P3)),
                png_chunk(b"iCCP", b"test"),
            )
        ],
        chart,
    ),
    "PNG, linear by gAMA": Odd(
        0,
        lambda: _colours(_gamma(1)),
        lambda: analytic.in_srgb(chart(), float, analytic.SAME),
    ),
    "PNG, grey with gamma 1.8 by gAMA": Odd(
        1,
        lambda: _colours(_gamma(1 / 1.8), "L"),
        lambda: analytic.in_srgb(chart("L"), lambda signal: signal**1.8, analytic.SAME),
    ),
    "PNG, sRGB by gAMA and cHRM": Odd(
        0, lambda: _colours(_gamma(0.45455) + _chromaticities(*_SRGB_CHRM)), chart
    ),
    "PNG, Display P3 by gAMA and cHRM": Odd(
        1,
        lambda: _colours(_gamma(0.45455) + _chromaticities(*_P3_CHRM)),
        partial(analytic.in_srgb, chart(), analytic.srgb_light, analytic.DISPLAY_P3),
    ),
    "PNG, sRGB although gAMA and cHRM say otherwise": Odd(
        0,
        lambda: _colours(png_chunk(b"sRGB", b"\0") + _gamma(1) + _chromaticities(*_P3_CHRM)),
        chart,
    ),
    "PNG, impossible gAMA and cHRM": Odd(
        0,
        lambda: [
            _of(chart(), chunk)
            for chunk in (
                _gamma(0),
                _gamma(9),
                _chromaticities(*[0] * 8),
                _chromaticities(*[2**31] * 8),
            )
        ],
        chart,
    ),
    "PNG, Display P3 by cICP": Odd(
        1,
        lambda: _colours(_code_points(_P3, _SRGB)),
        partial(analytic.in_srgb, chart(), analytic.srgb_light, analytic.DISPLAY_P3),
    ),
    "PNG, linear BT.2020 by cICP": Odd(
        1,
        lambda: _colours(_code_points(_BT_2020, _LINEAR)),
        partial(analytic.in_srgb, chart(), float, analytic.BT_2020),
    ),
    "PNG, Display P3 by cICP although a profile says otherwise": Odd(
        1,
        lambda: _colours(_code_points(_P3, _SRGB) + _profile(PROPHOTO)),
        lambda: managed(_of(chart(), _profile(DISPLAY_P3))),
    ),
}
