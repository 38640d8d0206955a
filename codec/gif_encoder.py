"""Writes GIF files frame for frame, and of each frame only what differs from the one before.

Owns colour tables, the rectangle of each frame and what becomes of it afterwards (GIF89a). A
pixel of a GIF is seen or not, and a frame has at most 256 colours: `encode` writes such frames
as they are, and `reduced` makes them of others.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageStat

from codec.picture import Picture

# A pixel: red, green, blue and 255 from the lowest byte on; or this one, which isn't seen and
# leaves what is below.
_Levels = NDArray[np.uint32]
_UNSEEN = 0

_MOST_COLOURS = 256
_SEEN_FROM = 128  # of alpha
_LEAVE, _CLEAR = 1, 2  # what becomes of a frame when the next one is drawn
_SAMPLED_FRAMES = 16  # of an animation, to choose its colours by
_SAMPLED_PIXELS, _SAMPLED_PIXELS_OF_ALL = 1 << 16, 1 << 21
# One table for all frames spares bytes and flicker. Frames have tables of their own where that
# would bring them this much nearer to what they were.
_WORSE_SHARE, _WORSE_LEVELS = 1.25, 1.0


def encode(picture: Picture) -> bytes | None:
    """Write the very pixels of a picture; None where a frame has too many colours."""
    frames = [_levels(frame) for frame in picture.frames]
    shared = _shared_table(frames)
    pieces = [_header(picture, shared)]
    canvas = np.full_like(frames[0], _UNSEEN)
    for number, (frame, following) in enumerate(zip_longest(frames, frames[1:])):
        changed = canvas != frame
        drawn, disposal = changed, _LEAVE
        if following is not None and (cleared := (frame != _UNSEEN) & (following == _UNSEEN)).any():
            drawn, disposal = changed | cleared, _CLEAR
        box = _box_around(drawn) if number else (slice(0, len(frame)), slice(0, len(frame[0])))
        image = _image(frame[box], changed[box], shared)
        if image is None:
            return None
        pieces.append(image.block(box, picture.durations[number], disposal))
        canvas = frame
        if disposal == _CLEAR:
            canvas = frame.copy()
            canvas[box] = _UNSEEN
    return b"".join(pieces) + b";"


def reduced(picture: Picture, colours: int) -> Picture:
    """Return the picture in at most so many colours a frame, pixels seen or not."""
    visible = [frame.convert("RGB") for frame in picture.frames]
    if not picture.has_alpha:
        return Picture(_in_colours(visible, colours), picture.durations, picture.plays)
    frames = _in_colours(visible, colours - 1)
    for frame, whole in zip(frames, picture.frames, strict=True):
        levels = [0] * _SEEN_FROM + [255] * (256 - _SEEN_FROM)
        frame.putalpha(whole.getchannel("A").point(levels))
    return Picture(frames, picture.durations, picture.plays)


def _palette(frames: list[Image.Image], colours: int, pixels: int) -> Image.Image:
    """Choose colours by so many pixels at most, spread over all frames."""
    width, height = frames[0].size
    share = min(1.0, math.sqrt(pixels / (width * height * len(frames))))
    size = max(1, int(width * share)), max(1, int(height * share))
    sheet = Image.new("RGB", (size[0], size[1] * len(frames)))
    for number, frame in enumerate(frames):
        sheet.paste(frame.resize(size, Image.Resampling.NEAREST), (0, number * size[1]))
    return sheet.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=1)


def _nearest(frame: Image.Image, palette: Image.Image) -> Image.Image:
    return frame.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")


def _in_colours(frames: list[Image.Image], colours: int) -> list[Image.Image]:
    """Return the frames in colours of a shared table, or of one each if that is much nearer."""
    sample = frames[:: -(-len(frames) // _SAMPLED_FRAMES)]
    palette = _palette(sample, colours, _SAMPLED_PIXELS)
    pixels = min(_SAMPLED_PIXELS, _SAMPLED_PIXELS_OF_ALL // len(frames))
    if len(frames) > 1:
        shared = [_error(frame, _nearest(frame, palette)) for frame in sample]
        own = [
            _error(frame, _nearest(frame, _palette([frame], colours, pixels))) for frame in sample
        ]
        if sum(shared) > sum(own) * _WORSE_SHARE + len(sample) * _WORSE_LEVELS:
            return [_nearest(frame, _palette([frame], colours, pixels)) for frame in frames]
    return [_nearest(frame, palette) for frame in frames]


def _error(frame: Image.Image, other: Image.Image) -> float:
    """Return how far two frames differ, as the root mean square of levels."""
    return float(max(ImageStat.Stat(ImageChops.difference(frame, other)).rms))


def _levels(frame: Image.Image) -> _Levels:
    pixels = np.array(frame.convert("RGBA"))
    is_seen = pixels[..., 3] >= _SEEN_FROM
    pixels[..., 3] = 255
    levels: _Levels = pixels.view("<u4")[..., 0]
    return np.where(is_seen, levels, np.uint32(_UNSEEN))


def _shared_table(frames: list[_Levels]) -> _Levels | None:
    """Return all levels of all frames, in order; None when they are too many."""
    table = np.unique(frames[0])
    for frame in frames[1:]:
        if len(table) <= _MOST_COLOURS:
            table = np.union1d(table, frame)
    if len(table) > _MOST_COLOURS:
        return None
    with_unseen = np.union1d(table, np.uint32(_UNSEEN))
    return with_unseen if len(with_unseen) <= _MOST_COLOURS else table


def _box_around(drawn: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns that have to be drawn; one pixel where none has."""
    if not drawn.any():
        return slice(0, 1), slice(0, 1)
    rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@dataclass(frozen=True, slots=True)
