"""Each hot statement reads by an index what grows large, whatever the statistics know.

A hundred requests in all states with hundreds of images each, events, hosts, and requests of long
ago; the statistics are those of empty tables, of when everything was pending, or of now.
"""

from __future__ import annotations

import json
import re
from hashlib import md5
from typing import TYPE_CHECKING, Any, Final

import pytest

import image_queue
import image_reuse
import job_queue
import output_rows
import request_queue
import webhook_queue
from image_queue import ClaimedImage, ImageState, Outcome
from politeness import origin_queue
from politeness.origin_queue import HostDemand, OriginQuery, Terms
from politeness.origin_state import OriginReport
from request_rows import select_image_fences, select_images, select_request, select_requests
from webhook import ClaimedWebhook, Delivery, WebhookState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from database_helper import Cursor, Database

IMAGES: Final = 300  # a request
REQUESTS: Final = 100
OTHERS: Final = 5000  # events, hosts, origins, and requests of long ago
LIVE: Final = f"{0:032x}"  # half of it still to be done
ENDED: Final = f"{1:032x}"  # all its images have ended
CANCELLING: Final = f"{2:032x}"
DELETED: Final = f"{REQUESTS - 1:032x}"
# Tables that are short enough to be read whole, and indexes that may be read besides.
SHORT: Final = ("requests", "procrastinate", "webhooks_pending", "webhooks_sending")
STATISTICS: Final = ("none", "of before", "of now")


