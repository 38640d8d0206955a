"""Encodes a picture: one format, one quality, one effort in; bytes out.

Owns the settings of every encoder. Which format and quality to take, and whether the result
is good enough, is `image_compressor`'s business. The same picture always gives the same bytes.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import oxipng

from codec import container_avif, gif_encoder, jpeg_encoder
from codec.image_format import TargetFormat
from errors import ErrorCode, ImageError
from request_options import Effort

if TYPE_CHECKING:
    from PIL import Image

    from codec.picture import Picture

# The largest side that each format, or its encoder, can write.
_LARGEST_SIDE = {
    TargetFormat.JPEG: 65_500,
    TargetFormat.PNG: 2**31 - 1,
    TargetFormat.WEBP: 16_383,
    TargetFormat.GIF: 65_535,
    TargetFormat.AVIF: 32_768,  # more, and decoders refuse it
}
# From here on colours have the resolution of brightness: that takes fewer bytes at equal score.
_FULL_COLOUR_AVIF_QUALITY = 80
_OXIPNG_LEVELS = {Effort.FAST: 0, Effort.BALANCED: 2, Effort.BEST: 4}
_WEBP_METHODS = {Effort.FAST: 0, Effort.BALANCED: 2, Effort.BEST: 6}
# Methods 0 and 1 may write more of the first partition than the format can say, and find that out
# at the end; from 2 on it is heeded on the way. With more pixels than these it isn't tried.
_HEEDFUL_METHOD = 2
_MOST_HEEDLESS_PIXELS = 16_000_000
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
_WEBP_HAS_ALPHA = 0x10  # a flag of its VP8X chunk (RFC 9649)
# Of a WebP animation a million pixels take 5 seconds with `best`, less than 1 with `balanced`. Near
# quality 100 the highest method takes 100, for hardly a byte; the one that is taken there takes 6.
_MOST_PIXELS_OF_BEST_ANIMATION = 4_000_000
_MOST_MINIMISED_PIXELS = 16_000_000
_NEARLY_LOSSLESS, _MOST_NEARLY_LOSSLESS_METHOD = 95, 4
_SHORTEST_AVIF_FRAME_MS = 100  # for a frame without a duration: what browsers show it for
_FAILURES = (ValueError, OSError, RuntimeError, oxipng.PngError)  # of encoders
_MOST_COLOURS, _FEWEST_COLOURS = 256, 8  # of a GIF, or a PNG in few


def encode(
    picture: Picture, target: TargetFormat, quality: int, effort: Effort, *, is_lossless: bool
) -> bytes:
    """Encode the picture; only its first frame where the format has no animation.

    `is_lossless` is heeded by WebP; PNG always is; of a GIF's 256 colours `quality` percent are
    used. A picture with transparency must be flattened for JPEG. Raises ImageError
    `too_many_pixels` for a side longer than the format can say, or what else it can't.
    """
    largest = _LARGEST_SIDE[target]
    if max(picture.size) > largest:
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS,
            f"A side is longer than the {largest} pixels that a {target.upper()} image can have.",
        )
    pixels = math.prod(picture.size) * len(picture.frames)
    effort = affordable(effort, pixels, _MOST_PIXELS.get(target, (pixels, pixels)))
    try:
        return _encode(picture, target, quality, effort, is_lossless=is_lossless)
    except _FAILURES as error:  # with a good picture it's a matter of its size
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS, f"The image is too large to be stored as {target.upper()}."
        ) from error


def _encode(
    picture: Picture, target: TargetFormat, quality: int, effort: Effort, *, is_lossless: bool
) -> bytes:
    match target:
        case TargetFormat.JPEG:
            halved = picture.is_colour_halved
            return jpeg_encoder.encode(picture.frames[0], quality, effort, is_colour_halved=halved)
        case TargetFormat.PNG:
            return _encode_png(picture, effort)
        case TargetFormat.WEBP:
            return _encode_webp(picture, quality, effort, is_lossless=is_lossless)
        case TargetFormat.GIF:
            return _encode_gif(picture, quality)
        case TargetFormat.AVIF:
            return _encode_avif(picture, quality, effort)


def colours_at(quality: int) -> int:
    """Return how many colours a quality from 1 to 100 means to a format that has a palette."""
    return max(_FEWEST_COLOURS, _MOST_COLOURS * quality // 100)


def pack_png(png: bytes, effort: Effort, pixels: int) -> bytes:
    """Pack the very same pixels tighter. Raises `oxipng.PngError` for a broken file."""
    return _pack(png, affordable(effort, pixels, _MOST_PIXELS[TargetFormat.PNG]))


def affordable(effort: Effort, pixels: int, most: tuple[int, int]) -> Effort:
    """Return the effort asked for, or less for more pixels than `best` and `balanced` may have."""
    most_for_best, most_for_balanced = most
    if pixels > most_for_balanced:
        return Effort.FAST
    if pixels > most_for_best and effort is Effort.BEST:
        return Effort.BALANCED
    return effort


def _pack(png: bytes, effort: Effort) -> bytes:
    level = _OXIPNG_LEVELS[effort]
    return oxipng.optimize_from_memory(png, level=level, interlace=oxipng.Interlacing.Off)


def _encode_png(picture: Picture, effort: Effort) -> bytes:
    if len(picture.frames) > 1:
        png = _save(picture.frames[0], "PNG", compress_level=1, **_animation(picture))
        return _pack(png, effort)
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
    return raw.create_optimized_png(level=_OXIPNG_LEVELS[effort])


def _encode_webp(picture: Picture, quality: int, effort: Effort, *, is_lossless: bool) -> bytes:
    is_animated = len(picture.frames) > 1
    pixels = math.prod(picture.size) * len(picture.frames)
    if is_animated and effort is Effort.BEST and pixels > _MOST_PIXELS_OF_BEST_ANIMATION:
        effort = Effort.BALANCED
    method = _WEBP_METHODS[effort]
    if is_lossless:
        method, quality = _LOSSLESS_WEBP[effort]  # `quality` is how hard it tries
    elif math.prod(picture.size) > _MOST_HEEDLESS_PIXELS:
        method = max(method, _HEEDFUL_METHOD)
    settings: dict[str, Any] = {"quality": quality, "lossless": is_lossless, "method": method}
    if not is_animated:
        return _save_webp(picture, settings)
    if quality >= _NEARLY_LOSSLESS:
        settings["method"] = min(method, _MOST_NEARLY_LOSSLESS_METHOD)
    settings |= _animation(picture) | {"background": (0, 0, 0, 0)}
    settings["allow_mixed"] = not is_lossless  # each frame lossless where that is smaller
    # Whole frames in between would be for those who want to begin in the middle.
    settings["minimize_size"] = effort is not Effort.FAST and pixels <= _MOST_MINIMISED_PIXELS
    webp = _save_webp(picture, settings)
    if picture.has_alpha and webp[12:16] == b"VP8X":
        # libwebp looks for alpha in what it writes of a frame, not in what is left out around it.
        webp = webp[:20] + bytes([webp[20] | _WEBP_HAS_ALPHA]) + webp[21:]
    return webp


def _save_webp(picture: Picture, settings: dict[str, Any]) -> bytes:
    try:
        return _save(picture.frames[0], "WEBP", **settings)
    except _FAILURES:
        if settings["method"] >= _HEEDFUL_METHOD:
            raise
    return _save(picture.frames[0], "WEBP", **settings | {"method": _HEEDFUL_METHOD})


def _encode_avif(picture: Picture, quality: int, effort: Effort) -> bytes:
    settings: dict[str, Any] = {
        "quality": quality,
        "speed": _AVIF_SPEEDS[effort],
        "max_threads": 1,
        "autotiling": False,  # tiles cost bytes, and gain only threads
    }
    first = picture.frames[0]
    if first.mode != "L":
        is_full = quality >= _FULL_COLOUR_AVIF_QUALITY or jpeg_encoder.has_colour_edges(first)
        settings["subsampling"] = "4:4:4" if is_full else "4:2:0"
    if len(picture.frames) > 1:
        settings |= _animation(picture)
        settings["duration"] = [ms or _SHORTEST_AVIF_FRAME_MS for ms in picture.durations]
    avif = _save(picture.frames[0], "AVIF", **settings)
    if len(picture.frames) == 1:
        return avif
    return container_avif.with_plays(container_avif.strip(avif), picture.plays)  # its date differs


def _encode_gif(picture: Picture, quality: int) -> bytes:
    gif = gif_encoder.encode(gif_encoder.reduced(picture, colours_at(quality)))
    assert gif is not None  # noqa: S101  as reduced, every frame has few enough
    return gif


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
