"""The queue and the truth: who may claim what, whose outcome counts, and how often."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from csv_validator import ProductRow
from database_helper import copy_products, insert_request, select_request
from image_queue import (
    ClaimedImage,
    ImageState,
    Outcome,
    Recorded,
    begin_request,
    claim_images,
    finish_request,
    give_back,
    give_back_expired,
    record_outcomes,
    renew_leases,
    select_next_due,
    select_twin,
)

if TYPE_CHECKING:
    from database_helper import Database

LEASE = 60.0
ANYTIME = datetime.min.replace(tzinfo=UTC)


class Queue:
    """One request in the database, and each step of its life in a transaction of its own."""

    def __init__(self, database: Database, *urls: str, begins: bool = True) -> None:
        self.id = uuid.uuid4().hex
        self.database = database
        product = ProductRow(2, "1", "Lamp", ",".join(urls), None, list(urls))
        with database.transaction() as cursor:
            counts = copy_products(cursor, self.id, [product])
            insert_request(
                cursor,
                self.id,
                options={},
                columns=[],
                base_url="http://a",
                counts=counts,
                owner=None,
            )
            if begins:
                assert begin_request(cursor, self.id)

    def claim(self, limit: int = 1000, lease_seconds: float = LEASE) -> list[ClaimedImage]:
        """Claim and commit."""
        with self.database.transaction() as cursor:
            return claim_images(cursor, self.id, limit=limit, lease_seconds=lease_seconds)

    def record(self, *outcomes: Outcome) -> Recorded:
        """Record and commit."""
        with self.database.transaction() as cursor:
            return record_outcomes(cursor, outcomes)

    def finish(self) -> dict[str, Any] | None:
        """Finish and commit."""
        with self.database.transaction() as cursor:
            return finish_request(cursor, self.id)

    def change(self, assignments: str, *numbers: int) -> None:
        """Change columns of images, of those with these numbers or of all."""
        with self.database.transaction() as cursor:
            cursor.execute(
                f"update images set {assignments} where request_id = %s and n = any(%s)",  # noqa: S608
                (self.id, list(numbers or range(1, 1000))),
            )

    @property
    def request(self) -> dict[str, Any]:
        """The request's row."""
        with self.database.transaction() as cursor:
            row = select_request(cursor, self.id)
        assert row
        return row

    @property
    def images(self) -> list[dict[str, Any]]:
        """Every image's row in input order."""
        with self.database.transaction() as cursor:
            cursor.execute("select * from images where request_id = %s order by n", (self.id,))
            return [dict(row) for row in cursor.fetchall()]

    @property
    def states(self) -> list[str]:
        """Every image's state in input order."""
        return [image["state"] for image in self.images]

    @property
    def counters(self) -> tuple[int, ...]:
        """What the request counts: succeeded, failed, cancelled, bytes in and out."""
        row = self.request
        names = ("succeeded", "failed", "cancelled", "bytes_in", "bytes_out")
        return tuple(row[name] for name in names)


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def _urls(count: int) -> list[str]:
    return [f"http://shop.example/{n}.jpg" for n in range(1, count + 1)]


def _numbers(images: list[ClaimedImage]) -> list[int]:
    return [image.n for image in images]


def _outcome(image: ClaimedImage, state: ImageState, **result: Any) -> Outcome:
    return Outcome(
        request_id=image.request_id,
        n=image.n,
        fence=image.fence,
        attempts=image.attempts + 1,
        state=state,
        **result,
    )


def _success(image: ClaimedImage, bytes_in: int = 100, bytes_out: int = 60) -> Outcome:
    return _outcome(
        image,
        ImageState.SUCCEEDED,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        width=4,
        height=3,
        format="jpeg",
        quality="82",
        sha256="ef" * 32,
        etag='"é"',
        last_modified="Tue, 03 Feb 2032 00:00:00 GMT",
    )


def _failure(image: ClaimedImage, code: str = "timeout") -> Outcome:
    return _outcome(image, ImageState.FAILED, error_code=code, error_detail="It was late.")


def _retry(image: ClaimedImage, seconds: float) -> Outcome:
    late = {"error_code": "http_503", "error_detail": "Busy.", "http_status": 503}
    return _outcome(image, ImageState.PENDING, retry_seconds=seconds, **late)


# --- Beginning -------------------------------------------------------------------------------


