"""The store: bytes under keys, on disk or in an S3 bucket.

Owns durability (what `put` returned from survives a crash) and safe reading by key. What the
keys are is `storage_keys`' business.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from errors import ErrorCode, ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK_BYTES: Final = 256 * 1024
FREE_BYTES: Final = 16 * 2**20  # a disk with less is taken for full
FOLDERS: Final = ("uploads", "static")
_FILE_SCHEME: Final = "file:"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the store has under a key: bytes, and a tag that changes with the content."""

    key: str
    size: int
    etag: str
    modified: float  # seconds since the epoch


class ImageStore:
    """The disk or the bucket that `STORAGE_URL` names. Shared by threads."""

    def __init__(self, url: str) -> None:
        self._root = _local_root(url)
        self._store: LocalStore | S3Store
        if self._root:
            self._root.mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(self._root, mkdir=True)
        else:
            self._store = S3Store.from_url(url)

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Store `data` whole under `key`, durably. Raises ImageError `storage_error`."""
        with _storage_errors():
            obstore.put(self._store, key, data)
            self._sync(key)

    def copy(self, source: str, target: str) -> None:
        """Store the bytes of one key under another. Raises ImageError `storage_error`."""
        with _storage_errors():
            obstore.copy(self._store, source, target)
            self._sync(target)

    def find(self, key: str) -> StoredObject | None:
        """Return what lies under `key`, or None."""
        with _storage_errors():
            try:
                meta = obstore.head(self._store, key)
            except FileNotFoundError:
                return None
        return StoredObject(
            key=key,
            size=meta["size"],
            etag=(meta["e_tag"] or f"{meta['last_modified'].timestamp():x}").strip('"'),
            modified=meta["last_modified"].timestamp(),
        )

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to, not including, `end`, in pieces."""
        while start < end:
            with _storage_errors():
                piece = bytes(
                    obstore.get_range(
                        self._store, key, start=start, end=min(end, start + CHUNK_BYTES)
                    )
                )
            yield piece
            start += len(piece)

    def check(self) -> None:
        """Raise ImageError `storage_error` unless the store answers and can be written to."""
        if self._root:
            _check_folder(self._root)
        self.find("static/.gitkeep")

    def _sync(self, key: str) -> None:
        """Make a file and its path survive a power cut: obstore renames but doesn't sync."""
        if not self._root:
            return
        path = self._root / key
        for name in (path, *path.parents[: key.count("/") + 1]):
            descriptor = os.open(name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _check_folder(root: Path) -> None:
    """Raise ImageError unless files can be made in the root and the folders that it has."""
    folders = [root, *(root / name for name in FOLDERS if (root / name).exists())]
    if not all(folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) for folder in folders):
        raise ImageError(ErrorCode.STORAGE_ERROR, "the store's folder can't be written to")
    if shutil.disk_usage(root).free < FREE_BYTES:
        raise ImageError(ErrorCode.STORAGE_ERROR, "the store's disk is full")


def _local_root(url: str) -> Path | None:
    """Return the folder of file:relative, file:/absolute or file:///absolute; None for a bucket."""
    if not url.startswith(_FILE_SCHEME):
        return None
    path = url.removeprefix(_FILE_SCHEME)
    return Path(path.removeprefix("//")).resolve()


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        raise ImageError(
            ErrorCode.STORAGE_ERROR, "the store did not take or give a file"
        ) from error
