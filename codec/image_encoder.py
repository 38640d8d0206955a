"""Encodes a picture: one format, one quality, one effort in; bytes out.

Owns the settings of every encoder. Which format and quality to take, and whether the result
is good enough, is `image_compressor`'s business. The same picture always gives the same bytes.
"""

from __future__ import annotations

import io
import math
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import oxipng
from PIL import Image, ImageFile

from codec import container_avif
from errors import ErrorCode, ImageError
from request_options import Effort

if TYPE_CHECKING:
    from codec.image_loader import Picture


class TargetFormat(StrEnum):
    """What can be stored."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"
    AVIF = "avif"


# The largest side that each format, or its encoder, can write.
_LARGEST_SIDE = {
    TargetFormat.JPEG: 65_500,
    TargetFormat.PNG: 2**31 - 1,
    TargetFormat.WEBP: 16_383,
    TargetFormat.GIF: 65_535,
    TargetFormat.AVIF: 32_768,  # more, and decoders refuse it
}
_FULL_COLOUR_QUALITY = 90  # from here on colours have the resolution of brightness
_OXIPNG_LEVELS = {Effort.FAST: 0, Effort.BALANCED: 2, Effort.BEST: 4}
_WEBP_METHODS = {Effort.FAST: 0, Effort.BALANCED: 2, Effort.BEST: 6}
_LOSSLESS_WEBP = {Effort.FAST: (1, 0), Effort.BALANCED: (2, 50), Effort.BEST: (4, 100)}
_AVIF_SPEEDS = {Effort.FAST: 10, Effort.BALANCED: 8, Effort.BEST: 6}
# The pixels up to which `best` and `balanced` are themselves: a huge image is packed less hard, so
# that it is done within the usual time limit. A second on a quiet core is enough for 0.3 and 1.2
# million pixels of PNG, 2 and 7 of AVIF, 7 and 30 of WebP, 3 and 4 of lossless WebP.
_MOST_PIXELS = {
    TargetFormat.PNG: (8_000_000, 25_000_000),
    TargetFormat.AVIF: (16_000_000, 50_000_000),
    TargetFormat.WEBP: (25_000_000, 50_000_000),
}
_SHORTEST_AVIF_FRAME_MS = 100  # for a frame without a duration: what browsers show it for
_OPAQUE_FROM = 128  # GIF pixels are transparent or not


def encode(
    picture: Picture, target: TargetFormat, quality: int, effort: Effort, *, is_lossless: bool
) -> bytes:
    """Encode the picture; only its first frame where the format has no animation.

    `is_lossless` is heeded by WebP; PNG always is, GIF has 256 colours. A picture with
    transparency must be flattened for JPEG. Raises ImageError `too_many_pixels` for a side
    longer than the format can say.
    """
    largest = _LARGEST_SIDE[target]
    if max(picture.size) > largest:
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS,
            f"A side is longer than the {largest} pixels that a {target.upper()} image can have.",
        )
    effort = _affordable(effort, target, math.prod(picture.size) * len(picture.frames))
    match target:
        case TargetFormat.JPEG:
            return _encode_jpeg(picture.frames[0], quality, effort)
        case TargetFormat.PNG:
            return _encode_png(picture, effort)
        case TargetFormat.WEBP:
            return _encode_webp(picture, quality, effort, is_lossless=is_lossless)
        case TargetFormat.GIF:
            return _encode_gif(picture)
        case TargetFormat.AVIF:
            return _encode_avif(picture, quality, effort)


def pack_png(png: bytes, effort: Effort, pixels: int) -> bytes:
    """Pack the very same pixels tighter. Raises `oxipng.PngError` for a broken file."""
    level = _OXIPNG_LEVELS[_affordable(effort, TargetFormat.PNG, pixels)]
    return oxipng.optimize_from_memory(png, level=level, interlace=oxipng.Interlacing.Off)


def pack_gif(image: Image.Image) -> bytes | None:
    """Pack the very same pixels of a GIF with one frame anew; None where they would change."""
    bare = image.copy()
    bare.info = {key: bare.info[key] for key in ("transparency",) if key in bare.info}
    packed = _save(bare, "GIF", optimize=True)
    with Image.open(io.BytesIO(packed), formats=["GIF"]) as again:
        is_same = again.size == image.size and (
            again.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()
        )
    return packed if is_same else None


def _encode_jpeg(frame: Image.Image, quality: int, effort: Effort) -> bytes:
    # With `optimize` the encoder can't go on in a second buffer; noise at a high quality takes
    # more than the one byte a pixel that Pillow expects.
    ImageFile.MAXBLOCK = max(65536, 6 * frame.width * frame.height)
    return _save(
        frame,
        "JPEG",
        quality=quality,
        subsampling="4:4:4" if quality >= _FULL_COLOUR_QUALITY else "4:2:0",
        optimize=effort is not Effort.FAST,
        progressive=effort is Effort.BEST,
    )


def _affordable(effort: Effort, target: TargetFormat, pixels: int) -> Effort:
    """Return the effort asked for, or less for very many pixels."""
    most_for_best, most_for_balanced = _MOST_PIXELS.get(target, (pixels, pixels))
    if pixels > most_for_balanced:
        return Effort.FAST
    if pixels > most_for_best and effort is Effort.BEST:
        return Effort.BALANCED
    return effort


def _encode_png(picture: Picture, effort: Effort) -> bytes:
    level = _OXIPNG_LEVELS[effort]
    if len(picture.frames) > 1:
        png = _save(picture.frames[0], "PNG", compress_level=1, **_animation(picture))
        return oxipng.optimize_from_memory(png, level=level, interlace=oxipng.Interlacing.Off)
    frame = picture.frames[0]
    colour_types = {
        "L": oxipng.ColorType.grayscale,
        "LA": oxipng.ColorType.grayscale_alpha,
        "RGB": oxipng.ColorType.rgb,
        "RGBA": oxipng.ColorType.rgba,
    }
    raw = oxipng.RawImage(
        frame.tobytes(), frame.width, frame.height, color_type=colour_types[frame.mode]()
    )
    return raw.create_optimized_png(level=level)


def _encode_webp(picture: Picture, quality: int, effort: Effort, *, is_lossless: bool) -> bytes:
    method = _WEBP_METHODS[effort]
    if is_lossless:
        method, quality = _LOSSLESS_WEBP[effort]  # `quality` is how hard it tries
    settings: dict[str, Any] = {"quality": quality, "lossless": is_lossless, "method": method}
    if len(picture.frames) > 1:
        settings |= _animation(picture) | {"background": (0, 0, 0, 0)}
    return _save(picture.frames[0], "WEBP", **settings)


def _encode_avif(picture: Picture, quality: int, effort: Effort) -> bytes:
    settings: dict[str, Any] = {
        "quality": quality,
        "speed": _AVIF_SPEEDS[effort],
        "max_threads": 1,
        "autotiling": False,  # tiles cost bytes, and gain only threads
    }
    if picture.frames[0].mode != "L":
        settings["subsampling"] = "4:4:4" if quality >= _FULL_COLOUR_QUALITY else "4:2:0"
    if len(picture.frames) > 1:
        settings |= _animation(picture)
        settings["duration"] = [ms or _SHORTEST_AVIF_FRAME_MS for ms in picture.durations]
    avif = _save(picture.frames[0], "AVIF", **settings)
    return container_avif.strip(avif) if len(picture.frames) > 1 else avif  # its date differs


def _encode_gif(picture: Picture) -> bytes:
    frames = [_with_palette(frame) for frame in picture.frames]
    settings: dict[str, Any] = {}
    if len(frames) > 1:
        # A frame with holes must not show the one before through them.
        settings = _animation(picture) | {"disposal": 2 if picture.has_alpha else 1}
        settings["append_images"] = frames[1:]
        del settings["loop"]
        if picture.plays != 1:
            settings["loop"] = max(picture.plays - 1, 0)
    return _save(frames[0], "GIF", **settings)


def _with_palette(frame: Image.Image) -> Image.Image:
    """Return the frame in at most 256 colours, one of them the transparent one if it is needed."""
    if frame.mode not in {"LA", "RGBA"}:
        return frame if frame.mode == "L" else frame.quantize(256, Image.Quantize.MEDIANCUT)
    colours = frame.convert("RGB").quantize(255, Image.Quantize.MEDIANCUT)
    palette = colours.getpalette() or []
    colours.putpalette(palette + [0] * (768 - len(palette)))
    hidden = frame.getchannel("A").point([255] * _OPAQUE_FROM + [0] * (256 - _OPAQUE_FROM))
    colours.paste(255, mask=hidden)
    colours.info["transparency"] = 255
    return colours


def _animation(picture: Picture) -> dict[str, Any]:
    return {
        "save_all": True,
        "append_images": picture.frames[1:],
        "duration": picture.durations,
        "loop": picture.plays,
    }


def _save(frame: Image.Image, pillow_format: str, **settings: Any) -> bytes:
    sink = io.BytesIO()
    frame.save(sink, pillow_format, **settings)
    return sink.getvalue()
