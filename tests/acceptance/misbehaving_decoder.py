"""A decoder in its real cage that does as an image's mark tells it; as ever, without a mark.

It stands for one that a hostile image has taken over. It may do what the cage allows, and send itself
signals, as a process outside does when memory runs out.
"""

from __future__ import annotations

import _thread
import ctypes
import functools
import os
import signal
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from codec.image_compressor import compress as compress_as_ever  # found by the line above
from decoder import decoder_process, decoder_protocol, decoder_syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from codec.compressed_image import CompressedImage, ImageLimits
    from request_options import ImageOptions

MARK: Final = b"misbehave:"
_PID: Final = os.getpid()  # known before the cage, where nobody answers
_FORGED: Final = {"format": "jpeg", "width": 4, "height": 3, "quality": "75"}
_BODY: Final = b"\xff\xd8\xffforged"
_HEADER: Final = struct.Struct(">4sIQ")
_answer_as_ever: Final = decoder_process._answer


def misbehave(act: str, replies: int) -> None:
    """Do what a mark says; it comes back with an error or not at all."""
    if act in _LIES:
        os.write(replies, _LIES[act])
    elif act == "close its pipe":
        os.close(replies)
    else:
        _DEEDS[act]()
    if act != "say a long length":
        sleep()
    os._exit(0)


def kill_itself() -> None:
    """End as a process does when the machine is out of memory."""
    os.kill(_PID, signal.SIGKILL)


def eat_memory() -> None:
    """Take more and more. Raises MemoryError."""
    hoard = []
    while True:
        hoard.append(bytes(1 << 26))  # as the kernel gives it, untouched


def spin() -> None:
    """Compute for ever."""
    while True:
        pass


def sleep() -> None:
    """Do nothing for ever."""
    lock = _thread.allocate_lock()
    lock.acquire()
    lock.acquire()


def forged(body: bytes, declared: int) -> bytes:
    """Return an answer whose body has another length than it says."""
    return decoder_protocol.pack(_FORGED, declared) + body


_DEEDS: Final[dict[str, Callable[[], object]]] = {
    "kill itself": kill_itself,
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(0),
    "eat memory": eat_memory,
    "spin": spin,
    "stumble": lambda: divmod(1, 0),
    "sleep": sleep,
}
_LIES: Final = {
    "write garbage": b"<html>" * 999,
    "say a huge length": forged(b"x", 1 << 50),
    "say a negative length": forged(b"x", (1 << 64) - 1),
    "say a huge message": _HEADER.pack(b"img1", (1 << 32) - 1, 1) + b"{}",
    "say a short length": forged(_BODY, 5),
    "say a long length": forged(_BODY, 10),
    "answer twice": forged(_BODY, 9) * 2,
    "answer something else": decoder_protocol.pack({"format": "html"}, 0),
    "answer with a page": forged(b"<html>", 6),
}


def answer(replies: int, message: dict[str, Any], data: bytes, limits: ImageLimits) -> None:
    """Answer as ever, with a compressor that heeds marks."""
    vars(decoder_process).update(compress=functools.partial(compress, replies))
    _answer_as_ever(replies, message, data, limits)


def compress(
    replies: int, data: bytes, options: ImageOptions, limits: ImageLimits
) -> CompressedImage:
    """Compress as ever, unless the image is marked."""
    _, _, marked = data.partition(MARK)
    if marked:
        misbehave(marked.partition(b";")[0].decode(), replies)
    return compress_as_ever(data, options, limits)


if __name__ == "__main__":
    decoder_syscalls.ALLOWED += (decoder_syscalls.Call("kill", 62, 129),)
    decoder_process._answer = answer
    decoder_process.main(sys.argv[1:])
