"""Odd GIFs, WebPs and AVIFs."""

from __future__ import annotations

from functools import partial
from typing import Any

from PIL import Image

from tests.images import exif, laid, opened, photo, saved
from tests.odd_images import analytic
from tests.odd_images.odd import Odd, chart, veiled, vips
from tests.odd_images.profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO
from tests.odd_images.reading import managed

_WIDE = (ADOBE_RGB, DISPLAY_P3, PROPHOTO)
_P3, _BT_2020, _SRGB = 12, 9, 13


def _webp(image: Image.Image, **settings: Any) -> bytes:
    return saved(image, "WEBP", lossless=True, exact=True, **settings)


def _avif(image: Image.Image, **settings: Any) -> bytes:
    return saved(image, "AVIF", **{"quality": 100, "subsampling": "4:4:4"} | settings)


def _deep_avif(depth: int) -> bytes:
    data: bytes = vips(chart()).heifsave_buffer(
        compression="av1", Q=100, bitdepth=depth, subsample_mode="off"
    )
    return data


def coded(image: Image.Image, primaries: int, transfer: int, **settings: Any) -> bytes:
    """Return an AVIF whose code points are replaced."""
    data = bytearray(_avif(image, **settings))
    at = data.index(b"nclx") + 4
    data[at : at + 4] = bytes([0, primaries, 0, transfer])
    return bytes(data)


def _soft() -> Image.Image:
    """Return a picture without edges, of which the way to enlarge colours changes little."""
    return photo().resize((16, 12)).resize((160, 120), Image.Resampling.BICUBIC)


def _managed_avif(profile: bytes) -> Odd:
    """Hold a profile against libvips over the levels that Pillow decodes.

    Decoders differ by a level, which a large gamut makes many of: that is another kind's matter.
    """
    return Odd(
        1,
        lambda: [_avif(chart(), icc_profile=profile)],
        lambda: managed(saved(opened(_avif(chart())), "PNG", icc_profile=profile)),
    )


ODD: dict[str, Odd] = {
    "GIF, palettes with and without transparency": Odd(
        0, lambda: [saved(image, "GIF") for image in (chart(), chart("L"), chart("1"), veiled())]
    ),
    "WebP, each of the eight orientations": Odd(
        0, lambda: [_webp(laid(photo(60, 40), at), exif=exif(at)) for at in range(1, 9)]
    ),
    "WebP, lossy and lossless, with and without transparency": Odd(
        0,
        lambda: [
            saved(chart(), "WEBP"),
            saved(veiled(), "WEBP"),
            _webp(chart()),
            _webp(veiled()),
        ],
    ),
    "WebP, Adobe RGB, Display P3 and ProPhoto": Odd(
        1, lambda: [_webp(chart(), icc_profile=profile) for profile in _WIDE]
    ),
    "WebP, Display P3 with transparency": Odd(1, lambda: [_webp(veiled(), icc_profile=DISPLAY_P3)]),
    "AVIF, each of the eight orientations": Odd(
        1, lambda: [_avif(laid(photo(60, 40), at), exif=exif(at)) for at in range(1, 9)]
    ),
    "AVIF, with and without transparency": Odd(1, lambda: [_avif(chart()), _avif(veiled())]),
    "AVIF, grey": Odd(
        1,
        lambda: [_avif(chart("L"), subsampling="4:0:0", range=at) for at in ("full", "limited")],
        partial(chart, "L"),
    ),
    "AVIF, 4:2:2 and 4:2:0": Odd(
        5,
        lambda: [
            _avif(_soft(), subsampling=subsampling, range=levels)
            for subsampling in ("4:2:2", "4:2:0")
            for levels in ("full", "limited")
        ],
    ),
    "AVIF, 10 and 12 bits": Odd(3, lambda: [_deep_avif(10), _deep_avif(12)]),
    "AVIF, Adobe RGB": _managed_avif(ADOBE_RGB),
    "AVIF, Display P3": _managed_avif(DISPLAY_P3),
    "AVIF, ProPhoto": _managed_avif(PROPHOTO),
    "AVIF, Display P3 by nclx": Odd(
        1,
        lambda: [coded(chart(), _P3, _SRGB)],
        lambda: analytic.in_srgb(opened(_avif(chart())), analytic.srgb_light, analytic.DISPLAY_P3),
    ),
    "AVIF, Display P3 by a profile although nclx says otherwise": Odd(
        1,
        lambda: [coded(chart(), _BT_2020, _SRGB, icc_profile=DISPLAY_P3)],
        _managed_avif(DISPLAY_P3).truth,
    ),
}
