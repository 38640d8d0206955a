"""The outbox: written with the finish or not at all, claimed once, heard from the right sender."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import webhook_queue
from request_rows import select_request, select_requests
from webhook import Answer, ClaimedWebhook, WebhookState, judge
from webhook_queue import (
    HOST_SENDERS,
    RESTARTS,
    claim_next_webhook,
    claim_webhook,
    enqueue_webhook,
    record_delivery,
    replay_webhook,
    select_due_webhooks,
    select_next_webhook_due,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from database_helper import Database

URL = "https://shop.example/hook"
LEASE_SECONDS = 30.0
DELIVERED = judge(Answer(status=204), 0)
REFUSED = judge(Answer(status=500), 0)


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def _finished(database: Database, **columns: Any) -> dict[str, Any]:
    """Insert a finished request that asked for a webhook; return its row."""
    values = {
        "id": uuid.uuid4().hex,
        "status": "completed",
        "options": json.dumps({"webhook_url": columns.pop("url", URL)}),
        "columns": [],
        "base_url": "http://images.example",
        "started_at": datetime(2031, 1, 1, tzinfo=UTC),
        "finished_at": datetime(2031, 1, 2, tzinfo=UTC),
        "images": 3,
        "succeeded": 3,
    } | columns
    with database.transaction() as cursor:
        cursor.execute(
            f"insert into requests ({', '.join(values)}) values %s returning *",  # noqa: S608
            (tuple(values.values()),),
        )
        return dict(cursor.fetchone() or {})


def _run(database: Database, statement: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with database.transaction() as cursor:
        return statement(cursor, *args, **kwargs)


def _enqueued(database: Database, **columns: Any) -> str:
    """Write the event of a finished request; return the request's id."""
    request = _finished(database, **columns)
    assert _run(database, enqueue_webhook, request)
    return str(request["id"])


def _claim(
    database: Database, request_id: str, seconds: float = LEASE_SECONDS
) -> ClaimedWebhook | None:
    webhook: ClaimedWebhook | None = _run(
        database, claim_webhook, request_id, lease_seconds=seconds
    )
    return webhook


def _claimed(database: Database, request_id: str, seconds: float = LEASE_SECONDS) -> ClaimedWebhook:
    webhook = _claim(database, request_id, seconds)
    assert webhook
    return webhook


def _rows(database: Database, condition: str = "true") -> list[dict[str, Any]]:
    """Return events, oldest first, with the seconds until each is due."""
    with database.transaction() as cursor:
        cursor.execute(
            f"""select *, extract(epoch from due_at - now()) as due_in from webhooks
                 where {condition} order by created_at"""  # noqa: S608  # our own words
        )
        return [dict(row) for row in cursor.fetchall()]


def _deliveries(database: Database, request_id: str) -> list[dict[str, Any]]:
    """Return what is noted with a request, newest first."""
    noted: list[dict[str, Any]] = _run(database, select_request, request_id)["webhook_deliveries"]
    return noted


def _set(database: Database, assignment: str) -> None:
    with database.transaction() as cursor:
        cursor.execute(f"update webhooks set {assignment}")  # noqa: S608  # our own words


def test_an_event_is_the_status_of_its_finish(database: Database) -> None:
    """The body is made once, with the links of the upload's own base."""
    request_id = _enqueued(database, succeeded=2, failed=1, status="completed_with_errors")
    (row,) = _rows(database)
    event = json.loads(row["body"])
    assert (event["type"], event["timestamp"]) == ("request.completed", "2031-01-02T00:00:00.000Z")
    data = event["data"]
    assert data["webhook"]["id"] == row["id"]
    assert (data["request_id"], data["status"]) == (request_id, "completed_with_errors")
    assert data["progress"]["failed"] == 1
    assert data["links"]["output_csv"] == f"http://images.example/static/{request_id}.csv"
    assert data["webhook"]["state"] == "pending"
    assert (row["url"], row["state"], row["attempts"]) == (URL, "pending", 0)


