"""Decodes an image into what shall be seen: upright frames in sRGB, of the size asked for.

Owns opening and decoding through Pillow, in which every exception counts as the image's own
fault, and the order of the steps on each frame. Colours are `image_colour`'s business.
"""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageChops,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.JpegImagePlugin import get_sampling

from codec import (
    colour_profile,
    container_png,
    container_tiff,
    gif_canvas,
    image_colour,
    image_metadata,
    image_scaler,
    jpeg_scans,
)
from codec.container_structure import LARGEST_PROFILE_BYTES, Structure, cut_short
from codec.image_format import SourceFormat, unsupported
from codec.picture import Picture
from errors import ErrorCode, ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Imported here, so that nothing is left to be loaded later, where no file can be opened.
_PLUGINS = (
    *(AvifImagePlugin, BmpImagePlugin, GifImagePlugin, JpegImagePlugin),
    *(PngImagePlugin, TiffImagePlugin, WebPImagePlugin),
)
# Pixels are counted here before anything is decoded, and all frames of them.
Image.MAX_IMAGE_PIXELS = None
# Of a PNG, only the profile unpacks to something; its texts are taken out before.
PngImagePlugin.MAX_TEXT_CHUNK = LARGEST_PROFILE_BYTES
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there are as many processes as cores

# Stands for the end of a JPEG. A decoder that lacks pixels asks for more after these, where it
# would fill the picture up with grey when it saw the end.
_NO_MORE_JPEG = bytes(16)
# Metadata can cost more than the picture: what unpacks to a gigabyte, or comes in a million pieces.
_OPENED_BARE = frozenset([SourceFormat.JPEG, SourceFormat.PNG, SourceFormat.GIF])
_REDUCING_GAP = 3.0  # how much larger than asked a picture may be decoded, hardly to be seen
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MOST_PLAYS = 65_535  # that WebP can say
_HALVED = 2  # Pillow's name for 4:2:0
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


@dataclass(frozen=True, slots=True)
class Source:
    """An image whose headers are read; `frames` and `image` are still to be decoded."""

    data: bytes
    format: SourceFormat
    structure: Structure
    image: Image.Image
    frames: int
    orientation: int
    profile: bytes | None  # only one that isn't sRGB

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height of the upright image."""
        width, height = self.image.size
        return (height, width) if self.orientation >= 5 else (width, height)


def open_source(data: bytes, source_format: SourceFormat, structure: Structure) -> Source:
    """Read the headers. Raises ImageError `decode_error`, `truncated`, `unsupported_format`."""
    picture = data
    if source_format in _OPENED_BARE:
        picture = image_metadata.strip(source_format, data, keep_profile=True, structure=structure)
    if structure.scans == 1:
        picture = b"".join([memoryview(picture)[:-2], _NO_MORE_JPEG])
    with _blaming_the_image(data, source_format):
        image = Image.open(io.BytesIO(picture), formats=[source_format.value])
    if structure.scans > 1:
        jpeg_scans.watch(image)
    if source_format is SourceFormat.TIFF:
        container_tiff.check(image, len(data))
    mode = _mode(image, data)
    profile = colour_profile.find(image, mode, structure)
    if profile is not None and not image_colour.is_foreign(profile, mode):
        profile = None
    return Source(
        data,
        source_format,
        structure,
        image,
        getattr(image, "n_frames", 1) if source_format is SourceFormat.AVIF else structure.frames,
        _read_orientation(structure.exif or image.info.get("exif", b"")),
        profile,
    )


def load(source: Source, size: tuple[int, int], *, is_animated: bool) -> Picture:
    """Decode, and bring upright to `size`; only the first frame if not `is_animated`.

    Raises ImageError `decode_error` or `truncated`.
    """
    with _blaming_the_image(source.data, source.format):
        _check_png_pixels(source)
        if source.format is SourceFormat.GIF:
            return _load_gif(source, size, is_animated=is_animated)
        if source.frames == 1 or not is_animated:
            frame = _detach(_load_frame(source, size), source)
            is_halved = size == source.size and get_sampling(source.image) == _HALVED
            return Picture([frame], [0], is_colour_halved=is_halved)
        return _load_animation(source, size)


def check(source: Source) -> None:
    """Decode every frame and keep none. Raises ImageError `decode_error` or `truncated`."""
    with _blaming_the_image(source.data, source.format):
        _check_png_pixels(source)
        for index in _frame_indexes(source):
            source.image.seek(index)
            source.image.load()


def _check_png_pixels(source: Source) -> None:
    if source.format is SourceFormat.PNG and not container_png.has_whole_pixels(source.data):
        raise cut_short()


def _frame_indexes(source: Source) -> range:
    """Return Pillow's numbers of the frames; a PNG may have a still picture before them."""
    first = 1 if getattr(source.image, "default_image", False) else 0
    return range(first, first + source.frames)


def _load_animation(source: Source, size: tuple[int, int]) -> Picture:
    frames, durations = [], []
    for index in _frame_indexes(source):
        source.image.seek(index)
        frame = _load_frame(source, size)
        duration = source.image.info.get("duration", 0)
        frames.append(_detach(frame, source))
        durations.append(round(duration))
    return Picture(_in_one_mode(frames), durations, _read_plays(source))


