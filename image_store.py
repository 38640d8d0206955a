"""The store: bytes under keys, on disk or in an S3 bucket.

Owns durability (what `put` returned from survives a crash) and safe reading by key. What the
keys are is `storage_keys`' business, when a file is published `output_files`'.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from errors import ErrorCode, ImageError
from local_file import FilePart, open_file, tag_of
from storage_keys import STAGED_CSVS, STAGED_IMAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DISK_THREADS, BUCKET_THREADS = 4, 32
CHUNK_BYTES: Final = 256 * 1024
FREE_BYTES: Final = 16 * 2**20  # a disk with less is taken for full
FOLDERS: Final = ("uploads", "static", STAGED_IMAGES, STAGED_CSVS)
_FILE_SCHEME: Final = "file:"
# Of all processes that write to a store: two may make the same file.
_partial_files: Final = count(secrets.randbits(60))


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the store has under a key: bytes, and a tag that changes with the content."""

    key: str
    size: int
    etag: str
    modified: float  # seconds since the epoch
    descriptor: int = -1  # of a file on disk that is open


class ImageStore:
    """The disk or the bucket that `STORAGE_URL` names. Shared by threads."""

    def __init__(self, url: str) -> None:
        self._root = _local_root(url)
        self._store: LocalStore | S3Store
        if self._root:
            self._root.mkdir(parents=True, exist_ok=True)
            for folder in (STAGED_IMAGES, STAGED_CSVS):
                path = self._root / folder
                path.mkdir(parents=True, exist_ok=True)
                _sync_paths([path.parent, self._root])  # once: from then on they are there
            self._store = LocalStore(self._root, mkdir=True)
        else:
            self._store = S3Store.from_url(url)

    @property
    def is_on_disk(self) -> bool:
        """Whether it is a folder; a bucket is far away."""
        return self._root is not None

    @property
    def threads(self) -> int:
        """How many threads should wait for the store at a time: a bucket takes its time."""
        return DISK_THREADS if self.is_on_disk else BUCKET_THREADS

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Store `data` whole under `key`, durably. Raises ImageError `storage_error`."""
        with _storage_errors():
            if self._root:
                _write_file(self._root / key, [data] if isinstance(data, bytes) else data)
            else:
                obstore.put(self._store, key, data)

    def copy(self, source: str, target: str) -> None:
        """Store the bytes of one key under another, on disk by a second name of the file.

        Raises ImageError `storage_error`, and FileNotFoundError.
        """
        with _storage_errors():
            try:
                obstore.copy(self._store, source, target)
            except BaseError:
                with ExitStack() as closing:
                    file = self.open(source, closing) if self._root else None
                    if file is None:
                        raise
                    # A disk without such names, or with all that it has of a file (65,000 on ext4).
                    self.put(target, self.read(file, 0, file.size))
            if self._root:
                _sync_paths([self._root / target, (self._root / target).parent])

    def move(self, source: str, target: str) -> bool:
        """Put what lies under `source` under `target`; False when there is nothing.

        On disk whole or not at all, durable after `sync`; in a bucket a copy, then a deletion.
        """
        with _storage_errors():
            try:
                if self._root:
                    _rename(self._root / source, self._root / target)
                else:
                    obstore.rename(self._store, source, target)
            except FileNotFoundError:
                return False
        return True

    def sync(self, folder: str) -> None:
        """Make the names in a folder survive a power cut, if it is there."""
        if self._root and (self._root / folder).is_dir():
            with _storage_errors():
                _sync_paths([self._root / folder, (self._root / folder).parent])

    def delete(self, key: str) -> None:
        """Delete what lies under `key`, if anything does."""
        with _storage_errors(), suppress(FileNotFoundError):
            if self._root:
                (self._root / key).unlink()
            else:
                obstore.delete(self._store, key)

    def delete_folder(self, folder: str) -> None:
        """Delete everything under a prefix that ends in a slash, if anything is there."""
        if self._root:
            path = self._root / folder
            with _storage_errors():
                while path.exists():
                    with suppress(FileNotFoundError):  # another one is deleting it, too
                        shutil.rmtree(path)
            return
        for key in self.list_keys(folder):
            self.delete(key)

    def list_keys(self, folder: str, start: str = "") -> Iterator[str]:
        """Yield the keys right in a folder whose names begin with `start`.

        On disk also those of files that were cut off in writing.
        """
        with _storage_errors():
            if self._root:
                with suppress(FileNotFoundError), os.scandir(self._root / folder) as entries:
                    yield from (folder + e.name for e in entries if e.name.startswith(start))
                return
            for page in obstore.list(self._store, folder):
                yield from (o["path"] for o in page if o["path"].startswith(folder + start))

    def open(self, key: str, closing: ExitStack) -> StoredObject | None:
        """Return what lies under `key`, or None; it may be read until `closing` is closed."""
        with _storage_errors():
            try:
                if self._root:
                    return _stored_file(key, *open_file(self._root, key, closing))
                meta = obstore.head(self._store, key)
            except FileNotFoundError:
                return None
        return StoredObject(
            key=key,
            size=meta["size"],
            etag=(meta["e_tag"] or f"{meta['last_modified'].timestamp():x}").strip('"'),
            modified=meta["last_modified"].timestamp(),
        )

    def has(self, key: str, size: int, sha256: str) -> bool:
        """Tell whether what was stored lies under `key`, undamaged.

        A bucket is believed by the size: it keeps checksums of its own.
        """
        with _storage_errors(), ExitStack() as closing:
            file = self.open(key, closing)
            if file is None or file.size != size:
                return False
            if not self._root:
                return True
            digest = hashlib.sha256()
            for piece in self.read(file, 0, size):
                digest.update(piece)
        return digest.hexdigest() == sha256

    def read(self, file: StoredObject, start: int, end: int) -> Iterable[bytes]:
        """Return the bytes from `start` up to, not including, `end`, to be read in pieces.

        Reading raises OSError when a file on disk was cut, ImageError `storage_error` of a bucket.
        """
        if self._root:
            return FilePart(file.descriptor, start, end)
        return self._read_object(file, start, end)

    def _read_object(self, file: StoredObject, start: int, end: int) -> Iterator[bytes]:
        with _storage_errors():
            while start < end:
                upto = min(end, start + CHUNK_BYTES)
                piece = bytes(obstore.get_range(self._store, file.key, start=start, end=upto))
                yield piece
                start += len(piece)

    def check(self) -> None:
        """Raise ImageError `storage_error` unless the store answers and can be written to."""
        if self._root:
            _check_folder(self._root)
        with ExitStack() as closing:
            self.open("static/.gitkeep", closing)


def _stored_file(key: str, descriptor: int, facts: os.stat_result) -> StoredObject:
    return StoredObject(key, facts.st_size, tag_of(facts), facts.st_mtime, descriptor)


def _write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file beside its place, then put it there; obstore does so too, but doesn't sync."""
    partial = path.with_name(f"{path.name}#{next(_partial_files)}")
    try:
        with _create(partial) as file:
            file.writelines(pieces)
            file.flush()
            partial.rename(path)
            os.fsync(file.fileno())  # of file and name together: nobody relies on either before
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    _sync_paths([path.parent])


def _create(path: Path) -> BinaryIO:
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except FileNotFoundError:
        if not source.exists():
            raise
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    source.unlink(missing_ok=True)  # both were names of one file: then renaming does nothing


def _sync_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
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
