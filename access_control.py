"""Who may use the service, and how much: keys, the rate of each client, other people's web pages.

Owns the judgement of a request before it is understood; `http_api` asks for it on every route
that is not public, and tells by the key's digest whose requests are whose.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import metrics
from client_address import client_address, network_of
from errors import HttpError
from rate_limit import RateLimit
from site_guard import SiteGuard

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from httpd.http_protocol import Request
    from settings import Settings

READ_COST: Final = 1
CHANGE_COST: Final = 10  # an upload, a retry, a deletion; and a key that is none
_READING: Final = frozenset({"GET", "HEAD"})


class AccessControl:
    """Admits requests; shared by the server's threads."""

    def __init__(self, settings: Settings) -> None:
        self._keys = settings.api_keys or frozenset()
        self._proxies = settings.trusted_proxies
        self._most = settings.rate_limit
        self._rate = RateLimit(settings.rate_limit)
        self._sites = SiteGuard([settings.base_url, settings.own_url])

    def admit(self, request: Request) -> str | None:
        """Return the digest of the caller's key; None when no keys are asked for.

        Raises HttpError: 401 without a valid key, 403 and 421 to other people's web pages, 429 to
        who asks for too much.
        """
        cost = READ_COST if request.method in _READING else CHANGE_COST
        if not self._keys:
            self._sites.check(request.headers)
            self._charge_stranger(request, cost)
            return None
        digest = self._known_digest(request.headers.get("Authorization", ""))
        if digest is None:
            self._charge("address", network_of(self._address(request)), CHANGE_COST)
            raise HttpError(
                HTTPStatus.UNAUTHORIZED,
                "a key is needed that the service knows: send the header Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        self._charge("key", digest, cost)
        return digest

    def admit_anybody(self, request: Request) -> None:
        """Take a request that needs no key, and costs something. Raises HttpError 429."""
        self._charge_stranger(request, READ_COST)

    def _charge_stranger(self, request: Request, cost: float) -> None:
        """Charge an address, but not the own machine's, unless that is a proxy's."""
        address = self._address(request)
        if "X-Forwarded-For" in request.headers or not address.is_loopback:
            self._charge("address", network_of(address), cost)

    def _address(self, request: Request) -> IPv4Address | IPv6Address:
        forwarded_for = request.headers.get_all("X-Forwarded-For", [])
        return client_address(request.peer, forwarded_for, self._proxies)

    def _known_digest(self, authorization: str) -> str | None:
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        # Every digest is compared, so that the time tells nothing of which one was near.
        known = [hmac.compare_digest(digest, accepted) for accepted in self._keys]
        return digest if scheme.lower() == "bearer" and any(known) else None

    def _charge(self, known_by: str, client: str, cost: float) -> None:
        if wait := self._rate.take(client, cost):
            metrics.REQUESTS_LIMITED.labels(known_by).inc()
            raise HttpError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"this {known_by} asks for more than RATE_LIMIT, {self._most:g} requests a second "
                f"(an upload counts as {CHANGE_COST}); ask again in {math.ceil(wait)} s",
                headers={"Retry-After": str(math.ceil(wait))},
            )
