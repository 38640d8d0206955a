"""Requests as a whole: they begin once, finish once, and are retried and deleted whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import request_queue
from image_queue import ClaimedImage, ImageState
from request_queue import (
    begin_request,
    cancel_request,
    claim_purge,
    delete_expired_requests,
    leave_finish,
    purge_rows,
    renew_finish,
    renew_purge,
    select_cancelling,
    select_deleted,
    select_deleted_request,
)
from tests.queued import (
    LEASE,
    Queue,
    analyze,
    cancelled,
    count_reads,
    failure,
    success,
    urls,
    wait_for_a_lock,
)

if TYPE_CHECKING:
    from database_helper import Database

LEASE_IS_OVER = "lease_until = now() - interval '1 second'"


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def _numbers(images: list[ClaimedImage]) -> list[int]:
    return [image.n for image in images]


# --- Beginning -------------------------------------------------------------------------------


def test_a_request_begins_once(database: Database) -> None:
    """The first step may be run twice, at once or later, and counts once."""
    queue = Queue(database, *urls(2), begins=False)

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
    one, two = urls(2)
    queue = Queue(database, one, two, one, two, one, one.upper())
    assert [image["repeats"] for image in queue.images] == [None, None, 1, 2, 1, None]
    assert _numbers(queue.claim()) == [1, 2, 6]


def test_a_large_request_begins_soon(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the statistics know nothing of it, as it is new: each image is looked at a few
    times, and not once for each other one, which took 18 s here and hours for a million.
    """
    monkeypatch.setattr(request_queue, "LONG_SECONDS", 3.0)
    image_urls = [*urls(10_000), *urls(1) * 10_000]
    Queue(database, *image_urls[:1000], *image_urls[-1000:])
    analyze(database)
    queue = Queue(database, *image_urls)
    assert len(queue.claim(limit=20_000)) == 10_000


def test_the_same_url_in_another_request_is_not_waited_for(database: Database) -> None:
    """Requests have nothing to do with each other."""
    first, second = Queue(database, *urls(2)), Queue(database, *urls(2))
    assert (_numbers(first.claim()), _numbers(second.claim())) == ([1, 2], [1, 2])


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
    queue = Queue(database, *urls(2))
    by_letter = {"s": ImageState.SUCCEEDED, "f": ImageState.FAILED, "c": ImageState.CANCELLED}
    for image, letter in zip(queue.claim(), states, strict=True):
        assert queue.take_finish() is None
        queue.record(replace(success(image), state=by_letter[letter]))
    with database.transaction() as cursor:
        cursor.execute("update requests set status = %s where id = %s", (begun, queue.id))
    assert queue.take_finish()
    finished = queue.finish()
    assert finished
    assert finished["status"] == queue.request["status"] == status
    assert finished["finished_at"] >= finished["started_at"]
    assert queue.finish() is None
    assert queue.request["finished_at"] == finished["finished_at"]


def test_two_that_finish_at_once_finish_once(database: Database) -> None:
    """The log and, later, a webhook must not tell the end twice."""
    queue = Queue(database, *urls(1))
    queue.record(success(queue.claim()[0]))
    assert queue.take_finish()
    with ThreadPoolExecutor(4) as threads:
        ends = list(threads.map(lambda _: queue.finish() is not None, range(8)))
    assert ends.count(True) == 1


def test_a_finish_is_one_s_own_until_its_lease_is_over(database: Database) -> None:
    """Then another one may take it, under a fence of its own."""
    queue = Queue(database, *urls(2))
    queue.end("sf")
    first = queue.take_finish()
    assert first
    lease = queue.request["lease_until"] - queue.request["now"]
    assert timedelta(seconds=LEASE - 10) < lease <= timedelta(seconds=LEASE)
    assert queue.take_finish() is None
    queue.change_request(LEASE_IS_OVER)
    second = queue.take_finish()
    assert second
    assert (first["fence"], second["fence"]) == (1, 2)
    assert (second["id"], second["finished_at"]) == (queue.id, None)


