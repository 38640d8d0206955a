"""Reading of files below a folder, and of nothing else: no link leads out of it.

The folders right in the root may be links, as an operator may have another disk for them;
what lies deeper was written by us, and a link, a device or a pipe there was not.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

PIECE_BYTES: Final = 256 * 1024
_NONE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}


@dataclass(frozen=True, slots=True)
class FilePart:
    """The bytes of an open file from `start` up to, not including, `end`."""

    descriptor: int
    start: int
    end: int

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes in pieces. Raises OSError when the file was cut meanwhile."""
        start = self.start
        while start < self.end:
            piece = os.pread(self.descriptor, min(self.end - start, PIECE_BYTES), start)
            if not piece:
                raise OSError("the file was cut meanwhile")
            yield piece
            start += len(piece)


def tag_of(facts: os.stat_result) -> str:
    """Return what changes with a file's content."""
    return f"{facts.st_mtime_ns:x}-{facts.st_size:x}"


def open_file(root: Path, key: str, closing: ExitStack) -> tuple[int, os.stat_result]:
    """Open a plain file by its path below `root`; its descriptor is closed with `closing`.

    Raises FileNotFoundError, also for what is no plain file, and other OSErrors.
    """
    try:
        file = _open_file(root, key)
    except OSError as error:
        if error.errno in _NONE:
            raise FileNotFoundError(errno.ENOENT, "no such file") from None
        raise
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise FileNotFoundError(errno.ENOENT, "no plain file")
    except OSError:
        os.close(file)
        raise
    closing.callback(os.close, file)
    return file, facts


def _open_file(root: Path, key: str) -> int:
    """Return a descriptor; those of the folders are closed at once, a client may take its time."""
    folders, _, name = key.rpartition("/")
    first, *deeper = folders.split("/")
    folder = os.open(f"{root}/{first}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in deeper:
            parent = folder
            folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            os.close(parent)
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
