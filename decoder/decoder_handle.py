"""One decoder process as the service sees it: start, ask, kill.

Owns the pipes. How long is waited is `decoder_clock`'s business; which decoder gets which image,
and what its answer means, `decoder_pool`'s.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoder import decoder_protocol
from decoder.decoder_cage import Bar
from decoder.decoder_clock import Blame, Clock
from decoder.decoder_protocol import ProtocolError
from errors import ErrorCode, ImageError

if TYPE_CHECKING:
    from codec.compressed_image import ImageLimits

_PROGRAM = Path(__file__).resolve().with_name("decoder_process.py")
_START_SECONDS = 60.0
_DEATH_SECONDS = 1.0  # from the end of the output to that of the process
_PIPE_BYTES = 1024 * 1024
_ENVIRONMENT = {
    "PYTHONPATH": str(_PROGRAM.parents[1]),
    "LANG": "C.UTF-8",
    "RAYON_NUM_THREADS": "1",  # oxipng: there are as many processes as cores
    "OPENBLAS_NUM_THREADS": "1",  # numpy, likewise; and it starts threads before the cage is up
    # Keep freed memory for the next image: the kernel clearing it anew costs a tenth of the time.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}

_logger = logging.getLogger(__name__)


class DecoderLostError(Exception):
    """The decoder went away, and its image is not to blame."""


class DecoderStarvedError(Exception):
    """The machine is too busy for the image, which is not to blame."""


def crash(what: str) -> ImageError:
    """Return the error for an image whose decoder came to grief."""
    return ImageError(ErrorCode.COMPRESS_CRASH, f"The image's decoder {what}.")


class Decoder:
    """One process, used by one thread at a time. `end` must be called."""

    def __init__(self, limits: ImageLimits, seconds: float) -> None:
        arguments = [limits.max_pixels, limits.max_frames, seconds]
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", str(_PROGRAM), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,  # a share of the processors of its own, to be made a small one
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise OSError("no pipe")
        self._input, self._output = self._process.stdin, self._process.stdout
        for pipe in (self._input, self._output):
            os.set_blocking(pipe.fileno(), False)
            with contextlib.suppress(AttributeError, OSError):  # Linux alone has it, up to a limit
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.images = 0

    @property
    def is_usable(self) -> bool:
        """Whether the process has not ended, and has said nothing unasked."""
        return self._process.poll() is None and self._is_silent()

    def wait_until_ready(self) -> frozenset[Bar]:
        """Wait for the frame that says that everything is loaded, and return the bars that are up.

        Raises ProtocolError, EOFError, TimeoutError.
        """
        message, _ = self._receive(Clock(self._process.pid, _START_SECONDS), 0)
        match message:
            case {"ready": True, "bars": list(names)}:
                with contextlib.suppress(ValueError):  # a name that is none of ours
                    return frozenset(map(Bar, names))
            case {"bug": str(log)}:
                _logger.error("a decoder could not start:\n%s", log)
        raise ProtocolError("not ready")

    def ask(
        self, request: bytes, data: bytes, seconds: float, max_reply_bytes: int
    ) -> tuple[dict[str, Any], bytes]:
        """Send an image and return what comes back.

        `seconds` are those of a `Clock`. Raises ImageError `compress_timeout` or `compress_crash`,
        ProtocolError, DecoderLostError, DecoderStarvedError; the decoder is of no further use then.
        """
        self.images += 1
        clock = Clock(self._process.pid, seconds)
        try:
            self._send([memoryview(request), memoryview(data)], clock)
            reply = self._receive(clock, max_reply_bytes)
        except TimeoutError:
            raise _late(clock.blame, seconds) from None
        except BrokenPipeError:
            raise DecoderLostError from None  # it never had the whole image
        except EOFError:
            self._judge_death()
            raise
        if not self._is_silent():
            raise ProtocolError("more than an answer")
        return reply

    def kill(self) -> None:
        """End the process at once; whoever waits for it notices."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process, wait for it and close the pipes."""
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()

    def _judge_death(self) -> None:
        """Tell a decoder that was killed from one that its image has brought down."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(_DEATH_SECONDS) == -signal.SIGKILL:
                raise DecoderLostError from None
        raise crash("died of it") from None

    def _send(self, buffers: list[memoryview], clock: Clock) -> None:
        while buffers:
            try:
                sent = os.writev(self._input.fileno(), buffers)
            except BlockingIOError:
                clock.wait(self._input.fileno(), select.POLLOUT)
                continue
            while buffers and sent >= len(buffers[0]):
                sent -= len(buffers.pop(0))
            if buffers:
                buffers[0] = buffers[0][sent:]

    def _receive(self, clock: Clock, max_body_bytes: int) -> tuple[dict[str, Any], bytes]:
        header = self._read(decoder_protocol.HEADER_BYTES, clock)
        message_bytes, body_bytes = decoder_protocol.unpack_header(header, max_body_bytes)
        message = decoder_protocol.unpack_message(self._read(message_bytes, clock))
        return message, self._read(body_bytes, clock)

    def _read(self, size: int, clock: Clock) -> bytes:
        piece = self._read_some(size, clock) if size else b""
        if len(piece) == size:  # as nearly always, for the pipe has room for most images
            return piece
        # One buffer: a list of the pieces that a decoder may trickle is far larger than these.
        read = io.BytesIO(piece)
        read.seek(len(piece))
        while read.tell() < size:
            read.write(self._read_some(size - read.tell(), clock))
        return read.getvalue()  # the buffer itself, not a copy

    def _read_some(self, most: int, clock: Clock) -> bytes:
        while True:
            try:
                piece = os.read(self._output.fileno(), min(most, _PIPE_BYTES))
            except BlockingIOError:
                clock.wait(self._output.fileno(), select.POLLIN)
                continue
            if not piece:
                raise EOFError
            return piece

    def _is_silent(self) -> bool:
        """Tell whether nothing waits in the pipe, which could be taken for the next answer."""
        poll = select.poll()
        poll.register(self._output.fileno(), select.POLLIN)
        return not any(events & select.POLLIN for _, events in poll.poll(0))


def _late(blame: Blame, seconds: float) -> Exception:
    match blame:
        case Blame.IMAGE:
            return ImageError(
                ErrorCode.COMPRESS_TIMEOUT,
                f"Compressing the image took longer than {seconds:g} seconds.",
            )
        case Blame.STOPPED:
            return DecoderLostError()
        case Blame.MACHINE:
            return DecoderStarvedError()
