"""The program that decodes and encodes apart from the service: one image after the other.

`decoder_pool` starts it, sends an image as a frame on standard input and reads the result
from standard output. Before the first image it gives up what decoding doesn't need, by the bars of
`decoder_cage`. It holds no secret and no connection. It ends when its input ends, and so when the
service is gone.
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
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from codec.compressed_image import ImageLimits
from codec.image_compressor import compress
from codec.tile_judge import SMALLEST_SIDE
from decoder import decoder_cage, decoder_protocol
from errors import ErrorCode, ImageError
from request_options import ImageOptions, OutputFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from decoder.decoder_cage import Bar

# Encoding AVIF takes the most, 40 bytes a pixel; the input, twice, and the programs come on top.
_ADDRESS_BYTES_PER_PIXEL = 64
_ADDRESS_BYTES = 1 << 30
_MAX_INPUT_BYTES = 1 << 32
_LOG_CHARACTERS = 8000
_STARTING_SECONDS = 60  # of the processor's time


def main(arguments: Sequence[str]) -> None:
    """Serve until the input ends. Arguments: pixels, frames and seconds that one image may take."""
    limits = ImageLimits(max_pixels=int(arguments[0]), max_frames=int(arguments[1]))
    seconds = float(arguments[2])
    service = os.getppid()
    # A supervisor may signal all processes, but means the service, which finishes its images.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(2, 1)
    try:
        bars = _enter_cage(limits, seconds, service)
    except Exception:  # noqa: BLE001  whatever it was, no image may be decoded
        _write(replies, {"bug": _told()}, b"")
        sys.exit(1)
    _write(replies, {"ready": True, "bars": sorted(bars)}, b"")
    while header := requests.read(decoder_protocol.HEADER_BYTES):
        message_bytes, body_bytes = decoder_protocol.unpack_header(header, _MAX_INPUT_BYTES)
        message = decoder_protocol.unpack_message(requests.read(message_bytes))
        _allow_processor_time(_processor_seconds(seconds))
        _answer(replies, message, requests.read(body_bytes), limits)


def _enter_cage(limits: ImageLimits, seconds: float, service: int) -> set[Bar]:
    """Raise every bar that can be raised here, around codecs that are ready and still work."""
    decoder_cage.give_way()
    decoder_cage.be_first_to_go()
    nowhere = os.open(os.devnull, os.O_RDWR)
    Image.preinit()  # reads modules, which is soon over
    # What binds one thread binds those that it starts: so before the codecs start theirs.
    bars = decoder_cage.forbid_privileges()
    bars |= decoder_cage.restrict_by_landlock()
    _use_codecs(limits)
    _silence_libraries(nowhere)
    bars |= decoder_cage.drop_user()
    # What a change of the user undoes.
    bars |= decoder_cage.forbid_tracing()
    bars |= decoder_cage.die_with(service)
    bars |= decoder_cage.limit_resources(
        _ADDRESS_BYTES + _ADDRESS_BYTES_PER_PIXEL * limits.max_pixels,
        _STARTING_SECONDS + decoder_protocol.MOST_IMAGES * _processor_seconds(seconds),
    )
    bars |= decoder_cage.filter_system_calls()
    _use_codecs(limits)
    return bars


def _use_codecs(limits: ImageLimits) -> None:
    """Use every codec once: what they load lazily and the threads they start are then there."""
    side = 2 * SMALLEST_SIDE  # halved, it still has all that the codecs do
    large_enough = replace(limits, max_pixels=max(limits.max_pixels, side * side))
    for target in OutputFormat:
        sample = io.BytesIO()
        Image.new("RGB", (side, side)).save(
            sample, "TIFF" if target is OutputFormat.KEEP else target
        )
        compress(
            sample.getvalue(), ImageOptions(format=target, max_width=SMALLEST_SIDE), large_enough
        )


def _silence_libraries(nowhere: int) -> None:
    """Lose what libraries print from here on: often enough a hostile file's own words."""
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _processor_seconds(seconds: float) -> int:
    """Return how long one image may compute: far beyond when the pool kills its decoder."""
    return math.ceil(2 * seconds + 5)


def _allow_processor_time(seconds: int) -> None:
    """End this process if it computes longer than that from now on."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    allowed = math.ceil(usage.ru_utime + usage.ru_stime) + seconds
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)  # has an end, since the cage is up
    resource.setrlimit(resource.RLIMIT_CPU, (min(allowed, hardest), hardest))


def _answer(replies: int, message: dict[str, Any], data: bytes, limits: ImageLimits) -> None:
    try:
        image = compress(data, ImageOptions.from_json(message["options"]), limits)
    except ImageError as error:
        _write(replies, {"code": error.code, "detail": error.detail}, b"")
    except MemoryError:
        detail = "The image takes more memory than a decoder may have."
        _write(replies, {"code": ErrorCode.COMPRESS_CRASH, "detail": detail}, b"")
    except Exception:  # noqa: BLE001  a bug: the pool logs it, as nobody reads this process's output
        _write(replies, {"bug": _told()}, b"")
    else:
        facts = {
            "format": image.format,
            "width": image.width,
            "height": image.height,
            "quality": image.quality,
            "hint": image.hint,
        }
        _write(replies, facts, image.data)


def _told() -> str:
    """Return the traceback of the exception that is being handled."""
    return traceback.format_exc()[-_LOG_CHARACTERS:]


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