class _Image:
    """The pixels of a frame, packed, and the colour table that they point into."""

    table: _Levels
    is_shared: bool
    pixels: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.pixels) + (0 if self.is_shared else len(_table_bytes(self.table)))

    def block(self, box: tuple[slice, slice], duration: int, disposal: int) -> bytes:
        """Return the control extension and the image, shown for milliseconds."""
        rows, columns = box
        has_unseen = int(self.table[0] == _UNSEEN)  # in its place 0
        flags = disposal << 2 | has_unseen
        control = struct.pack("<3sBHxx", b"!\xf9\x04", flags, duration // 10)
        place = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        if self.is_shared:
            return control + struct.pack("<c4HB", b",", *place, 0) + self.pixels
        flags = 0x80 | _table_bits(self.table) - 1
        head = struct.pack("<c4HB", b",", *place, flags)
        return control + head + _table_bytes(self.table) + self.pixels


def _image(pixels: _Levels, changed: NDArray[np.bool_], shared: _Levels | None) -> _Image | None:
    """Pack a frame's pixels, those that stay as they were drawn again or not: as is smaller."""
    ways = [np.where(changed, pixels, np.uint32(_UNSEEN)), pixels]
    images = [_packed(way, shared) for way in (ways[:1] if changed.all() else ways)]
    return min(filter(None, images), key=lambda image: image.size_bytes, default=None)


def _packed(pixels: _Levels, shared: _Levels | None) -> _Image | None:
    table = np.unique(pixels) if shared is None else shared
    needs_unseen = table[0] != _UNSEEN and bool((pixels == _UNSEEN).any())
    if len(table) > _MOST_COLOURS or needs_unseen:
        return None
    code_bits = max(2, _table_bits(table))
    places = Image.fromarray(np.searchsorted(table, pixels).astype(np.uint8))
    packed = places.tobytes("gif", ("L", code_bits, 0))
    return _Image(table, shared is not None, bytes([code_bits]) + packed + b"\0")


def _table_bits(table: _Levels) -> int:
    return max(1, (len(table) - 1).bit_length())


def _table_bytes(table: _Levels) -> bytes:
    """Return red, green and blue of a table, filled up to a power of two."""
    levels = table.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return levels.ljust(3 << _table_bits(table), b"\0")


def _header(picture: Picture, shared: _Levels | None) -> bytes:
    flags = 0x70 if shared is None else 0xF0 | _table_bits(shared) - 1
    header = struct.pack("<6sHHBBB", b"GIF89a", *picture.size, flags, 0, 0)
    if shared is not None:
        header += _table_bytes(shared)
    if len(picture.frames) > 1 and picture.plays != 1:
        # It counts the runs after the first; 0 is for ever.
        again = max(picture.plays - 1, 0)
        header += b"!\xff\x0bNETSCAPE2.0" + struct.pack("<BBHB", 3, 1, again, 0)
    return header
