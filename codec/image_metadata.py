"""Asks of an image whether it is whole, and what in it is not the picture.

Owns the two questions for every format that is stored; the walks that answer them are the
`container_*` modules'. Pure, and nothing is decoded.
"""

from __future__ import annotations

from codec import container_avif, container_gif, container_jpeg, container_png, container_webp
from codec.container_structure import Structure
from codec.image_format import SourceFormat


def survey(source_format: SourceFormat, data: bytes, max_frames: int) -> Structure:
    """Walk the container from end to end.

    Raises ImageError `truncated`, `decode_error`, `unsupported_format`, or `too_many_frames`
    as soon as there is one more than `max_frames`. BMP and TIFF have no end to look for.
    """
    match source_format:
        case SourceFormat.JPEG:
            return container_jpeg.survey(data)
        case SourceFormat.PNG:
            return container_png.survey(data, max_frames)
        case SourceFormat.WEBP:
            return container_webp.survey(data, max_frames)
        case SourceFormat.GIF:
            return container_gif.survey(data, max_frames)
        case SourceFormat.AVIF:
            return container_avif.survey(data)
        case SourceFormat.BMP | SourceFormat.TIFF:
            return Structure(len(data))


def strip(
    source_format: SourceFormat,
    data: bytes,
    *,
    keep_profile: bool,
    orientation: int = 1,
    structure: Structure | None = None,
) -> bytes:
    """Return a surveyed image without metadata and trailing bytes, its pixels untouched.

    `structure` is what the survey told, where it is at hand: a JPEG isn't walked through again.
    `keep_profile` keeps the ICC profile (AVIF always keeps it). An `orientation` other than 1
    is written as the only EXIF field left; GIF has none, and AVIF turns by properties of the
    picture. BMP and TIFF are never stored, so they can't be stripped.
    """
    match source_format:
        case SourceFormat.JPEG:
            structure = structure or container_jpeg.survey(data)
            return container_jpeg.strip(
                data, structure, keep_profile=keep_profile, orientation=orientation
            )
        case SourceFormat.PNG:
            return container_png.strip(data, keep_profile=keep_profile, orientation=orientation)
        case SourceFormat.WEBP:
            return container_webp.strip(data, keep_profile=keep_profile, orientation=orientation)
        case SourceFormat.GIF:
            return container_gif.strip(data)
        case SourceFormat.AVIF:
            return container_avif.strip(data)
        case SourceFormat.BMP | SourceFormat.TIFF:
            raise ValueError(source_format)