def test_a_request_begins_once(database: Database) -> None:
    """The first step may be run twice, at once or later, and counts once."""
    queue = Queue(database, *_urls(2), begins=False)

    def begin(_: int) -> bool:
        with database.transaction() as cursor:
            return begin_request(cursor, queue.id) is not None

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(begin, range(8))) == [False] * 7 + [True]
    assert queue.request["status"] == "processing"
    assert queue.request["started_at"]
    with database.transaction() as cursor:
        assert begin_request(cursor, "no such request") is None


def test_an_image_that_repeats_an_earlier_one_waits_for_it(database: Database) -> None:
    """Of equal URLs the first is claimed; the others know which one they wait for."""
    one, two = _urls(2)
    queue = Queue(database, one, two, one, two, one, one.upper())
    assert [image["repeats"] for image in queue.images] == [None, None, 1, 2, 1, None]
    assert _numbers(queue.claim()) == [1, 2, 6]


def test_the_same_url_in_another_request_is_not_waited_for(database: Database) -> None:
    """Requests have nothing to do with each other."""
    first, second = Queue(database, *_urls(2)), Queue(database, *_urls(2))
    assert (_numbers(first.claim()), _numbers(second.claim())) == ([1, 2], [1, 2])


# --- Claiming --------------------------------------------------------------------------------


def test_claims_are_in_input_order_and_limited(database: Database) -> None:
    """Whoever claims gets the next images, marked as running under a lease."""
    queue = Queue(database, *_urls(7))
    assert _numbers(queue.claim(limit=3)) == [1, 2, 3]
    assert _numbers(queue.claim(limit=3)) == [4, 5, 6]
    assert queue.states == ["running"] * 6 + ["pending"]
    first = queue.images[0]
    lease = first["lease_until"] - queue.request["now"]
    assert timedelta() < lease <= timedelta(seconds=LEASE)
    assert (first["fence"], first["attempts"]) == (1, 0)
    assert queue.claim(limit=9) == [ClaimedImage(queue.id, 7, 1, 0, _urls(7)[-1], repeats=None)]
    assert queue.claim() == []


def test_open_claims_are_disjoint(database: Database) -> None:
    """Two workers that claim at the same time share no image and don't wait for each other."""
    queue = Queue(database, *_urls(6))
    with database.transaction() as one, database.transaction() as two:
        two.execute("set local lock_timeout = '2s'")
        first = claim_images(one, queue.id, limit=4, lease_seconds=LEASE)
        second = claim_images(two, queue.id, limit=4, lease_seconds=LEASE)
    assert (_numbers(first), _numbers(second)) == ([1, 2, 3, 4], [5, 6])


def test_many_workers_claim_every_image_once(database: Database) -> None:
    """However many claim at once, each image is given out to exactly one."""
    queue = Queue(database, *_urls(200))

    def work(_: int) -> list[int]:
        claimed = []
        while images := queue.claim(limit=3):
            claimed += _numbers(images)
        return claimed

    with ThreadPoolExecutor(6) as threads:
        claimed = [n for numbers in threads.map(work, range(6)) for n in numbers]
    assert sorted(claimed) == list(range(1, 201))


@pytest.mark.parametrize(
    "plan",
    [
        (),
        ("hashjoin", "hashagg", "mergejoin", "sort"),
        ("hashjoin", "hashagg", "mergejoin", "sort", "indexscan", "bitmapscan", "material"),
    ],
)
def test_a_limit_holds_whatever_the_plan(database: Database, plan: tuple[str, ...]) -> None:
    """A subquery that the planner runs again and again must not claim more each time."""
    queue = Queue(database, *_urls(40))
    with database.transaction() as cursor:
        for method in plan:
            cursor.execute(f"set local enable_{method} = off")
        claimed = claim_images(cursor, queue.id, limit=3, lease_seconds=LEASE)
    assert _numbers(claimed) == [1, 2, 3]
    assert queue.states.count("running") == 3


def test_only_what_is_due_is_claimed(database: Database) -> None:
    """An image that is to be tried again later waits, and comes after those never tried."""
    queue = Queue(database, *_urls(4))
    queue.change("due_at = now() - interval '1 second'", 1)
    queue.change("due_at = now() + interval '1 hour'", 2)
    assert _numbers(queue.claim(limit=2)) == [3, 4]
    assert _numbers(queue.claim()) == [1]