def test_of_many_that_take_a_finish_one_gets_it(database: Database) -> None:
    """At once, too."""
    queue = Queue(database, *urls(1))
    queue.end("s")
    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(lambda _: queue.take_finish() is not None, range(8)))
    assert taken.count(True) == 1


@pytest.mark.parametrize("letters", ["sr", "rr"])
def test_there_is_nothing_to_finish_while_an_image_has_not_ended(
    database: Database, letters: str
) -> None:
    """A job that comes too early takes no fence and no lease, nor does one that comes too late."""
    queue = Queue(database, *urls(2))
    queue.end(letters)
    before = queue.rows
    assert queue.take_finish() is None
    assert queue.finish(0) is None
    assert queue.rows == before
    queue.record(*[success(queue.claim_of(n)) for n in (1, 2)])  # what has ended stays so
    assert queue.take_finish()
    assert queue.finish()
    before = queue.rows
    assert queue.take_finish() is None
    assert queue.rows == before


def test_a_finish_is_renewed_and_left(database: Database) -> None:
    """Its lease goes on from now; who leaves it lets another one take it at once."""
    queue = Queue(database, *urls(1))
    queue.end("s")
    queue.take_finish(lease_seconds=2)
    with database.transaction() as cursor:
        assert renew_finish(cursor, queue.id, 1, lease_seconds=3600)
    assert queue.request["lease_until"] > queue.request["now"] + timedelta(minutes=50)
    with database.transaction() as cursor:
        leave_finish(cursor, queue.id, 1)
    assert queue.request["lease_until"] is None
    assert queue.take_finish()


@pytest.mark.parametrize("by", ["another finish", "a retry", "the end"])
def test_who_lost_a_finish_changes_nothing(database: Database, by: str) -> None:
    """An old fence neither renews nor leaves nor finishes, whoever raised it."""
    queue = Queue(database, *urls(2))
    queue.end("sf")
    first = queue.take_finish()
    assert first
    if by == "a retry":
        assert queue.retry() == 1
        queue.record(*map(failure, queue.claim()))
    else:
        queue.change_request(LEASE_IS_OVER)
        assert queue.take_finish()
    if by == "the end":
        assert queue.finish()
    before = queue.rows
    with database.transaction() as cursor:
        assert not renew_finish(cursor, queue.id, first["fence"], lease_seconds=3600)
        leave_finish(cursor, queue.id, first["fence"])
    assert queue.finish(first["fence"]) is None
    assert queue.rows == before


def test_a_finished_request_s_own_fence_does_nothing_more(database: Database) -> None:
    """A second attempt at the same steps finds the end and lets it be."""
    queue = Queue(database, *urls(1))
    queue.end("s")
    queue.take_finish()
    assert queue.finish(1)
    before = queue.rows
    with database.transaction() as cursor:
        assert not renew_finish(cursor, queue.id, 1, lease_seconds=3600)
        leave_finish(cursor, queue.id, 1)
    assert queue.finish(1) is None
    assert queue.rows == before


# --- Retrying --------------------------------------------------------------------------------


def _finished(database: Database, letters: str, *image_urls: str) -> Queue:
    """Return a finished request whose images ended as the letters say."""
    queue = Queue(database, *(image_urls or urls(len(letters))))
    queue.change("due_at = '-infinity'")  # each ends by itself, whatever it repeats
    queue.end(letters)
    assert queue.take_finish()
    assert queue.finish()
    return queue


