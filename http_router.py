"""Routes: which path is whose, who may ask, and what is said to all others.

Owns finding the route and everything that its handler need not care for: keys and rates by
`access_control`, wrong methods, database or store away. Tells the request's notes which route it
was, for what is counted and logged. What a route does is for `http_api` and `operations_api`.
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from database_helper import DatabaseUnavailableError
from errors import HttpError, ImageError
from log_context import LogContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from access_control import AccessControl
    from httpd.http_protocol import Request, Response

RETRY_SECONDS: Final = 5  # asked of clients while database or store are away
REQUEST_ID: Final = "(?P<id>[0-9a-f]{32})"

logger = logging.getLogger(__name__)


class Call(NamedTuple):
    """A request on its way to its handler: the path's groups, and the caller's key digest."""

    request: Request
    groups: tuple[str, ...]
    owner: str | None


class Route(NamedTuple):
    """A path and what answers each method; `template` is what it is called.

    One that `is_public` needs no key; if it `is_charged`, its callers have a rate all the same. One
    that `is_quick` waits for nothing but a disk.
    """

    template: str
    pattern: re.Pattern[str]
    methods: dict[str, Callable[[Call], Response]]
    has_id: bool  # of a request, in its group `id`
    is_public: bool = False
    is_charged: bool = False
    is_quick: bool = False


def route(
    template: str,
    pattern: str = "",
    *,
    is_public: bool = False,
    is_charged: bool = False,
    is_quick: bool = False,
    **methods: Callable[[Call], Response],
) -> Route:
    """Return a route; without a pattern that of its template, in which `{id}` is a request's."""
    compiled = re.compile(pattern or template.replace("{id}", REQUEST_ID))
    has_id = "id" in compiled.groupindex
    return Route(template, compiled, methods, has_id, is_public, is_charged, is_quick)


class Router:
    """Answers requests by the first route that matches. Shared by the server's threads."""

    def __init__(self, access: AccessControl, routes: Iterable[Route]) -> None:
        self._access = access
        self._routes = list(routes)

    def answer(self, request: Request) -> Response:
        """Return the response to a request. Raises HttpError; anything else is a bug."""
        for each in self._routes:
            if match := each.pattern.fullmatch(request.path):
                notes = request.notes
                notes.route = each.template
                if each.has_id:
                    notes.request_id = match["id"]
                with LogContext(notes.request_id):
                    return self._answer(each, request, match.groups())
        self._access.admit(request)
        known = ", ".join(each.template for each in self._routes)
        raise not_found(f"there is nothing under this path; what there is: {known}")

    def _answer(self, found: Route, request: Request, groups: tuple[str, ...]) -> Response:
        try:
            owner = self._admit(found, request)
            method = "GET" if request.method == "HEAD" else request.method
            if method not in found.methods:
                raise _wrong_method(found)
            if not found.is_quick:
                request.before_waiting()
            return found.methods[method](Call(request, groups, owner))
        except (DatabaseUnavailableError, ImageError) as error:
            logger.warning("%s %s: %s", request.method, request.path, error)
            what = "database" if isinstance(error, DatabaseUnavailableError) else "store"
            raise unavailable(
                f"the {what} is away or full; ask again in {RETRY_SECONDS} s, an upload "
                "with the same Idempotency-Key, so that there is one of it"
            ) from error

    def _admit(self, found: Route, request: Request) -> str | None:
        """Return the digest of the caller's key where one is needed. Raises HttpError."""
        if not found.is_public:
            return self._access.admit(request)
        if found.is_charged:
            self._access.admit_anybody(request)
        return None


def not_found(detail: str) -> HttpError:
    """Return the error for what is not there."""
    return HttpError(HTTPStatus.NOT_FOUND, detail)


def unavailable(detail: str) -> HttpError:
    """Return the error for what may work soon."""
    return HttpError(
        HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_SECONDS)}
    )


def _wrong_method(found: Route) -> HttpError:
    allowed = [*found.methods, "HEAD"] if "GET" in found.methods else list(found.methods)
    return HttpError(
        HTTPStatus.METHOD_NOT_ALLOWED,
        f"{found.template} takes {' and '.join(allowed)}, not another method",
        headers={"Allow": ", ".join(allowed)},
    )
