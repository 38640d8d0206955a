"""Reading of files below a folder, and of nothing else: no link leads out of it.

The folders right in the root may be links, as an operator may have another disk for them;
what lies deeper was written by us, and a link, a device or a pipe there was not.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIECE_BYTES: Final = 256 * 1024
_NONE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}


@dataclass(frozen=True)
class FilePart:
    """The bytes of a file from `start` up to, not including, `end`; opened while they are read.

    Raises OSError when the file is another one by then, or is cut.
    """

    root: Path
    key: str
    tag: str
    start: int
    end: int

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the file; its descriptor is closed in the end."""
        with opened_file(self.root, self.key) as file:
            if tag_of(os.fstat(file)) != self.tag:
                raise OSError("the file was replaced meanwhile")
            yield file

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes in pieces."""
        start = self.start
        with self.opened() as file:
            while start < self.end:
                piece = os.pread(file, min(self.end - start, PIECE_BYTES), start)
                if not piece:
                    raise OSError("the file was cut meanwhile")
                yield piece
                start += len(piece)


def tag_of(facts: os.stat_result) -> str:
    """Return what changes with a file's content."""
    return f"{facts.st_mtime_ns:x}-{facts.st_size:x}"


@contextmanager
def opened_file(root: Path, key: str) -> Iterator[int]:
    """Open a plain file by its path below `root`; its descriptor is closed in the end.

    Raises FileNotFoundError, also for what is no plain file, and other OSErrors.
    """
    try:
        file = _open_file(root, key)
    except OSError as error:
        if error.errno in _NONE:
            raise FileNotFoundError(errno.ENOENT, "no such file") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no plain file")
        yield file
    finally:
        os.close(file)


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