def test_a_retry_begins_what_failed_anew_and_keeps_what_succeeded(database: Database) -> None:
    """Rows of successes stay wholly as they are; the others have nothing left of their end."""
    queue = _finished(database, "sfcs")
    queue.change("losses = 2, reused = true, attempts = 4", 2)
    before, request = queue.images, queue.request
    assert queue.retry() == 2
    after = queue.images
    assert (after[0], after[3]) == (before[0], before[3])
    for row, old in zip(after[1:3], before[1:3], strict=True):
        assert (row["state"], row["attempts"], row["losses"], row["reused"]) == (
            *("pending", 0, 0),
            False,
        )
        assert [row[name] for name in ("error_code", "error_detail", "http_status")] == [None] * 3
        assert row["fence"] == old["fence"]
    assert queue.counters == (2, 0, 0, 200, 120)
    now = queue.request
    assert (now["status"], now["finished_at"], now["errors_by_code"]) == ("processing", None, {})
    assert (now["done_before"], now["lease_until"]) == (2, None)
    assert now["started_at"] > request["started_at"]
    assert (now["created_at"], now["images"]) == (request["created_at"], 4)
    assert _numbers(queue.claim()) == [2, 3]


def test_a_retried_request_finishes_anew(database: Database) -> None:
    """With its counters right, and another status."""
    queue = _finished(database, "fsf")
    assert queue.request["status"] == "completed_with_errors"
    queue.retry()
    assert queue.take_finish() is None
    one, three = queue.claim()
    assert queue.record(success(one)).finished == []
    assert queue.record(success(three)).finished == [queue.id]
    assert queue.take_finish()
    assert queue.finish()
    assert queue.request["status"] == "completed"
    assert queue.counters == (3, 0, 0, 300, 180)


def test_repetitions_wait_again_for_what_is_begun_anew(database: Database) -> None:
    """Not for a twin that succeeded: there is something to copy."""
    one, two, three = urls(3)
    queue = _finished(database, "ffsfcfcc", one, one, two, two, two, one, three, three)
    assert queue.retry() == 7
    claimed = [(image.n, image.repeats) for image in queue.claim()]
    assert claimed == [(1, None), (4, 3), (5, 3), (7, None)]
    states = ["running", "pending", "succeeded", "running", "running", "pending"]
    assert queue.states == [*states, "running", "pending"]


def test_what_was_cancelled_before_it_began_begins_at_a_retry(database: Database) -> None:
    """It is pending as a whole again; the first step finds the repetitions."""
    queue = Queue(database, *[*urls(1) * 2], begins=False)
    queue.cancel()
    queue.cancel_pending()
    queue.take_finish()
    finished = queue.finish()
    assert finished
    assert (finished["status"], finished["started_at"]) == ("cancelled", None)
    assert queue.retry() == 2
    assert (queue.request["status"], queue.request["started_at"]) == ("pending", None)
    assert queue.claim() == []
    with database.transaction() as cursor:
        assert begin_request(cursor, queue.id)
    assert _numbers(queue.claim()) == [1]


def test_a_retry_while_images_are_under_way_leaves_them_alone(database: Database) -> None:
    """Only what has failed so far begins anew."""
    queue = Queue(database, *urls(3))
    queue.end("frs")
    before = queue.images
    assert queue.retry() == 1
    assert queue.images[1:] == before[1:]
    assert queue.counters[:3] == (1, 0, 0)
    assert _numbers(queue.claim()) == [1]


@pytest.mark.parametrize("letters", ["rf", "cf"])
def test_a_request_that_is_just_being_cancelled_is_not_retried(
    database: Database, letters: str
) -> None:
    """Nothing of it changes."""
    queue = Queue(database, *urls(2))
    queue.end(letters)
    queue.cancel()
    before = queue.rows
    assert queue.retry() is None
    assert queue.rows == before


@pytest.mark.parametrize("state", ["completed", "processing", "pending"])
def test_where_nothing_failed_a_retry_changes_nothing(database: Database, state: str) -> None:
    """Neither the status nor the fence of a finish that may be under way."""
    if state == "completed":
        queue = _finished(database, "ss")
    else:
        queue = Queue(database, *urls(2), begins=state == "processing")
    before = queue.rows
    assert queue.retry() == 0
    assert queue.rows == before


