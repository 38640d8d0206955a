"""Publishes the files of recorded outcomes, together as they were recorded.

One thread's turn for the files of a commit: a turn costs more than a file's part of it. Lives in
one event loop. What publishing a file is, `output_files` knows.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import TYPE_CHECKING, Final

from log_context import in_thread

if TYPE_CHECKING:
    from output_files import OutputFiles
    from storage.storage_keys import StagedImage

MOST_AT_A_TIME: Final = 64  # by all threads together

logger = logging.getLogger(__name__)


class OutputPublisher:
    """Lets files be seen whose outcomes count, and deletes those of outcomes that came too late.

    Of many files several threads have a part each, a small one where the store is a bucket: that
    takes its time over each file.
    """

    def __init__(self, files: OutputFiles) -> None:
        self._files = files
        self._threads = ThreadPoolExecutor(files.threads, "publish")
        self._most = MOST_AT_A_TIME // files.threads  # files of a thread's turn
        self._batch: list[tuple[StagedImage, bool]] = []
        self._run: asyncio.Task[None] | None = None

    async def publish(self, staged: StagedImage, *, is_accepted: bool) -> None:
        """Return when it is done, or left to whoever finishes the request."""
        if self._run is None or len(self._batch) == self._most:
            self._batch = []
            # About no request, as it is about several.
            self._run = asyncio.create_task(self._publish_all(self._batch), context=Context())
        self._batch.append((staged, is_accepted))
        await asyncio.shield(self._run)

    def close(self) -> None:
        """End; whatever is under way fails."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _publish_all(self, batch: list[tuple[StagedImage, bool]]) -> None:
        # The loop comes here when it has woken all whose outcomes were of one commit.
        if batch is self._batch:
            self._run = None
        await in_thread(self._threads, self._publish_in_thread, batch)

    def _publish_in_thread(self, batch: list[tuple[StagedImage, bool]]) -> None:
        for staged, is_accepted in batch:
            try:
                if is_accepted:
                    self._files.publish(staged)
                else:
                    self._files.settle_one(staged)
            except Exception:  # whoever finishes the request does it
                about = {"request_id": staged.request_id}
                logger.warning("%s stays staged for now", staged.key, exc_info=True, extra=about)
