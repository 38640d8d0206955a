"""Brings the pixels of every mode that Pillow decodes to 8-bit sRGB.

Owns what the numbers of a decoded image mean: depth, palette, transparency and ICC
profile. What leaves here is of mode L, LA, RGB or RGBA. Geometry is `image_loader`'s business.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any

from PIL import Image, ImageChops, ImageCms

from codec.container_structure import LARGEST_PROFILE_BYTES

_SAME_COLOUR_LEVELS = 3  # of 255: profiles that call themselves sRGB round this differently
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_LAB_TO_SRGB: Any = ImageCms.buildTransform(
    ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")),
    _SRGB,
    "LAB",
    "RGB",
    flags=ImageCms.Flags.NOOPTIMIZE,  # its table would be too coarse for strong colours
)


def is_foreign(profile: bytes | None, mode: str) -> bool:
    """Tell whether a profile makes pixels of `mode` look other than sRGB would.

    A profile that is broken, or of another colour space than the pixels, says nothing.
    """
    return profile is not None and _transform(profile, base_mode(mode)) is not None


def base_mode(mode: str) -> str:
    """Return the colours of a mode without depth, palette and alpha: L, RGB, CMYK or LAB."""
    if mode in {"CMYK", "LAB"}:
        return mode
    return "L" if mode in {"1", "L", "LA", "I", "F"} or mode.startswith("I;16") else "RGB"


def to_plain(image: Image.Image) -> Image.Image:
    """Return 8 bits a band: mode L, LA, RGB, RGBA, CMYK or LAB; palettes are resolved."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_16_bit(image)
    if mode in {"I", "F"}:
        return _from_wide(image)
    if mode in {"LA", "RGBA", "CMYK", "LAB"}:
        return image
    grey = mode in {"1", "L"}
    alpha = "A" if image.has_transparency_data else ""
    plain = ("L" if grey else "RGB") + alpha
    return image if plain == mode else image.convert(plain)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a plain image in sRGB: grey stays grey, CMYK and LAB become RGB."""
    if image.mode == "LAB":
        return _apply(image, _LAB_TO_SRGB)
    transform = _transform(profile, base_mode(image.mode)) if profile else None
    if transform is None:
        return image.convert("RGB") if image.mode == "CMYK" else image
    if image.mode not in {"LA", "RGBA"}:
        converted = _apply(image, transform)
        return converted.getchannel("G") if image.mode == "L" else converted
    opaque = to_srgb(image.convert(base_mode(image.mode)), profile)
    opaque.putalpha(image.getchannel("A"))
    return opaque


def without_unused_alpha(image: Image.Image, *, is_zero_unused: bool = False) -> Image.Image:
    """Return the image without an alpha band that hides nothing.

    `is_zero_unused`: one that hides everything was never filled in, as in many BMP files.
    """
    if image.mode not in {"LA", "RGBA"}:
        return image
    least, most = image.getchannel("A").getextrema()
    if least == 255 or (is_zero_unused and most == 0):
        return image.convert("L" if image.mode == "LA" else "RGB")
    return image


def flatten(image: Image.Image, background: str) -> Image.Image:
    """Lay the image over a colour like `#ffffff`; a grey one stays grey over grey."""
    if image.mode not in {"LA", "RGBA"}:
        return image
    is_grey = image.mode == "LA" and background[1:3] == background[3:5] == background[5:7]
    colours = image.convert("L" if is_grey else "RGB")
    flat = Image.new(colours.mode, image.size, background)
    flat.paste(colours, mask=image.getchannel("A"))
    return flat


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings pixels of `mode` to sRGB; None where nothing is to be done.

    Whether a profile is sRGB is judged by what it does to a few colours: there are hundreds of
    such profiles, and the names in them can't be relied on.
    """
    if len(profile) > LARGEST_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            source,
            _SRGB,
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        probe = _probe(mode)
        seen = _apply(probe, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "CMYK":
        return transform
    differences = ImageChops.difference(seen, probe.convert("RGB")).tobytes()
    return transform if max(differences) > _SAME_COLOUR_LEVELS else None


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        raise ValueError(image.mode)
    return converted


def _probe(mode: str) -> Image.Image:
    """Return an image with a grey ramp, or the corners and middles of the colour cube."""
    if mode == "L":
        return Image.frombytes("L", (16, 16), bytes(range(256)))
    levels = (0, 32, 64, 128, 192, 255)
    cube = bytes(level for r in levels for g in levels for b in levels for level in (r, g, b))
    probe = Image.frombytes("RGB", (36, 6), cube)
    return probe.convert(mode)


def _from_16_bit(image: Image.Image) -> Image.Image:
    wide = image.convert("I")
    grey = wide.point(_from_16_bit_table(), "L")
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    opaque = [255] * 65536
    opaque[min(transparent, 65535)] = 0
    return Image.merge("LA", (grey, wide.point(opaque, "L")))


@lru_cache(maxsize=1)
def _from_16_bit_table() -> list[int]:
    return [(level * 255 + 32767) // 65535 for level in range(65536)]


def _from_wide(image: Image.Image) -> Image.Image:
    """Return 32-bit samples as grey: of 8 or 16 bits, from 0 to 1, or stretched from end to end."""
    least, most = image.getextrema()
    if not (isinstance(least, int | float) and isinstance(most, int | float)):
        raise TypeError(image.mode)
    scale, offset = 1.0, 0.0
    if not (math.isfinite(least) and math.isfinite(most)):
        pass  # nothing sensible can be said of them: they are clipped
    elif image.mode == "F" and least >= 0 and most <= 1:
        scale = 255.0
    elif least >= 0 and 255 < most <= 65535:
        scale = 1 / 257
    elif least < 0 or most > 65535:
        scale = 255 / max(most - least, 1e-30)
        offset = -least * scale
    return image.convert("F").point(lambda level: level * scale + offset).convert("L")
