"""One try at sending an event: a POST under limits, to an address that was approved.

Owns the HTTP exchange. The rules and connections are those of images (`address_policy`,
`source_connection`); `webhook` signs, and says what the answer means. Knows nothing of proxies,
cookies and redirects.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from urllib3.exceptions import HTTPError as TransportError

from errors import ImageError
from fetching.source_connection import POOL_CLASSES, Attempt, Network
from fetching.source_response import retry_after
from fetching.source_session import USER_AGENT
from webhook import MAX_RETRY_AFTER_SECONDS, Answer, signed_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from urllib3.connectionpool import HTTPConnectionPool
    from urllib3.response import BaseHTTPResponse

    from address_policy import AddressPolicy, SourceUrl
    from webhook import ClaimedWebhook

SEND_SECONDS: Final = 15.0  # from look-up to the answer's headers
_DRAIN_BYTES: Final = 4096  # of the answer's body, which says nothing to us
_DRAIN_SECONDS: Final = 0.5

logger = logging.getLogger(__name__)


class WebhookSender:
    """Sends for many threads at once. `keys` are the secrets'; None sends nothing."""

    def __init__(
        self,
        keys: Sequence[bytes] | None,
        policy: AddressPolicy,
        *,
        send_seconds: float = SEND_SECONDS,
        network: Network | None = None,
    ) -> None:
        self._keys = keys
        self._policy = policy
        self._send_seconds = send_seconds
        self._network = network or Network()
        self._tls_context = self._network.tls_context()

    def send(self, webhook: ClaimedWebhook) -> Answer:
        """Return what came of this try; raises nothing."""
        began_at = time.monotonic()
        answer = self._try(webhook)
        return replace(answer, seconds=time.monotonic() - began_at)

    def _try(self, webhook: ClaimedWebhook) -> Answer:
        if self._keys is None:
            return Answer(error="WEBHOOK_SECRET is not set in the worker.")
        try:
            with Attempt(
                self._policy,
                self._network,
                connect_seconds=self._send_seconds,
                total_seconds=self._send_seconds,
            ) as attempt:
                return self._post(attempt, webhook, self._keys)
        except ImageError as error:
            return Answer(error=error.detail)
        except Exception:
            logger.exception("webhook %s", webhook.id, extra={"request_id": webhook.request_id})
            return Answer(error="Something went wrong on our side.")

    def _post(self, attempt: Attempt, webhook: ClaimedWebhook, keys: Sequence[bytes]) -> Answer:
        source = self._policy.check_url(webhook.url)
        attempt.aim(source)
        body = webhook.body.encode()
        headers = {
            "User-Agent": USER_AGENT,
            "Content-Type": "application/json",
            **signed_headers(keys, webhook.id, body, int(time.time())),
        }
        try:
            with closing(self._pool(source)) as pool:
                response = pool.urlopen(
                    "POST",
                    source.target,
                    body=body,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
                with closing(response):
                    return _read(attempt, response)
        except (TransportError, OSError):
            if attempt.is_over:
                return Answer(error=f"{source.host} gave no answer in {self._send_seconds:g} s.")
            return Answer(error=f"{source.host} gave no valid HTTP answer.")

    def _pool(self, source: SourceUrl) -> HTTPConnectionPool:
        # For one connection: receivers are many, and events to each are few.
        host = f"[{source.host}]" if ":" in source.host else source.host
        tls: dict[str, Any] = {"ssl_context": self._tls_context}
        pool: HTTPConnectionPool = POOL_CLASSES[source.scheme](
            host, source.port, **(tls if source.scheme == "https" else {})
        )
        return pool


def _read(attempt: Attempt, response: BaseHTTPResponse) -> Answer:
    with attempt.at_most(_DRAIN_SECONDS), suppress(TransportError, ImageError):
        response.read(_DRAIN_BYTES, decode_content=False)  # lets a short answer end well
    asked = retry_after(response.headers.get("Retry-After", ""), MAX_RETRY_AFTER_SECONDS)
    return Answer(status=response.status, retry_after=asked)