def test_a_request_that_is_not_there_can_not_be_retried(database: Database) -> None:
    """It may have been deleted in between."""
    with database.transaction() as cursor:
        assert request_queue.retry_request(cursor, "ab" * 16, after=0) is None


def test_a_retry_goes_by_portions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters and codes are right after each; the last one has nothing left to do."""
    monkeypatch.setattr(request_queue, "RETRIED_AT_A_TIME", 2)
    queue = _finished(database, "fsfcsfc")
    queue.change("error_code = 'http_404'", 6)
    queue.change_request("""errors_by_code = '{"timeout": 2, "http_404": 1, "cancelled": 2}'""")
    told = []
    after = 0
    for fence in (2, 3, 4, 4):
        portion = queue.retry_portion(after)
        assert portion
        after = portion.last
        told.append((*portion, queue.counters[:3], queue.request["errors_by_code"]))
        assert queue.request["fence"] == fence
    codes = [dict(counts) for *_, counts in told]
    assert [row[:4] for row in told] == [
        (2, 3, "processing", (2, 1, 2)),
        (2, 6, "processing", (2, 0, 1)),
        (1, 7, "processing", (2, 0, 0)),
        (0, 7, "processing", (2, 0, 0)),
    ]
    assert codes == [{"http_404": 1, "cancelled": 2}, {"cancelled": 1}, {}, {}]
    assert queue.states == [
        *("pending", "succeeded", "pending", "pending"),
        *("succeeded", "pending", "pending"),
    ]


def test_nothing_is_retried_twice_in_one_go(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has failed anew before the last portion stays so."""
    monkeypatch.setattr(request_queue, "RETRIED_AT_A_TIME", 1)
    queue = _finished(database, "fff")
    assert queue.retry_portion() == (1, 1, "processing")
    queue.record(*map(failure, queue.claim()))
    assert queue.retry_portion(1) == (1, 2, "processing")
    assert queue.retry_portion(2) == (1, 3, "processing")
    assert queue.retry_portion(3) == (0, 3, "processing")
    assert queue.states == ["failed", "pending", "pending"]
    assert queue.counters[:3] == (0, 1, 0)
    assert queue.request["errors_by_code"] == {"timeout": 1}


@pytest.mark.parametrize(
    ("portion", "meanwhile", "waits"),
    [
        (2, None, True),
        (1, None, True),
        (1, "runs", True),
        (1, "succeeds", False),
        (1, "fails", False),
        (1, "is cancelled", False),
    ],
)
def test_a_repetition_waits_for_its_twin_of_whatever_portion(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    portion: int,
    meanwhile: str | None,
    waits: bool,  # noqa: FBT001  # by name
) -> None:
    """If that still runs again; where it has ended meanwhile, however, it is there to be copied."""
    monkeypatch.setattr(request_queue, "RETRIED_AT_A_TIME", portion)
    queue = _finished(database, "ff", *urls(1) * 2)
    first = queue.retry_portion()
    assert first
    if meanwhile:
        (twin,) = queue.claim()
        ends = {"succeeds": success(twin), "fails": failure(twin), "is cancelled": cancelled(twin)}
        queue.record(*(end for name, end in ends.items() if name == meanwhile))
    if portion == 1:
        assert queue.retry_portion(first.last) == (1, 2, "processing")
    claimed = _numbers(queue.claim())
    assert (2 not in claimed) == waits
    if waits:
        queue.record(failure(queue.claim_of(1)))
        assert _numbers(queue.claim()) == [2]


