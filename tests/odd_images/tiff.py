"""Odd TIFFs."""

from __future__ import annotations

import struct
from typing import Any

import pyvips  # type: ignore[import-untyped]  # it has no stubs
from PIL import Image

from tests.images import exif, laid, photo, saved
from tests.odd_images import analytic
from tests.odd_images.odd import Odd, chart, veiled, vips
from tests.odd_images.profiles import ADOBE_RGB, DISPLAY_P3, PRINTED, PROPHOTO

_CIELAB = 8


def _tiff(image: pyvips.Image, **settings: Any) -> bytes:
    data: bytes = image.tiffsave_buffer(**settings)
    return data


def _deep(image: Image.Image, space: str) -> pyvips.Image:
    return vips(image).colourspace(space)


def _deep_inks() -> bytes:
    """Return a TIFF of inks of 16 bits with a profile."""
    inks = (vips(chart("CMYK")) * 257).cast("ushort").copy(interpretation="cmyk")
    inks.set_type(pyvips.GValue.blob_type, "icc-profile-data", PRINTED)
    return _tiff(inks)


def _floats(light: float) -> bytes:
    picture = (vips(chart("L")) * light).cast("float").copy(interpretation="b-w")
    return _tiff(picture)


def _lab_pixels() -> bytes:
    """Return colours that exist, as CIE L*a*b*: a byte each, the last two with a sign."""
    levels = range(16)
    return bytes(
        part
        for lightness in levels
        for a in levels
        for b in levels
        for part in (80 + 8 * lightness, a * 5 - 40 & 255, b * 5 - 40 & 255)
    )


def _lab() -> bytes:
    fields = {256: 64, 257: 64, 258: 134, 259: 1, 262: _CIELAB, 273: 140, 277: 3, 278: 64}
    fields[279] = 3 * 64 * 64
    entries = b"".join(
        struct.pack("<HHII", tag, 3, 3 if tag == 258 else 1, value) for tag, value in fields.items()
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries
    return head.ljust(134, b"\0") + struct.pack("<3H", 8, 8, 8) + _lab_pixels()


ODD: dict[str, Odd] = {
    "TIFF, each of the eight orientations": Odd(
        0, lambda: [saved(laid(photo(60, 40), at), "TIFF", exif=exif(at)) for at in range(1, 9)]
    ),
    "TIFF, grey of 1, 2, 4 and 8 bits, black or white as zero": Odd(
        0,
        lambda: [
            _tiff(vips(chart("L")), bitdepth=depth, miniswhite=is_white)
            for depth in (1, 2, 4, 8)
            for is_white in (False, True)
        ],
    ),
    "TIFF, grey of 16 bits, black or white as zero": Odd(
        0,
        lambda: [
            _tiff(_deep(chart("L"), "grey16"), miniswhite=is_white) for is_white in (False, True)
        ],
    ),
    "TIFF, RGB and RGBA of 16 bits": Odd(
        0, lambda: [_tiff(_deep(chart(), "rgb16")), _tiff(_deep(veiled(), "rgb16"))]
    ),
    "TIFF, grey of floats up to 1 or 255": Odd(
        0, lambda: [_floats(1 / 255), _floats(1)], lambda: chart("L")
    ),
    "TIFF, palette": Odd(0, lambda: [saved(chart().quantize(200), "TIFF")]),
    "TIFF, alpha apart or multiplied in": Odd(
        1,
        lambda: [
            _tiff(vips(veiled())),
            _tiff(vips(veiled("LA"))),
            _tiff(vips(veiled()), premultiply=True),
        ],
    ),
    "TIFF, JPEG inside": Odd(
        0,
        lambda: [
            _tiff(vips(chart()), compression="jpeg", Q=90, rgbjpeg=is_rgb)
            for is_rgb in (False, True)
        ],
    ),
    "TIFF, LZW, deflate, PackBits, tiles and BigTIFF": Odd(
        0,
        lambda: [
            _tiff(vips(chart()), compression="lzw", predictor="horizontal"),
            _tiff(vips(chart()), compression="deflate", predictor="horizontal"),
            _tiff(vips(chart()), compression="packbits"),
            _tiff(vips(chart()), tile=True, tile_width=16, tile_height=16),
            _tiff(vips(chart()), bigtiff=True),
        ],
    ),
    "TIFF, Adobe RGB, Display P3 and ProPhoto": Odd(
        1,
        lambda: [
            saved(chart(), "TIFF", icc_profile=profile)
            for profile in (ADOBE_RGB, DISPLAY_P3, PROPHOTO)
        ],
    ),
    "TIFF, CMYK of 8 and 16 bits with a profile": Odd(
        1,
        lambda: [
            saved(chart("CMYK"), "TIFF", icc_profile=PRINTED),
            _deep_inks(),
        ],
    ),
    "TIFF, CMYK without a profile": Odd(
        0, lambda: [saved(chart("CMYK"), "TIFF")], lambda: analytic.of_inks(chart("CMYK"))
    ),
    "TIFF, CIE L*a*b*": Odd(
        1,
        lambda: [_lab()],
        lambda: Image.frombytes("RGB", (64, 64), analytic.of_lab(_lab_pixels())),
    ),
}