@pytest.mark.parametrize(
    "status", ["pending", "completed", "completed_with_errors", "failed", "cancelling", "cancelled"]
)
def test_only_a_request_that_is_processing_is_claimed_from(database: Database, status: str) -> None:
    """A cancelled or finished request gives nothing out, whatever its images' rows say."""
    queue = Queue(database, *_urls(2))
    with database.transaction() as cursor:
        cursor.execute("update requests set status = %s where id = %s", (status, queue.id))
    assert queue.claim() == []


def test_the_next_due_image_tells_when_to_come_again(database: Database) -> None:
    """Images that wait for a twin or are under way don't count."""
    one, two, three = _urls(3)
    queue = Queue(database, one, two, three, one)

    def next_due() -> datetime | None:
        with database.transaction() as cursor:
            cursor.execute("set local timezone = 'UTC'")
            return select_next_due(cursor, queue.id)

    queue.change("due_at = timestamptz '2040-01-01 00:00 UTC'", 1, 3)
    queue.change("due_at = timestamptz '2039-01-01 00:00 UTC'", 2)
    assert next_due() == datetime(2039, 1, 1, tzinfo=UTC)
    queue.change("state = 'running'", 2)
    assert next_due() == datetime(2040, 1, 1, tzinfo=UTC)
    queue.change("state = 'running'", 1, 3)
    assert next_due() is None


def test_an_image_that_was_never_tried_is_due_at_once(database: Database) -> None:
    """PostgreSQL's -infinity comes out as something that a job can be deferred to."""
    queue = Queue(database, *_urls(1))
    with database.transaction() as cursor:
        due = select_next_due(cursor, queue.id)
    assert due
    assert due < datetime.now(due.tzinfo) if due.tzinfo else due < datetime.now()  # noqa: DTZ005


# --- Leases ----------------------------------------------------------------------------------


def test_leases_are_renewed_while_they_are_ours(database: Database) -> None:
    """Renewing reaches only images that run under our own claim."""
    queue = Queue(database, *_urls(4))
    claimed = queue.claim(lease_seconds=1)
    queue.change("fence = fence + 1", 2)
    queue.change("state = 'pending', lease_until = null", 3)
    with database.transaction() as cursor:
        renew_leases(cursor, claimed[:3], lease_seconds=3600)
    now = queue.request["now"]
    leases = [image["lease_until"] for image in queue.images]
    assert leases[0] > now + timedelta(minutes=50)
    assert leases[1] < now + timedelta(minutes=1)
    assert leases[2] is None
    assert leases[3] < now + timedelta(minutes=1)


def test_what_is_given_back_is_claimed_again_first(database: Database) -> None:
    """A worker that stops hands its images on: no attempt is counted, the old claim is void."""
    queue = Queue(database, *_urls(4))
    claimed = queue.claim(limit=3)
    queue.change("fence = fence + 1", 2)
    with database.transaction() as cursor:
        give_back(cursor, claimed)
    assert queue.states == ["pending", "running", "pending", "pending"]
    assert queue.images[0]["lease_until"] is None
    again = queue.claim(limit=2)
    assert [(image.n, image.fence, image.attempts) for image in again] == [(1, 2, 0), (3, 2, 0)]
    assert queue.record(_success(claimed[0])) == Recorded()


def test_nothing_to_renew_or_give_back_is_no_trouble(database: Database) -> None:
    """An idle worker renews and gives back nothing."""
    with database.transaction() as cursor:
        renew_leases(cursor, [], lease_seconds=LEASE)
        give_back(cursor, [])
        assert record_outcomes(cursor, []) == Recorded()


def test_expired_leases_are_given_back(database: Database) -> None:
    """What a dead worker held becomes claimable; what a living one holds stays its own."""
    queue, other = Queue(database, *_urls(3)), Queue(database, *_urls(2))
    dead, living = queue.claim(limit=2, lease_seconds=-1), queue.claim(limit=1)
    other.claim(limit=1, lease_seconds=-1)
    with database.transaction() as cursor:
        given_back = give_back_expired(cursor)
    assert sorted(given_back) == sorted([queue.id, queue.id, other.id])
    assert (queue.states, other.states) == (["pending", "pending", "running"], ["pending"] * 2)
    assert _numbers(queue.claim()) == [1, 2]
    assert queue.record(*map(_success, dead)) == Recorded()
    assert queue.record(*map(_success, living)) == Recorded()
    assert queue.counters[0] == 1
    with database.transaction() as cursor:
        assert not give_back_expired(cursor)


