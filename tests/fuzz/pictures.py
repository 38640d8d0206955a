"""Targets: bytes that may be an image, and what a decoder says of them.

Compressing goes on in a cage of its own in the service; here a crash of a codec ends the fuzzing.
"""

from __future__ import annotations

import json
import re
from typing import Final

from codec.compressed_image import CompressedImage, ImageLimits
from codec.image_compressor import compress
from codec.image_format import SourceFormat, identify
from codec.image_metadata import strip, survey
from decoder.decoder_pool import _DECODER_CODES, _read_reply
from decoder.decoder_protocol import (
    HEADER_BYTES,
    ProtocolError,
    pack,
    unpack_header,
    unpack_message,
)
from errors import ErrorCode, ImageError
from request_options import Effort, ImageOptions

LIMITS: Final = ImageLimits(max_pixels=100_000, max_frames=5)
_MAX_BODY_BYTES: Final = 1000
_OPTIONS: Final = ImageOptions(effort=Effort.FAST)
_ORIENTATION_BYTES: Final = 128  # an EXIF field, and a header that a WebP may need for it
_NEVER_STORED: Final = {SourceFormat.BMP, SourceFormat.TIFF}


def image_container(data: bytes) -> None:
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


def image_compression(data: bytes) -> None:
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


def decoder_frame(data: bytes) -> None:
    """Read a frame off a decoder's pipe: what a limit allows, or a ProtocolError."""
    if len(data) < HEADER_BYTES:
        return  # the pipe's end
    try:
        message_bytes, body_bytes = unpack_header(data[:HEADER_BYTES], _MAX_BODY_BYTES)
        text = data[HEADER_BYTES : HEADER_BYTES + message_bytes]
        message = unpack_message(text)
    except ProtocolError:
        return
    assert message_bytes <= 64 * 1024
    assert body_bytes <= _MAX_BODY_BYTES
    frame = pack(message, body_bytes)
    again = unpack_message(frame[HEADER_BYTES:])
    assert json.dumps(again) == json.dumps(message)  # NaN is no equal of itself
    _check_answer(text, data[HEADER_BYTES + message_bytes :][:body_bytes])


def decoder_reply(data: bytes) -> None:
    """Read a decoder's answer, JSON and body apart by a NUL: sound, or a ProtocolError."""
    text, _, body = data.partition(b"\0")
    _check_answer(text, body)


def _check_answer(text: bytes, body: bytes) -> None:
    try:
        outcome = _read_reply(unpack_message(text), body, LIMITS)
    except ProtocolError:
        return
    if isinstance(outcome, CompressedImage):
        assert outcome.data == body != b""
        assert outcome.format in {"jpeg", "png", "webp", "gif", "avif"}
        assert type(outcome.width) is type(outcome.height) is int
        assert 0 < outcome.width * outcome.height <= LIMITS.max_pixels
        assert outcome.width > 0
        assert re.fullmatch(r"[a-z]{1,10}|[0-9]{1,3}", outcome.quality)
    else:
        assert outcome.code in set(ErrorCode)
        assert len(outcome.detail) <= 500
        assert outcome.detail.isprintable()


def _check_error(error: ImageError) -> None:
    assert error.code in _DECODER_CODES
    assert error.detail.endswith(".")
    assert error.detail.isprintable()
