"""Reading of files below a folder, and of nothing else: no link leads out of it.

The folders right in the root may be links, as an operator may have another disk for them;
what lies deeper was written by us, and a link, a device or a pipe there was not.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}


@contextmanager
def opened_file(root: Path, key: str) -> Iterator[int]:
    """Open a plain file by its path below `root`; its descriptor is closed in the end.

    Raises FileNotFoundError, also for what is no plain file, and other OSErrors.
    """
    *folders, name = key.split("/")
    with ExitStack() as opened:
        try:
            with ExitStack() as way:  # closed at once: a client may take its time over the file
                folder = _open(way, root, os.O_DIRECTORY)
                for depth, part in enumerate(folders):
                    follow = os.O_NOFOLLOW if depth else 0
                    folder = _open(way, part, os.O_DIRECTORY | follow, folder)
                file = _open(opened, name, os.O_NOFOLLOW | os.O_NONBLOCK, folder)
        except OSError as error:
            if error.errno in _NONE:
                raise FileNotFoundError(errno.ENOENT, "no such file") from None
            raise
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no plain file")
        yield file


def _open(stack: ExitStack, path: Path | str, flags: int, folder: int | None = None) -> int:
    descriptor = os.open(path, os.O_RDONLY | flags, dir_fd=folder)
    stack.callback(os.close, descriptor)
    return descriptor