def test_a_retry_that_is_cancelled_between_two_portions_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs again is cancelled, and no more is begun anew."""
    monkeypatch.setattr(request_queue, "RETRIED_AT_A_TIME", 1)
    queue = _finished(database, "ff")
    assert queue.retry_portion() == (1, 1, "processing")
    queue.cancel()
    assert queue.retry_portion(1) is None
    assert queue.cancel_pending().finished == [queue.id]
    assert queue.counters[:3] == (0, 1, 1)


def test_a_portion_reads_no_more_than_it_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the statistics know nothing of the request."""
    monkeypatch.setattr(request_queue, "RETRIED_AT_A_TIME", 10)
    Queue(database, *urls(1000))
    analyze(database)
    queue = _finished(database, "f" * 1000)
    with database.transaction() as cursor:
        before = count_reads(cursor)
        assert request_queue.retry_request(cursor, queue.id, after=0) == (10, 10, "processing")
        assert count_reads(cursor) - before <= 50


# --- Cancelling ------------------------------------------------------------------------------


@pytest.mark.parametrize("begins", [False, True])
def test_an_unfinished_request_is_cancelled(database: Database, *, begins: bool) -> None:
    """Begun or not, once or twice; nothing of it can be claimed any more."""
    queue, other = Queue(database, *urls(2), begins=begins), Queue(database, *urls(2))
    for _ in range(2):
        with database.transaction() as cursor:
            assert cancel_request(cursor, queue.id)
    assert queue.request["status"] == "cancelling"
    assert queue.claim() == []
    with database.transaction() as cursor:
        assert begin_request(cursor, queue.id) is None
        assert select_cancelling(cursor, [queue.id, other.id, "none"]) == {queue.id}
    assert other.request["status"] == "processing"


def test_a_finished_request_is_not_cancelled(database: Database) -> None:
    """Its end stays what it was."""
    queue = _finished(database, "sf")
    before = queue.rows
    with database.transaction() as cursor:
        assert not cancel_request(cursor, queue.id)
        assert not cancel_request(cursor, "none")
        assert select_cancelling(cursor, [queue.id]) == set()
    assert queue.rows == before


# --- Deleting --------------------------------------------------------------------------------


def _tombstone(database: Database, request_id: str) -> dict[str, Any] | None:
    with database.transaction() as cursor:
        return select_deleted_request(cursor, request_id)


def _count_rows(database: Database, request_id: str) -> list[int]:
    """Return how many images and products of a request there are."""
    with database.transaction() as cursor:
        cursor.execute(
            """select (select count(*) from images where request_id = %(id)s) as images,
                      (select count(*) from image_links where request_id = %(id)s) as links""",
            {"id": request_id},
        )
        row = cursor.fetchone()
    assert row
    return list(row.values())


def test_a_deleted_request_leaves_a_tombstone(database: Database) -> None:
    """At once, with its owner; only once, and its rows stay until they are purged."""
    queue, other = _finished(database, "sf"), _finished(database, "s")
    assert queue.delete()
    assert not queue.delete()
    stone = _tombstone(database, queue.id)
    assert stone
    assert (stone["owner"], stone["purged_at"]) == ("its owner", None)
    assert stone["deleted_at"]
    assert _tombstone(database, other.id) is None
    assert other.request["status"] == "completed"
    with database.transaction() as cursor:
        cursor.execute("select id from requests")
        assert [row["id"] for row in cursor.fetchall()] == [other.id]
        assert select_deleted(cursor, [queue.id, other.id]) == {queue.id}
    assert _count_rows(database, queue.id) == [2, 1]


@pytest.mark.parametrize("status", ["pending", "processing", "cancelling"])
def test_an_unfinished_request_is_not_deleted(database: Database, status: str) -> None:
    """Also not by age, as it has no end to count from."""
    queue = Queue(database, *urls(1))
    queue.change_request(f"status = '{status}', created_at = now() - interval '9 years'")
    before = queue.rows
    assert not queue.delete()
    with database.transaction() as cursor:
        assert delete_expired_requests(cursor, days=1, limit=10) == []
    assert queue.rows == before
    assert _tombstone(database, queue.id) is None


