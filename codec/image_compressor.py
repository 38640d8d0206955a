"""Makes an image smaller: bytes in, fewer bytes of the same picture out.

Owns the decisions: which format is stored, at which quality and size, and when the original
pixels are the best answer. How to read, understand and write each format is for the modules
below. Pure: no file, no socket, no clock; the same input gives the same bytes. Hostile input
may still crash or hang a codec, so a service runs this in a process apart
(`decoder_process`).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import oxipng

from codec import (
    format_hint,
    gif_encoder,
    image_encoder,
    image_loader,
    image_metadata,
    likeness,
    png_palette,
    quality_predictor,
    size_ceiling,
)
from codec.compressed_image import CompressedImage
from codec.encoding import HIGHEST_QUALITY, Encoding
from codec.image_format import SourceFormat, TargetFormat, identify
from codec.picture import Picture
from errors import ErrorCode, ImageError
from request_options import Effort, OutputFormat

if TYPE_CHECKING:
    from codec.compressed_image import ImageLimits
    from codec.image_loader import Source
    from request_options import ImageOptions

_LOSSY = frozenset([TargetFormat.JPEG, TargetFormat.WEBP, TargetFormat.AVIF])
_LOSSLESS_FORMATS = frozenset(
    [SourceFormat.PNG, SourceFormat.GIF, SourceFormat.BMP, SourceFormat.TIFF]
)
_ANIMATED = frozenset([TargetFormat.GIF, TargetFormat.WEBP, TargetFormat.PNG, TargetFormat.AVIF])
# A small photo that had to be turned may grow; this far the quality goes down against that.
_LOWEST_UPRIGHT_QUALITY = 35
# Of so many pixels a ceiling's trials would take too long with more effort.
_MOST_PIXELS_OF_TRIALS = 25_000_000
_MOST_PIXELS_OF_PNG_TRIALS = (2_000_000, 8_000_000)  # with `best`, with `balanced`
# Drawings have few colours, photos soon more than this; and where there are few, a lossless
# WebP may be smaller than any other.
_FEW_COLOURS = 4096


def compress(data: bytes, options: ImageOptions, limits: ImageLimits) -> CompressedImage:
    """Compress one image as asked.

    Raises ImageError `not_an_image`, `unsupported_format`, `decode_error`, `truncated`,
    `too_many_pixels`, `too_many_frames` or `max_bytes_unreachable`.
    """
    try:
        source = _open(data, limits)
        has_alpha = source.image.has_transparency_data  # which decoding may change
        size = _fit(source.size, options)
        compressed = _repack(source, size, options) or _reencode(source, size, options)
        compressed = _prefer_original(compressed, source, options)
        hint = _hint(compressed, source, options, limits, has_alpha=has_alpha)
        return replace(compressed, hint=hint)
    except MemoryError:
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS, "The image takes more memory than one image may."
        ) from None


def _open(data: bytes, limits: ImageLimits) -> Source:
    """Read what the headers tell, and hold it against the limits before anything is decoded."""
    source_format = identify(data)
    structure = image_metadata.survey(source_format, data, limits.max_frames)
    _check_pixels(structure.width, structure.height, structure.frames, limits)
    source = image_loader.open_source(data, source_format, structure)
    if source.frames > limits.max_frames:
        raise ImageError(
            ErrorCode.TOO_MANY_FRAMES, f"The animation has more than {limits.max_frames} frames."
        )
    _check_pixels(*source.size, source.frames, limits)
    return source


def _check_pixels(width: int, height: int, frames: int, limits: ImageLimits) -> None:
    if width * height * frames > limits.max_pixels:
        times = f" times {frames} frames" if frames > 1 else ""
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS,
            f"The image has {width} by {height} pixels{times}; {limits.max_pixels} are the limit.",
        )


def _fit(size: tuple[int, int], options: ImageOptions) -> tuple[int, int]:
    """Return the largest size of the same shape inside max_width and max_height."""
    width, height = size
    most_width, most_height = options.max_width or width, options.max_height or height
    if width <= most_width and height <= most_height:
        return size
    if width * most_height >= height * most_width:
        return most_width, max(1, (2 * height * most_width + width) // (2 * width))
    return max(1, (2 * width * most_height + height) // (2 * height)), most_height


def _kept_format(source: Source) -> TargetFormat | None:
    """Return what the input is stored as when its format is kept; None for BMP and TIFF."""
    if source.format in {SourceFormat.BMP, SourceFormat.TIFF}:
        return None
    return TargetFormat(source.format.lower())


def _target_format(source: Source, options: ImageOptions) -> TargetFormat | None:
    """Return the format to store; None where it depends on transparency."""
    if options.format is OutputFormat.KEEP:
        return _kept_format(source)
    return TargetFormat(options.format)


def _repack(source: Source, size: tuple[int, int], options: ImageOptions) -> CompressedImage | None:
    """Keep every pixel of a PNG or GIF and pack it tighter; None if that is not what's asked."""
    is_untouched = size == source.size and source.orientation == 1 and source.profile is None
    if not is_untouched or _target_format(source, options) is not _kept_format(source):
        return None
    repacked = None
    if source.format is SourceFormat.PNG:
        repacked = _repack_png(source, options)
    elif source.format is SourceFormat.GIF:
        repacked = _repack_gif(source)
    if repacked and options.max_bytes and len(repacked.data) > options.max_bytes:
        return None
    return repacked


