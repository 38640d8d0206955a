"""The structure of a GIF file: its blocks (CompuServe's GIF89a specification)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from codec.container_structure import Part, Structure, bounded, broken, count_frame, cut_short

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTROL, _APPLICATION, _PLAIN_TEXT = b"!\xf9", b"!\xff", b"!\x01"
_LOOP_EXTENSIONS = (b"\x0bNETSCAPE2.0", b"\x0bANIMEXTS1.0")

LEAVE, CLEAR, RESTORE = 1, 2, 3  # what becomes of a frame before the next one is drawn


class Frame(NamedTuple):
    """A frame as an image of its own, and what is done with it on the canvas."""

    gif: bytes
    left: int
    top: int
    disposal: int
    duration: int  # milliseconds


def _colour_table_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _blocks(data: bytes) -> Iterator[Part]:
    """Yield the blocks after the header, the trailer last. An extension's kind has its label."""
    at = _head_size(data)
    while at < len(data):
        introducer = data[at : at + 1]
        if introducer == b";":
            yield Part(introducer, at, at + 1)
            return
        if introducer == b"!":
            kind, end = data[at : at + 2], _skip_sub_blocks(data, at + 2)
        elif introducer == b",":
            flags = data[at + 9] if at + 9 < len(data) else 0
            kind, end = introducer, _skip_sub_blocks(data, at + 11 + _colour_table_size(flags))
        elif introducer == b"\0":
            kind, end = introducer, at + 1  # an empty sub-block too many is a common mistake
        else:
            raise broken("there is something between its frames")
        yield Part(kind, at, end)
        at = end
    raise cut_short()


def _head_size(data: bytes) -> int:
    if len(data) < 13:
        raise cut_short()
    return 13 + _colour_table_size(data[10])


def _skip_sub_blocks(data: bytes, at: int) -> int:
    try:
        while size := data[at]:
            at += 1 + size
    except IndexError:
        raise cut_short() from None
    return at + 1


def survey(data: bytes, max_frames: int) -> Structure:
    """Find the end, size and frames. Raises ImageError, see `image_metadata.survey`."""
    end = frames = 0
    width, height = struct.unpack_from("<HH", data.ljust(13, b"\0"), 6)
    for kind, start, end in bounded(_blocks(data)):  # noqa: B007  the last end is the image's
        if kind == b",":
            frames = count_frame(frames, max_frames)
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, start + 1)
            width, height = max(width, left + frame_width), max(height, top + frame_height)
    if not frames or not width or not height:
        raise broken("it has no picture in it")
    return Structure(end, width, height, frames)


def split(data: bytes) -> Iterator[Frame]:
    """Yield the frames of a surveyed image, each a GIF of one."""
    tables = data[10 : _head_size(data)]
    control = b""
    for kind, start, end in _blocks(data):
        block = data[start:end]
        if kind == _CONTROL and len(block) == 8:
            control = block
        elif kind == _PLAIN_TEXT:
            control = b""
        elif kind == b",":
            left, top = struct.unpack_from("<HH", block, 1)
            flags, delay = struct.unpack_from("<BH", control.ljust(8, b"\0"), 3)
            alone = b"".join(
                [b"GIF89a", block[5:9], tables, control, b",\0\0\0\0", block[5:], b";"]
            )
            yield Frame(alone, left, top, flags >> 2 & 7, delay * 10)
            control = b""


def strip(data: bytes) -> bytes:
    """Keep frames and the number of loops; comments, texts and applications' data go."""
    pieces = [data[: _head_size(data)]]
    control = b""  # belongs to the block that follows it
    for kind, start, end in _blocks(data):
        block = data[start:end]
        if kind == _CONTROL and len(block) == 8:
            control = block
        elif kind in {b",", b";"}:
            pieces += [control, block]
            control = b""
        elif kind == _PLAIN_TEXT:
            control = b""
        elif kind == _APPLICATION and block[2:14] in _LOOP_EXTENSIONS and block[14:16] == b"\3\1":
            pieces.append(block[:18] + b"\0")
    return b"".join(pieces)
