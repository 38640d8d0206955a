"""The queue and the truth: who may claim what, whose outcome counts, and how often."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import image_queue
from attempt_outcome import ended
from image_queue import (
    ClaimedImage,
    ImageState,
    Recorded,
    claim_images,
    give_back,
    give_back_expired,
    mark_decoding,
    record_outcomes,
    renew_leases,
    select_next_due,
    select_twin,
)
from request_queue import retry_request
from tests.queued import (
    LEASE,
    Queue,
    analyze,
    count_reads,
    failure,
    retry,
    success,
    urls,
    wait_for_a_lock,
)

if TYPE_CHECKING:
    from database_helper import Cursor, Database


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def _numbers(images: list[ClaimedImage]) -> list[int]:
    return [image.n for image in images]


def _accepted(*images: ClaimedImage) -> Recorded:
    """Return what recording says of these alone, where nothing follows from them."""
    return Recorded(accepted={(image.request_id, image.n, image.fence) for image in images})


# --- Claiming --------------------------------------------------------------------------------


def test_claims_are_in_input_order_and_limited(database: Database) -> None:
    """Whoever claims gets the next images, marked as running under a lease."""
    queue = Queue(database, *urls(7))
    assert _numbers(queue.claim(limit=3)) == [1, 2, 3]
    assert _numbers(queue.claim(limit=3)) == [4, 5, 6]
    assert queue.states == ["running"] * 6 + ["pending"]
    first = queue.images[0]
    lease = first["lease_until"] - queue.request["now"]
    assert timedelta() < lease <= timedelta(seconds=LEASE)
    assert (first["fence"], first["attempts"]) == (1, 0)
    assert queue.claim(limit=9) == [ClaimedImage(queue.id, 7, 1, 0, urls(7)[-1], repeats=None)]
    assert queue.claim() == []


def test_a_claim_goes_on_behind_the_last_one(database: Database) -> None:
    """What was given back before that place is left for a claim from the start, retries are not."""
    queue = Queue(database, *urls(5))
    queue.change("due_at = now()", 1)
    with database.transaction() as cursor:
        claimed = claim_images(cursor, queue.id, after=3, limit=9, lease_seconds=LEASE)
    assert [image.n for image in claimed] == [1, 4, 5]
    assert [image.n for image in queue.claim()] == [2, 3]


def test_open_claims_are_disjoint(database: Database) -> None:
    """Two workers that claim at the same time share no image and don't wait for each other."""
    queue = Queue(database, *urls(6))
    with database.transaction() as one, database.transaction() as two:
        two.execute("set local lock_timeout = '2s'")
        first = claim_images(one, queue.id, limit=4, lease_seconds=LEASE)
        second = claim_images(two, queue.id, limit=4, lease_seconds=LEASE)
    assert (_numbers(first), _numbers(second)) == ([1, 2, 3, 4], [5, 6])


def test_many_workers_claim_every_image_once(database: Database) -> None:
    """However many claim at once, each image is given out to exactly one."""
    queue = Queue(database, *urls(200))

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
    queue = Queue(database, *urls(40))
    with database.transaction() as cursor:
        for method in plan:
            cursor.execute(f"set local enable_{method} = off")
        claimed = claim_images(cursor, queue.id, limit=3, lease_seconds=LEASE)
    assert _numbers(claimed) == [1, 2, 3]
    assert queue.states.count("running") == 3


def test_only_what_is_due_is_claimed(database: Database) -> None:
    """An image that is to be tried again later waits, and comes after those never tried."""
    queue = Queue(database, *urls(4))
    queue.change("due_at = now() - interval '1 second'", 1)
    queue.change("due_at = now() + interval '1 hour'", 2)
    assert _numbers(queue.claim(limit=2)) == [3, 4]
    assert _numbers(queue.claim()) == [1]


