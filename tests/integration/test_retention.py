"""RETENTION_DAYS: finished requests go when their time is over, a portion at each cleaning."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import worker_upkeep
from image_processor import ImageProcessor
from request_rows import select_request
from settings import Settings
from storage.folder_store import FolderStore
from tests.queued import Queue, urls

if TYPE_CHECKING:
    from pathlib import Path

    from database_helper import Database

AGES = (5, 9, 1, 7)  # days since the end


@pytest.mark.parametrize(
    ("retention_days", "left"),
    [
        (0, [AGES, AGES, AGES]),
        (3, [(5, 1), (1,), (1,)]),
        (0.5, [(5, 1), (), ()]),
        (30, [AGES, AGES, AGES]),
    ],
)
def test_requests_are_deleted_when_their_time_is_over(
    clean_database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    retention_days: float,
    left: list[tuple[int, ...]],
) -> None:
    """The oldest first, so many at a time; with 0 days none ever."""
    monkeypatch.setattr(worker_upkeep, "EXPIRED_AT_A_TIME", 2)
    queues = [Queue(clean_database, *urls(1)) for _ in AGES]
    for queue, days in zip(queues, AGES, strict=True):
        queue.end("s")
        queue.change_request(f"finished_at = now() - interval '{days} days', status = 'completed'")
    settings = Settings(_env_file=None, compress_processes=1, retention_days=retention_days)

    async def clean() -> None:
        processor = ImageProcessor(settings, clean_database, FolderStore(tmp_path))
        await processor._upkeep.clean()
        await processor.close()

    for expected in left:
        asyncio.run(clean())
        with clean_database.transaction() as cursor:
            kept = [select_request(cursor, queue.id) is not None for queue in queues]
        assert tuple(days for days, is_kept in zip(AGES, kept, strict=True) if is_kept) == expected
