"""Tests of publishing together what was recorded together."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, cast

import pytest

from output_publisher import MOST_AT_A_TIME, OutputPublisher
from storage.storage_keys import StagedImage

if TYPE_CHECKING:
    from output_files import OutputFiles

REQUEST = "0" * 32


class _Files:
    """Notes which thread does what with which image."""

    def __init__(self, threads: int, *, fails_at: int = -1) -> None:
        self.threads = threads
        self.published: dict[int, int] = {}
        self.settled: list[int] = []
        self._fails_at = fails_at
        # Nobody goes on before as many threads as there are have something to do.
        self.all_busy = threading.Barrier(threads)
        self._seen: set[int] = set()

    def publish(self, staged: StagedImage) -> None:
        """Note it; the first file of each thread waits for the others'."""
        if (thread := threading.get_ident()) not in self._seen:
            self._seen.add(thread)
            self.all_busy.wait(30.0)
        if staged.n == self._fails_at:
            raise OSError("gone")
        self.published[staged.n] = thread

    def settle_one(self, staged: StagedImage) -> None:
        """Note it."""
        self.settled.append(staged.n)


def _publish(files: _Files, count: int, *, late: int = -1) -> None:
    async def run() -> None:
        publisher = OutputPublisher(cast("OutputFiles", files))
        staged = [StagedImage(REQUEST, n, 1, "jpg") for n in range(count)]
        await asyncio.gather(
            *[publisher.publish(image, is_accepted=image.n != late) for image in staged]
        )
        publisher.close()

    asyncio.run(run())


def test_what_is_recorded_together_is_published_in_one_turn() -> None:
    """The files of a commit have one thread, in their sequence."""
    files = _Files(1)
    _publish(files, MOST_AT_A_TIME)
    assert list(files.published) == list(range(MOST_AT_A_TIME))
    assert len(set(files.published.values())) == 1


@pytest.mark.parametrize("threads", [4, 32])
def test_many_files_are_divided_among_threads(threads: int) -> None:
    """Each thread has an equal part, and all work at a time."""
    files = _Files(threads)
    _publish(files, MOST_AT_A_TIME)
    parts = [list(files.published.values()).count(thread) for thread in files._seen]
    assert parts == [MOST_AT_A_TIME // threads] * threads


def test_a_late_file_is_not_published() -> None:
    """What another attempt has made better is deleted."""
    files = _Files(1)
    _publish(files, 3, late=1)
    assert list(files.published) == [0, 2]
    assert files.settled == [1]


def test_a_file_that_can_t_be_moved_keeps_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It stays staged, which is said, and the others are published."""
    files = _Files(1, fails_at=1)
    _publish(files, 3)
    assert list(files.published) == [0, 2]
    assert "-1.1.jpg stays staged" in caplog.text