def test_rows_are_purged_in_portions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call deletes so many at most and says whether to go on; other requests' rows stay."""
    monkeypatch.setattr(request_queue, "PURGED_AT_A_TIME", 2)
    queue, other = _finished(database, "sfcss"), _finished(database, "s")
    queue.delete()
    left = []
    place: tuple[str, int] | None = request_queue.FIRST_PURGED
    while place:
        with database.transaction() as cursor:
            place = purge_rows(cursor, queue.id, place)
        left.append(_count_rows(database, queue.id))
    assert left == [[3, 1], [1, 1], [0, 1], [0, 0], [0, 0]]
    stone = _tombstone(database, queue.id)
    assert stone
    assert stone["purged_at"]
    with database.transaction() as cursor:
        assert not purge_rows(cursor, queue.id)
    assert _tombstone(database, queue.id) == stone
    assert _count_rows(database, other.id) == [1, 1]


def test_rows_of_a_request_that_is_not_deleted_are_not_purged(database: Database) -> None:
    """Whatever asks for it."""
    queue = _finished(database, "sf")
    before = queue.rows
    with database.transaction() as cursor:
        assert not purge_rows(cursor, queue.id)
    assert queue.rows == before
    assert _count_rows(database, queue.id) == [2, 1]
    assert _tombstone(database, queue.id) is None


def test_what_was_finished_long_ago_is_deleted_oldest_first(database: Database) -> None:
    """Up to a limit; what is not old enough stays, to the second."""
    queues = [_finished(database, "s") for _ in range(4)]
    ages = ("2 days 2 seconds", "9 days", "2 days -5 seconds", "3 days")
    for queue, age in zip(queues, ages, strict=True):
        queue.change_request(f"finished_at = now() - interval '{age}'")
    with database.transaction() as cursor:
        assert set(delete_expired_requests(cursor, days=2, limit=2)) == {
            queues[1].id,
            queues[3].id,
        }
    with database.transaction() as cursor:
        assert delete_expired_requests(cursor, days=2, limit=2) == [queues[0].id]
    with database.transaction() as cursor:
        assert delete_expired_requests(cursor, days=2, limit=2) == []
        assert delete_expired_requests(cursor, days=0.5, limit=2) == [queues[2].id]
    stone = _tombstone(database, queues[0].id)
    assert stone
    assert stone["owner"] == "its owner"


def test_a_purge_is_one_s_own_until_its_lease_is_over(database: Database) -> None:
    """One deleted request for each that asks; what is purged is never given out again."""
    queues = sorted((_finished(database, "s") for _ in range(2)), key=lambda queue: queue.id)
    for queue in queues:
        queue.delete()
    one, two = (queue.id for queue in queues)

    def claim() -> str | None:
        with database.transaction() as cursor:
            return claim_purge(cursor, lease_seconds=LEASE)

    assert [claim(), claim(), claim()] == [one, two, None]
    with database.transaction() as cursor:
        cursor.execute(f"update deleted_requests set {LEASE_IS_OVER} where id = %s", (two,))  # noqa: S608
    assert [claim(), claim()] == [two, None]
    with database.transaction() as cursor:
        while purge_rows(cursor, one):
            pass
        cursor.execute(f"update deleted_requests set {LEASE_IS_OVER}")  # noqa: S608
    assert [claim(), claim()] == [two, None]


def test_two_that_claim_purges_at_once_get_different_ones(database: Database) -> None:
    """Neither waits for the other."""
    for _ in range(2):
        _finished(database, "s").delete()
    with database.transaction() as one, database.transaction() as two:
        two.execute("set local lock_timeout = '2s'")
        claims = [claim_purge(cursor, lease_seconds=LEASE) for cursor in (one, two)]
    assert len(set(claims) - {None}) == 2