@pytest.mark.parametrize("options", [{}, {"webhook_url": None}])
def test_nobody_is_told_who_did_not_ask(database: Database, options: dict[str, Any]) -> None:
    """Without a URL there is no event, and the finisher hears that no job is needed."""
    request = _finished(database, options=json.dumps(options))
    assert _run(database, enqueue_webhook, request) is False
    assert _rows(database) == []


def test_an_event_commits_with_the_finish_or_not_at_all(database: Database) -> None:
    """A finish that is rolled back tells nobody."""
    request = _finished(database, finished_at=None, status="processing")

    def finish_and_fail() -> None:
        with database.transaction() as cursor:
            cursor.execute("update requests set status = 'completed', finished_at = now()")
            enqueue_webhook(cursor, request | {"finished_at": datetime.now(UTC)})
            raise ConnectionError

    with pytest.raises(ConnectionError):
        finish_and_fail()
    assert _rows(database) == []


def test_an_event_is_claimed_once(database: Database) -> None:
    """While one sender has it no other gets it, and the claim has all that sending needs."""
    request_id = _enqueued(database)
    webhook = _claimed(database, request_id)
    (row,) = _rows(database)
    assert webhook == ClaimedWebhook(
        id=row["id"], request_id=request_id, fence=1, attempts=0, url=URL, body=row["body"]
    )
    assert _claim(database, request_id) is None
    assert _run(database, select_due_webhooks) == []


def test_two_that_claim_at_once_do_not_wait_for_each_other(database: Database) -> None:
    """A row that another transaction is claiming is passed over."""
    request_id = _enqueued(database)
    with database.transaction() as first:
        assert claim_webhook(first, request_id, lease_seconds=LEASE_SECONDS)
        assert _claim(database, request_id) is None


def test_another_takes_over_when_the_lease_is_over(database: Database) -> None:
    """A sender that died is followed by another, which sends the same under the same id."""
    request_id = _enqueued(database)
    first = _claimed(database, request_id, 0)
    assert _run(database, select_due_webhooks) == [request_id]
    second = _claimed(database, request_id)
    assert (second.id, second.body) == (first.id, first.body)
    assert second.fence > first.fence


def test_a_late_answer_changes_nothing(database: Database) -> None:
    """Whoever lost its lease to another has nothing to say any more."""
    request_id = _enqueued(database)
    late = _claimed(database, request_id, 0)
    current = _claimed(database, request_id)
    before = _rows(database)[0]
    assert _run(database, record_delivery, late, DELIVERED) is False
    assert _deliveries(database, request_id) == []
    after = _rows(database)[0]
    assert {**after, "due_in": 0} == {**before, "due_in": 0}
    assert _run(database, record_delivery, current, REFUSED) is True
    assert _run(database, record_delivery, current, DELIVERED) is False  # only once
    assert [each["status"] for each in _deliveries(database, request_id)] == [500]


def test_a_delivery_is_recorded(database: Database) -> None:
    """A 2xx ends it: nothing is due any more."""
    request_id = _enqueued(database)
    webhook = _claimed(database, request_id)
    assert _run(database, record_delivery, webhook, DELIVERED)
    (row,) = _rows(database, "delivered_at between now() - interval '1 minute' and now()")
    assert (row["state"], row["attempts"], row["last_status"]) == ("delivered", 1, 204)
    assert (row["last_error"], row["lease_until"]) == (None, None)
    assert _claim(database, request_id) is None
    assert _run(database, select_next_webhook_due, request_id) is None