def _repack_png(source: Source, options: ImageOptions) -> CompressedImage | None:
    if source.frames > 1:
        image_loader.check(source)
    elif _may_lose_colours(source.size, options):
        picture = image_loader.load(source, source.size, is_animated=False)
        if reduced := _in_few_colours(picture, options):
            return reduced
    bare = image_metadata.strip(source.format, source.data, keep_profile=False)
    pixels = math.prod(source.size) * source.frames
    effort = _affordable_effort(TargetFormat.PNG, pixels, options)
    try:
        packed = image_encoder.pack_png(bare, effort, pixels)
    except oxipng.PngError:
        return None  # it is strict: what Pillow reads all the same is encoded anew
    return CompressedImage(packed, TargetFormat.PNG, *source.size, "lossless")


def _may_lose_colours(size: tuple[int, int], options: ImageOptions) -> bool:
    return options.quality != HIGHEST_QUALITY and math.prod(size) <= png_palette.LARGEST_PIXELS


def _in_few_colours(picture: Picture, options: ImageOptions) -> CompressedImage | None:
    """Make a PNG with fewer colours; None where that wouldn't look right or save much."""
    if len(picture.frames) > 1 or not _may_lose_colours(picture.size, options):
        return None
    score = png_palette.score_for(options.quality)
    frame = png_palette.reduce(picture.frames[0], score)
    if frame is None:
        return None
    reduced = Picture([frame], picture.durations)
    data = image_encoder.encode(
        reduced, TargetFormat.PNG, HIGHEST_QUALITY, options.effort, is_lossless=True
    )
    return CompressedImage(data, TargetFormat.PNG, *picture.size, "palette")


def _repack_gif(source: Source) -> CompressedImage:
    bare = image_metadata.strip(source.format, source.data, keep_profile=False)
    packed = gif_encoder.encode(image_loader.load(source, source.size, is_animated=True))
    if packed is None or len(packed) >= len(bare):
        return CompressedImage(bare, TargetFormat.GIF, *source.size, "original")
    return CompressedImage(packed, TargetFormat.GIF, *source.size, "lossless")


def _reencode(source: Source, size: tuple[int, int], options: ImageOptions) -> CompressedImage:
    """Decode, and encode at the quality asked for or the best that fits into max_bytes."""
    target = _target_format(source, options)
    picture = image_loader.load(source, size, is_animated=target in _ANIMATED)
    if target is None:
        target = TargetFormat.PNG if picture.has_alpha else TargetFormat.JPEG
    if target is TargetFormat.JPEG:
        picture = picture.flattened(options.background)
    pixels = math.prod(picture.size) * len(picture.frames)
    encoding = Encoding(target, _affordable_effort(target, pixels, options))
    quality = _quality(source, picture, encoding, options)
    compressed = _encode(source, picture, encoding, quality, options)
    if options.max_bytes and len(compressed.data) > options.max_bytes:
        return _squeeze(picture, encoding, quality, compressed, options.max_bytes)
    if not options.asks_only_compression or len(compressed.data) <= len(source.data):
        return compressed
    if source.orientation != 1:
        return _beat_input(picture, encoding, quality, compressed, len(source.data))
    if _kept_format(source) is None and target is TargetFormat.JPEG:
        # A BMP or TIFF of few pixels or few colours packs better without a loss.
        png = replace(encoding, target=TargetFormat.PNG).encode(picture, HIGHEST_QUALITY)
        return min(compressed, png, key=_size_bytes)
    return compressed


def _affordable_effort(target: TargetFormat, pixels: int, options: ImageOptions) -> Effort:
    """Return the effort asked for, or less for a large image that may take several trials."""
    if not options.max_bytes:
        return options.effort
    most = (_MOST_PIXELS_OF_TRIALS, _MOST_PIXELS_OF_TRIALS)
    if target is TargetFormat.PNG:
        most = _MOST_PIXELS_OF_PNG_TRIALS
    return image_encoder.affordable(options.effort, pixels, most)


