"""What every walk through an image's container shares.

Owns the result of a walk, the shape of one step of it, and the errors that it ends in. The
walks are `container_jpeg`'s, `container_png`'s, `container_webp`'s, `container_gif`'s and
`container_avif`'s: each knows where its files end, and which of their parts are no picture.
None of them decodes, and checksums are the decoders' business.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from errors import ErrorCode, ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

AnyPart = TypeVar("AnyPart")

LARGEST_PROFILE_BYTES = 4 * 1024 * 1024  # the largest CMYK profiles in use have 3 MiB
_MAX_PARTS = 100_000  # an ordinary file has a few thousand at the most


class Part(NamedTuple):
    """A segment, chunk or block: its kind, and where it lies, header and all."""

    kind: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Structure:
    """What a walk through a container tells. A side of 0: only the decoder can tell."""

    end: int  # where the image ends; what lies behind is no part of it
    width: int = 0
    height: int = 0
    frames: int = 1
    is_lossless: bool = False  # WebP only
    scans: int = 0  # JPEG only: runs of Huffman codes that its pixels lie in
    plays: int = 0  # AVIF only: how often a sequence runs, 0 for ever
    exif: bytes = b""  # JPEG and PNG only: wherever it stands
    code_points: tuple[int, int] | None = None  # PNG and AVIF only: primaries, transfer (H.273)
    segments: tuple[Part, ...] = ()  # JPEG only: to look for them again would take as long


def cut_short() -> ImageError:
    """Return the error for half an image."""
    return ImageError(ErrorCode.TRUNCATED, "The image is cut short.")


def broken(what: str) -> ImageError:
    """Return the error for a file of the right kind that can't be read."""
    return ImageError(ErrorCode.DECODE_ERROR, f"The image is broken: {what}.")


def bounded(parts: Iterable[AnyPart]) -> Iterator[AnyPart]:
    """Pass parts on. Raises ImageError `decode_error` where there are absurdly many.

    Each takes a few bytes of a file and a hundred times the time that reading them should.
    """
    for count, part in enumerate(parts, 1):
        check_parts(count)
        yield part


def check_parts(count: int) -> None:
    """Raise ImageError `decode_error` for a file of absurdly many parts."""
    if count > _MAX_PARTS:
        raise broken("it is in too many pieces")


def count_frame(frames: int, max_frames: int) -> int:
    """Return one frame more. Raises ImageError `too_many_frames` beyond the limit."""
    if frames >= max_frames:
        raise ImageError(
            ErrorCode.TOO_MANY_FRAMES, f"The animation has more than {max_frames} frames."
        )
    return frames + 1


def orientation_tiff(orientation: int) -> bytes:
    """Return the smallest EXIF block that says which way is up (CIPA DC-008 section 4.6)."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
