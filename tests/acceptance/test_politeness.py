"""What an origin sees of several workers: never more at a time than allowed, and pauses kept."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from tests.images import photo, saved
from tests.origin import Origin, RecordedRequest, Reply
from tests.service import FINISH_SECONDS, Service, Worker, csv_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from database_helper import Database

JPEG = saved(photo(64, 48), "JPEG")
HOST_CONCURRENCY = 4
PAUSE_SECONDS = 2.0
IMAGES = 20  # a request
IN_STORE = 100  # images that wait: more would only make it longer


@contextmanager
def two_workers(folder: Path, database: Database, origin: Origin) -> Iterator[Service]:
    """Run HTTP alone and two workers."""
    settings = {
        "ALLOWED_SOURCES": origin.authority,
        "STORAGE_URL": f"file:{folder}",
        "PUBLIC_URL": "http://images.example",
        "HOST_CONCURRENCY": str(HOST_CONCURRENCY),
    }
    folders = [folder / name for name in ("server", "first", "second")]
    for one in folders:
        one.mkdir()
    with ExitStack() as stack:
        service = Service(folders[0], database, "--no-worker", **settings)
        stack.enter_context(service)
        for one in folders[1:]:
            stack.enter_context(Worker(one, database, **settings))
        yield service


def serve(origin: Origin, number: int) -> str:
    """Serve the images of a request; return their URLs as a cell."""
    paths = [f"/{number}-{n}.jpg" for n in range(IMAGES)]
    return ",".join(origin.serve(path, JPEG, delay=0.05) for path in paths)


def test_host_concurrency_is_of_all_workers(
    tmp_path: Path, database: Database, origin: Origin
) -> None:
    """Two workers that download from one origin together keep to HOST_CONCURRENCY."""
    holders: set[str] = set()
    request_ids: list[str] = []
    with two_workers(tmp_path, database, origin) as service:
        deadline = time.monotonic() + FINISH_SECONDS
        while len(holders) < 2 or len(request_ids) < 10:
            assert time.monotonic() < deadline, "one worker has it all"
            cell = serve(origin, len(request_ids))
            request_ids.append(service.upload(csv_of(cell)).json()["request_id"])
            service.wait_until(lambda: IMAGES * len(request_ids) - len(origin.requests) < IN_STORE)
            rows = service.query("select worker from host_shares where slots > 0")
            holders |= {row["worker"] for row in rows}
        statuses = [service.finish(request_id)["status"] for request_id in request_ids]
    assert set(statuses) == {"completed"}
    assert origin.peak == HOST_CONCURRENCY
    assert set(origin.counts.values()) == {1}


class BusyOrigin(Origin):
    """Answers some requests, then 429 for PAUSE_SECONDS, then all."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.refused_at: list[float] = []
        super().__init__()

    def reply_to(self, request: RecordedRequest) -> Reply:
        """Refuse a request that comes too early."""
        reply = super().reply_to(request)
        with self.lock:
            if len(self.requests) <= self.first:
                return reply
            if self.refused_at and request.at >= self.refused_at[0] + PAUSE_SECONDS:
                return reply
            self.refused_at.append(request.at)
        return Reply(status=429, headers={"Retry-After": f"{PAUSE_SECONDS:.0f}"})


def test_a_pause_holds_for_all_workers(tmp_path: Path, database: Database) -> None:
    """After a 429 with Retry-After neither worker asks again before that time is over, but for
    what was on its way; images that had to wait for it have had no attempt more.
    """
    with (
        closing(BusyOrigin(first=20)) as origin,
        two_workers(tmp_path, database, origin) as service,
    ):
        answers = [service.upload(csv_of(serve(origin, n))).json() for n in range(6)]
        request_ids = [answer["request_id"] for answer in answers]
        images: list[dict[str, Any]] = []
        for request_id in request_ids:
            assert service.finish(request_id)["status"] == "completed"
            images += service.images(request_id)
    assert 1 <= len(origin.refused_at) <= HOST_CONCURRENCY
    assert sum(image["attempts"] for image in images) == 6 * IMAGES + len(origin.refused_at)
    assert sum(origin.counts.values()) == 6 * IMAGES + len(origin.refused_at)
