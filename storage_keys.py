"""The keys of the store, which are the paths of its files and URLs. Pure."""

from __future__ import annotations

from typing import Final

_EXTENSIONS: Final = {"jpeg": "jpg"}  # the others are called as their format


def image_key(request_id: str, n: int, image_format: str) -> str:
    """Return the key of an output image."""
    extension = _EXTENSIONS.get(image_format, image_format)
    return f"uploads/{request_id}/{request_id}-{n}.{extension}"


def output_csv_key(request_id: str) -> str:
    """Return the key of a request's output CSV."""
    return f"static/{request_id}.csv"


def report_csv_key(request_id: str) -> str:
    """Return the key of a request's report."""
    return f"static/{request_id}-report.csv"
