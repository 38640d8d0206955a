"""The worker's transactions: statements, and the jobs that follow from them, committed together.

Each function is one transaction's work and takes its cursor. What the statements do is
`image_queue`'s and `request_queue`'s, what a job is `job_queue`'s, when it is time for which
`image_processor`'s.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import image_queue
import job_queue
from database_helper import BATCH_SECONDS
from image_queue import Recorded
from image_reuse import find_earlier
from request_queue import begin_request
from webhook import WebhookState
from webhook_queue import record_delivery, select_due_webhooks, select_next_webhook_due

if TYPE_CHECKING:
    from database_helper import Cursor
    from image_queue import Attempt, ClaimedImage, Outcome
    from image_reuse import Recipe
    from webhook import ClaimedWebhook, Delivery

_SWEEPING: Final = 0x73776570  # any number that no one else locks

logger = logging.getLogger(__name__)


def begin(cursor: Cursor, request_id: str) -> None:
    """Take a pending request into work, and queue its turns."""
    request = begin_request(cursor, request_id)
    if request:
        job_queue.defer_turns(cursor, request_id, request["images"])


def hand_on(cursor: Cursor, request_id: str, lane: int, images: int, pause: float) -> None:
    """Queue the next turn of a lane for when there is something to do, if there will be.

    The first lane brings those back that were lost with a worker or an error.
    """
    due = image_queue.select_next_due(cursor, request_id, pause=pause)
    if due:
        for each in [lane] if lane else range(job_queue.count_lanes(images)):
            job_queue.defer_turn(cursor, request_id, each, due=due)


def claim(
    cursor: Cursor,
    request_id: str,
    recipe: Recipe,
    *,
    limit: int,
    lease_seconds: float,
    after: int = 0,
) -> list[ClaimedImage]:
    """Claim due images, each with the earlier image of other requests that may stand in for it."""
    images = image_queue.claim_images(
        cursor, request_id, after=after, limit=limit, lease_seconds=lease_seconds
    )
    keys = {image.n: recipe.key(image.input_url) for image in images if image.repeats is None}
    earlier = find_earlier(cursor, keys.values()) if keys else {}
    return [replace(image, earlier=earlier.get(keys.get(image.n, ""))) for image in images]


def record(cursor: Cursor, outcomes: list[Outcome]) -> set[Attempt]:
    """Write outcomes, and queue what follows; return the attempts that were still ours."""
    recorded = image_queue.record_outcomes(cursor, outcomes)
    _wake(cursor, recorded)
    return recorded.accepted


def cancel(cursor: Cursor, request_id: str, after: int) -> Recorded:
    """Cancel a portion of the images that wait behind a number."""
    recorded = image_queue.cancel_pending(cursor, request_id, after=after)
    _wake(cursor, recorded)
    return recorded


def hand_back(cursor: Cursor, images: list[ClaimedImage]) -> None:
    """Let others claim images that we will not end, at once."""
    image_queue.give_back(cursor, images)
    for request_id in sorted({image.request_id for image in images}):
        job_queue.defer_turn(cursor, request_id, 0)


def sweep(cursor: Cursor, lease_seconds: float) -> Recorded:
    """Give back what dead workers held, which is returned, and queue anew what nobody works on.

    Does nothing while another worker is at it.
    """
    cursor.allow(BATCH_SECONDS)
    cursor.execute("select pg_try_advisory_xact_lock(%s) as is_ours", (_SWEEPING,))
    row = cursor.fetchone()
    if not row or not row["is_ours"]:
        return Recorded()
    stalled = job_queue.restart_stalled_jobs(cursor, lease_seconds=lease_seconds)
    expired = image_queue.give_back_expired(cursor)
    _wake(cursor, expired)
    restarted = job_queue.restart_idle_requests(cursor, lease_seconds=lease_seconds)
    for request_id in sorted(select_due_webhooks(cursor)):
        job_queue.defer_webhook(cursor, request_id)
    if stalled or expired.accepted or restarted:
        logger.warning(
            "%d stalled jobs and %d idle requests restarted, %d leases expired",
            *(stalled, restarted, len(expired.accepted)),
        )
    return expired


def record_webhook(cursor: Cursor, webhook: ClaimedWebhook, delivery: Delivery) -> None:
    """Write what came of a try, and queue the next one of this request's events."""
    if not record_delivery(cursor, webhook, delivery):
        return
    if due := select_next_webhook_due(cursor, webhook.request_id):
        job_queue.defer_webhook(cursor, webhook.request_id, due=due)
    has_failed = delivery.state is not WebhookState.DELIVERED
    logger.log(
        logging.WARNING if has_failed else logging.INFO,
        "%s webhook %s at attempt %d%s",
        *(webhook.request_id, delivery.state, delivery.attempts),
        f": {delivery.last_error}" if has_failed else "",
        extra={"request_id": webhook.request_id},
    )


def _wake(cursor: Cursor, recorded: Recorded) -> None:
    """Queue what follows, also where a turn waits for the time of another image's next try."""
    for request_id in recorded.finished:
        job_queue.defer_finish(cursor, request_id)
    for request_id, due in recorded.due.items():
        job_queue.defer_turn(cursor, request_id, 0, due=due)