def test_a_refusal_is_tried_again_later(database: Database) -> None:
    """The reason is kept, the next try is due by the database's clock, and not before."""
    request_id = _enqueued(database)
    webhook = _claimed(database, request_id)
    assert _run(database, record_delivery, webhook, REFUSED)
    (row,) = _rows(database)
    assert (row["state"], row["attempts"], row["last_status"]) == ("pending", 1, 500)
    assert row["last_error"] == "The receiver answered with HTTP status 500."
    assert (row["delivered_at"], row["lease_until"]) == (None, None)
    assert 0 < row["due_in"] < 6
    assert _run(database, select_next_webhook_due, request_id) == row["due_at"]
    assert _claim(database, request_id) is None
    assert _run(database, select_due_webhooks) == []
    _set(database, "due_at = now()")
    again = _claimed(database, request_id)
    assert (again.id, again.attempts) == (webhook.id, 1)


@pytest.mark.parametrize(
    ("status", "attempts", "state"),
    [(410, 0, WebhookState.FAILED), (500, 9, WebhookState.FAILED), (500, 8, WebhookState.PENDING)],
)
def test_an_end_is_recorded(
    database: Database, status: int, attempts: int, state: WebhookState
) -> None:
    """Where no try is left the event stands there as failed, with its last answer."""
    request_id = _enqueued(database)
    _set(database, f"attempts = {attempts}")
    webhook = _claimed(database, request_id)
    _run(database, record_delivery, webhook, judge(Answer(status=status), webhook.attempts))
    (row,) = _rows(database)
    assert (row["state"], row["attempts"], row["last_status"]) == (state, attempts + 1, status)
    assert (_run(database, select_next_webhook_due, request_id) is None) is (state == "failed")


@pytest.mark.parametrize("delivery", [DELIVERED, judge(Answer(status=410), 0), REFUSED])
def test_a_replay_begins_anew(database: Database, delivery: Any) -> None:
    """Whatever became of it, the same event is due now, as if never tried."""
    request_id = _enqueued(database)
    webhook = _claimed(database, request_id)
    _run(database, record_delivery, webhook, delivery)
    assert _run(database, replay_webhook, request_id) is True
    (row,) = _rows(database)
    assert (row["id"], row["body"], row["state"]) == (webhook.id, webhook.body, "pending")
    assert (row["attempts"], row["last_status"], row["last_error"]) == (0, None, None)
    assert row["delivered_at"] is None
    assert _claimed(database, request_id).id == webhook.id


