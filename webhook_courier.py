"""A worker's way with events: claims one that is due, has it sent in a thread, records the answer.

Owns how many are sent at a time. One try at sending is `webhook_sender`'s, what its answer means
`webhook`'s, the outbox `webhook_queue`'s.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import job_queue
import worker_steps
from webhook import judge
from webhook_queue import claim_webhook
from webhook_sender import SEND_SECONDS, WebhookSender

if TYPE_CHECKING:
    from async_database import AsyncDatabase
    from settings import Settings

SENDERS: Final = job_queue.TURNS // 2  # webhooks at a time: slow receivers leave room for turns
WEBHOOK_LEASE_SECONDS: Final = SEND_SECONDS + 5.0  # and to note the answer


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

    async def send(self, request_id: str) -> None:
        """Send an event of a request that is due; without a free thread it waits for a sweep."""
        if self._sending >= SENDERS:
            return
        self._sending += 1
        try:
            webhook = await self._claims.run(
                claim_webhook, request_id, lease_seconds=WEBHOOK_LEASE_SECONDS
            )
            if webhook:
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(self._threads, self._sender.send, webhook)
                delivery = judge(answer, webhook.attempts)
                await self._records.run(worker_steps.record_webhook, webhook, delivery)
        finally:
            self._sending -= 1

    def close(self) -> None:
        """Begin no sending more; what is being sent is left to end by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
