"""The program that decodes and encodes apart from the service: one image after the other.

`decoder_pool` starts it, sends an image as a frame on standard input and reads the result
from standard output. Before the first image it gives up what decoding doesn't need: memory
without end, files, more processes, core dumps. It holds no secret and no connection. It ends
when its input ends, and so when the service is gone.
"""

from __future__ import annotations

import io
import math
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from PIL import Image

import decoder_protocol
from codec.image_compressor import ImageLimits, compress
from errors import ImageError
from request_options import ImageOptions, OutputFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

# Encoding AVIF takes the most, 40 bytes a pixel; the input, twice, and the programs come on top.
_ADDRESS_BYTES_PER_PIXEL = 64
_ADDRESS_BYTES = 1 << 30
_MAX_INPUT_BYTES = 1 << 32
_LOG_CHARACTERS = 8000


def main(arguments: Sequence[str]) -> None:
    """Serve until the input ends. Arguments: pixels, frames and seconds that one image may take."""
    limits = ImageLimits(max_pixels=int(arguments[0]), max_frames=int(arguments[1]))
    seconds = float(arguments[2])
    # The terminal's Ctrl-C and a supervisor's SIGTERM are for the service: it finishes its images.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(2, 1)
    _start_codecs(limits)
    _silence_libraries()
    _give_up_resources(limits)
    _write(replies, {"ready": True}, b"")
    while header := requests.read(decoder_protocol.HEADER_BYTES):
        message_bytes, body_bytes = decoder_protocol.unpack_header(header, _MAX_INPUT_BYTES)
        message = decoder_protocol.unpack_message(requests.read(message_bytes))
        _allow_processor_time(seconds)
        _answer(replies, message, requests.read(body_bytes), limits)


def _silence_libraries() -> None:
    """Lose what libraries print from here on: often enough a hostile file's own words."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _start_codecs(limits: ImageLimits) -> None:
    """Use every codec once: what they load lazily and the threads they start are then there."""
    for target in OutputFormat:
        sample = io.BytesIO()
        Image.new("RGB", (8, 8)).save(sample, "TIFF" if target is OutputFormat.KEEP else target)
        compress(sample.getvalue(), ImageOptions(format=target, max_width=4), limits)


def _give_up_resources(limits: ImageLimits) -> None:
    """Lower the limits for good: only a privileged process could raise them again."""
    address_space = _ADDRESS_BYTES + _ADDRESS_BYTES_PER_PIXEL * limits.max_pixels
    with suppress(ValueError, OSError):  # some systems have no such limit
        _limit(resource.RLIMIT_AS, address_space)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_NOFILE, 0)


def _limit(kind: int, value: int) -> None:
    _, hardest = resource.getrlimit(kind)
    lowered = value if hardest == resource.RLIM_INFINITY else min(value, hardest)
    resource.setrlimit(kind, (lowered, lowered))


def _allow_processor_time(seconds: float) -> None:
    """End this process if it computes on far beyond the time after which the pool kills it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    allowed = math.ceil(usage.ru_utime + usage.ru_stime + 2 * seconds + 5)
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    if hardest == resource.RLIM_INFINITY or allowed < hardest:
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, hardest))


def _answer(replies: int, message: dict[str, Any], data: bytes, limits: ImageLimits) -> None:
    try:
        image = compress(data, ImageOptions.from_json(message["options"]), limits)
    except ImageError as error:
        _write(replies, {"code": error.code, "detail": error.detail}, b"")
    except Exception:  # noqa: BLE001  a bug: the pool logs it, as nobody reads this process's output
        _write(replies, {"bug": traceback.format_exc()[-_LOG_CHARACTERS:]}, b"")
    else:
        facts = {
            "format": image.format,
            "width": image.width,
            "height": image.height,
            "quality": image.quality,
        }
        _write(replies, facts, image.data)


def _write(replies: int, message: dict[str, Any], body: bytes) -> None:
    rest = [memoryview(decoder_protocol.pack(message, len(body))), memoryview(body)]
    while rest:
        written = os.writev(replies, rest)
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][written:]


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main(sys.argv[1:])
