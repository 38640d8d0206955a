"""Says in a sentence how much smaller a PNG would have been in another format.

Owns when that is worth a sentence, and its words. The trials are the caller's to make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from errors import ImageError
from request_options import OutputFormat

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST_BYTES = 10_240
_LEAST_SHARE = 0.5
_NAMES = {OutputFormat.WEBP: "WebP", OutputFormat.JPEG: "JPEG"}


def hint(size_bytes: int, encode: Callable[[OutputFormat], bytes], *, has_alpha: bool) -> str:
    """Return the sentence, or nothing where the saving would be no more than half or 10 KiB.

    `encode` makes a trial in a format; an ImageError of it rules the format out.
    """
    if size_bytes <= _LEAST_BYTES:
        return ""
    savings = []
    for target, name in _NAMES.items():
        if target is OutputFormat.JPEG and has_alpha:
            continue
        try:
            saved = size_bytes - len(encode(target))
        except ImageError:
            continue  # a side may be longer than the format can say
        if saved >= max(_LEAST_BYTES, _LEAST_SHARE * size_bytes):
            savings.append((name, round(100 * saved / size_bytes)))
    if not savings:
        return ""
    (name, percent), *others = savings
    also = "".join(f", as {other} about {share} %" for other, share in others)
    return f"As {name} it would have about {percent} % fewer bytes{also}."