@pytest.mark.parametrize(
    "status", ["pending", "completed", "completed_with_errors", "failed", "cancelling", "cancelled"]
)
def test_only_a_request_that_is_processing_is_claimed_from(database: Database, status: str) -> None:
    """A cancelled or finished request gives nothing out, whatever its images' rows say."""
    queue = Queue(database, *urls(2))
    with database.transaction() as cursor:
        cursor.execute("update requests set status = %s where id = %s", (status, queue.id))
    assert queue.claim() == []


def test_the_next_due_image_tells_when_to_come_again(database: Database) -> None:
    """Images that wait for a twin or are under way don't count."""
    one, two, three = urls(3)
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
    queue = Queue(database, *urls(1))
    with database.transaction() as cursor:
        due = select_next_due(cursor, queue.id)
    assert due
    assert due < datetime.now(due.tzinfo) if due.tzinfo else due < datetime.now()  # noqa: DTZ005


# --- Leases ----------------------------------------------------------------------------------


def test_leases_are_renewed_while_they_are_ours(database: Database) -> None:
    """Renewing reaches only images that run under our own claim."""
    queue = Queue(database, *urls(4))
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


def test_renewing_waits_for_nobody(database: Database) -> None:
    """An image that is just recorded is passed over: recorder and renewal can't lock each other."""
    queue = Queue(database, *urls(2))
    claimed = queue.claim(lease_seconds=1)
    with database.transaction() as recording, database.transaction() as renewing:
        renewing.execute("set local lock_timeout = '2s'")
        record_outcomes(recording, [success(claimed[0])])
        renew_leases(renewing, claimed, lease_seconds=3600)
    done, running = queue.images
    assert (done["state"], done["lease_until"]) == ("succeeded", None)
    assert running["lease_until"] > queue.request["now"] + timedelta(minutes=50)


def test_what_is_given_back_is_claimed_again_first(database: Database) -> None:
    """A worker that stops hands its images on: no attempt is counted, the old claim is void."""
    queue = Queue(database, *urls(4))
    claimed = queue.claim(limit=3)
    queue.change("fence = fence + 1", 2)
    with database.transaction() as cursor:
        give_back(cursor, claimed)
    assert queue.states == ["pending", "running", "pending", "pending"]
    assert queue.images[0]["lease_until"] is None
    again = queue.claim(limit=2)
    assert [(image.n, image.fence, image.attempts) for image in again] == [(1, 2, 0), (3, 2, 0)]
    assert queue.record(success(claimed[0])) == Recorded()


def test_nothing_to_renew_or_give_back_is_no_trouble(database: Database) -> None:
    """An idle worker renews and gives back nothing."""
    with database.transaction() as cursor:
        renew_leases(cursor, [], lease_seconds=LEASE)
        give_back(cursor, [])
        assert record_outcomes(cursor, []) == Recorded()


def test_expired_leases_are_given_back(database: Database) -> None:
    """What a dead worker held becomes claimable; what a living one holds stays its own."""
    queue, other = Queue(database, *urls(3)), Queue(database, *urls(2))
    dead, living = queue.claim(limit=2, lease_seconds=-1), queue.claim(limit=1)
    other.claim(limit=1, lease_seconds=-1)
    with database.transaction() as cursor:
        given_back = give_back_expired(cursor)
    assert given_back.accepted == {(queue.id, 1, 1), (queue.id, 2, 1), (other.id, 1, 1)}
    assert (set(given_back.due), given_back.finished) == ({queue.id, other.id}, [])
    assert (queue.states, other.states) == (["pending", "pending", "running"], ["pending"] * 2)
    assert _numbers(queue.claim()) == [1, 2]
    assert queue.record(*map(success, dead)) == Recorded()
    assert queue.record(*map(success, living)) == _accepted(*living)
    assert queue.counters[0] == 1
    assert queue.give_back_expired() == Recorded()


# --- Losses ----------------------------------------------------------------------------------


