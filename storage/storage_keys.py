"""The keys of the store, which are the paths of its files and URLs. Pure.

What is not published yet lies staged: beside its later folder, on the same disk or in the same
bucket, with the fence of the attempt in its name, so that no two attempts share a key.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

STAGED_IMAGES: Final = "uploads/.staged/"
STAGED_CSVS: Final = "static/.staged/"
REPORT_SUFFIX: Final = "-report"

_EXTENSIONS: Final = {"jpeg": "jpg"}  # the others are called as their format
_STAGED_IMAGE: Final = re.compile(r"([0-9a-f]{32})-([0-9]+)\.([0-9]+)\.([a-z]+)(?:#[0-9]+)?")
_STAGED_CSV: Final = re.compile(r"([0-9a-f]{32})(?:-report)?\.([0-9]+)\.csv(?:#[0-9]+)?")


class StagedImage(NamedTuple):
    """An output image that an attempt has made; published when the row of its image names it."""

    request_id: str
    n: int
    fence: int
    extension: str

    @classmethod
    def of(cls, request_id: str, n: int, fence: int, image_format: str) -> Self:
        """Return what an attempt stages."""
        return cls(request_id, n, fence, extension(image_format))

    @classmethod
    def parse(cls, key: str) -> Self | None:
        """Return whose staged file a key is; also a temporary one, cut off in writing."""
        match = _STAGED_IMAGE.fullmatch(key.removeprefix(STAGED_IMAGES))
        return match and cls(match[1], int(match[2]), int(match[3]), match[4])

    @property
    def key(self) -> str:
        """Where it lies until it is published."""
        return f"{STAGED_IMAGES}{self.request_id}-{self.n}.{self.fence}.{self.extension}"

    @property
    def published_key(self) -> str:
        """Where it lies from then on."""
        return published_image_key(self.request_id, self.n, self.extension)


def extension(image_format: str) -> str:
    """Return the extension of the files of a format."""
    return _EXTENSIONS.get(image_format, image_format)


def image_folder(request_id: str) -> str:
    """Return the prefix of the output images of a request."""
    return f"uploads/{request_id}/"


def image_key(request_id: str, n: int, image_format: str) -> str:
    """Return the key of an output image."""
    return published_image_key(request_id, n, extension(image_format))


def published_image_key(request_id: str, n: int, extension: str) -> str:
    """Return the key of an output image whose file has this extension."""
    return f"{image_folder(request_id)}{request_id}-{n}.{extension}"


def staged_csv_key(key: str, fence: int) -> str:
    """Return where the finish with this fence writes what is to be the CSV `key`."""
    return f"{STAGED_CSVS}{key.removeprefix('static/').removesuffix('.csv')}.{fence}.csv"


def parse_staged_csv(key: str) -> tuple[str, int] | None:
    """Return whose staged CSV a key is: request id and fence."""
    match = _STAGED_CSV.fullmatch(key.removeprefix(STAGED_CSVS))
    return match and (match[1], int(match[2]))


def output_csv_key(request_id: str) -> str:
    """Return the key of a request's output CSV."""
    return f"static/{request_id}.csv"


def report_csv_key(request_id: str) -> str:
    """Return the key of a request's report."""
    return f"static/{request_id}{REPORT_SUFFIX}.csv"
