"""Outputs that are compressed and not yet stored: how many bytes of them a worker holds."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class OutputBacklog:
    """Counts bytes that wait for the store; while they are `most`, nothing is to be compressed.

    Outputs that are just being made come on top, however large they are. Shared by threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._fewer = threading.Condition()

    def wait_for_room(self) -> None:
        """Wait until less than `most` is held."""
        with self._fewer:
            self._fewer.wait_for(lambda: self._bytes < self._most)

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count `size` bytes while the block stores them."""
        with self._fewer:
            self._bytes += size
        try:
            yield
        finally:
            with self._fewer:
                self._bytes -= size
                self._fewer.notify_all()
