"""ICC profiles, written byte by byte (ICC.1 version 2)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(
    red: Sequence[float], green: Sequence[float], blue: Sequence[float], curve: bytes
) -> bytes:
    """Return a profile of RGB with these colours, adapted to D50, and one curve for all."""
    colours = {b"rXYZ": _xyz(red), b"gXYZ": _xyz(green), b"bXYZ": _xyz(blue)}
    curves = dict.fromkeys([b"rTRC", b"gTRC", b"bTRC"], curve)
    return _profile(b"mntr", b"RGB ", b"XYZ ", colours | curves)


def grey_profile(gamma: float) -> bytes:
    """Return a profile of grey levels."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": power(gamma)})


def cmyk_profile(corners: Sequence[tuple[float, float, float]]) -> bytes:
    """Return a profile of inks from the Lab colours of their 16 mixtures, cyan the slowest."""
    straight = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (at % 4 == 0) for at in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + straight * 4
    for lightness, a, b in corners:
        lut += bytes([round(lightness * 2.55), round(a) + 128, round(b) + 128])
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut + straight * 3})


def power(gamma: float) -> bytes:
    """Return a curve that is a power."""
    return b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))


def srgb_curve() -> bytes:
    """Return the curve of sRGB as a table (IEC 61966-2-1)."""
    signals = [step / 1023 for step in range(1024)]
    lights = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in signals]
    levels = (round(65535 * light) for light in lights)
    return b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *levels)


def padded(profile: bytes, size: int) -> bytes:
    """Return the same profile with zeros behind it up to a size."""
    return struct.pack(">I", size) + profile[4:].ljust(size - 4, b"\0")


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(value * 65536) for value in values))


def _profile(use: bytes, space: bytes, connection: bytes, colours: dict[bytes, bytes]) -> bytes:
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1),
        b"cprt": b"text\0\0\0\0none" + bytes(4),
        b"wtpt": _xyz(_D50),
        **colours,
    }
    table, body = b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    body = struct.pack(">I", len(tags)) + table + body
    header = struct.pack(">I4xI4s4s4s", 128 + len(body), 0x02400000, use, space, connection)
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">iii", *(round(value * 65536) for value in _D50))
    return header.ljust(128, b"\0") + body


ADOBE_RGB = rgb_profile(
    (0.60974, 0.31111, 0.01947),
    (0.20528, 0.62567, 0.06087),
    (0.14919, 0.06322, 0.74457),
    power(2.2),
)
"""Its green is far outside of sRGB's."""
DISPLAY_P3 = rgb_profile(
    (0.51512, 0.24120, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.15710, 0.06657, 0.78407),
    srgb_curve(),
)
PROPHOTO = rgb_profile(
    (0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.0), (0.03134, 0.00009, 0.82491), power(1.8)
)
# Printed mixtures of cyan, magenta, yellow and black, roughly those of coated paper.
_PAPER = [(95, 0, -2), (16, 0, 0), (89, -5, 93), (15, 0, 5), (48, 74, -3), (10, 10, 0)]
_PAPER += [(47, 68, 48), (9, 8, 6), (55, -37, -50), (12, -6, -8), (50, -68, 27), (11, -8, 3)]
_PAPER += [(24, 20, -46), (7, 4, -8), (23, 0, 0), (4, 0, 0)]
PRINTED = cmyk_profile(_PAPER)