def _load_gif(source: Source, size: tuple[int, int], *, is_animated: bool) -> Picture:
    frames, durations = [], []
    for drawn, duration in gif_canvas.draw(source.data, source.size):
        frame = image_colour.without_unused_alpha(drawn)
        if frame.size != size:
            frame = image_scaler.scale(frame, size)
        frames.append(frame)
        durations.append(duration)
        if not is_animated:
            break
    return Picture(_in_one_mode(frames), durations, _read_plays(source))


def _in_one_mode(frames: list[Image.Image]) -> list[Image.Image]:
    modes = {frame.mode for frame in frames}
    if len(modes) == 1:
        return frames
    mode = "RGBA" if modes & {"LA", "RGBA"} else "RGB"
    return [frame.convert(mode) for frame in frames]


def _detach(frame: Image.Image, source: Source) -> Image.Image:
    """Return pixels alone, without metadata; a file of several frames would give them all."""
    if frame is source.image and getattr(source.image, "is_animated", False):
        frame = frame.copy()
    frame.info = {}
    return frame


def _load_frame(source: Source, size: tuple[int, int]) -> Image.Image:
    image = source.image
    lying = size if source.orientation < 5 else size[::-1]
    extent = None
    if image.size != lying:
        drafted = image.draft(None, tuple(int(side * _REDUCING_GAP) for side in lying))  # type: ignore[arg-type]
        extent = drafted[1][2:] if drafted else None
    image.load()
    _mend_png_transparency(source)
    frame = _to_plain(source)
    if frame.size != lying:
        frame = image_scaler.scale(frame, lying, extent)
    frame = image_colour.to_srgb(frame, source.profile)
    if source.orientation != 1:
        frame = frame.transpose(_TRANSPOSITIONS[source.orientation])
    if source.frames == 1:
        is_bmp = source.format is SourceFormat.BMP
        frame = image_colour.without_unused_alpha(frame, is_zero_unused=is_bmp)
    return frame


def _to_plain(source: Source) -> Image.Image:
    """Mend what Pillow leaves unsaid: grey with alpha as colours, black that is white."""
    image = source.image
    frame = image_colour.to_plain(image)
    if _mode(image, source.data) != image.mode:
        return frame.convert("LA")
    is_deep_tiff = source.format is SourceFormat.TIFF and image.mode in {"I;16", "F"}
    if is_deep_tiff and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return ImageChops.invert(frame)
    return frame


def _mode(image: Image.Image, data: bytes) -> str:
    """Return Pillow's mode of an opened image, but for a PNG's grey of 16 bits with alpha."""
    is_deep_grey = image.format == "PNG" and data[24:26] == b"\x10\x04"
    return "LA" if is_deep_grey else image.mode


def _mend_png_transparency(source: Source) -> None:
    """Bring the transparent colour of a PNG to the 8 bits that Pillow brings the pixels to."""
    transparent = source.image.info.get("transparency")
    if source.format is not SourceFormat.PNG or transparent is None:
        return
    depth = source.data[24]
    if source.image.mode == "L" and depth < 8:
        source.image.info["transparency"] = transparent * 255 // ((1 << depth) - 1) & 255
    elif source.image.mode == "RGB" and depth == 16:
        source.image.info["transparency"] = tuple(level >> 8 for level in transparent)


def _read_orientation(block: bytes) -> int:
    """Read the EXIF orientation, 1 to 8. TIFF is turned by Pillow as it decodes."""
    if not block:
        return 1
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif.load(block)
            orientation = exif.get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  whatever broken EXIF does, the picture is still one
        return 1
    return orientation if orientation in _TRANSPOSITIONS else 1


def _read_plays(source: Source) -> int:
    """Read how often an animation runs; GIF counts the runs after the first."""
    if source.format is SourceFormat.AVIF:
        return min(source.structure.plays, _MOST_PLAYS)
    loop = source.image.info.get("loop")
    if source.format is SourceFormat.GIF:
        return 1 if loop is None else loop + 1 if loop else 0
    return min(loop or 0, _MOST_PLAYS)


@contextmanager
def _blaming_the_image(data: bytes, source_format: SourceFormat) -> Iterator[None]:
    """Turn whatever Pillow raises while it decodes into an ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        if "truncated" in str(error).lower() or _is_short(data, source_format):
            raise cut_short() from error
        if str(error).startswith("Unsupported"):
            raise unsupported(f"a rare kind of {source_format}") from error
        raise ImageError(
            ErrorCode.DECODE_ERROR, "The image is broken, or too unusual to be decoded."
        ) from error


def _is_short(data: bytes, source_format: SourceFormat) -> bool:
    """Tell of a BMP or TIFF that fails whether there is less of it than it says."""
    if source_format is SourceFormat.BMP:
        return int.from_bytes(data[2:6], "little") > len(data)
    return source_format is SourceFormat.TIFF and container_tiff.is_short(data)