def test_a_delivery_is_noted_with_its_request(database: Database) -> None:
    """When it began by the database's clock, how long it took, and what came of it."""
    request_id = _enqueued(database)
    webhook = _claimed(database, request_id)
    refused = judge(Answer(status=500, seconds=61.23456), 0)
    before = _run(database, select_request, request_id)["now"]
    with database.transaction() as cursor:
        cursor.execute("set local time zone 'Asia/Kolkata'")  # which is nobody's business
        record_delivery(cursor, webhook, refused)
    (noted,) = _deliveries(database, request_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", noted["at"])
    ended_at = datetime.fromisoformat(noted.pop("at")) + timedelta(seconds=61.235)
    assert abs(ended_at - before) < timedelta(seconds=30)
    assert noted == {
        "webhook_id": webhook.id,
        "attempt": 1,
        "replay": False,
        "status": 500,
        "error": "The receiver answered with HTTP status 500.",
        "seconds": 61.235,
    }


def test_the_newest_deliveries_are_kept(database: Database) -> None:
    """Ten of them, newest first, over tries, replays and events."""
    request = _finished(database)
    request_id = request["id"]
    _run(database, enqueue_webhook, request)
    for attempts in range(8):
        _set(database, "due_at = now()")
        webhook = _claimed(database, request_id)
        _run(database, record_delivery, webhook, judge(Answer(status=500), attempts))
    _run(database, replay_webhook, request_id)
    first = _claimed(database, request_id)
    _run(database, record_delivery, first, DELIVERED)
    _run(database, enqueue_webhook, request)
    second = _claimed(database, request_id)
    timeout = judge(Answer(error="shop.example gave no answer in 15 s."), 0)
    _run(database, record_delivery, second, timeout)
    _set(database, "due_at = now()")
    _run(database, record_delivery, _claimed(database, request_id), judge(Answer(status=410), 1))
    noted = _deliveries(database, request_id)
    assert [
        (each["webhook_id"], each["attempt"], each["replay"], each["status"]) for each in noted
    ] == [
        (second.id, 2, False, 410),
        (second.id, 1, False, None),
        (first.id, 1, True, 204),
        *[(first.id, attempt, False, 500) for attempt in range(8, 1, -1)],
    ]
    assert noted[1]["error"] == "shop.example gave no answer in 15 s."


def test_a_replay_overtakes_a_try_under_way(database: Database) -> None:
    """The answer to the earlier try must not end what was asked for anew."""
    request_id = _enqueued(database)
    under_way = _claimed(database, request_id)
    _run(database, replay_webhook, request_id)
    assert _run(database, record_delivery, under_way, DELIVERED) is False
    assert _deliveries(database, request_id) == []
    assert _claimed(database, request_id).fence > under_way.fence


def test_what_was_never_written_is_not_replayed(database: Database) -> None:
    """A request without an event has nothing to send again."""
    assert _run(database, replay_webhook, _finished(database)["id"]) is False


def test_a_second_finish_is_an_event_of_its_own(database: Database) -> None:
    """After a retry both ends are told, under ids of their own; the status has the newer."""
    request = _finished(database)
    _run(database, enqueue_webhook, request)
    _run(database, enqueue_webhook, request | {"finished_at": datetime(2031, 1, 3, tzinfo=UTC)})
    first, second = _rows(database)
    assert first["id"] != second["id"]
    assert json.loads(second["body"])["timestamp"] == "2031-01-03T00:00:00.000Z"
    assert _claimed(database, request["id"]).id == first["id"]
    assert _claimed(database, request["id"]).id == second["id"]
    _run(database, replay_webhook, request["id"])
    assert [row["fence"] for row in _rows(database)] == [1, 2]


def test_the_sweep_hears_of_those_that_wait_longest(database: Database) -> None:
    """Each request is named once, in the order of waiting, and not too many at a time."""
    later = _enqueued(database)
    _set(database, "due_at = now() - interval '1 minute'")
    twice = _finished(database)
    _run(database, enqueue_webhook, twice)
    _run(database, enqueue_webhook, twice)
    with database.transaction() as cursor:
        cursor.execute(
            "update webhooks set due_at = now() - interval '1 hour' where request_id = %s",
            (twice["id"],),
        )
    future = _enqueued(database)
    with database.transaction() as cursor:
        cursor.execute(
            "update webhooks set due_at = now() + interval '1 hour' where request_id = %s",
            (future,),
        )
    assert _run(database, select_due_webhooks) == [twice["id"], later]
    with database.transaction() as cursor:
        cursor.execute(
            """insert into webhooks (id, request_id, url, body)
               select 'msg_' || n, %s, '', '' from generate_series(1, %s) as n""",
            (future, RESTARTS),
        )
    assert len(_run(database, select_due_webhooks)) <= RESTARTS


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://shop.example/hook", "shop.example"),
        ("http://shop.example:8080/hook", "shop.example"),
        ("http://[2001:db8::1]:8080/hook", "[2001:db8::1]"),
        ("https://shop.example?a=http://other.example/", "shop.example"),
    ],
)
def test_an_event_knows_its_host(database: Database, url: str, host: str) -> None:
    """Whatever stands before and after it."""
    _enqueued(database, url=url)
    (row,) = _rows(database)
    assert row["host"] == host


