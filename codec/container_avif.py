"""The structure of an AVIF file: its boxes (ISO/IEC 14496-12 and 23008-12).

Offsets in an AVIF file count from its start, so nothing can be taken out without moving the
rest. Metadata is overwritten in place instead: its bytes become zero, its type `skip`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from codec.container_structure import Structure, bounded, broken, check_parts, cut_short

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOP_LEVEL = frozenset(
    [b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"uuid", b"pdin", b"idat", b"sidx"]
)
_MOVIE = frozenset([b"moov", b"trak", b"mdia", b"edts"])
_NOT_PICTURE = frozenset([b"uuid", b"udta", b"free", b"skip"])
_MOVIE_DEPTH = 3  # a movie holds tracks, a track its media
_TIMED = frozenset([b"mvhd", b"tkhd", b"mdhd"])  # they tell when the sequence was made
# Where a header of version 0 or 1 says how long, counted from its start, and in how many bytes.
_DURATIONS = {b"mvhd": ((16, 4), (24, 8)), b"tkhd": ((20, 4), (28, 8)), b"elst": ((8, 4), (8, 8))}
_REPEATED = 1  # a flag of `elst`
_METADATA_ITEMS = frozenset([b"Exif", b"mime"])
_IN_FILE, _IN_IDAT = 0, 1  # what an item's offsets count from


class _Box(NamedTuple):
    kind: bytes
    start: int
    payload: int
    end: int


@dataclass(frozen=True, slots=True)
class _Item:
    """An item's bytes: spans of the file."""

    number: int
    spans: list[tuple[int, int]]


class _Reader:
    """Reads big-endian numbers one after the other; past the end the image is cut short."""

    def __init__(self, data: bytes | bytearray, at: int, stop: int) -> None:
        self._data, self.at, self._stop = data, at, stop

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def take(self, size: int) -> bytes:
        if self.at + size > self._stop:
            raise broken("its directory ends too early")
        self.at += size
        return bytes(self._data[self.at - size : self.at])


def survey(data: bytes) -> Structure:
    """Find the end of the image; size and frames are the decoder's to tell."""
    boxes = list(bounded(_top_level(data)))
    end = boxes[-1].end if boxes else 0
    if not any(box.kind in {b"meta", b"moov"} for box in boxes):
        raise cut_short()
    metas = _metas(data, end)
    for meta in metas:
        for item in _items(data, meta):
            if any(stop > end for _, stop in item.spans):
                raise cut_short()
    code_points = _read_code_points(data, metas[0]) if metas else None
    return Structure(end, code_points=code_points, plays=_read_plays(data, end))


def strip(data: bytes) -> bytes:
    """Return a surveyed image with Exif, XMP, private boxes and dates overwritten."""
    end = survey(data).end
    clean = bytearray(data[:end])
    for meta in _metas(data, end):
        metadata = _retype_metadata(clean, meta)
        spans = [
            span for item in _items(data, meta) if item.number in metadata for span in item.spans
        ]
        if sum(stop - start for start, stop in spans) > end:
            raise broken("its metadata overlap")
        for start, stop in spans:
            clean[start:stop] = bytes(stop - start)
    for box in _walk(data, 0, end):
        if box.kind in _NOT_PICTURE:
            clean[box.start + 4 : box.start + 8] = b"skip"
            clean[box.payload : box.end] = bytes(box.end - box.payload)
        elif box.kind in _TIMED and box.payload + 20 <= box.end:
            size = 16 if clean[box.payload] else 8  # made and changed, by the box's version
            clean[box.payload + 4 : box.payload + 4 + size] = bytes(size)
    return bytes(clean)


def with_plays(data: bytes, plays: int) -> bytes:
    """Return a sequence of an unlimited number of runs with that number of them, 0 for ever.

    A track that repeats its edit lasts as long as all its runs together (MIAF, ISO/IEC 23000-22).
    """
    changed = bytearray(data)
    headers = [box for box in _walk(data, 0, len(data)) if box.kind in _DURATIONS]
    once = next((_read_duration(data, box) for box in headers if box.kind == b"elst"), None)
    if plays and once:
        for box in headers:
            at, size = _DURATIONS[box.kind][data[box.payload]]
            if box.kind != b"elst":
                place = slice(box.payload + at, box.payload + at + size)
                changed[place] = (plays * once).to_bytes(size, "big")
    return bytes(changed)


