"""How much waits, read for a scrape: by one statement, and never for long."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import queue_depth
from database_helper import Database
from queue_depth import QueueDepth
from tests.queued import Queue, count_reads, success, urls
from tests.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def silent() -> Iterator[tuple[Database, socket.socket]]:
    """Give a database that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE_SECONDS)
        port = listening.getsockname()[1]
        conninfo = f"host=127.0.0.1 port={port} dbname=a user=a"
        with closing(Database(conninfo)) as database:
            yield database, listening


def _values(depth: QueueDepth) -> dict[str, float]:
    return {
        sample.name.removeprefix("image_service_"): sample.value
        for family in depth.collect()
        for sample in family.samples
    }


def test_a_database_that_hangs_is_away(
    silent: tuple[Database, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said of the queue; whoever asks meanwhile waits for the same answer."""
    monkeypatch.setattr(queue_depth, "ANSWER_SECONDS", 0.2)
    database, listening = silent
    depth = QueueDepth(database)
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(_values, depth) for _ in range(4)]
        assert [answer.result() for answer in answers] == [{"database_up": 0.0}] * 4
    assert depth._reading
    assert not depth._reading.done()  # nobody has waited for its end
    listening.accept()[0].close()
    listening.settimeout(0.1)
    with pytest.raises(TimeoutError):  # there was one connection
        listening.accept()


def test_it_costs_no_look_at_images(database: Database) -> None:
    """However many there are: their counters stand on the request."""
    queue = Queue(database, *urls(50))
    with database.transaction() as cursor:
        before = count_reads(cursor)
        rows = {row["status"]: row for row in queue_depth.select_depth(cursor)}
        assert count_reads(cursor) == before
    assert (rows["processing"]["requests"], rows["processing"]["images"]) == (1, 50)
    queue.record(*[success(image) for image in queue.claim(limit=20)])
    with database.transaction() as cursor:
        rows = {row["status"]: row for row in queue_depth.select_depth(cursor)}
    assert rows["processing"]["images"] == 30


def test_an_empty_database_has_nothing_waiting(database: Database) -> None:
    """Each status is there, at zero, so that nobody takes nothing for unknown."""
    families = {family.name: family for family in QueueDepth(database).collect()}
    by_status = families["image_service_queue_images"].samples
    assert {sample.labels["status"]: sample.value for sample in by_status} == {
        "pending": 0,
        "processing": 0,
        "cancelling": 0,
    }
    assert families["image_service_database_up"].samples[0].value == 1
