"""What the files that the service hands out are, by their names. Pure."""

from __future__ import annotations

from typing import Final

_BY_EXTENSION: Final = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "avif": "image/avif",
    "tiff": "image/tiff",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
}
# An output image never changes.
FOREVER: Final = "public, max-age=31536000, immutable"


def content_type(name: str) -> str:
    """Return the media type of a file of ours. Raises KeyError for any other."""
    return _BY_EXTENSION[name.rpartition(".")[2]]
