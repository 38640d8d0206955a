"""The structure of a JPEG file: its segments (ITU-T T.81 annex B)."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from codec.container_structure import (
    Part,
    Structure,
    bounded,
    broken,
    cut_short,
    orientation_tiff,
)
from codec.image_format import unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

# Any bytes may stand between two segments: junk, fillers (FF), restarts without a scan.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe\x02-\xbf]")
# Inside a scan, FF 00 is a byte of data, FF D0 to FF D7 restart it, and reserved codes are damage.
_AFTER_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_HEAD = b"\xff\xd8"
_END = b"\xff\xd9"
_PLAIN_JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
_EXIF = b"Exif\0\0"
_MAX_SCANS = 500  # each goes over all pixels; ordinary files have up to a dozen
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN = frozenset([0xC0, 0xC1, 0xC2])
_PROGRESSIVE = frozenset([0xC2, 0xC6, 0xCA, 0xCE])
_COEFFICIENTS = (1 << 64) - 1  # a bit for each of a block


def _segments(data: bytes) -> Iterator[Part]:
    """Yield the segments after SOI, a scan with its data, and EOI last; junk is passed over."""
    at = 2
    while marker := _MARKER.search(data, at):
        at = marker.start()
        code = data[at + 1]
        kind = data[at + 1 : at + 2]
        if code == 0xD9:
            yield Part(kind, at, at + 2)
            return
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        if code == 0xDA and (scan_end := _AFTER_SCAN.search(data, end)):
            end = scan_end.start()
        elif code == 0xDA or end > len(data):
            raise cut_short()
        yield Part(kind, at, end)
        at = end
    raise cut_short()


def survey(data: bytes) -> Structure:
    """Find the end and size. Raises ImageError, see `image_metadata.survey`."""
    width = height = scans = end = 0
    is_huffman = is_progressive = False
    missing: dict[int, int] = {}  # of each component, the coefficients still to come
    segments = tuple(bounded(_segments(data)))
    for kind, start, end in segments:
        code = kind[0]
        if code == 0xF7:
            raise unsupported("a JPEG-LS image")
        if code in _FRAME_HEADERS and not scans and end - start >= 10:
            precision, height, width = struct.unpack_from(">BHH", data, start + 4)
            is_huffman, is_progressive = code in _HUFFMAN, code in _PROGRESSIVE
            missing = dict.fromkeys(data[start + 10 : end : 3], _COEFFICIENTS)
            if precision != 8:
                raise unsupported(f"a JPEG with {precision} bits a colour")
        if code == 0xDA:
            scans += 1
            if scans > _MAX_SCANS:
                raise broken(f"it is stored in more than {_MAX_SCANS} scans")
            components, completed = _scanned(data, start, is_progressive=is_progressive)
            for component in missing.keys() & components:
                missing[component] &= ~completed
    if not width or not height or not scans:
        raise broken("it has no picture in it")
    if any(missing.values()):
        raise cut_short()
    exif = next((data[s + 4 : e] for kind, s, e in segments if _is_exif(data, kind, s)), b"")
    return Structure(
        end, width, height, scans=scans if is_huffman else 0, exif=exif, segments=segments
    )


def _is_exif(data: bytes, kind: bytes, start: int) -> bool:
    return kind == b"\xe1" and data.startswith(_EXIF, start + 4)


def _scanned(data: bytes, start: int, *, is_progressive: bool) -> tuple[bytes, int]:
    """Return the components of a scan, and which coefficients have all their bits after it.

    Only a progressive scan may leave some out, or their lowest bits (section G.1.1.1).
    """
    after = start + 5 + 2 * data[start + 4]
    components = data[start + 5 : after : 2]
    if not is_progressive:
        return components, _COEFFICIENTS
    first, last, bits = data[after : after + 3].ljust(3, b"\0")
    return components, 0 if bits & 15 else (2 << last) - (1 << first)


def strip(data: bytes, structure: Structure, *, keep_profile: bool, orientation: int) -> bytes:
    """Keep what decoding needs; JFIF and Adobe segments tell the colour model, without extras."""
    view = memoryview(data)
    pieces: list[bytes | memoryview] = [_HEAD]
    for kind, start, end in structure.segments:
        code = kind[0]
        payload = data[start + 4 : min(end, start + 18)]
        if code == 0xE0 and payload.startswith(b"JFIF\0"):
            pieces.append(_PLAIN_JFIF)
        elif code == 0xEE and payload.startswith(b"Adobe") and len(payload) >= 12:
            pieces.append(b"\xff\xee\x00\x0e" + payload[:12])
        elif code == 0xE2 and payload.startswith(b"ICC_PROFILE\0"):
            pieces += [view[start:end]] if keep_profile else []
        elif code < 0xE0:
            pieces.append(view[start:end])
    if orientation != 1:
        exif = _EXIF + orientation_tiff(orientation)
        pieces.insert(1, b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif)
    return b"".join(pieces)
