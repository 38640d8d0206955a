"""An origin that does not answer: its requests end soon, and it is left alone meanwhile."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

import attempt_outcome
import image_processor
import job_queue
from image_processor import background_worker
from politeness.origin_queue import Terms
from politeness.origin_state import FAILURES_TO_OPEN
from request_options import parse_options
from settings import Settings
from storage.folder_store import FolderStore
from tests.images import photo, saved
from tests.queued import Queue

if TYPE_CHECKING:
    from pathlib import Path

    from database_helper import Database
    from tests.origin import Origin

PATIENCE_SECONDS = 40.0
ATTEMPTS = 4
IMAGES = 100
HOST_CONCURRENCY = 4
OPEN_SECONDS = DOWNLOAD_SECONDS = 0.5
JPEG = saved(photo(64, 48), "JPEG")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what a test would have to wait for."""
    monkeypatch.setattr(image_processor, "Terms", partial(Terms, open_seconds=OPEN_SECONDS))
    monkeypatch.setattr(attempt_outcome, "FIRST_RETRY_SECONDS", 0.05)


def _begin(database: Database, *urls: str) -> Queue:
    queue = Queue(database, *urls, begins=False)
    options = json.dumps(parse_options({}).to_json())
    queue.change_request(f"options = '{options}', columns = '{{Serial Number,Product Name,Urls}}'")
    with database.transaction() as cursor:
        job_queue.defer_begin(cursor, queue.id)
    return queue


def _work(queue: Queue, folder: Path, *sources: str) -> None:
    """Let two workers run until every image has ended."""
    settings = Settings.model_validate(
        {
            "compress_processes": 1,
            "host_concurrency": HOST_CONCURRENCY,
            "download_seconds": DOWNLOAD_SECONDS,
            "allowed_sources": ",".join(sources),
            "shutdown_seconds": 5,
        }
    )
    store = FolderStore(folder)
    deadline = time.monotonic() + PATIENCE_SECONDS
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(background_worker(settings, queue.database, store))
        while queue.request["succeeded"] + queue.request["failed"] < queue.request["images"]:
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.05)


def test_a_black_hole(clean_database: Database, tmp_path: Path, origin: Origin) -> None:
    """Each image fails in the end after all its attempts, most of which nobody made."""
    urls = [origin.serve(f"/{n}.jpg", silent=True) for n in range(IMAGES)]
    queue = _begin(clean_database, *urls)
    _work(queue, tmp_path, origin.authority)
    assert {image["error_code"] for image in queue.images} == {"timeout"}
    assert {image["attempts"] for image in queue.images} == {ATTEMPTS}
    assert any("other images" in image["error_detail"] for image in queue.images)
    # What opens the breaker, what was under way then, and one probe each time it was over.
    lasted = origin.requests[-1].at - origin.requests[0].at
    probes = 1 + lasted / (0.8 * OPEN_SECONDS + DOWNLOAD_SECONDS)
    assert len(origin.requests) <= FAILURES_TO_OPEN + 2 * HOST_CONCURRENCY + probes


def test_a_dead_host_does_not_harm_another(
    clean_database: Database, tmp_path: Path, origin: Origin
) -> None:
    """Images of other origins go on beside it, in the same request."""
    dead = [origin.serve(f"/dead-{n}.jpg", silent=True) for n in range(30)]
    alive = [origin.serve(f"/alive-{n}.jpg", JPEG) for n in range(30)]
    other_name = origin.authority.replace("127.0.0.1", "localhost")
    queue = _begin(
        clean_database, *dead, *[url.replace(origin.authority, other_name) for url in alive]
    )
    _work(queue, tmp_path, origin.authority, other_name)
    states = [image["state"] for image in queue.images]
    assert states == ["failed"] * 30 + ["succeeded"] * 30