class ExplainingCursor:
    """A cursor that asks for the plan of each statement before it runs it."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self.indexes: set[str] = set()
        self.scanned: set[str] = set()  # tables read from one end to the other
        self.is_sorting = False
        self.settings: dict[str, str] = {}  # other than the server's own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, statement: str, values: Any = None) -> None:
        """Note what the plan reads, and run the statement."""
        *settings, query = re.split(r"(?<=;)\s+(?=select|set)", statement)
        if not query.lstrip().startswith("set "):
            explain = "explain (format json, settings)"
            self._cursor.execute(f"{' '.join(settings)} {explain} {query}", values)
            for row in self._cursor.fetchall():
                plan = row["QUERY PLAN"]
                (plan,) = json.loads(plan) if isinstance(plan, str) else plan
                self.settings |= plan.get("Settings", {})
                self._note(plan["Plan"])
        self._cursor.execute(statement, values)

    def _note(self, node: dict[str, Any]) -> None:
        if node["Node Type"] == "Seq Scan":
            self.scanned.add(node["Relation Name"])
        self.is_sorting |= node["Node Type"] == "Sort"
        if "Index Name" in node:
            self.indexes.add(node["Index Name"])
        for child in node.get("Plans", ()):
            self._note(child)


def _fill(database: Database) -> None:
    """Write the requests as they are uploaded."""
    with database.transaction() as cursor:
        for table in ("images", "image_links", "requests"):
            cursor.execute(f"alter table {table} set (autovacuum_enabled = off)")
        cursor.execute(
            """insert into requests (id, status, options, columns, base_url, images, products)
               select lpad(to_hex(r), 32, '0'), 'processing', '{}', '{}', 'http://a', %(images)s,
                      %(images)s from generate_series(0, %(requests)s - 1) as r""",
            {"images": IMAGES, "requests": REQUESTS},
        )
        cursor.execute(
            """insert into image_links (request_id, row, line, serial_number, product_name,
                                        input_image_urls)
               select id, n, n, n, 'Lamp', 'http://shop.example/' || n
                 from requests, generate_series(1, images) as n"""
        )
        cursor.execute(
            """insert into images (request_id, n, row, position, input_url)
               select id, n, n, 1, 'http://shop.example/' || n
                 from requests, generate_series(1, images) as n"""
        )


def _work(database: Database) -> None:
    """End most of it, delete some, and let some repeat and fail."""
    with database.transaction() as cursor:
        cursor.execute(
            """update images set fence = 1, attempts = 1, reuse_key = md5(n::text)::uuid,
                      made_at = now(), bytes_in = 2, bytes_out = 1, sha256 = '', format = 'jpeg',
                      width = 1, height = 1, quality = '1', source_sha256 = '',
                      state = case when n %% 100 = 0 then 'failed' else 'succeeded' end,
                      error_code = case when n %% 100 = 0 then 'http_404' end
                where request_id not in (%s, %s) or n <= 50""",
            (LIVE, CANCELLING),
        )
        cursor.execute(
            """update images set state = 'running', fence = 1, lease_until = now()
                where request_id = %s and n between 51 and 60""",
            (LIVE,),
        )
        cursor.execute(
            """update images set repeats = 60, due_at = 'infinity'
                where request_id = %s and n > 250""",
            (LIVE,),
        )
        cursor.execute(
            """update requests set failed = 3, succeeded = 297, finished_at = now(),
                      status = 'completed_with_errors' where id > %s""",
            (CANCELLING,),
        )
        cursor.execute("update requests set failed = 300 where id = %s", (ENDED,))
        cursor.execute("update requests set status = 'cancelling' where id = %s", (CANCELLING,))
        cursor.execute("delete from requests where id > %s returning id", (f"{10:032x}",))
        ids = [row["id"] for row in cursor.fetchall()]
        cursor.execute("insert into deleted_requests (id) select unnest(%s)", (ids,))
        _add_others(cursor)


def _add_others(cursor: Cursor) -> None:
    """Add requests of long ago with events still to be sent, and many hosts and origins."""
    for statement in (
        """insert into requests (id, status, options, columns, base_url, finished_at)
           select md5(n::text), 'completed', '{}', '{}', 'http://a', now() - n * interval '1 minute'
             from generate_series(1, %s) as n""",
        """insert into webhooks (id, request_id, url, body)
           select id, id, 'http://a', '{}' from requests limit %s""",
        """insert into deleted_requests (id, purged_at)
           select md5(n::text), now() from generate_series(1, %s) as n""",
        """insert into host_shares (host, worker, wanted, slots, queued_at, lease_until)
           select n, 'a', 1, 1, now(), now() from generate_series(1, %s) as n""",
        """insert into origins (authority, failures, refusals, paused_until, open_until, probe_until)
           select n, 1, 0, now(), now(), now() from generate_series(1, %s) as n""",
    ):
        cursor.execute(statement, (OTHERS,))


@pytest.fixture(scope="module", params=STATISTICS)
def filled(
    request: pytest.FixtureRequest, new_database: Callable[[], Database]
) -> Iterator[Database]:
    """Give a database whose statistics know of so much."""
    database = new_database()
    _fill(database)
    if request.param == "of before":
        _analyze(database)
    _work(database)
    if request.param == "of now":
        _analyze(database)
    yield database
    database.close()


def _analyze(database: Database) -> None:
    with database.transaction() as cursor:
        cursor.execute("analyze")


CLAIMED: Final = [ClaimedImage(LIVE, n, 1, 0, f"http://shop.example/{n}", None) for n in (51, 52)]
OUTCOMES: Final = [
    Outcome(request_id=LIVE, n=image.n, fence=1, attempts=1, state=ImageState.FAILED)
    for image in CLAIMED
]
KEYS: Final = [md5(str(n).encode(), usedforsecurity=False).hexdigest() for n in range(40, 56)]
EVENT: Final = ClaimedWebhook(LIVE, LIVE, 0, 0, "http://a", "{}")
DELIVERY: Final = Delivery(WebhookState.DELIVERED, 1, 0.0, 200, None)
DEMANDS: Final = [HostDemand(str(n), n % 2, 0) for n in range(8)]
QUERIES: Final = [OriginQuery(str(n), str(n), OriginReport(failures=1)) for n in range(8)]
PKEY: Final = "images_pkey"

STATEMENTS: Final[dict[str, tuple[Callable[[Any], object], set[str]]]] = {
    "claim": (
        lambda c: image_queue.claim_images(c, LIVE, limit=16, lease_seconds=9),
        {"images_pending", PKEY},
    ),
    "reuse": (lambda c: image_reuse.find_earlier(c, KEYS), {"images_reusable"}),
    "renew": (lambda c: image_queue.renew_leases(c, CLAIMED, lease_seconds=9), {PKEY}),
    "decoding": (lambda c: image_queue.mark_decoding(c, CLAIMED[0], is_decoding=True), {PKEY}),
    "give back": (lambda c: image_queue.give_back(c, CLAIMED), {PKEY}),
    "record": (
        lambda c: image_queue.record_outcomes(c, OUTCOMES),
        {PKEY, "images_repeating"},
    ),
    "expired": (image_queue.give_back_expired, {"images_running", PKEY}),
    "cancel": (lambda c: image_queue.cancel_pending(c, CANCELLING), {PKEY}),
    "next due": (lambda c: image_queue.select_next_due(c, LIVE), {"images_pending"}),
    "next due, cancelling": (
        lambda c: image_queue.select_next_due(c, CANCELLING),
        {"images_pending"},
    ),
    "idle requests": (
        lambda c: job_queue.restart_idle_requests(c, lease_seconds=9),
        {"images_pending"},
    ),
    "retry": (lambda c: request_queue.retry_request(c, ENDED, after=0), {PKEY}),
    "purge": (lambda c: request_queue.purge_rows(c, DELETED), {PKEY, "deleted_requests_pkey"}),
    "fences": (lambda c: select_image_fences(c, [(LIVE, 1), (LIVE, 2)]), {PKEY}),
    "page": (
        lambda c: select_images(c, LIVE, after=9, limit=100),
        {PKEY, "image_links_pkey"},
    ),
    "failed page": (
        lambda c: select_images(c, LIVE, state="failed", after=9, limit=100),
        {"images_failed", "image_links_pkey"},
    ),
    "page by code": (
        lambda c: select_images(c, LIVE, code="http_404", after=9, limit=100),
        {"images_failed_by_code", "image_links_pkey"},
    ),
    "outputs": (
        lambda c: output_rows.select_rows(c, LIVE, output_rows.OUTPUTS, after=9, limit=100),
        {PKEY},
    ),
    "reported": (
        lambda c: output_rows.select_rows(c, LIVE, output_rows.REPORTED, after=9, limit=100),
        {PKEY},
    ),
    "products": (
        lambda c: output_rows.select_rows(c, LIVE, output_rows.PRODUCTS, after=9, limit=100),
        {"image_links_pkey"},
    ),
    "cells": (
        lambda c: output_rows.update_output_urls(c, LIVE, [(n, "") for n in range(1, IMAGES + 1)]),
        {"image_links_pkey"},
    ),
    "status": (lambda c: select_request(c, LIVE), {"requests_pkey", "webhooks_of_request"}),
    "requests": (
        lambda c: select_requests(c, limit=9, before=None, owner=None),
        {"requests_newest", "webhooks_of_request"},
    ),
    "finish": (
        lambda c: request_queue.take_finish(c, ENDED, lease_seconds=9),
        {"requests_unfinished"},
    ),
    "event": (
        lambda c: webhook_queue.claim_webhook(c, LIVE, lease_seconds=9),
        {"webhooks_of_request", "webhooks_pkey", "webhooks_sending"},
    ),
    "event of its host": (
        lambda c: webhook_queue.claim_next_webhook(c, EVENT, lease_seconds=9),
        {"webhooks_pending", "webhooks_pkey", "webhooks_sending"},
    ),
    "delivery": (
        lambda c: webhook_queue.record_delivery(c, EVENT, DELIVERY),
        {"webhooks_pkey"},
    ),
    "next event": (
        lambda c: webhook_queue.select_next_webhook_due(c, LIVE),
        {"webhooks_of_request"},
    ),
    "due events": (webhook_queue.select_due_webhooks, {"webhooks_pending"}),
    "slots": (
        lambda c: origin_queue.renew(c, "a", DEMANDS, QUERIES, Terms(capacity=8)),
        {"host_shares_pkey", "origins_pkey"},
    ),
    "expiry": (
        lambda c: request_queue.delete_expired_requests(c, days=1, limit=100),
        {"requests_finished"},
    ),
    "next purge": (
        lambda c: request_queue.claim_purge(c, lease_seconds=9),
        {"deleted_requests_unpurged", "deleted_requests_pkey"},
    ),
    "purged": (lambda c: request_queue.select_deleted(c, [DELETED]), {"deleted_requests_pkey"}),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_hot_statement_reads_by_its_indexes(filled: Database, name: str) -> None:
    """None reads a large table whole, and each takes the indexes that are there for it."""
    run, indexes = STATEMENTS[name]
    explaining = _explain(filled, run)
    assert not _large(explaining.scanned)
    assert _large(explaining.indexes) <= indexes <= explaining.indexes


def test_a_page_needs_no_transaction_for_its_plan(filled: Database) -> None:
    """What it forbids the planner holds for its own statement, and for no later one."""
    run, _ = STATEMENTS["page"]
    with filled.reading() as cursor:
        explaining = ExplainingCursor(cursor)
        run(explaining)
        assert explaining.settings.items() >= {"enable_seqscan": "off"}.items()
        cursor.execute("select current_setting('enable_seqscan') as seqscan")
        assert cursor.fetchone() == {"seqscan": "on"}


def test_the_newest_image_comes_first_from_its_index(filled: Database) -> None:
    """Of a URL that stood in many requests since deleted, not all are read to be sorted."""
    assert not _explain(filled, STATEMENTS["reuse"][0]).is_sorting


def test_a_retry_of_many_reads_their_twins_by_index(new_database: Callable[[], Database]) -> None:
    """Also where the statistics know that all have failed, and the table seems short enough."""
    database = new_database()
    with database.transaction() as cursor:
        cursor.execute(
            """insert into requests (id, status, options, columns, base_url, images, failed)
               values (%(id)s, 'failed', '{}', '{}', 'http://a', %(images)s, %(images)s)""",
            {"id": ENDED, "images": 10 * IMAGES},
        )
        cursor.execute(
            """insert into images (request_id, n, row, position, input_url, state)
               select %s, n, n, 1, 'http://shop.example/' || n, 'failed'
                 from generate_series(1, %s) as n""",
            (ENDED, 10 * IMAGES),
        )
    _analyze(database)
    assert not _large(_explain(database, STATEMENTS["retry"][0]).scanned)
    database.close()


def _large(names: set[str]) -> set[str]:
    return {name for name in names if not name.startswith(SHORT)}


def _explain(database: Database, run: Callable[[Any], object]) -> ExplainingCursor:
    with database.transaction() as cursor:
        explaining = ExplainingCursor(cursor)
        run(explaining)
        cursor.connection.rollback()  # the next one finds the same
    return explaining
