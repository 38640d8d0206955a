"""One decoder process as the service sees it: start, ask, kill.

Owns the pipes and the clock. Which decoder gets which image, and what its answer means, is
`decoder_pool`'s business.
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
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoder import decoder_protocol
from decoder.decoder_cage import Bar
from decoder.decoder_protocol import ProtocolError
from errors import ErrorCode, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from codec.compressed_image import ImageLimits

_PROGRAM = Path(__file__).resolve().with_name("decoder_process.py")
_START_SECONDS = 60.0
_DEATH_SECONDS = 1.0  # from the end of the output to that of the process
_PIPE_BYTES = 1024 * 1024
_IDLE_SHARE = 0.1  # of the time limit: a decoder that wanted less of the rest was stopped
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
        message, _ = self._receive(_Patience(_START_SECONDS, self._wanted_seconds), 0)
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

        Raises ImageError `compress_timeout` or `compress_crash`, ProtocolError,
        DecoderLostError; the decoder is of no further use then.
        """
        self.images += 1
        patience = _Patience(seconds, self._wanted_seconds)
        try:
            self._send([memoryview(request), memoryview(data)], patience)
            reply = self._receive(patience, max_reply_bytes)
        except TimeoutError:
            if patience.saw_idleness():
                raise DecoderLostError from None  # it was stopped
            raise ImageError(
                ErrorCode.COMPRESS_TIMEOUT,
                f"Compressing the image took longer than {seconds:g} seconds.",
            ) from None
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

    def _wanted_seconds(self) -> float:
        """Return the processor time that the process has used, or would have, had there been some.

        Linux keeps a clock for each process, and counts the nanoseconds for which its threads wait
        (Documentation/scheduler/sched-stats.rst). Elsewhere it is taken to want all the time.
        """
        try:
            used = time.clock_gettime(~self._process.pid << 3 | 2)
        except OSError:
            return time.monotonic()
        waited = 0
        with contextlib.suppress(OSError, ValueError):
            for path in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"):
                _, nanoseconds, _ = path.read_bytes().split()
                waited += int(nanoseconds)
        return used + waited / 1e9

    def _send(self, buffers: list[memoryview], patience: _Patience) -> None:
        while buffers:
            try:
                sent = os.writev(self._input.fileno(), buffers)
            except BlockingIOError:
                patience.wait(self._input.fileno(), select.POLLOUT)
                continue
            while buffers and sent >= len(buffers[0]):
                sent -= len(buffers.pop(0))
            if buffers:
                buffers[0] = buffers[0][sent:]

    def _receive(self, patience: _Patience, max_body_bytes: int) -> tuple[dict[str, Any], bytes]:
        header = self._read(decoder_protocol.HEADER_BYTES, patience)
        message_bytes, body_bytes = decoder_protocol.unpack_header(header, max_body_bytes)
        message = decoder_protocol.unpack_message(self._read(message_bytes, patience))
        return message, self._read(body_bytes, patience)

    def _read(self, size: int, patience: _Patience) -> bytes:
        piece = self._read_some(size, patience) if size else b""
        if len(piece) == size:  # as nearly always, for the pipe has room for most images
            return piece
        # One buffer: a list of the pieces that a decoder may trickle is far larger than these.
        read = io.BytesIO(piece)
        read.seek(len(piece))
        while read.tell() < size:
            read.write(self._read_some(size - read.tell(), patience))
        return read.getvalue()  # the buffer itself, not a copy

    def _read_some(self, most: int, patience: _Patience) -> bytes:
        while True:
            try:
                piece = os.read(self._output.fileno(), min(most, _PIPE_BYTES))
            except BlockingIOError:
                patience.wait(self._output.fileno(), select.POLLIN)
                continue
            if not piece:
                raise EOFError
            return piece

    def _is_silent(self) -> bool:
        """Tell whether nothing waits in the pipe, which could be taken for the next answer."""
        poll = select.poll()
        poll.register(self._output.fileno(), select.POLLIN)
        return not any(events & select.POLLIN for _, events in poll.poll(0))


class _Patience:
    """A moment after which nothing is waited for, and whether there was work until then.

    `wanted` tells the processor time that the other side has wanted so far. It is asked only when
    a wait gets long, as that takes as much time as all else that a small image is worth.
    """

    def __init__(self, seconds: float, wanted: Callable[[], float]) -> None:
        self._end = time.monotonic() + seconds
        self._idle_seconds = seconds * _IDLE_SHARE
        self._wanted = wanted
        self._wanted_before: float | None = None

    def wait(self, descriptor: int, events: int) -> None:
        """Wait until a pipe is ready. Raises TimeoutError, also where one is, but time is over."""
        rest = self._end - time.monotonic()
        poll = select.poll()
        poll.register(descriptor, events)
        if rest > 0 and self._wanted_before is None:
            first = min(self._idle_seconds, rest)
            if poll.poll(first * 1000):
                return
            self._wanted_before = self._wanted()
            rest -= first
        if rest <= 0 or not poll.poll(rest * 1000):
            raise TimeoutError

    def saw_idleness(self) -> bool:
        """Tell, when the time is over, whether hardly any of it was wanted."""
        before = self._wanted_before
        return before is not None and self._wanted() - before < self._idle_seconds
