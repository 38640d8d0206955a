"""What a TIFF says of itself that Pillow doesn't hold against the file: tiles, strips, an end.

Unlike the other containers it has no end that a walk could find: its directory may lie anywhere.
Pillow reads that; here it is checked.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from codec.container_structure import broken, cut_short
from codec.image_format import unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

_LARGEST_TILE_PIXELS = 1 << 24  # decoded whole, however small the image is
_DNG_VERSION = 50706


def check(image: Image.Image, size_bytes: int) -> None:
    """Refuse raw images of cameras, absurd tiles, and pixels that lie behind the file's end.

    Raises ImageError `unsupported_format`, `decode_error` or `truncated`.
    """
    tags = getattr(image, "tag_v2", {})
    if _DNG_VERSION in tags:
        raise unsupported("a camera's raw image")
    tile_pixels = math.prod(side for tag in (322, 323) for side in _numbers(tags, tag)[:1])
    if tile_pixels > max(_LARGEST_TILE_PIXELS, math.prod(image.size)):
        raise broken("its tiles are larger than it is")
    for offsets, counts in ((273, 279), (324, 325)):  # strips, tiles
        starts, sizes = _numbers(tags, offsets), _numbers(tags, counts)
        if any(start + size > size_bytes for start, size in zip(starts, sizes, strict=False)):
            raise cut_short()


def is_short(data: bytes) -> bool:
    """Tell whether there is less of it than its header says."""
    order = "<" if data[:1] == b"I" else ">"
    is_big = 43 in data[2:4]
    directory = data[8:16] if is_big else data[4:8]
    wanted = struct.unpack(
        order + ("Q" if is_big else "I"), directory.ljust(8 if is_big else 4, b"\xff")
    )
    return bool(wanted[0] + 2 > len(data))


def _numbers(tags: Mapping[int, Any], tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(number, int) for number in numbers):
        raise broken("its directory has a text for a number")
    return numbers
