"""Colours by the formulas of their standards, computed in floating point without any library."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Matrix = tuple[tuple[float, float, float], ...]

# Light of each space to light of sRGB.
SAME: Matrix = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
ADOBE_RGB: Matrix = ((1.39836, -0.39836, 0), (0, 1, 0), (0, -0.04293, 1.04293))
DISPLAY_P3: Matrix = (
    (1.22494, -0.22494, 0),
    (-0.04206, 1.04206, 0),
    (-0.01964, -0.07864, 1.09827),
)
BT_2020: Matrix = (
    (1.66049, -0.58764, -0.07285),
    (-0.12455, 1.13290, -0.00835),
    (-0.01815, -0.10058, 1.11873),
)
PROPHOTO: Matrix = (
    (2.03433, -0.72753, -0.30680),
    (-0.22882, 1.23174, -0.00292),
    (-0.00856, -0.15327, 1.16184),
)


_D50 = (0.9642, 1.0, 0.8249)
_SRGB_OF_XYZ: Matrix = (  # under D50
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)


def srgb_light(signal: float) -> float:
    """Return light for a signal from 0 to 1 (IEC 61966-2-1)."""
    return signal / 12.92 if signal <= 0.04045 else float(((signal + 0.055) / 1.055) ** 2.4)


def srgb_level(light: float) -> int:
    """Return the level of 255 for light; what sRGB hasn't is cut off."""
    light = min(max(light, 0), 1)
    signal = 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
    return round(255 * signal)


def in_srgb(image: Image.Image, light: Callable[[float], float], matrix: Matrix) -> Image.Image:
    """Return an RGB or grey image in sRGB, of which curve and primaries are given."""

    @cache
    def pixel(levels: Sequence[int]) -> bytes:
        lights = [light(level / 255) for level in levels]
        if len(lights) == 1:
            return bytes([srgb_level(lights[0])])
        rows = (sum(share * lit for share, lit in zip(row, lights, strict=True)) for row in matrix)
        return bytes(srgb_level(mixed) for mixed in rows)

    bands = len(image.getbands())
    raw = image.tobytes()
    pixels = (pixel(tuple(raw[at : at + bands])) for at in range(0, len(raw), bands))
    return Image.frombytes(image.mode, image.size, b"".join(pixels))


def of_inks(image: Image.Image) -> Image.Image:
    """Return a CMYK image as paper that each ink takes its share of the light from."""
    raw = image.tobytes()
    pixels = (
        bytes(round((255 - ink) * (255 - raw[at + 3]) / 255) for ink in raw[at : at + 3])
        for at in range(0, len(raw), 4)
    )
    return Image.frombytes("RGB", image.size, b"".join(pixels))


def of_lab(raw: bytes) -> bytes:
    """Return pixels of sRGB for those of CIE L*a*b* under D50: a byte each, the last two signed."""
    pixels = b""
    for at in range(0, len(raw), 3):
        lightness, a, b = (
            raw[at] / 2.55,
            *(level - (level & 128) * 2 for level in raw[at + 1 : at + 3]),
        )
        middle = (lightness + 16) / 116
        roots = (middle + a / 500, middle, middle - b / 200)
        shares = (t**3 if t > 6 / 29 else (116 * t - 16) * 27 / 24389 for t in roots)
        xyz = [share * white for share, white in zip(shares, _D50, strict=True)]
        rows = (sum(part * of for part, of in zip(row, xyz, strict=True)) for row in _SRGB_OF_XYZ)
        pixels += bytes(srgb_level(light) for light in rows)
    return pixels
