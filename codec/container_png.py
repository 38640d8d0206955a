"""The structure of a PNG file: its chunks (third edition of the specification)."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from codec.container_structure import (
    LARGEST_PROFILE_BYTES,
    Part,
    Structure,
    bounded,
    broken,
    count_frame,
    cut_short,
    orientation_tiff,
)
from codec.image_format import unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_KEPT = frozenset(
    [
        *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT"),
        *(b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT"),
    ]
)
_TOLD = frozenset([b"eXIf", b"cICP"])  # what a survey passes on, the first of each
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each colour type
# Start and step of the seven passes of an interlaced image: x, y, x step, y step.
_ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
_ADAM7 += [(0, 1, 1, 2)]


def _chunks(data: bytes) -> Iterator[Part]:
    """Yield the chunks, IEND last."""
    at = len(_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise cut_short()
        yield Part(kind, at, end)
        at = end


def survey(data: bytes, max_frames: int) -> Structure:
    """Find the end, size and frames. Raises ImageError, see `image_metadata.survey`."""
    end = frames = announced = 0
    has_pixels = False
    told: dict[bytes, bytes] = {}
    for kind, start, end in bounded(_chunks(data)):
        if start == 8 and kind == b"CgBI":
            raise unsupported("Apple's own variant of PNG")
        if start == 8 and (kind != b"IHDR" or end - start != 25):
            raise broken("it doesn't start with a header")
        if kind == b"acTL" and not has_pixels and end - start == 20:
            if announced:  # some viewers would move it and some would not
                raise broken("it says twice that it moves")
            announced = int.from_bytes(data[start + 8 : start + 12], "big")
            count_frame(announced - 1, max_frames)
        if kind == b"fcTL" and announced:
            frames = count_frame(frames, max_frames)
        if kind in _TOLD:
            told.setdefault(kind, data[start + 8 : end - 4])
        has_pixels = has_pixels or kind == b"IDAT"
    if not has_pixels:
        raise broken("it has no picture in it")
    if announced != frames:
        raise broken("its animation lacks frames")
    width, height = struct.unpack_from(">II", data, 16)
    exif, colours = told.get(b"eXIf", b""), told.get(b"cICP", b"")
    code_points = (colours[0], colours[1]) if len(colours) == 4 else None
    return Structure(end, width, height, max(frames, 1), exif=exif, code_points=code_points)


def has_whole_pixels(data: bytes) -> bool:
    """Tell whether every frame of a surveyed PNG has as many bytes of pixels as its size needs.

    Pillow leaves the rest of the picture black where they end early.
    """
    size: tuple[int, int] = struct.unpack_from(">II", data, 16)
    payloads: list[memoryview] = []
    for kind, start, end in _chunks(data):
        if kind == b"fcTL" and end - start >= 24:
            if payloads and not _is_whole(payloads, size, data):
                return False
            payloads, (width, height) = [], struct.unpack_from(">II", data, start + 12)
            size = width, height
        elif kind in {b"IDAT", b"fdAT"}:
            payloads.append(memoryview(data)[start + (8 if kind == b"IDAT" else 12) : end - 4])
    return _is_whole(payloads, size, data)


def _is_whole(payloads: list[memoryview], size: tuple[int, int], data: bytes) -> bool:
    depth, colour_type, _, _, interlace = data[24:29]
    missing = _raw_size(*size, depth * _SAMPLES.get(colour_type, 0), interlace)
    inflater = zlib.decompressobj()
    try:
        for payload in payloads:
            packed: bytes | memoryview = payload
            while packed and missing > 0:
                missing -= len(inflater.decompress(packed, 1 << 18))
                packed = inflater.unconsumed_tail
    except zlib.error:
        raise broken("its pixels can't be unpacked") from None
    return missing <= 0


def _raw_size(width: int, height: int, bits: int, interlace: int) -> int:
    """Return the size of filtered rows: a byte for the filter, then `bits` for each pixel."""
    passes = _ADAM7 if interlace else [(0, 0, 1, 1)]
    sizes = [
        (-(-(width - x) // x_step), -(-(height - y) // y_step)) for x, y, x_step, y_step in passes
    ]
    return sum(h * (1 + (w * bits + 7) // 8) for w, h in sizes if w > 0 and h > 0)


def _is_profile(payload: bytes) -> bool:
    """Tell whether a profile can be unpacked, and isn't absurdly large."""
    method_and_profile = payload.partition(b"\0")[2]
    try:
        unpacked = zlib.decompressobj().decompress(
            method_and_profile[1:], LARGEST_PROFILE_BYTES + 1
        )
    except zlib.error:
        return False
    return method_and_profile[:1] == b"\0" and 0 < len(unpacked) <= LARGEST_PROFILE_BYTES


def strip(data: bytes, *, keep_profile: bool, orientation: int) -> bytes:
    """Keep pixels, animation, and what defines the colours."""
    chunks = list(_chunks(data))
    kept = set(_KEPT)
    if keep_profile:
        kept.add(b"iCCP")
    elif any(chunk.kind == b"iCCP" for chunk in chunks):
        kept -= {b"gAMA", b"cHRM"}  # they only approximate the profile that goes
    pieces = [
        data[start:end]
        for kind, start, end in chunks
        if kind in kept and (kind != b"iCCP" or _is_profile(data[start + 8 : end - 4]))
    ]
    if orientation != 1:
        exif = b"eXIf" + orientation_tiff(orientation)
        checksum = struct.pack(">I", zlib.crc32(exif))
        pieces.insert(1, struct.pack(">I", len(exif) - 4) + exif + checksum)
    return _SIGNATURE + b"".join(pieces)
