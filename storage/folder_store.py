"""The store in a folder: files that survive a power cut, read without following links."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from contextlib import ExitStack, suppress
from itertools import count
from typing import TYPE_CHECKING, BinaryIO, Final

from storage.local_file import FilePart, open_file, tag_of
from storage.storage_keys import STAGED_CSVS, STAGED_IMAGES
from storage.stored_object import StoredObject, storage_error, storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FREE_BYTES: Final = 16 * 2**20  # a disk with less is taken for full
ACCESS: Final = os.R_OK | os.W_OK | os.X_OK
FOLDERS: Final = ("uploads", "static", STAGED_IMAGES, STAGED_CSVS)
# Of all processes that write to a store: two may make the same file.
_partial_files: Final = count(secrets.randbits(60))


class FolderStore:
    """Files in a folder, which is made if it is not there. What `image_store` promises of them."""

    is_on_disk: Final = True
    threads: Final = 4

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._root.mkdir(parents=True, exist_ok=True)
        for folder in (STAGED_IMAGES, STAGED_CSVS):
            path = self._root / folder
            path.mkdir(parents=True, exist_ok=True)
            _sync_paths([path.parent, self._root])  # once: from then on they are there

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Write a file whole, durably."""
        with storage_errors():
            _write_file(self._root / key, [data] if isinstance(data, bytes) else data)

    def copy(self, source: str, target: str) -> None:
        """Give a file a second name, durably. Raises FileNotFoundError."""
        with storage_errors():
            try:
                _link(self._root / source, self._root / target)
            except OSError:
                with ExitStack() as closing:
                    file = self.open(source, closing)
                    if file is None:
                        raise FileNotFoundError(source) from None
                    # A disk without such names, or with all that it has of a file (65,000 on ext4).
                    self.put(target, self.read(file, 0, file.size))
            _sync_paths([self._root / target, (self._root / target).parent])

    def move(self, source: str, target: str) -> bool:
        """Rename a file: whole or not at all, durable after `sync`."""
        with storage_errors():
            try:
                _rename(self._root / source, self._root / target)
            except FileNotFoundError:
                return False
        return True

    def sync(self, folder: str) -> None:
        """Make the names in a folder survive a power cut, if it is there."""
        if (self._root / folder).is_dir():
            with storage_errors():
                _sync_paths([self._root / folder, (self._root / folder).parent])

    def delete(self, *keys: str) -> None:
        """Delete the files that are there."""
        with storage_errors():
            for key in keys:
                with suppress(FileNotFoundError):
                    (self._root / key).unlink()

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with all that is in it, if it is there."""
        path = self._root / folder
        with storage_errors():
            while path.exists():
                with suppress(FileNotFoundError):  # another one is deleting it, too
                    shutil.rmtree(path)

    def list_keys(self, folder: str, start: str = "") -> Iterator[str]:
        """Yield the keys right in a folder, also those of files that were cut off in writing."""
        with (
            storage_errors(),
            suppress(FileNotFoundError),
            os.scandir(self._root / folder) as entries,
        ):
            yield from (folder + e.name for e in entries if e.name.startswith(start))

    def open(self, key: str, closing: ExitStack) -> StoredObject | None:
        """Open a file, which stays what it is whatever becomes of its name."""
        with storage_errors():
            try:
                descriptor, facts = open_file(self._root, key, closing)
            except FileNotFoundError:
                return None
        return StoredObject(key, facts.st_size, tag_of(facts), facts.st_mtime, descriptor)

    def read(self, file: StoredObject, start: int, end: int) -> FilePart:
        """Return a part of an open file. Reading it raises OSError when the file was cut."""
        return FilePart(file.descriptor, start, end)

    def has(self, key: str, size: int, sha256: str) -> bool:
        """Tell whether a file has this content."""
        with storage_errors(), ExitStack() as closing:
            file = self.open(key, closing)
            if file is None or file.size != size:
                return False
            digest = hashlib.sha256()
            for piece in self.read(file, 0, size):
                digest.update(piece)
        return digest.hexdigest() == sha256

    def check(self) -> None:
        """Raise ImageError unless files can be made in the root and the folders that it has."""
        with storage_errors():
            folders = [self._root, *(p for name in FOLDERS if (p := self._root / name).exists())]
            if not all(path.is_dir() and os.access(path, ACCESS) for path in folders):
                raise storage_error("the store's folder can't be written to")
            if shutil.disk_usage(self._root).free < FREE_BYTES:
                raise storage_error("the store's disk is full")


def _write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file beside its place, then put it there."""
    partial = _beside(path)
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


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}#{next(_partial_files)}")


def _create(path: Path) -> BinaryIO:
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, whatever had that name before."""
    partial = _beside(target)
    os.link(source, partial)
    try:
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)  # both were names of one file: then renaming does nothing


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