def _lose(queue: Queue, *decoding: int) -> Recorded:
    """Let a worker claim everything and die while these images were in a decoder."""
    for image in queue.claim(lease_seconds=-1):
        if image.n in decoding:
            with queue.database.transaction() as cursor:
                assert mark_decoding(cursor, image, is_decoding=True)
    return queue.give_back_expired()


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let images that workers may have died of be claimed at once."""
    monkeypatch.setattr(image_queue, "LOSS_SECONDS", 0.0)


def _losses(queue: Queue) -> list[int]:
    return [image["losses"] for image in queue.images]


@pytest.mark.usefixtures("no_waits")
def test_the_first_loss_counts_against_all_later_ones_against_what_was_decoded(
    database: Database,
) -> None:
    """Nobody knows what a worker died of; who is claimed next is told, and no attempt counts."""
    queue = Queue(database, *urls(3))
    _lose(queue)
    assert _losses(queue) == [1, 1, 1]
    _lose(queue, 2)
    assert _losses(queue) == [1, 2, 1]
    _lose(queue)
    assert _losses(queue) == [1, 2, 1]
    claimed = queue.claim()
    assert [(image.losses, image.attempts, image.fence) for image in claimed] == [
        (1, 0, 4),
        (2, 0, 4),
        (1, 0, 4),
    ]
    assert [image["is_decoding"] for image in queue.images] == [False] * 3


@pytest.mark.usefixtures("no_waits")
def test_the_fifth_loss_is_the_end_of_an_image(database: Database) -> None:
    """It has failed and is counted once, its repetition goes on, and so do the others."""
    one, two = urls(2)
    queue = Queue(database, one, two, one)
    for _ in range(4):
        _lose(queue, 1)
    recorded = _lose(queue, 1)
    assert recorded.accepted == {(queue.id, 1, 5), (queue.id, 2, 5)}
    assert recorded.finished == []
    assert set(recorded.due) == {queue.id}
    crashed = queue.images[0]
    assert (crashed["state"], crashed["error_code"], crashed["attempts"], crashed["losses"]) == (
        *("failed", "compress_crash"),
        *(1, 5),
    )
    assert crashed["error_detail"] == "The worker that decoded the image died, every time."
    assert (crashed["lease_until"], crashed["http_status"]) == (None, None)
    assert queue.counters == (0, 1, 0, 0, 0)
    assert queue.request["errors_by_code"] == {"compress_crash": 1}
    assert queue.give_back_expired() == Recorded()
    other, repetition = queue.claim()
    assert (other.n, repetition.n, repetition.repeats) == (2, 3, 1)


@pytest.mark.usefixtures("no_waits")
def test_the_fifth_loss_of_the_last_image_lets_the_request_finish(database: Database) -> None:
    """The sweep says so, once; what the dead worker may still record changes nothing."""
    queue = Queue(database, *urls(1))
    for _ in range(4):
        _lose(queue, 1)
    (image,) = queue.claim(lease_seconds=-1)
    with database.transaction() as cursor:
        assert mark_decoding(cursor, image, is_decoding=True)
    assert queue.give_back_expired() == Recorded({(queue.id, 1, image.fence)}, [queue.id], {})
    before = queue.rows
    assert queue.record(success(image)) == queue.give_back_expired() == Recorded()
    assert queue.rows == before


def test_an_image_that_was_in_a_decoder_waits_longer_after_each_loss(database: Database) -> None:
    """A worker that is killed over and over has others first; the first loss says nothing yet."""
    queue = Queue(database, *urls(2))
    _lose(queue)
    for seconds in (5, 10, 20):
        before = datetime.now(UTC)
        due = _lose(queue, 1).due[queue.id]
        assert [image.n for image in queue.claim(lease_seconds=-1)] == [2]
        assert before <= queue.images[0]["due_at"] - timedelta(seconds=seconds) <= datetime.now(UTC)
        assert due < before
        queue.give_back_expired()
        queue.change("due_at = '-infinity'", 1)


def test_two_sweepers_count_a_loss_once(database: Database) -> None:
    """Every worker sweeps; they don't wait for each other."""
    queue = Queue(database, *urls(2))
    queue.claim(lease_seconds=-1)
    with database.transaction() as one, database.transaction() as two:
        two.execute("set local lock_timeout = '2s'")
        assert len(give_back_expired(one).accepted) == 2
        assert give_back_expired(two) == Recorded()
    assert _losses(queue) == [1, 1]


