"""The structure of a WebP file: its RIFF chunks (RFC 9649)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from codec.container_structure import (
    Part,
    Structure,
    bounded,
    broken,
    check_parts,
    count_frame,
    cut_short,
    orientation_tiff,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PIXELS = frozenset([b"VP8 ", b"VP8L", b"ALPH"])
_KEPT = _PIXELS | {b"VP8X", b"ANIM", b"ANMF"}
_HAS_PROFILE, _HAS_EXIF, _HAS_XMP = 0x20, 0x08, 0x04  # flags of VP8X


def _chunks(data: bytes, at: int, stop: int) -> Iterator[Part]:
    """Yield the chunks between two offsets; the last one may lack its padding byte."""
    while at < stop:
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if end > stop or at + 8 > stop:
            raise cut_short()
        yield Part(data[at : at + 4], at, end)
        at = end + end % 2 - at % 2


def _end(data: bytes) -> int:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data) + 1 or len(data) < 20:  # the very last padding byte is often forgotten
        raise cut_short()
    return min(end, len(data))


def survey(data: bytes, max_frames: int) -> Structure:
    """Find the end, size and frames. Raises ImageError, see `image_metadata.survey`."""
    end = _end(data)
    frames = 0
    pixels: list[Part] = []
    for part in bounded(_chunks(data, 12, end)):
        if part.kind == b"ANMF":
            frames = count_frame(frames, max_frames)
            pixels += bounded(_chunks(data, part.start + 24, part.end))
            check_parts(len(pixels))  # of all frames
        elif part.kind in _PIXELS:
            pixels.append(part)
    width, height = _size(data)
    kinds = {part.kind for part in pixels} & _PIXELS
    if not kinds - {b"ALPH"} or not width or not height:
        raise broken("it has no picture in it")
    return Structure(end, width, height, max(frames, 1), is_lossless=kinds == {b"VP8L"})


def _size(data: bytes) -> tuple[int, int]:
    """Read the canvas size from the first chunk."""
    head = data[20:30].ljust(10, b"\0")
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 6)
    return width & 0x3FFF, height & 0x3FFF


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)


def strip(data: bytes, *, keep_profile: bool, orientation: int) -> bytes:
    """Keep canvas, animation and pixels; the flags then tell what is left."""
    kept = _KEPT | {b"ICCP"} if keep_profile else _KEPT
    chunks = []
    for kind, start, end in _chunks(data, 12, _end(data)):
        payload = data[start + 8 : end]
        if kind == b"VP8X":
            flags = payload[0] & ~(_HAS_EXIF | _HAS_XMP | (0 if keep_profile else _HAS_PROFILE))
            flags |= _HAS_EXIF if orientation != 1 else 0
            payload = bytes([flags]) + payload[1:]
        elif kind == b"ANMF":
            parts = _chunks(data, start + 24, end)
            payload = payload[:16] + _pixel_chunks(data, parts)
        if kind in kept:
            chunks.append(_chunk(kind, payload))
    if orientation != 1:
        chunks.append(_chunk(b"EXIF", orientation_tiff(orientation)))
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _pixel_chunks(data: bytes, parts: Iterable[Part]) -> bytes:
    return b"".join(
        _chunk(kind, data[start + 8 : end]) for kind, start, end in parts if kind in _PIXELS
    )
