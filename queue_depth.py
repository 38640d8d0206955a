"""How much work there is, read from the database when somebody asks for the metrics.

One statement whose cost goes by the unfinished requests: their counters stand on `requests`. A
database that is away or hangs keeps no other metric from being shown.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import GaugeMetricFamily

from database_helper import DatabaseUnavailableError
from metrics import PREFIX
from request_queue import RequestStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_helper import Cursor, Database

ANSWER_SECONDS: Final = 3.0  # of a scrape, which by default is given up after ten
MOST_WEBHOOKS: Final = 1000  # that are counted: receivers may be away for long
UNFINISHED: Final = (RequestStatus.PENDING, RequestStatus.PROCESSING, RequestStatus.CANCELLING)

Rows = dict[str, dict[str, Any]]


class QueueDepth:
    """A collector of Prometheus' library. Shared by threads, which ask the database together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._lock = Lock()
        self._reading: Future[Rows] | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges, after ANSWER_SECONDS at the latest."""
        yield from families_of(self._read())

    def _read(self) -> Rows | None:
        """Return the rows by status; None if the database gives none in time."""
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = self._thread.submit(self._select)
            reading = self._reading
        with suppress(DatabaseUnavailableError, LateError):
            return reading.result(ANSWER_SECONDS)
        return None

    def _select(self) -> Rows:
        with self._database.reading() as cursor:
            cursor.allow(ANSWER_SECONDS)
            return {row["status"]: row for row in select_depth(cursor)}


def families_of(rows: Rows | None) -> list[GaugeMetricFamily]:
    """Return the gauges of rows by their status; those of the queue are empty without any."""
    up = GaugeMetricFamily(
        PREFIX + "database_up",
        f"Whether PostgreSQL answered within {ANSWER_SECONDS:g} s; else there is no queue_….",
    )
    requests = _family("queue_requests", "Requests that are not finished.")
    images = _family("queue_images", "Their images that have not ended.")
    oldest = _family(
        "queue_oldest_seconds", "Since the oldest was uploaded, begun or retried; 0 if none is."
    )
    webhooks = GaugeMetricFamily(
        PREFIX + "queue_webhooks",
        f"Events that are not delivered and not given up; counted up to {MOST_WEBHOOKS}.",
    )
    up.add_metric([], float(rows is not None))
    if rows is not None:
        for status in UNFINISHED:
            row = rows.get(status, {})
            requests.add_metric([status], row.get("requests", 0))
            images.add_metric([status], row.get("images", 0))
            oldest.add_metric([status], row.get("seconds", 0))
        webhooks.add_metric([], rows["webhooks"]["requests"])
    return [up, requests, images, oldest, webhooks]


def select_depth(cursor: Cursor) -> list[dict[str, Any]]:
    """Return how many requests and images wait in each status, and since when; and webhooks."""
    cursor.execute(
        """select status, count(*) as requests,
                  sum(images - succeeded - failed - cancelled)::bigint as images,
                  greatest(0, extract(epoch from
                      now() - min(coalesce(started_at, created_at))))::float8 as seconds
             from requests where finished_at is null group by status
           union all
           select 'webhooks', count(*), 0, 0 from (
               select from webhooks where state = 'pending' order by due_at limit %s) as waiting""",
        (MOST_WEBHOOKS,),
    )
    return cursor.fetchall()


def _family(name: str, says: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, says, labels=["status"])