@pytest.mark.parametrize("fate", ["claimed by another", "given back", "ended"])
def test_an_image_that_is_no_longer_ours_is_not_marked(database: Database, fate: str) -> None:
    """Who can't mark it must not decode it."""
    queue = Queue(database, *urls(1))
    (image,) = queue.claim()
    if fate == "ended":
        queue.record(failure(image))
    else:
        with database.transaction() as cursor:
            give_back(cursor, [image])
    if fate == "claimed by another":
        queue.claim()
    with database.transaction() as cursor:
        assert not mark_decoding(cursor, image, is_decoding=True)
    assert queue.images[0]["is_decoding"] is False


# --- Recording -------------------------------------------------------------------------------


def test_of_two_attempts_at_an_image_the_newer_counts(database: Database) -> None:
    """Also where one worker made both, and records them together, in whatever order."""
    queue = Queue(database, *urls(2))
    late = queue.claim(lease_seconds=-1)
    queue.give_back_expired()
    again = queue.claim()
    recorded = queue.record(
        *(success(late[0], 1, 1), success(again[0])),
        *(success(again[1]), success(late[1], 1, 1)),
    )
    assert recorded.accepted == {(queue.id, 1, 2), (queue.id, 2, 2)}
    assert recorded.finished == [queue.id]
    assert queue.counters == (2, 0, 0, 200, 120)


