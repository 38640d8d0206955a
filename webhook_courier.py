"""A worker's way with events: claims what is due, has it sent in a thread, records the answer.

Owns how many are sent at a time, whomever to. One try at sending is `webhook_sender`'s, what its
answer means `webhook`'s, the outbox and how many are sent to one host `webhook_queue`'s.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING, Final

import job_queue
import metrics
import worker_steps
from log_context import LogContext, in_thread
from webhook import WebhookState, judge
from webhook_queue import claim_next_webhook, claim_webhook
from webhook_sender import SEND_SECONDS, WebhookSender

if TYPE_CHECKING:
    from async_database import AsyncDatabase
    from settings import Settings
    from webhook import ClaimedWebhook

SENDERS: Final = job_queue.TURNS // 2  # webhooks at a time: slow receivers leave room for turns
WEBHOOK_LEASE_SECONDS: Final = SEND_SECONDS + 5.0  # and to note the answer
_OUTCOMES: Final = {  # as they are counted
    WebhookState.DELIVERED: "delivered",
    WebhookState.PENDING: "to_be_retried",
    WebhookState.FAILED: "failed",
}


class WebhookCourier:
    """Sends events, several at a time. Lives in one event loop.

    `claims` and `records` are for the statements before and after the sending; the owner closes
    both.
    """

    def __init__(self, settings: Settings, claims: AsyncDatabase, records: AsyncDatabase) -> None:
        self._claims = claims
        self._records = records
        self._sender = WebhookSender(settings.webhook_secret, settings.address_policy)
        self._threads = ThreadPoolExecutor(SENDERS, "webhook")
        self._sending = 0
        self._is_draining = False

    async def send(self, request_id: str) -> None:
        """Send an event of a request that is due, then for a while what waits for the same host.

        Without a free thread they wait for a sweep.
        """
        if self._sending >= SENDERS:
            return
        self._sending += 1
        ends_at = monotonic() + SEND_SECONDS
        try:
            webhook = await self._claims.run(
                claim_webhook, request_id, lease_seconds=WEBHOOK_LEASE_SECONDS
            )
            while webhook:
                await self._send(webhook)
                if self._is_draining or monotonic() >= ends_at:
                    break  # others have waited longer, perhaps
                webhook = await self._claims.run(
                    claim_next_webhook, webhook, lease_seconds=WEBHOOK_LEASE_SECONDS
                )
        finally:
            self._sending -= 1

    async def _send(self, webhook: ClaimedWebhook) -> None:
        with LogContext(webhook.request_id):
            with metrics.WEBHOOK_SECONDS.time():
                answer = await in_thread(self._threads, self._sender.send, webhook)
            delivery = judge(answer, webhook.attempts)
            metrics.WEBHOOK_ATTEMPTS.labels(_OUTCOMES[delivery.state]).inc()
            await self._records.run(worker_steps.record_webhook, webhook, delivery)

    def drain(self) -> None:
        """Begin nothing that no job asks for; what is being sent ends."""
        self._is_draining = True

    def close(self) -> None:
        """Begin no sending more; what is being sent is left to end by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