def _read_plays(data: bytes, end: int) -> int:
    """Return how often the first track runs; 0 for ever, or where it isn't said."""
    whole = None
    for box in bounded(_walk(data, 0, end)):
        if box.kind == b"tkhd":
            whole = _read_duration(data, box)
        elif box.kind == b"elst":
            once = _read_duration(data, box)
            if not data[box.payload + 3] & _REPEATED:
                return 1
            return -(-whole // once) if whole and once else 0
    return 0


def _read_duration(data: bytes, box: _Box) -> int | None:
    """Return the duration in a header; None where it has no end."""
    reader = _Reader(data, box.payload, box.end)
    version = reader.take(1)[0]
    at, size = _DURATIONS[box.kind][min(version, 1)]
    reader.take(at - 1)
    duration = reader.number(size)
    return None if duration == (1 << 8 * size) - 1 else duration


def _boxes(data: bytes | bytearray, at: int, stop: int) -> Iterator[_Box]:
    """Yield the boxes between two offsets; one may claim to end beyond them."""
    while at + 8 <= stop:
        size, payload = int.from_bytes(data[at : at + 4], "big"), at + 8
        if size == 1:
            size, payload = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + size if size else stop
        if end < payload:
            return
        yield _Box(bytes(data[at + 4 : at + 8]), at, payload, end)
        at = end


def _top_level(data: bytes) -> Iterator[_Box]:
    """Yield the file's own boxes; what follows and is of no known kind is no part of it."""
    for box in _boxes(data, 0, len(data)):
        if box.kind not in _TOP_LEVEL:
            return
        if box.end > len(data):
            raise cut_short()
        yield box


def _walk(data: bytes, at: int, stop: int, depth: int = _MOVIE_DEPTH) -> Iterator[_Box]:
    """Yield the boxes that may be or hold metadata, those inside movies and tracks too."""
    for box in _boxes(data, at, stop):
        if box.end > stop:
            raise broken("one of its boxes is larger than what it lies in")
        yield box
        if box.kind in _MOVIE and depth:
            yield from _walk(data, box.payload, box.end, depth - 1)


def _metas(data: bytes, end: int) -> list[_Box]:
    return [box for box in bounded(_walk(data, 0, end)) if box.kind == b"meta"]


def _child(data: bytes | bytearray, parent: _Box, kind: bytes, *, skipped: int = 4) -> _Box | None:
    """Return a box inside another; a meta box has version and flags before its boxes."""
    boxes = _boxes(data, parent.payload + skipped, parent.end)
    return next((box for box in boxes if box.kind == kind and box.end <= parent.end), None)


def _read_code_points(data: bytes, meta: _Box) -> tuple[int, int] | None:
    """Read the first colour box that has code points (`colr`, section 12.1.5)."""
    properties = _child(data, meta, b"iprp")
    listed = properties and _child(data, properties, b"ipco", skipped=0)
    for box in bounded(_boxes(data, listed.payload, listed.end)) if listed else ():
        if box.kind == b"colr" and data[box.payload : box.payload + 4] == b"nclx":
            reader = _Reader(data, box.payload + 4, box.end)
            return reader.number(2), reader.number(2)
    return None


def _items(data: bytes, meta: _Box) -> Iterator[_Item]:
    """Read where items lie (`iloc`, ISO/IEC 14496-12 section 8.11.3)."""
    iloc, idat = _child(data, meta, b"iloc"), _child(data, meta, b"idat")
    if iloc is None:
        return
    reader = _Reader(data, iloc.payload, iloc.end)
    version = reader.number(4) >> 24
    sizes = reader.number(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    number_size = 4 if version > 1 else 2
    parts = 0
    for _ in range(reader.number(number_size)):
        number = reader.number(number_size)
        method = reader.number(2) & 15 if version else _IN_FILE
        reader.take(2)  # which file: only this one is ever read
        base = reader.number(base_size)
        if method == _IN_IDAT:
            base += idat.payload if idat else 0
        spans = []
        extents = reader.number(2)
        parts += 1 + extents
        check_parts(parts)
        for _ in range(extents):
            reader.take(index_size)
            start = base + reader.number(offset_size)
            spans.append((start, start + reader.number(length_size)))
        yield _Item(number, spans if method in {_IN_FILE, _IN_IDAT} else [])


def _retype_metadata(clean: bytearray, meta: _Box) -> set[int]:
    """Rename the items of metadata in place (`iinf`, section 8.11.6); return their numbers."""
    iinf = _child(clean, meta, b"iinf")
    if iinf is None:
        return set()
    reader = _Reader(clean, iinf.payload, iinf.end)
    reader.take(4 if reader.number(4) >> 24 else 2)  # how many there are
    found = set()
    for infe in _boxes(clean, reader.at, iinf.end):
        reader = _Reader(clean, infe.payload, min(infe.end, iinf.end))
        number = reader.number(4 if reader.number(4) >> 24 > 2 else 2)
        reader.take(2)
        if reader.take(4) in _METADATA_ITEMS:
            clean[reader.at - 4 : reader.at] = b"skip"
            found.add(number)
    return found