def test_longest_waiting_purge_comes_first(database: Database) -> None:
    """One whose lease is over, and may fail for good, keeps no other from being begun; a lease
    that is renewed keeps others away.
    """
    ids = []
    for _ in range(2):
        queue = Queue(database, *urls(1))
        queue.end("s")
        queue.finish()
        queue.delete()
        ids.append(queue.id)
    first, second = sorted(ids)

    def claim(lease_seconds: float) -> str | None:
        with database.transaction() as cursor:
            return claim_purge(cursor, lease_seconds=lease_seconds)

    assert claim(-1) == first
    assert claim(-2) == second
    with database.transaction() as cursor:
        renew_purge(cursor, second, lease_seconds=LEASE)
    assert claim(LEASE) == first
    assert claim(LEASE) is None


def test_a_purge_is_done_when_nothing_is_left(database: Database) -> None:
    """Not when another purge had the rows that this one was to delete."""
    queue = Queue(database, *urls(3))
    queue.end("sss")
    queue.finish()
    queue.delete()
    with database.transaction() as cursor:
        cursor.execute("delete from image_links where request_id = %s", (queue.id,))

    def purge() -> tuple[str, int] | None:
        with database.transaction() as cursor:
            return purge_rows(cursor, queue.id)

    with ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_queue, "PURGED_AT_A_TIME", 1)
        with database.transaction() as cursor:
            assert purge_rows(cursor, queue.id)
            other = pool.submit(purge)
            wait_for_a_lock(database)
        assert other.result()
        with database.transaction() as cursor:
            assert select_deleted_request(cursor, queue.id)["purged_at"] is None  # type: ignore[index]
            while purge_rows(cursor, queue.id):
                pass
            assert select_deleted_request(cursor, queue.id)["purged_at"]  # type: ignore[index]
    assert queue.images == []


@pytest.fixture
def half_retried(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> tuple[Queue, request_queue.Retried]:
    """Give a request of three failed images of which a retry took two, and that portion."""
    monkeypatch.setattr(request_queue, "RETRIED_AT_A_TIME", 2)
    queue = Queue(database, *urls(3))
    queue.end("fff")
    queue.finish()
    portion = queue.retry_portion()
    assert portion is not None
    assert portion.images == 2
    return queue, portion


def test_nobody_finishes_between_two_portions_of_a_retry(
    half_retried: tuple[Queue, request_queue.Retried],
) -> None:
    """Though all that was begun anew has ended meanwhile; after the last portion all goes on."""
    queue, portion = half_retried
    queue.record(*(success(image) for image in queue.claim()))
    assert queue.take_finish() is None
    rest = queue.retry_portion(portion.last)
    assert rest is not None
    assert rest.images == 1
    queue.record(*(success(image) for image in queue.claim()))
    finished = queue.finish()
    assert finished is not None
    assert finished["status"] == "completed"


@pytest.mark.parametrize("states", ["ff", "sffs", "fcsfcs"])
def test_a_retry_of_full_portions_is_finished_as_soon_as_it_has_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch, states: str
) -> None:
    """No portion is waited for that will not come, also where others succeeded behind the last."""
    monkeypatch.setattr(request_queue, "RETRIED_AT_A_TIME", 2)
    queue = _finished(database, states)
    assert queue.retry() == len(states) - states.count("s")
    queue.record(*(success(image) for image in queue.claim()))
    assert queue.take_finish() is not None


def test_a_request_that_is_cancelled_between_two_portions_stays_so(
    half_retried: tuple[Queue, request_queue.Retried],
) -> None:
    """The rest of the retry does nothing."""
    queue, portion = half_retried
    queue.cancel()
    queue.cancel_pending()
    queue.change_request(LEASE_IS_OVER)
    assert queue.finish() is not None
    rest = queue.retry_portion(portion.last)
    assert rest is not None
    assert (rest.images, queue.request["status"]) == (0, "cancelled")
    assert queue.states == ["cancelled", "cancelled", "failed"]
