"""The store: bytes under keys, on disk or in an S3 bucket.

Owns what every store promises, and which one `STORAGE_URL` names. What the keys are is
`storage_keys`' business, when a file is published `output_files`'.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from storage.bucket_store import BucketStore
from storage.folder_store import FolderStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import ExitStack

    from storage.stored_object import StoredObject

FILE_SCHEME: Final = "file:"


class ImageStore(Protocol):
    """A disk or a bucket. Shared by threads.

    What `put` and `copy` returned from is durable, what `move` did is after `sync`. Every method
    raises ImageError `storage_error` when the store is away, full or closed to us.
    """

    @property
    def is_on_disk(self) -> bool:
        """Whether it is a folder; a bucket is far away."""

    @property
    def threads(self) -> int:
        """How many threads should wait for the store at a time: a bucket takes its time."""

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Store `data` under `key`, whole or not at all; what the iterable raises comes through."""

    def copy(self, source: str, target: str) -> None:
        """Store the bytes of one key under another, too. Raises FileNotFoundError."""

    def move(self, source: str, target: str) -> bool:
        """Put what lies under `source` under `target`; False when there is nothing."""

    def sync(self, folder: str) -> None:
        """Make what was moved into a folder survive a power cut."""

    def delete(self, *keys: str) -> None:
        """Delete what lies under the keys, if anything does."""

    def delete_folder(self, folder: str) -> None:
        """Delete everything under a prefix that ends in a slash, if anything is there."""

    def list_keys(self, folder: str, start: str = "") -> Iterator[str]:
        """Yield the keys right in a folder whose names begin with `start`."""

    def open(self, key: str, closing: ExitStack) -> StoredObject | None:
        """Return what lies under `key`, or None; it may be read until `closing` is closed."""

    def read(self, file: StoredObject, start: int, end: int) -> Iterable[bytes]:
        """Return the bytes from `start` up to, not including, `end`, to be read in pieces.

        They are those of what was opened. When they are gone, reading raises OSError or ImageError
        `storage_error`.
        """

    def has(self, key: str, size: int, sha256: str) -> bool:
        """Tell whether what was stored lies under `key`, undamaged."""

    def check(self) -> None:
        """Raise ImageError `storage_error` unless the store answers and can be written to."""


def open_store(url: str) -> ImageStore:
    """Return the store at file:relative, file:/absolute, file:///absolute or s3://bucket/prefix.

    Raises ValueError for what is no such URL or can't be one with the environment's AWS_ variables,
    and OSError for a folder that can't be made.
    """
    if not url.startswith(FILE_SCHEME):
        return BucketStore(url)
    return FolderStore(Path(url.removeprefix(FILE_SCHEME).removeprefix("//")))
