"""Odd BMPs. libvips can't read them, so each knows the picture it was made of."""

from __future__ import annotations

import struct
from functools import partial

from PIL import Image

from tests.images import saved
from tests.odd_images.odd import Odd, chart, veiled

_RAW, _RLE8, _RLE4, _MASKS = range(4)
_MASKS_565 = 0xF800, 0x07E0, 0x001F
_MASKS_555 = 0x7C00, 0x03E0, 0x001F
_MASKS_8888 = 0xFF0000, 0xFF00, 0xFF, 0xFF000000


def _bmp(height: int, depth: int, packing: int, pixels: bytes, *extra: int) -> bytes:
    """Return a BMP of 64 pixels across; `extra`: masks or colours. A height below 0 is top-down."""
    masks = struct.pack(f"<{len(extra)}I", *extra)
    start = 54 + len(masks)
    head = struct.pack("<2sIII", b"BM", start + len(pixels), 0, start)
    facts = (40, 64, height, 1, depth, packing, len(pixels), 0, 0, 0, 0)
    return head + struct.pack("<IiiHHIIiiII", *facts) + masks + pixels


def _16_bit(masks: tuple[int, int, int]) -> bytes:
    """Return the chart with five bits a channel, or six of green, row for row from the top."""
    raw = chart().tobytes()
    pixels = b""
    for at in range(0, len(raw), 3):
        pixel = 0
        for level, mask in zip(raw[at : at + 3], masks, strict=True):
            most = mask // (mask & -mask)
            pixel |= (level * most + 127) // 255 * (mask & -mask)
        pixels += struct.pack("<H", pixel)
    return _bmp(-64, 16, _MASKS, pixels, *masks)


def _stripes(colours: int) -> Image.Image:
    """Return stripes of 8 pixels in colours of a palette."""
    image = Image.new("P", (64, 16))
    image.putpalette([level for index in range(colours) for level in (index * 9, 255 - index, 40)])
    image.putdata([(x // 8 + y) % colours for y in range(16) for x in range(64)])
    return image


def _packed(depth: int) -> bytes:
    """Return the stripes packed by length of run, from the bottom up."""
    raw = _stripes(16).tobytes()
    rows = [raw[at : at + 64] for at in range(0, len(raw), 64)]
    by = 17 if depth == 4 else 1  # two pixels a byte
    runs = [bytes([8, level * by]) for row in reversed(rows) for level in row[::8]]
    lines = [b"".join(runs[at : at + 8]) + b"\0\0" for at in range(0, len(runs), 8)]
    palette = [index * 9 << 16 | 255 - index << 8 | 40 for index in range(16)]
    palette += [0] * (2**depth - 16)
    return _bmp(16, depth, _RLE8 if depth == 8 else _RLE4, b"".join(lines) + b"\0\1", *palette)


def _32_bit() -> bytes:
    """Return a picture with alpha, which takes the fourth header."""
    pixels = veiled().tobytes("raw", "BGRA")
    facts = (108, 64, -64, 1, 32, _MASKS, len(pixels), 0, 0, 0, 0)
    head = struct.pack("<IiiHHIIiiII4I", *facts, *_MASKS_8888) + b"BGRs".ljust(52, b"\0")
    return struct.pack("<2sIII", b"BM", 122 + len(pixels), 0, 122) + head + pixels


ODD: dict[str, Odd] = {
    "BMP, 1 bit": Odd(0, lambda: [saved(chart("1"), "BMP")], partial(chart, "1")),
    "BMP, grey": Odd(0, lambda: [saved(chart("L"), "BMP")], partial(chart, "L")),
    "BMP, palette packed by runs of 4 and 8 bits": Odd(
        0, lambda: [_packed(4), _packed(8)], lambda: _stripes(16).convert("RGB")
    ),
    "BMP, 16 bits a pixel": Odd(4, lambda: [_16_bit(_MASKS_565), _16_bit(_MASKS_555)], chart),
    "BMP, 24 bits, from the top or the bottom": Odd(
        0,
        lambda: [
            saved(chart(), "BMP"),
            _bmp(-64, 24, _RAW, chart().tobytes("raw", "BGR")),
        ],
        chart,
    ),
    "BMP, 32 bits with an empty byte": Odd(
        0,
        lambda: [_bmp(-64, 32, _RAW, chart().tobytes("raw", "BGRX"))],
        chart,
    ),
    "BMP, 32 bits with alpha": Odd(0, lambda: [_32_bit()], veiled),
}
