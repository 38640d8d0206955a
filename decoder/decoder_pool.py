"""Has images decoded and encoded by processes apart: the service's side of `decoder_process`.

Owns the life of the processes: started ahead or when needed, killed when they take too long,
replaced when they die, and renewed after a while. What a decoder sends is data that a hostile
image may have forged: it is checked, never trusted. What no check can tell: an image that has taken
a decoder over can forge sound answers to the later images of the same process, until it is renewed.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import metrics
from codec.compressed_image import CompressedImage, ImageLimits
from codec.image_format import TargetFormat, identify
from decoder import decoder_protocol
from decoder.decoder_handle import Decoder, DecoderLostError, DecoderStarvedError, crash
from decoder.decoder_protocol import ProtocolError
from errors import ErrorCode, ImageError, ServiceError

if TYPE_CHECKING:
    from decoder.decoder_cage import Bar
    from request_options import ImageOptions

_RENEWED_AFTER_IMAGES = decoder_protocol.MOST_IMAGES
_TRIES = 3  # when a decoder is killed from outside, which says nothing about its image
_REPLY_BYTES = 1024 * 1024  # on top of what the image may have
_BYTES_PER_PIXEL = 6  # of noise at the highest quality: 5.9 as AVIF, 4.7 as JPEG, 4 as PNG
_LONGEST_SENTENCE = 500
_LONGEST_SIDE = 2**31 - 1  # what `images` can hold
_DECODER_CODES = frozenset(
    [
        ErrorCode.NOT_AN_IMAGE,
        ErrorCode.UNSUPPORTED_FORMAT,
        ErrorCode.DECODE_ERROR,
        ErrorCode.TRUNCATED,
        ErrorCode.TOO_MANY_PIXELS,
        ErrorCode.TOO_MANY_FRAMES,
        ErrorCode.MAX_BYTES_UNREACHABLE,
        ErrorCode.COMPRESS_CRASH,
    ]
)

_logger = logging.getLogger(__name__)


class DecoderUnavailableError(ServiceError):
    """No decoder can be had: the pool is closed, none starts, or the machine is too busy for one.

    Not the image's fault.
    """


class _NoStartError(DecoderLostError):
    """A new decoder went away before it had an image."""


class DecoderPool:
    """A fixed number of decoder processes for any number of threads.

    `compress_seconds` is the time that one image may take in a decoder, as `decoder_clock` counts
    it. A decoder dies with the thread that it was started in: these should live as long as the
    pool.
    """

    def __init__(self, processes: int, limits: ImageLimits, compress_seconds: float) -> None:
        self._limits = limits
        self._seconds = compress_seconds
        self._processes = processes
        self._state = threading.Condition()  # guards all below
        self._free = processes
        self._idle: list[Decoder] = []
        self._busy: set[Decoder] = set()
        self._is_closed = False
        self._bars: frozenset[Bar] = frozenset()
        metrics.DECODERS_LIMIT.set(processes)
        metrics.DECODERS_BUSY.set_function(partial(len, self._busy))

    @property
    def bars(self) -> frozenset[Bar]:
        """The bars of the decoder that started last; none before the first."""
        return self._bars

    def start(self) -> None:
        """Start one decoder more, ahead of images, if there are not enough; any thread may call it.

        Raises DecoderUnavailableError.
        """
        with self._state:
            self._refuse_when_closed()
            if len(self._idle) == self._free:
                return
            self._free -= 1
        try:
            decoder = self._start()
        except DecoderLostError as error:
            raise DecoderUnavailableError("No image decoder can be started.") from error
        self._give_back(decoder, is_sound=True)

    def compress(self, data: bytes, options: ImageOptions) -> CompressedImage:
        """Compress one image in the next free decoder; blocks, and may be called by any thread.

        Raises ImageError with the compressor's codes, `compress_timeout` or `compress_crash`;
        DecoderUnavailableError when the pool is or gets closed, or its decoder hardly got to work.
        """
        metrics.COMPRESS_BYTES.inc(len(data))
        request = decoder_protocol.pack({"options": options.to_json()}, len(data))
        tries_left = _TRIES
        while True:
            tries_left -= 1
            try:
                outcome = self._ask(request, data)
            except _NoStartError as error:
                if not tries_left:
                    raise DecoderUnavailableError("No image decoder can be started.") from error
            except DecoderLostError as error:
                if not tries_left:
                    raise crash("was lost again and again") from error
            else:
                if isinstance(outcome, ImageError):
                    raise outcome
                return outcome

    def close(self) -> None:
        """Kill all decoders, wait for their end, and refuse further images."""
        with self._state:
            self._is_closed = True
            for decoder in self._busy:
                decoder.kill()  # the thread that waits for it cleans up
            while self._idle:
                self._idle.pop().end()
            self._state.notify_all()
            self._state.wait_for(lambda: self._free == self._processes)

    def _ask(self, request: bytes, data: bytes) -> CompressedImage | ImageError:
        """Send a frame and return what the decoder says; one that misbehaves is ended."""
        decoder = self._take()
        is_sound = False
        # Made anew it has 8 bits a sample; else it is the original, without its metadata.
        image_bytes = max(len(data), _BYTES_PER_PIXEL * self._limits.max_pixels)
        try:
            with metrics.COMPRESS_SECONDS.time():
                message, body = decoder.ask(
                    request, data, self._seconds, _REPLY_BYTES + image_bytes
                )
            outcome = _read_reply(message, body, self._limits)
            is_sound = decoder.images < _RENEWED_AFTER_IMAGES and not _is_bug(outcome)
            if not is_sound:
                _count_end("bug" if _is_bug(outcome) else "renewed")
        except ProtocolError as error:
            _count_end("nonsense")
            raise crash("answered nonsense") from error
        except ImageError as error:
            _count_end("timeout" if error.code == ErrorCode.COMPRESS_TIMEOUT else "crash")
            raise
        except DecoderLostError:
            self._refuse_when_closed()
            _count_end("killed")
            raise
        except DecoderStarvedError as error:
            _count_end("starved")
            raise DecoderUnavailableError("The image's decoder waited for a processor.") from error
        else:
            return outcome
        finally:
            self._give_back(decoder, is_sound=is_sound)

    def _take(self) -> Decoder:
        """Wait until a decoder is free; it is usable, or a new one."""
        with self._state:
            self._state.wait_for(lambda: self._free or self._is_closed)
            self._refuse_when_closed()
            self._free -= 1
            decoder = self._idle.pop() if self._idle else None
            if decoder:
                self._busy.add(decoder)
        if decoder and decoder.is_usable:
            return decoder
        if decoder:
            _count_end("killed")
            self._give_back(decoder, is_sound=False, frees=False)
        return self._start()

    def _start(self) -> Decoder:
        """Start a decoder in the place of this thread's; that is free again when none starts."""
        decoder = None
        try:
            decoder = Decoder(self._limits, self._seconds)
            with self._state:
                self._refuse_when_closed()
                self._busy.add(decoder)
            self._bars = decoder.wait_until_ready()
            metrics.DECODER_STARTS.inc()
        except BaseException as error:
            self._give_back(decoder, is_sound=False)
            if isinstance(error, OSError | EOFError | ProtocolError):
                self._refuse_when_closed()
                raise _NoStartError from error
            raise
        return decoder

    def _give_back(self, decoder: Decoder | None, *, is_sound: bool, frees: bool = True) -> None:
        with self._state:
            if decoder:
                self._busy.discard(decoder)
            if decoder and is_sound and not self._is_closed:
                self._idle.append(decoder)
                decoder = None
        if decoder:
            decoder.end()
        if frees:
            with self._state:
                self._free += 1
                if self._is_closed:
                    self._state.notify_all()
                else:
                    self._state.notify()  # one place for one thread

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise DecoderUnavailableError("The image decoders are being stopped.")