# --- Recording -------------------------------------------------------------------------------


def test_an_outcome_is_written_and_counted(database: Database) -> None:
    """Every field reaches its column, and the request's counters follow in the same commit."""
    queue = Queue(database, *_urls(3))
    first, second, _ = queue.claim()
    assert queue.record(_success(first), _failure(second, "dns_error")) == Recorded()
    good, bad, running = queue.images
    expected = {
        *("state", "attempts", "reused", "bytes_in", "bytes_out", "width", "height", "format"),
        *("quality", "sha256", "etag", "last_modified", "error_code", "error_detail"),
    }
    for row, outcome in ((good, _success(first)), (bad, _failure(second, "dns_error"))):
        assert {name: row[name] for name in expected} == {
            name: getattr(outcome, name) for name in expected
        }
        assert row["lease_until"] is None
    assert running["state"] == "running"
    assert queue.counters == (1, 1, 0, 100, 60)
    assert queue.request["errors_by_code"] == {"dns_error": 1}


@pytest.mark.parametrize(
    "late", ["claimed by another", "given back", "already recorded", "another request's"]
)
def test_a_late_outcome_changes_nothing(database: Database, late: str) -> None:
    """Neither row nor counter moves when the claim behind an outcome is no longer the image's."""
    queue = Queue(database, *_urls(2))
    image = queue.claim(limit=1)[0]
    outcome = _success(image)
    if late == "claimed by another":
        queue.change("fence = fence + 1", 1)
    elif late == "given back":
        with database.transaction() as cursor:
            give_back(cursor, [image])
    elif late == "already recorded":
        queue.record(_failure(image))
    else:
        outcome = replace(outcome, request_id="cd" * 16)
    rows, request = queue.images, queue.request | {"now": None}
    retry = replace(outcome, state=ImageState.PENDING)
    assert queue.record(outcome) == queue.record(retry) == Recorded()
    assert (queue.images, queue.request | {"now": None}) == (rows, request)


def test_counters_add_up_over_batches(database: Database) -> None:
    """However outcomes are batched, each image counts once and each code by itself."""
    queue = Queue(database, *_urls(12))
    claimed = queue.claim()
    outcomes = [
        *[_success(image, bytes_in=2**40, bytes_out=1) for image in claimed[:5]],
        *[_failure(image, "http_404") for image in claimed[5:8]],
        *[_failure(image, "it's") for image in claimed[8:10]],
        _outcome(claimed[10], ImageState.CANCELLED, error_code="cancelled"),
    ]
    for size in (4, 3, 4):
        batch, outcomes = outcomes[:size], outcomes[size:]
        assert queue.record(*batch) == Recorded()
    assert queue.counters == (5, 5, 1, 5 * 2**40, 5)
    assert queue.request["errors_by_code"] == {"http_404": 3, "it's": 2, "cancelled": 1}
    assert queue.record(_success(claimed[11])) == Recorded(finished=[queue.id])


def test_outcomes_of_several_requests_share_a_batch(database: Database) -> None:
    """Each request gets its own counts, and only the finished one is to be finished."""
    one, two = Queue(database, *_urls(1)), Queue(database, *_urls(2))
    outcomes = [_success(one.claim()[0]), _failure(two.claim(limit=1)[0])]
    assert one.record(*outcomes) == Recorded(finished=[one.id])
    assert (one.counters[:2], two.counters[:2]) == ((1, 0), (0, 1))


def test_concurrent_batches_count_every_image(database: Database) -> None:
    """Workers that record outcomes of the same requests at once lose no count."""
    queues = [Queue(database, *_urls(60)) for _ in range(3)]
    claims = [claim for queue in queues for claim in queue.claim()]

    def record(part: int) -> list[str]:
        return [
            request_id
            for start in range(part, len(claims), 30)
            for request_id in queues[0]
            .record(*map(_success, claims[start : start + 30 : 6]))
            .finished
        ]

    with ThreadPoolExecutor(6) as threads:
        finished = [request_id for ids in threads.map(record, range(6)) for request_id in ids]
    assert [queue.counters[0] for queue in queues] == [60] * 3
    assert sorted(finished) == sorted(queue.id for queue in queues)


