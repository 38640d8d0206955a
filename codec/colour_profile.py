"""Finds what an image says of its colours: an ICC profile, or numbers that one is written for.

PNG and AVIF may name primaries and a transfer function by code points (ITU-T H.273), PNG also
by chromaticities and a power. With a profile they are read like every other image: see
`image_colour`. Owns the order of what is told twice, those tables, and the bytes of a small
matrix profile (ICC.1 version 2).
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from codec import image_colour

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from codec.container_structure import Structure

Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue, as in a PNG's `cHRM`."""

_D65, _D50_XYZ = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)
SRGB_CHROMATICITIES: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB_CHROMATICITIES,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),  # old television of the United States
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),  # television with 625 lines
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # television with 525 lines
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # the cinema's P3
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_CURVE_STEPS = 4096
# From XYZ to the responses of an eye's cones, by which a white is adapted to another, and back.
_BRADFORD = (0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)
_BRADFORD_BACK = (
    (0.9869929, -0.1470543, 0.1599627),
    (0.4323053, 0.5183603, 0.0492912),
    (-0.0085287, 0.0400428, 0.9684867),
)
# Light is relative to a display's white, for which BT.2408 takes 203 cd/m²: brighter is cut off.
_WHITE_NITS = 203


def _srgb(signal: float) -> float:
    return signal / 12.92 if signal <= 0.04045 else math.pow((signal + 0.055) / 1.055, 2.4)


def _pq(signal: float) -> float:
    """Return light by SMPTE ST 2084."""
    root = signal ** (1 / 78.84375)
    part = max(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    return 10_000 / _WHITE_NITS * math.pow(part, 1 / 0.1593017578125)


def _hlg(signal: float) -> float:
    """Return light by ARIB STD-B67 on a display of 1,000 cd/m², each colour by itself."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = signal * signal / 3 if signal <= 0.5 else (math.exp((signal - c) / a) + b) / 12
    return 1000 / _WHITE_NITS * math.pow(scene, 1.2)


# Cameras' curves of television (1, 6, 14, 15) are in fact seen as sRGB's, and 2 is "unknown".
_TRANSFERS: dict[int, Callable[[float], float]] = {
    **dict.fromkeys((1, 2, 6, 13, 14, 15), _srgb),
    4: lambda signal: signal**2.2,
    5: lambda signal: signal**2.8,
    8: lambda signal: signal,
    16: _pq,
    18: _hlg,
}


def find(image: Image.Image, mode: str, structure: Structure) -> bytes | None:
    """Return the profile of an opened image of a mode, in the file's words or for its numbers.

    Of several, a PNG means its code points, then the profile, then what says sRGB, then the rest
    (third edition, section 4.3); an AVIF means the profile.
    """
    is_grey = image_colour.base_mode(mode) == "L"
    info = image.info
    told = info.get("icc_profile") or None
    described = None
    if structure.code_points:
        described = from_code_points(*structure.code_points, is_grey=is_grey)
    if image.format != "PNG":
        return told or described
    if described is None and told is None and "srgb" not in info:
        chromaticities, gamma = info.get("chromaticity"), info.get("gamma")
        if chromaticities or gamma:
            return from_gamma(chromaticities, gamma, is_grey=is_grey)
    return described or told


@lru_cache(maxsize=16)
def from_code_points(primaries: int, transfer: int, *, is_grey: bool) -> bytes | None:
    """Return the profile of two code points; None where they don't say anything we know."""
    chromaticities, curve = _PRIMARIES.get(primaries), _TRANSFERS.get(transfer)
    if curve is None or (chromaticities is None and not is_grey):
        return None
    return _profile(None if is_grey else chromaticities, curve)


@lru_cache(maxsize=16)
def from_gamma(
    chromaticities: Chromaticities | None, gamma: float | None, *, is_grey: bool
) -> bytes | None:
    """Return the profile of a PNG's `cHRM` and `gAMA`, each of which may be missing or absurd.

    A power close to that of sRGB stands for its curve.
    """
    is_srgb = gamma is None or abs(gamma - 1 / 2.2) < 0.02
    if not is_srgb and not 0.05 < (gamma or 0) < 5:
        return None
    curve = _srgb if is_srgb else lambda signal: signal ** (1 / (gamma or 1))
    try:
        return _profile(None if is_grey else chromaticities or SRGB_CHROMATICITIES, curve)
    except (ArithmeticError, struct.error):
        return None


def _profile(chromaticities: Chromaticities | None, curve: Callable[[float], float]) -> bytes:
    """Return a profile of RGB, or of grey without chromaticities."""
    table = _curve(curve)
    tags = {b"wtpt": _xyz(_D50_XYZ)}
    if chromaticities is None:
        tags[b"kTRC"] = table
    else:
        for name, column in zip(b"rgb", _colourants(chromaticities), strict=True):
            tags[b"%cXYZ" % name] = _xyz(column)
            tags[b"%cTRC" % name] = table
    return _pack(b"GRAY" if chromaticities is None else b"RGB ", tags)


def _colourants(chromaticities: Chromaticities) -> list[Sequence[float]]:
    """Return XYZ of red, green and blue, adapted from their white to D50 (Bradford)."""
    pairs = zip(chromaticities[::2], chromaticities[1::2], strict=True)
    white, red, green, blue = [(x / y, 1.0, (1 - x - y) / y) for x, y in pairs]
    whole = _determinant(red, green, blue)
    shares = (
        _determinant(white, green, blue) / whole,  # Cramer's rule: of each that makes up white
        _determinant(red, white, blue) / whole,
        _determinant(red, green, white) / whole,
    )
    adapted: list[Sequence[float]] = []
    for colour, share in zip((red, green, blue), shares, strict=True):
        cones = zip(*(_multiply(_BRADFORD, xyz) for xyz in (colour, _D50_XYZ, white)), strict=True)
        adapted.append(_multiply(_BRADFORD_BACK, [share * c * new / old for c, new, old in cones]))
    return adapted


def _multiply(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _determinant(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    return (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        + a[1] * (b[2] * c[0] - b[0] * c[2])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )


def _curve(curve: Callable[[float], float]) -> bytes:
    lights = (curve(step / (_CURVE_STEPS - 1)) for step in range(_CURVE_STEPS))
    levels = [round(65535 * min(light, 1)) for light in lights]
    return struct.pack(f">4s4xI{_CURVE_STEPS}H", b"curv", _CURVE_STEPS, *levels)


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def _pack(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Lay out header, table of tags and tags; equal ones share their place."""
    at = 132 + 12 * len(tags)
    places: dict[bytes, int] = {}
    table = struct.pack(">I", len(tags))
    for name, content in tags.items():
        if content not in places:
            places[content], at = at, at + len(content)
        table += struct.pack(">4sII", name, places[content], len(content))
    header = struct.pack(">I4xI4s4s4s12x4s", at, 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + _xyz(_D50_XYZ)[8:]
    return header.ljust(128, b"\0") + table + b"".join(places)
