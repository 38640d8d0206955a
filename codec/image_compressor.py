"""Makes an image smaller: bytes in, fewer bytes of the same picture out.

Owns the decisions: which format is stored, at which quality and size, and when the original
pixels are the best answer. How to read, understand and write each format is for the modules
below. Pure: no file, no socket, no clock; the same input gives the same bytes. Hostile input
may still crash or hang a codec, so a service runs this in a process apart
(`decoder_process`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import oxipng

from codec import image_encoder, image_loader, image_metadata
from codec.image_encoder import TargetFormat
from codec.image_format import SourceFormat, identify
from errors import ErrorCode, ImageError
from request_options import OutputFormat

if TYPE_CHECKING:
    from codec.image_loader import Picture, Source
    from request_options import Effort, ImageOptions

# `auto`: qualities at which photos of each format look about the same.
_AUTO_QUALITY = {TargetFormat.JPEG: 75, TargetFormat.WEBP: 75, TargetFormat.AVIF: 60}
_ANIMATED = frozenset([TargetFormat.GIF, TargetFormat.WEBP, TargetFormat.PNG, TargetFormat.AVIF])
# Steps of each side that are tried when no quality fits into max_bytes; never below half.
_SCALES = (0.84, 0.71, 0.59, 0.5)
_LOWEST_QUALITY_WHILE_SHRINKING = 30  # but at half the size any quality is right
# A small photo that had to be turned may grow; this far the quality goes down against that.
_UPRIGHT_QUALITY_STEP = 10
_LOWEST_UPRIGHT_QUALITY = 35


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one image may have: pixels of all frames together, and frames."""

    max_pixels: int
    max_frames: int


@dataclass(frozen=True, slots=True)
class CompressedImage:
    """An image to store.

    `quality` is a number, `lossless`, `palette` (a GIF made anew, 256 colours), or `original`: the
    input's pixels. `hint` is a sentence about what would have saved more, where there is one.
    """

    data: bytes
    format: str
    width: int
    height: int
    quality: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How a picture is encoded, but for the quality."""

    target: TargetFormat
    effort: Effort
    is_lossless: bool

    def encode(self, picture: Picture, quality: int) -> CompressedImage:
        data = image_encoder.encode(
            picture, self.target, quality, self.effort, is_lossless=self.is_lossless
        )
        said = "lossless" if self.is_lossless else str(quality)
        if self.target is TargetFormat.GIF:
            said = "palette"
        return CompressedImage(data, self.target, *picture.size, said)


def compress(data: bytes, options: ImageOptions, limits: ImageLimits) -> CompressedImage:
    """Compress one image as asked.

    Raises ImageError `not_an_image`, `unsupported_format`, `decode_error`, `truncated`,
    `too_many_pixels`, `too_many_frames` or `max_bytes_unreachable`.
    """
    try:
        source = _open(data, limits)
        size = _fit(source.size, options)
        compressed = _repack(source, size, options) or _reencode(source, size, options)
        return _prefer_original(compressed, source, options)
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
    bare = image_metadata.strip(source.format, source.data, keep_profile=False)
    try:
        packed = image_encoder.pack_png(
            bare, options.effort, math.prod(source.size) * source.frames
        )
    except oxipng.PngError:
        return None  # it is strict: what Pillow reads all the same is encoded anew
    return CompressedImage(packed, TargetFormat.PNG, *source.size, "lossless")


def _repack_gif(source: Source) -> CompressedImage:
    image_loader.check(source)
    bare = image_metadata.strip(source.format, source.data, keep_profile=False)
    packed = image_encoder.pack_gif(source.image) if source.frames == 1 else None
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
    is_kept = options.format is OutputFormat.KEEP
    recipe = _Recipe(
        target,
        options.effort,
        is_lossless=target not in _AUTO_QUALITY or (is_kept and source.structure.is_lossless),
    )
    quality = options.quality or _AUTO_QUALITY.get(target, 100)
    compressed = recipe.encode(picture, quality)
    if options.max_bytes and len(compressed.data) > options.max_bytes:
        return _squeeze(picture, recipe, quality, options.max_bytes)
    if not options.asks_only_compression or len(compressed.data) <= len(source.data):
        return compressed
    if source.orientation != 1:
        return _beat_input(picture, recipe, quality, compressed, len(source.data))
    if _kept_format(source) is None and target is TargetFormat.JPEG:
        # A BMP or TIFF of few pixels or few colours packs better without a loss.
        png = replace(recipe, target=TargetFormat.PNG, is_lossless=True).encode(picture, quality)
        return min(compressed, png, key=lambda image: len(image.data))
    return compressed


def _squeeze(picture: Picture, recipe: _Recipe, quality: int, max_bytes: int) -> CompressedImage:
    """Find the best that fits: by quality alone, else by as little fewer pixels as it takes."""
    if fitting := _bisect(picture, recipe, (1, quality - 1), max_bytes):
        return fitting
    width, height = picture.size
    for scale in _SCALES:
        smaller = picture.resized((math.ceil(width * scale), math.ceil(height * scale)))
        lowest = 1 if scale == _SCALES[-1] else min(quality, _LOWEST_QUALITY_WHILE_SHRINKING)
        if fitting := _bisect(smaller, recipe, (lowest, quality), max_bytes):
            return fitting
    raise ImageError(
        ErrorCode.MAX_BYTES_UNREACHABLE,
        f"Even at half its size and the lowest quality the image has more than {max_bytes} bytes.",
    )


def _bisect(
    picture: Picture, recipe: _Recipe, qualities: tuple[int, int], max_bytes: int
) -> CompressedImage | None:
    """Return the image of the best quality in a range that fits; None if the lowest doesn't."""
    lowest, highest = (qualities[1],) * 2 if recipe.is_lossless else qualities
    best = recipe.encode(picture, lowest)
    if len(best.data) > max_bytes:
        return None
    while lowest < highest:
        middle = (lowest + highest + 1) // 2
        candidate = recipe.encode(picture, middle)
        if len(candidate.data) <= max_bytes:
            best, lowest = candidate, middle
        else:
            highest = middle - 1
    return best


def _beat_input(
    picture: Picture, recipe: _Recipe, quality: int, compressed: CompressedImage, input_bytes: int
) -> CompressedImage:
    """Lower the quality of an image that had to be turned until it is smaller than the input."""
    while len(compressed.data) > input_bytes and not recipe.is_lossless:
        quality -= _UPRIGHT_QUALITY_STEP
        if quality < _LOWEST_UPRIGHT_QUALITY:
            break
        compressed = recipe.encode(picture, quality)
    return compressed


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
    )
    if len(bare) > len(compressed.data):
        return compressed
    if source.format is SourceFormat.AVIF:
        # What it calls metadata, and is blank now, may have been the picture.
        image_loader.check(image_loader.open_source(bare, source.format, source.structure))
    return replace(compressed, data=bare, quality="original")
