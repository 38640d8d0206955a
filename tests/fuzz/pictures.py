"""Bytes that may be an image: walked through, stripped, compressed, in limits that suit a fuzzer.

Compressing goes on in a cage of its own in the service; here a crash of a codec ends the fuzzing.
"""

from __future__ import annotations

from typing import Final

from codec.image_compressor import CompressedImage, ImageLimits, compress
from codec.image_format import SourceFormat, identify
from codec.image_metadata import strip, survey
from decoder_pool import _DECODER_CODES, _read_reply
from errors import ImageError
from request_options import Effort, ImageOptions

LIMITS: Final = ImageLimits(max_pixels=100_000, max_frames=5)
_OPTIONS: Final = ImageOptions(effort=Effort.FAST)
_ORIENTATION_BYTES: Final = 128  # an EXIF field, and a header that a WebP may need for it
_NEVER_STORED: Final = {SourceFormat.BMP, SourceFormat.TIFF}


def check_walk(data: bytes) -> None:
    """Walk through a container and strip it, though no decoder has seen it yet."""
    try:
        source_format = identify(data)
        structure = survey(source_format, data, LIMITS.max_frames)
        assert 0 < structure.end <= len(data)
        assert 1 <= structure.frames <= LIMITS.max_frames
        if source_format not in _NEVER_STORED:
            clean = strip(source_format, data, keep_profile=False, orientation=6)
            assert len(clean) <= len(data) + _ORIENTATION_BYTES
    except ImageError as error:
        _check_error(error)


def check_compression(data: bytes) -> None:
    """Compress an image: one that the service takes, whole and once more to be compressed."""
    try:
        image = compress(data, _OPTIONS, LIMITS)
    except ImageError as error:
        _check_error(error)
        return
    facts = {"format": image.format, "width": image.width, "height": image.height}
    reply = _read_reply(facts | {"quality": image.quality}, image.data, LIMITS)
    assert isinstance(reply, CompressedImage)
    output_format = identify(image.data)
    assert output_format.lower() == image.format
    assert survey(output_format, image.data, LIMITS.max_frames).end == len(image.data)
    again = compress(image.data, _OPTIONS, LIMITS)
    assert (again.width, again.height) == (image.width, image.height)


def _check_error(error: ImageError) -> None:
    assert error.code in _DECODER_CODES
    assert error.detail.endswith(".")
    assert error.detail.isprintable()