def _read_reply(
    message: dict[str, Any], body: bytes, limits: ImageLimits
) -> CompressedImage | ImageError:
    """Check every field of a decoder's answer. Raises ProtocolError."""
    match message:
        case {"code": str(code), "detail": str(detail)} if code in _DECODER_CODES:
            return ImageError(code, _printable(detail))
        case {"bug": str(log)}:
            _logger.error("a decoder failed:\n%s", log)
            return ImageError(ErrorCode.INTERNAL_ERROR, "The image could not be compressed.")
        case {
            "format": str(name),
            "width": int(width),
            "height": int(height),
            "quality": str(quality),
        }:
            hint = message.get("hint", "")
            is_picture = _is_side(width) and _is_side(height) and isinstance(hint, str)
            is_taken = is_picture and width * height <= limits.max_pixels
            if is_taken and name in set(TargetFormat) and _is_quality(quality):
                _check_kind(body, name)
                return CompressedImage(body, name, width, height, quality, _printable(hint))
    raise ProtocolError("bad answer")


def _check_kind(body: bytes, name: str) -> None:
    # What is stored is served under the type of its name.
    try:
        kind = identify(body)
    except ImageError as error:
        raise ProtocolError("no image") from error
    if kind.lower() != name:
        raise ProtocolError("an image of another kind")


def _count_end(reason: str) -> None:
    metrics.DECODER_ENDS.labels(reason).inc()


def _is_bug(outcome: CompressedImage | ImageError) -> bool:
    return isinstance(outcome, ImageError) and outcome.code == ErrorCode.INTERNAL_ERROR


def _is_side(pixels: int) -> bool:
    # JSON's true is an int to Python, but not to the column that this is for.
    return type(pixels) is int and 0 < pixels <= _LONGEST_SIDE


def _is_quality(text: str) -> bool:
    return text in {"lossless", "palette", "original"} or (
        text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= 100
    )


def _printable(text: str) -> str:
    return "".join(letter for letter in text[:_LONGEST_SENTENCE] if letter.isprintable())
