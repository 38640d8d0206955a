"""The statements of webhooks: an event is written, claimed, and its answer recorded.

The rows of `webhooks` are an outbox and the truth (`schema.sql` draws their states). Every
function takes the cursor of an open transaction and opens none; waking workers is
`job_queue`'s, sending `webhook_sender`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from request_queue import lock_request
from request_view import status_document
from webhook import ClaimedWebhook, event_body, new_webhook_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from database_helper import Cursor
    from webhook import Delivery

DELIVERIES_KEPT: Final = 10  # of a request, the newest: as many as an event has without a replay
HOST_SENDERS: Final = 4  # events at a time to one host: one that hangs leaves senders to others
RESTARTS: Final = 100  # of what is due, woken by one sweep: an outage of receivers is no flood

# Beside the state: a lease that ran out is nobody's, so nothing has to be given back.
_IS_DUE: Final = "state = 'pending' and due_at <= now() and coalesce(lease_until <= now(), true)"


def enqueue_webhook(cursor: Cursor, request: dict[str, Any]) -> bool:
    """Write the event of a request in the transaction that finished it; tell whether it asked.

    `request` is the finished row. The event is what the status says now, for good, and has its id.
    """
    url = request["options"].get("webhook_url")
    if not url:
        return False
    webhook_id = new_webhook_id()
    document = status_document(request | {"webhook": {"id": webhook_id}}, request["base_url"])
    cursor.execute(
        "insert into webhooks (id, request_id, url, body) values (%s, %s, %s, %s)",
        (webhook_id, request["id"], url, event_body(document)),
    )
    return True


def claim_webhook(
    cursor: Cursor, request_id: str, *, lease_seconds: float
) -> ClaimedWebhook | None:
    """Claim the event of a request that has been due for longest; None if none is.

    Nor is one claimed of a host that HOST_SENDERS are being sent to.
    """
    return _claim(cursor, "request_id = %(of)s", request_id, lease_seconds)


def claim_next_webhook(
    cursor: Cursor, sent: ClaimedWebhook, *, lease_seconds: float
) -> ClaimedWebhook | None:
    """Claim likewise, of all that are for the host to which one was sent."""
    host = "host = (select host from webhooks where id = %(of)s)"
    return _claim(cursor, host, sent.id, lease_seconds)


def _claim(cursor: Cursor, condition: str, of: str, lease_seconds: float) -> ClaimedWebhook | None:
    cursor.execute(
        f"""with due as materialized (
               select id from webhooks candidate
                where {condition} and {_IS_DUE} and %(most)s > (
                          select count(*) from webhooks sending
                           where sending.host = candidate.host and sending.lease_until > now())
                order by due_at limit 1 for update skip locked)
           update webhooks w set fence = fence + 1,
                  lease_until = now() + make_interval(secs => %(seconds)s)
             from due where w.id = due.id
        returning w.id, request_id, fence, attempts, url, body""",  # noqa: S608  # our own words
        {"of": of, "most": HOST_SENDERS, "seconds": lease_seconds},
    )
    row = cursor.fetchone()
    return ClaimedWebhook(**row) if row else None


def record_delivery(cursor: Cursor, webhook: ClaimedWebhook, delivery: Delivery) -> bool:
    """Write what came of a try, and note it with the request; tell whether it was ours to write.

    The note is what the status shows, so that showing it costs next to nothing. One whose fence is
    no longer its event's changes nothing.
    """
    lock_request(cursor, webhook.request_id)  # before the event, as everybody does
    cursor.execute(
        """with tried as (
               update webhooks set state = %(state)s, attempts = %(attempts)s,
                      fence = fence + 1, lease_until = null,
                      due_at = now() + make_interval(secs => %(retry_seconds)s),
                      last_status = %(last_status)s, last_error = %(last_error)s,
                      delivered_at = case %(state)s when 'delivered' then now() end
                where id = %(id)s and fence = %(fence)s
            returning id, attempts, is_replay, last_status, last_error)
           update requests r set webhook_deliveries = jsonb_path_query_array(
                      jsonb_build_object(
                          'webhook_id', tried.id, 'attempt', tried.attempts,
                          'replay', tried.is_replay, 'status', tried.last_status,
                          'error', tried.last_error, 'seconds', %(seconds)s,
                          'at', to_char(
                              (now() - make_interval(secs => %(seconds)s)) at time zone 'UTC',
                              'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
                      || webhook_deliveries, %(kept)s)
             from tried where r.id = %(request_id)s""",
        {
            "id": webhook.id,
            "request_id": webhook.request_id,
            "fence": webhook.fence,
            "state": delivery.state,
            "attempts": delivery.attempts,
            "retry_seconds": delivery.retry_seconds,
            "last_status": delivery.last_status,
            "last_error": delivery.last_error,
            "seconds": round(delivery.seconds, 3),
            "kept": f"$[0 to {DELIVERIES_KEPT - 1}]",
        },
    )
    return cursor.rowcount == 1


def replay_webhook(cursor: Cursor, request_id: str) -> bool:
    """Make the newest event of a request due now, as if never tried; tell whether there is one.

    The caller has locked the request. An answer to a try under way changes nothing any more.
    """
    cursor.execute(
        """update webhooks set state = 'pending', attempts = 0, due_at = now(),
                  lease_until = null, fence = fence + 1,
                  last_status = null, last_error = null, delivered_at = null, is_replay = true
            where id = (select id from webhooks where request_id = %s
                         order by created_at desc limit 1)""",
        (request_id,),
    )
    return cursor.rowcount == 1


def select_next_webhook_due(cursor: Cursor, request_id: str) -> datetime | None:
    """Return when the next event of a request is to be sent; None if none waits."""
    cursor.execute(
        "select min(due_at) as due_at from webhooks where request_id = %s and state = 'pending'",
        (request_id,),
    )
    row = cursor.fetchone()
    return row["due_at"] if row else None


def select_due_webhooks(cursor: Cursor) -> Sequence[str]:
    """Return requests with events that are due now, those that wait longest first.

    Not more for one host than may be sent to it at a time.
    """
    cursor.execute(
        f"""select request_id from (
                 select request_id, due_at,
                        row_number() over (partition by host order by due_at) as place
                   from webhooks where {_IS_DUE}) as due
            where place <= %s order by due_at limit %s""",  # noqa: S608  # our own words
        (HOST_SENDERS, RESTARTS),
    )
    return list(dict.fromkeys(row["request_id"] for row in cursor.fetchall()))