def _quality(source: Source, picture: Picture, encoding: Encoding, options: ImageOptions) -> int:
    """Return the number asked for, or the one that `auto` takes; PNG and GIF keep everything.

    So does a lossless animation whose format is kept, unless that is too large.
    """
    is_kept = options.format is OutputFormat.KEEP and not options.max_bytes
    stays_lossless = is_kept and source.structure.is_lossless and len(picture.frames) > 1
    if stays_lossless or encoding.target not in _LOSSY:
        return HIGHEST_QUALITY
    return options.quality or quality_predictor.predict(picture, encoding.target, encoding.effort)


def _encode(
    source: Source, picture: Picture, encoding: Encoding, quality: int, options: ImageOptions
) -> CompressedImage:
    """Encode, as a WebP without a loss where that is smaller or nothing else is right.

    A lossless WebP whose format is kept stays one unless the lossy one looks like it.
    """
    if encoding.target is TargetFormat.PNG and (reduced := _in_few_colours(picture, options)):
        return reduced
    if encoding.target is not TargetFormat.WEBP or not _is_lossless(source):
        return encoding.encode(picture, quality)
    exact = replace(encoding, is_lossless=True)
    is_kept = options.format is OutputFormat.KEEP
    if quality == HIGHEST_QUALITY or (is_kept and len(picture.frames) > 1):
        return exact.encode(picture, quality)
    lossy = encoding.encode(picture, quality)
    if is_kept and not likeness.looks_right(picture.frames[0], lossy.data):
        return exact.encode(picture, quality)
    if _has_few_colours(picture):
        return min(exact.encode(picture, quality), lossy, key=_size_bytes)
    return lossy


def _is_lossless(source: Source) -> bool:
    return source.structure.is_lossless or source.format in _LOSSLESS_FORMATS


def _has_few_colours(picture: Picture) -> bool:
    """Tell drawings from photos; frames of an animation are packed as is best for each anyway."""
    return len(picture.frames) == 1 and bool(picture.frames[0].getcolors(_FEW_COLOURS))


def _size_bytes(image: CompressedImage) -> int:
    return len(image.data)


def _squeeze(
    picture: Picture, encoding: Encoding, quality: int, compressed: CompressedImage, max_bytes: int
) -> CompressedImage:
    """Find the best that fits, starting from one that doesn't."""
    if compressed.quality == "lossless" and encoding.target is TargetFormat.WEBP:
        compressed = encoding.encode(picture, quality)
        if len(compressed.data) <= max_bytes:
            return compressed
    return size_ceiling.fit(picture, encoding, quality, len(compressed.data), max_bytes)


def _beat_input(
    picture: Picture,
    encoding: Encoding,
    quality: int,
    compressed: CompressedImage,
    input_bytes: int,
) -> CompressedImage:
    """Lower the quality of an image that had to be turned until it is smaller than the input."""
    if encoding.target is TargetFormat.PNG or compressed.quality == "lossless":
        return compressed
    qualities = _LOWEST_UPRIGHT_QUALITY, quality
    return (
        size_ceiling.lower(picture, encoding, qualities, len(compressed.data), input_bytes)
        or compressed
    )


def _prefer_original(
    compressed: CompressedImage, source: Source, options: ImageOptions
) -> CompressedImage:
    """Store the original pixels without metadata where that is as right and no larger."""
    is_same_shape = (compressed.width, compressed.height) == source.size
    if compressed.format != _kept_format(source) or not is_same_shape:
        return compressed
    is_too_large = options.asks_only_compression and len(compressed.data) > len(source.data)
    if source.orientation != 1 and not is_too_large:
        return compressed
    bare = image_metadata.strip(
        source.format,
        source.data,
        keep_profile=source.profile is not None,
        orientation=source.orientation,
        structure=source.structure,
    )
    if len(bare) > len(compressed.data):
        return compressed
    if source.format is SourceFormat.AVIF:
        # What it calls metadata, and is blank now, may have been the picture.
        image_loader.check(image_loader.open_source(bare, source.format, source.structure))
    return replace(compressed, data=bare, quality="original")


def _hint(
    compressed: CompressedImage,
    source: Source,
    options: ImageOptions,
    limits: ImageLimits,
    *,
    has_alpha: bool,
) -> str:
    """Say what a PNG would have saved in another format; a trial takes less than the PNG did."""
    is_kept_png = options.format is OutputFormat.KEEP and compressed.format == TargetFormat.PNG
    is_huge = compressed.width * compressed.height > png_palette.LARGEST_PIXELS
    if not is_kept_png or is_huge or source.frames > 1:
        return ""

    def encode(target: OutputFormat) -> bytes:
        return compress(source.data, replace(options, format=target, max_bytes=None), limits).data

    with suppress(MemoryError):  # the image is done, whatever becomes of a trial
        return format_hint.hint(len(compressed.data), encode, has_alpha=has_alpha)
    return ""