def test_a_host_gets_few_events_at_a_time(database: Database) -> None:
    """Not more than its share, whatever the port; others are not held up, nor by the dead."""
    sending = [
        _claimed(database, _enqueued(database, url=f"http://slow.example:{80 + n}/{n}"))
        for n in range(HOST_SENDERS)
    ]
    waiting = _enqueued(database, url="https://slow.example/")
    assert _claim(database, waiting) is None
    assert _claimed(database, _enqueued(database, url="https://quick.example/"))
    _run(database, record_delivery, sending[0], REFUSED)
    (again,) = _rows(database, f"id = '{sending[0].id}'")
    assert again["due_in"] > 0
    assert _claimed(database, waiting)
    last = _enqueued(database, url="https://slow.example/")
    assert _claim(database, last) is None
    with database.transaction() as cursor:
        cursor.execute("update webhooks set lease_until = now() where id = %s", (sending[1].id,))
    assert _claimed(database, last)


def test_the_next_event_is_one_of_the_same_host(database: Database) -> None:
    """That which has waited longest there, if there is one and it may be sent."""
    ids = [_enqueued(database, url=f"http://shop.example/{n}") for n in range(4)]
    _enqueued(database, url="http://other.example/")
    with database.transaction() as cursor:
        for n, request_id in enumerate(ids):
            cursor.execute(
                "update webhooks set due_at = now() + make_interval(mins => %s) where request_id = %s",
                ([0, -1, -2, 1][n], request_id),
            )
    sent = _claimed(database, ids[0])
    following = [
        _run(database, claim_next_webhook, sent, lease_seconds=LEASE_SECONDS) for _ in range(3)
    ]
    assert [each and each.request_id for each in following] == [ids[2], ids[1], None]
    _set(database, "due_at = now()")
    assert _run(database, claim_next_webhook, sent, lease_seconds=LEASE_SECONDS)
    _enqueued(database, url="http://shop.example/more")
    assert _run(database, claim_next_webhook, sent, lease_seconds=LEASE_SECONDS) is None


def test_a_host_that_hangs_leaves_sweeps_to_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many events wait for it, a sweep hears of the few that may be sent at a time."""
    monkeypatch.setattr(webhook_queue, "RESTARTS", HOST_SENDERS + 1)
    slow = [_enqueued(database, url="http://slow.example/") for _ in range(HOST_SENDERS + 3)]
    _set(database, "due_at = now() - interval '1 hour'")
    other = _enqueued(database, url="http://other.example/")
    due = _run(database, select_due_webhooks)
    assert len(due) == HOST_SENDERS + 1
    assert due[-1] == other
    assert set(due[:-1]) < set(slow)


def test_a_deleted_request_takes_its_events_along(database: Database) -> None:
    """Nothing of a deleted request is sent, and a late answer finds nothing."""
    request_id = _enqueued(database)
    webhook = _claimed(database, request_id)
    with database.transaction() as cursor:
        cursor.execute("delete from requests where id = %s", (request_id,))
    assert _rows(database) == []
    assert _run(database, record_delivery, webhook, DELIVERED) is False


def test_a_status_has_the_newest_event(database: Database) -> None:
    """One read gives the request and what became of its event, in the status and in the list."""
    silent = _finished(database, options="{}")["id"]
    request = _finished(database)
    request_id = request["id"]
    _run(database, enqueue_webhook, request)
    _run(database, record_delivery, _claimed(database, request_id), REFUSED)
    _run(database, enqueue_webhook, request)
    _run(database, record_delivery, _claimed(database, request_id), DELIVERED)
    row = _run(database, select_request, request_id)
    event = row["webhook"]
    assert (event["state"], event["attempts"], event["last_status"]) == ("delivered", 1, 204)
    delivered_at = datetime.fromisoformat(event["delivered_at"])
    assert abs(delivered_at - row["now"]) < timedelta(minutes=1)
    assert _run(database, select_request, silent)["webhook"] is None
    listed = _run(database, select_requests, limit=10, before=None, owner=None)
    assert {each["id"]: each["webhook"] for each in listed} == {request_id: event, silent: None}