def test_an_outcome_is_written_and_counted(database: Database) -> None:
    """Every field reaches its column, and the request's counters follow in the same commit."""
    queue = Queue(database, *urls(3))
    first, second, _ = queue.claim()
    recorded = queue.record(success(first), failure(second, "dns_error"))
    assert recorded == _accepted(first, second)
    good, bad, running = queue.images
    expected = {
        *("state", "attempts", "reused", "bytes_in", "bytes_out", "width", "height", "format"),
        *("quality", "sha256", "etag", "last_modified", "error_code", "error_detail"),
    }
    for row, written in ((good, success(first)), (bad, failure(second, "dns_error"))):
        assert {name: row[name] for name in expected} == {
            name: getattr(written, name) for name in expected
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
    queue = Queue(database, *urls(2))
    image = queue.claim(limit=1)[0]
    late_one = success(image)
    if late == "claimed by another":
        queue.change("fence = fence + 1", 1)
    elif late == "given back":
        with database.transaction() as cursor:
            give_back(cursor, [image])
    elif late == "already recorded":
        queue.record(failure(image))
    else:
        late_one = replace(late_one, request_id="cd" * 16)
    before = queue.rows
    again = replace(late_one, state=ImageState.PENDING)
    assert queue.record(late_one) == queue.record(again) == Recorded()
    assert queue.rows == before


def test_who_records_hears_which_outcomes_count(database: Database) -> None:
    """One that comes too late is not among them, in whatever company it is recorded."""
    queue, other = Queue(database, *urls(3)), Queue(database, *urls(1))
    claimed = queue.claim() + other.claim()
    queue.change("fence = fence + 1", 2)
    recorded = queue.record(success(claimed[0]), success(claimed[1]), retry(claimed[2], 60))
    assert recorded.accepted == {(queue.id, 1, 1), (queue.id, 3, 1)}
    recorded = queue.record(*map(failure, claimed))
    assert recorded.accepted == {(other.id, 1, 1)}
    assert (queue.counters[:3], other.counters[:3]) == ((1, 0, 0), (0, 1, 0))


def test_counters_add_up_over_batches(database: Database) -> None:
    """However outcomes are batched, each image counts once and each code by itself."""
    queue = Queue(database, *urls(12))
    claimed = queue.claim()
    outcomes = [
        *[success(image, bytes_in=2**40, bytes_out=1) for image in claimed[:5]],
        *[failure(image, "http_404") for image in claimed[5:8]],
        *[failure(image, "it's") for image in claimed[8:10]],
        ended(claimed[10], ImageState.CANCELLED, error_code="cancelled"),
    ]
    for size in (4, 3, 4):
        batch, outcomes = outcomes[:size], outcomes[size:]
        assert queue.record(*batch).finished == []
    assert queue.counters == (5, 5, 1, 5 * 2**40, 5)
    assert queue.request["errors_by_code"] == {"http_404": 3, "it's": 2, "cancelled": 1}
    assert queue.record(success(claimed[11])).finished == [queue.id]


def test_outcomes_of_several_requests_share_a_batch(database: Database) -> None:
    """Each request gets its own counts, and only the finished one is to be finished."""
    one, two = Queue(database, *urls(1)), Queue(database, *urls(2))
    outcomes = [success(one.claim()[0]), failure(two.claim(limit=1)[0])]
    recorded = one.record(*outcomes)
    assert recorded.accepted == {(one.id, 1, 1), (two.id, 1, 1)}
    assert (recorded.finished, recorded.due) == ([one.id], {})
    assert (one.counters[:2], two.counters[:2]) == ((1, 0), (0, 1))


def test_concurrent_batches_count_every_image(database: Database) -> None:
    """Workers that record outcomes of the same requests at once lose no count."""
    queues = [Queue(database, *urls(60)) for _ in range(3)]
    claims = [claim for queue in queues for claim in queue.claim()]

    def record(part: int) -> list[str]:
        return [
            request_id
            for start in range(part, len(claims), 30)
            for request_id in queues[0]
            .record(*map(success, claims[start : start + 30 : 6]))
            .finished
        ]

    with ThreadPoolExecutor(6) as threads:
        finished = [request_id for ids in threads.map(record, range(6)) for request_id in ids]
    assert [queue.counters[0] for queue in queues] == [60] * 3
    assert sorted(finished) == sorted(queue.id for queue in queues)


def test_a_failed_try_goes_back_with_a_time(database: Database) -> None:
    """It is not counted, says why it failed last, and is due when it was to be."""
    queue = Queue(database, *urls(2))
    image = queue.claim(limit=1)[0]
    recorded = queue.record(retry(image, 90))
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
    queue.record(success(again))
    assert queue.images[0]["error_code"] is None
    assert queue.images[0]["attempts"] == 2
    assert queue.counters[:2] == (1, 0)


def test_the_earliest_of_several_retries_wakes(database: Database) -> None:
    """One turn is to come for all of them, when the first is due."""
    queue = Queue(database, *urls(3))
    images = queue.claim()
    recorded = queue.record(
        *(retry(image, s) for image, s in zip(images, (70, 7, 700), strict=True))
    )
    assert recorded.due == {queue.id: queue.images[1]["due_at"]}


# --- Repetitions -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", [ImageState.SUCCEEDED, ImageState.FAILED, ImageState.CANCELLED])
def test_repetitions_go_on_when_their_twin_ends(database: Database, state: ImageState) -> None:
    """However the first ended, those that waited for it are due at once, and no others."""
    one, two = urls(2)
    queue = Queue(database, one, one, two, two, one)
    image = queue.claim(limit=1)[0]
    recorded = queue.record(replace(success(image), state=state))
    assert set(recorded.due) == {queue.id}
    released = queue.claim()
    assert [(image.n, image.repeats) for image in released] == [(2, 1), (3, None), (5, 1)]
    with database.transaction() as cursor:
        twin = select_twin(cursor, released[-1])
    assert (twin["n"], twin["state"]) == (1, state)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("statistics", ["fresh", "of others"])
def test_repetitions_are_found_by_their_index(database: Database, n: int, statistics: str) -> None:
    """Also where the planner knows that half of all images repeat the same one, or nothing at all
    of this request: each image that ends would else cost a look through the whole table.
    """
    one, *others = urls(10_000)
    Queue(database, *others)
    analyze(database)
    queue = Queue(database, one, *others, *[one] * 10_000)
    if statistics == "fresh":
        analyze(database)
    image = queue.claim(limit=2)[n - 1]
    with database.transaction() as cursor:
        before = count_reads(cursor)
        assert bool(image_queue._release_repeating(cursor, queue.id, {image.n})) == (n == 1)
        assert count_reads(cursor) - before <= 2 * image_queue.REPEATS_AT_A_TIME


def test_repetitions_wait_while_their_twin_is_tried_again(database: Database) -> None:
    """A failed try is no end."""
    (one,) = urls(1)
    queue = Queue(database, one, one)
    queue.record(retry(queue.claim()[0], 3600))
    assert queue.claim() == []
    assert queue.images[1]["due_at"] is not None


# --- Cancelling ------------------------------------------------------------------------------


def test_what_waits_is_cancelled_in_portions(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what waits for a later time or for a twin; what is under way ends by itself."""
    monkeypatch.setattr(image_queue, "CANCELLED_AT_A_TIME", 2)
    one, two, three, four = urls(4)
    queue = Queue(database, one, two, three, four, one, one)
    running, tried = queue.claim(limit=2)
    queue.record(retry(tried, 3600))
    queue.cancel()
    portions = [queue.cancel_pending() for _ in range(4)]
    assert [len(portion.accepted) for portion in portions] == [2, 2, 1, 0]
    assert [portion.finished for portion in portions] == [[]] * 4
    assert queue.states == ["running", *["cancelled"] * 5]
    assert queue.counters == (0, 0, 5, 0, 0)
    assert queue.request["errors_by_code"] == {"cancelled": 5}
    row = queue.images[1]
    assert (row["error_code"], row["error_detail"]) == (
        "cancelled",
        "The request was cancelled first.",
    )
    assert (row["http_status"], row["attempts"]) == (None, 1)
    assert queue.record(success(running)).finished == [queue.id]
    assert queue.counters[:3] == (1, 0, 5)


def test_the_last_portion_lets_the_request_finish(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all those that cancel at once, one is told, and every image is counted once."""
    monkeypatch.setattr(image_queue, "CANCELLED_AT_A_TIME", 3)
    queue = Queue(database, *urls(20))
    queue.cancel()
    with ThreadPoolExecutor(4) as threads:
        portions = list(threads.map(lambda _: queue.cancel_pending(), range(12)))
    assert sorted(n for portion in portions for _, n, _ in portion.accepted) == list(range(1, 21))
    assert [portion.finished for portion in portions if portion.finished] == [[queue.id]]
    assert queue.counters == (0, 0, 20, 0, 0)
    assert queue.request["errors_by_code"] == {"cancelled": 20}


def test_portions_follow_each_other_by_number(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is behind the last one is cancelled, in input order. An image that comes back before it
    is there for whoever begins from the start again.
    """
    monkeypatch.setattr(image_queue, "CANCELLED_AT_A_TIME", 2)
    queue = Queue(database, *urls(6))
    (first,) = queue.claim(limit=1)
    queue.cancel()

    def cancel(after: int) -> list[int]:
        return sorted(n for _, n, _ in queue.cancel_pending(after).accepted)

    assert [cancel(after) for after in (0, 3)] == [[2, 3], [4, 5]]
    with database.transaction() as cursor:
        give_back(cursor, [first])
    assert [cancel(after) for after in (5, 6)] == [[6], []]
    assert queue.states == ["pending", *["cancelled"] * 5]
    with database.transaction() as cursor:
        assert select_next_due(cursor, queue.id) == _now(cursor)
    assert queue.cancel_pending().finished == [queue.id]
    assert queue.counters[:3] == (0, 0, 6)


@pytest.mark.parametrize("status", ["pending", "processing", "completed", "cancelled"])
def test_only_a_cancelling_request_s_images_are_cancelled(database: Database, status: str) -> None:
    """A turn that comes too late, after a retry even, takes nothing away."""
    queue = Queue(database, *urls(2))
    queue.change_request(f"status = '{status}'")
    before = queue.rows
    assert queue.cancel_pending() == Recorded()
    assert queue.rows == before


def test_an_image_that_is_just_being_claimed_is_passed_over(database: Database) -> None:
    """Cancelling doesn't wait for the claim: that image is under way."""
    queue = Queue(database, *urls(3))
    with database.transaction() as cursor:
        claimed = claim_images(cursor, queue.id, limit=1, lease_seconds=LEASE)
        queue.cancel()
        assert queue.cancel_pending().accepted == {(queue.id, 2, 0), (queue.id, 3, 0)}
    assert queue.states == ["running", "cancelled", "cancelled"]
    assert queue.record(*map(success, claimed)).finished == [queue.id]


@pytest.mark.parametrize("due_at", ["-infinity", "2040-01-01", "infinity"])
def test_a_cancelling_request_has_something_to_do_at_once(database: Database, due_at: str) -> None:
    """Whatever its images wait for; one whose images are all under way or ended has nothing."""
    queue = Queue(database, *urls(2))
    queue.claim(limit=1)
    queue.change(f"due_at = '{due_at}'", 2)
    queue.cancel()
    with database.transaction() as cursor:
        assert select_next_due(cursor, queue.id) == _now(cursor)
    queue.cancel_pending()
    with database.transaction() as cursor:
        assert select_next_due(cursor, queue.id) is None


@pytest.mark.parametrize("status", ["pending", "completed", "cancelled"])
def test_what_is_not_being_processed_has_nothing_for_a_turn(
    database: Database, status: str
) -> None:
    """One that was retried after it was cancelled before it began needs its first step."""
    queue = Queue(database, *urls(2))
    queue.change_request(f"status = '{status}'")
    with database.transaction() as cursor:
        assert select_next_due(cursor, queue.id) is None
        assert select_next_due(cursor, queue.id, pause=5) is None


def _now(cursor: Cursor) -> datetime:
    cursor.execute("select now()")
    row = cursor.fetchone()
    assert row
    now: datetime = row["now"]
    return now


# --- A retry in between ----------------------------------------------------------------------


@pytest.mark.parametrize("first", ["the retry", "the record"])
def test_a_repetition_never_waits_for_a_twin_that_has_ended(database: Database, first: str) -> None:
    """A retry makes it wait while its twin is just being recorded: whichever comes first, it is
    due afterwards.
    """
    one, two = urls(2)
    queue = Queue(database, one, one, two)
    queue.record(failure(queue.claim(limit=1)[0]))
    (repetition,) = (image for image in queue.claim(limit=2) if image.n == 2)
    queue.retry()
    (twin,) = queue.claim()
    queue.record(failure(repetition))  # as its twin had before
    assert (twin.n, queue.states) == (1, ["running", "failed", "running"])
    with ThreadPoolExecutor(1) as thread, database.transaction() as cursor:
        if first == "the retry":
            assert retry_request(cursor, queue.id, after=0) == (1, 2, "processing")
            late: Future[Any] = thread.submit(queue.record, success(twin))
        else:
            assert record_outcomes(cursor, [success(twin)]).accepted
            late = thread.submit(queue.retry)
        wait_for_a_lock(database)
        cursor.connection.commit()
        late.result()
    assert queue.counters[:3] == (1, 0, 0)
    assert [(image.n, image.repeats) for image in queue.claim()] == [(2, 1)]
