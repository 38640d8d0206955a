"""The service's HTTP API: which route does what.

A status is one database read, never a question to the worker. `httpd` speaks to the clients,
`access_control` says who may ask, `upload_intake` takes uploads in, `request_view` words
the answers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import metrics
from access_control import AccessControl
from database_helper import BATCH_SECONDS, DatabaseUnavailableError, is_alive
from errors import HttpError, ImageError
from file_response import file_response, is_unchanged
from httpd.http_protocol import Response, json_response
from job_queue import defer_begin, defer_turn, defer_turns, defer_webhook
from output_files import OutputFiles
from paging import (
    image_cursor,
    parse_image_filter,
    parse_image_place,
    parse_limit,
    parse_request_cursor,
    request_cursor,
)
from request_queue import (
    RequestStatus,
    cancel_request,
    delete_request,
    lock_request,
    retry_request,
    select_deleted_request,
)
from request_rows import select_images, select_request, select_requests
from request_view import image_document, is_finished, status_document, status_path
from storage_keys import output_csv_key, report_csv_key
from upload_intake import UploadIntake, accepted
from webhook_queue import replay_webhook

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from database_helper import Database
    from httpd.http_protocol import Request
    from image_store import ImageStore, StoredObject
    from request_queue import Retried
    from settings import Settings

ROOT: Final = Path(__file__).parent
RETRY_SECONDS: Final = 5  # asked of clients while database or store are away
LONGEST_POLL_SECONDS: Final = 10
_ID: Final = "[0-9a-f]{32}"
_CONTENT_TYPES: Final = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "avif": "image/avif",
    "tiff": "image/tiff",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
_FOREVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
_FOR_EVERY_SITE: Final = {"Cross-Origin-Resource-Policy": "cross-origin"}
_REVALIDATED: Final = {"Cache-Control": "no-cache"}

logger = logging.getLogger(__name__)


class Call(NamedTuple):
    """A request on its way to its handler: the path's groups, and the caller's key digest."""

    request: Request
    groups: tuple[str, ...]
    owner: str | None


class Route(NamedTuple):
    """A path and what answers each method.

    One that `is_public` needs no key; if it `is_charged`, its callers have a rate all the same. One
    that `is_quick` waits for nothing but a disk.
    """

    pattern: re.Pattern[str]
    methods: dict[str, Callable[[Call], Response]]
    is_public: bool = False
    is_charged: bool = False
    is_quick: bool = False


class Api:
    """Answers requests. Shared by the server's threads."""

    def __init__(self, settings: Settings, database: Database, store: ImageStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._files = OutputFiles(database, store)
        self._intake = UploadIntake(settings, database, store)
        self._access = AccessControl(settings)
        self.is_draining = False
        image = rf"/uploads/({_ID})/\1-([1-9][0-9]{{0,8}})\.(jpg|png|webp|gif|avif)"
        self._routes = [  # tried in this order: what is asked most is first
            _route(image, is_public=True, is_quick=store.is_on_disk, GET=self._image),
            _route(f"/status/({_ID})", GET=self._status, DELETE=self._delete),
            _route("/upload", POST=self._upload),
            _route("/requests", GET=self._requests),
            _route(f"/status/({_ID})/images", GET=self._images),
            _route(f"/status/({_ID})/retry", POST=self._retry),
            _route(f"/status/({_ID})/webhook", POST=self._send_webhook),
            _route(
                rf"/static/({_ID})(-report)?\.csv", is_public=True, is_charged=True, GET=self._csv
            ),
            _route(r"/(samples/[a-z0-9-]+\.[a-z]+)", is_public=True, GET=self._project_file),
            _route("/", is_public=True, is_quick=True, GET=self._page),
            _route(r"/(web/[a-z-]+\.(?:js|css|svg))", is_public=True, GET=self._project_file),
            _route("/metrics", GET=self._metrics),
            _route("/healthz", is_public=True, is_quick=True, GET=self._healthz),
            _route("/readyz", is_public=True, is_charged=True, GET=self._readyz),
        ]

    def answer(self, request: Request) -> Response:
        """Return the response to a request. Raises HttpError; anything else is a bug."""
        try:
            return self._route(request)
        except (DatabaseUnavailableError, ImageError) as error:
            logger.warning("%s %s: %s", request.method, request.path, error)
            raise _unavailable("the database or the store is away, try again later") from error

    def _route(self, request: Request) -> Response:
        for route in self._routes:
            if match := route.pattern.fullmatch(request.path):
                owner = self._admit(route, request)
                method = "GET" if request.method == "HEAD" else request.method
                if method not in route.methods:
                    raise _wrong_method(route)
                if not route.is_quick:
                    request.before_waiting()
                return route.methods[method](Call(request, match.groups(), owner))
        self._access.admit(request)
        raise _not_found()

    def _admit(self, route: Route, request: Request) -> str | None:
        """Return the digest of the caller's key where one is needed. Raises HttpError."""
        if not route.is_public:
            return self._access.admit(request)
        if route.is_charged:
            self._access.admit_anybody(request)
        return None

    def _upload(self, call: Call) -> Response:
        if self.is_draining:
            raise _unavailable("the service is stopping")
        return self._intake.take(call.request, call.owner)

    def _requests(self, call: Call) -> Response:
        limit = parse_limit(call.request.query)
        before = parse_request_cursor(call.request.query)
        with self._database.reading() as cursor:
            rows = select_requests(cursor, limit=limit + 1, before=before, owner=call.owner)
        return json_response(
            {
                "requests": [status_document(row, self._base_url) for row in rows[:limit]],
                "next_cursor": request_cursor(rows[limit - 1]) if len(rows) > limit else None,
            },
            headers=_REVALIDATED,
        )

    def _status(self, call: Call) -> Response:
        row = self._find_request(call)
        document = status_document(row, self._base_url)
        etag = f'"{_digest(row)}"'
        headers = {"ETag": etag, **_REVALIDATED}
        if not is_finished(row):
            eta = document["progress"]["eta_seconds"] or 0
            headers["Retry-After"] = str(max(1, min(LONGEST_POLL_SECONDS, eta // 10)))
        if is_unchanged(call.request, etag):
            return Response(HTTPStatus.NOT_MODIFIED, b"", headers)
        return json_response(document, headers=headers)

    def _images(self, call: Call) -> Response:
        query = call.request.query
        limit, after = parse_limit(query), parse_image_place(query)
        state, code = parse_image_filter(query)
        request_id = self._find_request(call)["id"]
        with self._database.reading() as cursor:
            rows, has_more = select_images(
                cursor, request_id, state=state, code=code, after=after, limit=limit
            )
        return json_response(
            {
                "images": [image_document(row, self._base_url) for row in rows],
                "next_cursor": image_cursor(rows[-1]) if has_more else None,
            },
            headers=_REVALIDATED,
        )

    def _send_webhook(self, call: Call) -> Response:
        """Let the event of a finished request be sent again, under the same id."""
        row = self._find_request(call)
        if not row["options"].get("webhook_url"):
            raise HttpError(HTTPStatus.CONFLICT, "the request was uploaded without a webhook_url")
        if not is_finished(row):
            raise HttpError(HTTPStatus.CONFLICT, "the request is not finished: nothing to send yet")
        if self._settings.webhook_secret is None:
            raise HttpError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "WEBHOOK_SECRET is not set, so no webhooks are sent",
            )
        with self._database.transaction() as cursor:
            lock_request(cursor, row["id"])
            replayed = select_request(cursor, row["id"])
            if replayed and is_finished(replayed) and replay_webhook(cursor, row["id"]):
                defer_webhook(cursor, row["id"])
                replayed = select_request(cursor, row["id"])
        return json_response(
            status_document(replayed or row, self._base_url),
            HTTPStatus.ACCEPTED,
            {"Location": status_path(row["id"])},
        )

    def _retry(self, call: Call) -> Response:
        request_id = self._find_request(call)["id"]
        images = last = 0
        while True:
            row, portion = self._retry_portion(request_id, last)
            if not portion.images:
                return self._accepted(row, {"images": images})
            images, last = images + portion.images, portion.last

    def _retry_portion(self, request_id: str, after: int) -> tuple[dict[str, Any], Retried]:
        """Let some images run again; return the request's row and which."""
        with self._database.transaction(BATCH_SECONDS) as cursor:
            portion = retry_request(cursor, request_id, after=after)
            row = select_request(cursor, request_id)
            if row is None:
                raise _gone()
            if portion is None:
                raise HttpError(
                    HTTPStatus.CONFLICT,
                    "the request is just being cancelled; once it is cancelled it can be retried",
                )
            if portion.images and portion.status == RequestStatus.PENDING:
                defer_begin(cursor, request_id)
            elif portion.images:
                defer_turns(cursor, request_id, portion.images)
        return row, portion

    def _delete(self, call: Call) -> Response:
        request_id = self._find_request(call)["id"]
        with self._database.transaction() as cursor:
            lock_request(cursor, request_id)
            if delete_request(cursor, request_id):
                return json_response(
                    {"request_id": request_id, "status": "deleted"}, HTTPStatus.ACCEPTED
                )
            if cancel_request(cursor, request_id):
                defer_turn(cursor, request_id, 0)
            row = select_request(cursor, request_id)
            if row is None:
                raise _gone()
        return self._accepted(row, {})

    def _accepted(self, row: dict[str, Any], members: dict[str, Any]) -> Response:
        body = {
            "request_id": row["id"],
            "status": row["status"],
            "status_url": self._base_url + status_path(row["id"]),
        }
        return accepted(body | members)

    def _csv(self, call: Call) -> Response:
        request_id, is_report = call.groups
        with self._database.reading() as cursor:
            row = select_request(cursor, request_id)
            if row is None and select_deleted_request(cursor, request_id):
                raise _gone()
        if row is None or not is_finished(row):
            raise _not_found("there is no such CSV, or not yet: see the request's status")
        key = (report_csv_key if is_report else output_csv_key)(request_id)
        name = key.rpartition("/")[2]
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        return self._file(
            call.request, self._store.open(key, call.request.closing), _REVALIDATED | disposition
        )

    def _image(self, call: Call) -> Response:
        request_id, n, extension = call.groups
        request = call.request
        file = self._files.open(
            request_id, int(n), extension, request.closing, request.before_waiting
        )
        return self._file(request, file, _FOREVER | _FOR_EVERY_SITE)

    def _file(
        self, request: Request, file: StoredObject | None, headers: dict[str, str]
    ) -> Response:
        if file is None:
            raise _not_found()
        return file_response(request, self._store, file, headers | _content_type(file.key))

    def _page(self, call: Call) -> Response:  # noqa: ARG002  # every handler takes the call
        return _own_file("web/index.html", {"Content-Security-Policy": self._page_policy()})

    def _project_file(self, call: Call) -> Response:
        return _own_file(call.groups[0], {})

    def _page_policy(self) -> str:
        return (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            f"img-src 'self' {self._base_url}; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )

    def _metrics(self, call: Call) -> Response:  # noqa: ARG002
        return Response(HTTPStatus.OK, metrics.render(), {"Content-Type": metrics.CONTENT_TYPE})

    def _healthz(self, call: Call) -> Response:  # noqa: ARG002
        return json_response({"status": "ok"})

    def _readyz(self, call: Call) -> Response:  # noqa: ARG002
        with self._database.reading() as cursor:
            is_alive(cursor)
        self._store.check()
        if self.is_draining:
            raise _unavailable("the service is stopping")
        return json_response({"status": "ready"})

    def _find_request(self, call: Call) -> dict[str, Any]:
        """Return the row of the caller's request.

        Raises HttpError 410 when it was deleted, and 404, also for another's.
        """
        with self._database.reading() as cursor:
            row = select_request(cursor, call.groups[0])
            found = row or select_deleted_request(cursor, call.groups[0])
        if found is None or (found["owner"] != call.owner and self._settings.api_keys):
            raise _not_found("there is no request with this id")
        if row is None:
            raise _gone()
        return row

    @property
    def _base_url(self) -> str:
        return self._settings.base_url


def _route(
    path: str,
    *,
    is_public: bool = False,
    is_charged: bool = False,
    is_quick: bool = False,
    **methods: Callable[[Call], Response],
) -> Route:
    return Route(re.compile(path), methods, is_public, is_charged, is_quick)


def _digest(row: dict[str, Any]) -> str:
    """Return a digest of a request's row that changes with it, but not with the clock alone."""
    facts = {name: value for name, value in row.items() if name != "now"}
    return hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode()).hexdigest()[:32]


def _own_file(name: str, headers: dict[str, str]) -> Response:
    """Answer with a file that the project ships."""
    path = ROOT / name
    if not path.is_file():
        raise _not_found()
    return Response(HTTPStatus.OK, path.read_bytes(), headers | _content_type(name) | _REVALIDATED)


def _content_type(name: str) -> dict[str, str]:
    return {"Content-Type": _CONTENT_TYPES[name.rpartition(".")[2]]}


def _wrong_method(route: Route) -> HttpError:
    allowed = [*route.methods, "HEAD"] if "GET" in route.methods else list(route.methods)
    return HttpError(
        HTTPStatus.METHOD_NOT_ALLOWED,
        f"this takes {' and '.join(allowed)}",
        headers={"Allow": ", ".join(allowed)},
    )


def _not_found(detail: str = "there is nothing here") -> HttpError:
    return HttpError(HTTPStatus.NOT_FOUND, detail)


def _gone() -> HttpError:
    return HttpError(HTTPStatus.GONE, "the request was deleted, by its owner or by its age")


def _unavailable(detail: str) -> HttpError:
    return HttpError(
        HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_SECONDS)}
    )
