"""Odd JPEGs."""

from __future__ import annotations

import base64
import math
import struct

import pyvips  # type: ignore[import-untyped]  # it has no stubs
from PIL import Image

from tests.images import exif, jpeg_of_planes, laid, opened, photo, saved
from tests.odd_images import analytic
from tests.odd_images.odd import Odd, chart
from tests.odd_images.profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    PRINTED,
    PROPHOTO,
    grey_profile,
    padded,
)

# Pillow can't write this: 16 by 16 pixels, baseline but for the coding.
_ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4"
    "UG1RV19iZ2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2NjY2NjY2NjY2NjY2P/yQARCAAQABADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AD6i"
    "C3S3w0Kmfdlca1UZqlH9mS22Z8brxU2A/9k="
)
_SAMPLINGS = (0x11, 0x21, 0x22, 0x12, 0x41, 0x42)


def _of(image: Image.Image, profile: bytes | None = None) -> bytes:
    return saved(image, "JPEG", quality=95, subsampling="4:4:4", icc_profile=profile)


def _sampled(sampling: int) -> bytes:
    """Return a JPEG whose colours have less of a resolution than its brightness."""
    brightness, *colours = photo(130, 100).convert("YCbCr").split()
    size = math.ceil(130 / (sampling >> 4)), math.ceil(100 / (sampling & 15))
    return jpeg_of_planes(brightness, *(band.resize(size) for band in colours), sampling=sampling)


def _by_adobe(jpeg: bytes, transform: int) -> bytes:
    """Put Adobe's segment in, which tells whether colours are brightness and differences."""
    segment = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes([transform])
    return jpeg[:2] + segment + _without_segment(jpeg, 0xE0)[2:]


def _without_segment(jpeg: bytes, code: int) -> bytes:
    at = jpeg.find(bytes([0xFF, code]))
    return jpeg if at < 0 else jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4]) :]


def _with_profile(jpeg: bytes, profile: bytes, piece: int = 65_000) -> bytes:
    """Put a profile in, in segments of so many bytes."""
    pieces = [profile[at : at + piece] for at in range(0, len(profile), piece)]
    segments = b"".join(
        b"\xff\xe2"
        + struct.pack(">H", 16 + len(part))
        + b"ICC_PROFILE\0"
        + bytes([n, len(pieces)])
        + part
        for n, part in enumerate(pieces, 1)
    )
    return jpeg[:2] + segments + jpeg[2:]


def _ycck() -> bytes:
    """Return a CMYK JPEG by Adobe, its inks inverted and stored like brightness and colours."""
    *inks, black = chart("CMYK").split()
    light = Image.merge("RGB", inks).convert("YCbCr")
    return _by_adobe(jpeg_of_planes(*light.split(), black.point(lambda level: 255 - level)), 2)


def _inks(jpeg: bytes) -> Image.Image:
    """Return the inks of Adobe's way to store them, as libvips reads them."""
    image = pyvips.Image.new_from_buffer(jpeg, "")
    return Image.frombytes("CMYK", (image.width, image.height), image.write_to_memory())


_ADOBE_CMYK = _by_adobe(_of(chart("CMYK")), 0)
_BARE_CMYK = _without_segment(_of(chart("CMYK")), 0xEE)
_PLAIN = _of(chart())

ODD: dict[str, Odd] = {
    "JPEG, each of the eight orientations": Odd(
        0, lambda: [saved(laid(photo(60, 40), at), "JPEG", exif=exif(at)) for at in range(1, 9)]
    ),
    "JPEG, 4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1 and 4:1:0": Odd(
        0, lambda: [_sampled(sampling) for sampling in _SAMPLINGS]
    ),
    "JPEG, arithmetic coding": Odd(0, lambda: [_ARITHMETIC]),
    "JPEG, stored as RGB by Adobe": Odd(
        0, lambda: [_by_adobe(jpeg_of_planes(*chart().split()), 0)]
    ),
    "JPEG, grey": Odd(0, lambda: [_of(chart("L"))]),
    "JPEG, grey with gamma 1.0, 1.8 and 2.6": Odd(
        0, lambda: [_of(chart("L"), grey_profile(gamma)) for gamma in (1.0, 1.8, 2.6)]
    ),
    "JPEG, Adobe RGB": Odd(1, lambda: [_of(chart(), ADOBE_RGB)]),
    "JPEG, Display P3": Odd(1, lambda: [_of(chart(), DISPLAY_P3)]),
    "JPEG, ProPhoto": Odd(1, lambda: [_of(chart(), PROPHOTO)]),
    "JPEG, profile in many segments": Odd(1, lambda: [_with_profile(_PLAIN, DISPLAY_P3, 100)]),
    "JPEG, profile of 3 MiB": Odd(1, lambda: [_with_profile(_PLAIN, padded(DISPLAY_P3, 3 << 20))]),
    "JPEG, profile of 5 MiB, which is not heeded": Odd(
        0, lambda: [_with_profile(_PLAIN, padded(DISPLAY_P3, 5 << 20))], lambda: opened(_PLAIN)
    ),
    "JPEG, broken, cut and wrong profiles": Odd(
        0,
        lambda: [
            _with_profile(_PLAIN, profile)
            for profile in (b"nonsense", bytes(500), DISPLAY_P3[:300], PRINTED, grey_profile(1.8))
        ],
    ),
    "JPEG, CMYK with a profile": Odd(1, lambda: [_with_profile(_ADOBE_CMYK, PRINTED)]),
    "JPEG, YCCK with a profile": Odd(1, lambda: [_with_profile(_ycck(), PRINTED)]),
    "JPEG, CMYK without a profile": Odd(
        0, lambda: [_ADOBE_CMYK], lambda: analytic.of_inks(_inks(_ADOBE_CMYK))
    ),
    "JPEG, YCCK without a profile": Odd(
        0, lambda: [_ycck()], lambda: analytic.of_inks(_inks(_ycck()))
    ),
    "JPEG, CMYK without Adobe's segment": Odd(
        0, lambda: [_BARE_CMYK], lambda: analytic.of_inks(_inks(_ADOBE_CMYK))
    ),
}