def test_a_failed_try_goes_back_with_a_time(database: Database) -> None:
    """It is not counted, says why it failed last, and is due when it was to be."""
    queue = Queue(database, *_urls(2))
    image = queue.claim(limit=1)[0]
    recorded = queue.record(_retry(image, 90))
    row, now = queue.images[0], queue.request["now"]
    assert recorded.finished == []
    assert recorded.due == {queue.id: row["due_at"]}
    assert timedelta(seconds=80) < row["due_at"] - now <= timedelta(seconds=90)
    assert (row["state"], row["attempts"], row["error_code"]) == ("pending", 1, "http_503")
    assert queue.counters == (0, 0, 0, 0, 0)
    assert queue.request["errors_by_code"] == {}
    assert _numbers(queue.claim()) == [2]
    queue.change("due_at = now()", 1)
    again = queue.claim()[0]
    assert (again.fence, again.attempts) == (2, 1)
    queue.record(_success(again))
    assert queue.images[0]["error_code"] is None
    assert queue.images[0]["attempts"] == 2
    assert queue.counters[:2] == (1, 0)


def test_the_earliest_of_several_retries_wakes(database: Database) -> None:
    """One turn is to come for all of them, when the first is due."""
    queue = Queue(database, *_urls(3))
    images = queue.claim()
    recorded = queue.record(
        *(_retry(image, s) for image, s in zip(images, (70, 7, 700), strict=True))
    )
    assert recorded.due == {queue.id: queue.images[1]["due_at"]}


# --- Repetitions -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", [ImageState.SUCCEEDED, ImageState.FAILED, ImageState.CANCELLED])
def test_repetitions_go_on_when_their_twin_ends(database: Database, state: ImageState) -> None:
    """However the first ended, those that waited for it are due at once, and no others."""
    one, two = _urls(2)
    queue = Queue(database, one, one, two, two, one)
    image = queue.claim(limit=1)[0]
    recorded = queue.record(replace(_success(image), state=state))
    assert set(recorded.due) == {queue.id}
    released = queue.claim()
    assert [(image.n, image.repeats) for image in released] == [(2, 1), (3, None), (5, 1)]
    with database.transaction() as cursor:
        twin = select_twin(cursor, released[-1])
    assert (twin["n"], twin["state"]) == (1, state)


def test_repetitions_wait_while_their_twin_is_tried_again(database: Database) -> None:
    """A failed try is no end."""
    (one,) = _urls(1)
    queue = Queue(database, one, one)
    queue.record(_retry(queue.claim()[0], 3600))
    assert queue.claim() == []
    assert queue.images[1]["due_at"] is not None


# --- Finishing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "begun", "status"),
    [
        ("ss", "processing", "completed"),
        ("sf", "processing", "completed_with_errors"),
        ("fs", "processing", "completed_with_errors"),
        ("ff", "processing", "failed"),
        ("sc", "cancelling", "cancelled"),
        ("ss", "cancelling", "cancelled"),
        ("cc", "cancelling", "cancelled"),
    ],
)
def test_the_final_status_tells_how_it_went(
    database: Database, states: str, begun: str, status: str
) -> None:
    """The four ends of a request follow from its counters, and come once."""
    queue = Queue(database, *_urls(2))
    by_letter = {"s": ImageState.SUCCEEDED, "f": ImageState.FAILED, "c": ImageState.CANCELLED}
    for image, letter in zip(queue.claim(), states, strict=True):
        assert queue.finish() is None
        queue.record(replace(_success(image), state=by_letter[letter]))
    with database.transaction() as cursor:
        cursor.execute("update requests set status = %s where id = %s", (begun, queue.id))
    finished = queue.finish()
    assert finished
    assert finished["status"] == queue.request["status"] == status
    assert finished["finished_at"] >= finished["started_at"]
    assert queue.finish() is None
    assert queue.request["finished_at"] == finished["finished_at"]


def test_two_that_finish_at_once_finish_once(database: Database) -> None:
    """The log and, later, a webhook must not tell the end twice."""
    queue = Queue(database, *_urls(1))
    queue.record(_success(queue.claim()[0]))
    with ThreadPoolExecutor(4) as threads:
        ends = list(threads.map(lambda _: queue.finish() is not None, range(8)))
    assert ends.count(True) == 1
