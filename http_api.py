"""The service's HTTP API: which route does what.

A status is one database read, never a question to the worker. `httpd` speaks to the clients,
`http_router` finds the route, `upload_intake` takes uploads in, `request_view` words the answers.
"""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from access_control import AccessControl
from api_description import description_route
from content_types import FOREVER, content_type
from database_helper import BATCH_SECONDS
from errors import HttpError
from file_response import file_response, is_unchanged
from http_router import REQUEST_ID, Router, not_found, route, unavailable
from httpd.http_protocol import Response, json_response
from job_queue import defer_begin, defer_turn, defer_turns, defer_webhook
from operations_api import OperationsApi
from output_files import OutputFiles
from paging import (
    image_cursor,
    parse_image_filter,
    parse_image_place,
    parse_limit,
    parse_request_cursor,
    request_cursor,
)
from project_files import project_routes
from public_files import PublicFiles
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
from storage.storage_keys import output_csv_key, report_csv_key
from upload_intake import UploadIntake, accepted
from webhook_queue import replay_webhook

if TYPE_CHECKING:
    from typing import Any

    from database_helper import Database
    from http_router import Call
    from httpd.http_protocol import Request
    from request_queue import Retried
    from settings import Settings
    from storage.image_store import ImageStore
    from storage.stored_object import StoredObject

LONGEST_POLL_SECONDS: Final = 10
_FOREVER: Final = {"Cache-Control": FOREVER}
_FOR_EVERY_SITE: Final = {"Cross-Origin-Resource-Policy": "cross-origin"}
_REVALIDATED: Final = {"Cache-Control": "no-cache"}


class Api:
    """Answers requests. Shared by the server's threads."""

    def __init__(self, settings: Settings, database: Database, store: ImageStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._files = OutputFiles(database, store)
        self._public_files = PublicFiles(settings.public_files_url, store)
        self._intake = UploadIntake(settings, database, store)
        self._operations = OperationsApi(database, store)
        image = rf"/uploads/{REQUEST_ID}/(?P=id)-([1-9][0-9]{{0,8}})\.(jpg|png|webp|gif|avif)"
        csv = rf"/static/{REQUEST_ID}(-report)?\.csv"
        routes = [  # tried in this order: what is asked most is first
            route(
                "/uploads/{id}/{id}-{n}.{ext}",
                image,
                is_public=True,
                is_quick=store.is_on_disk,
                GET=self._image,
            ),
            route("/status/{id}", GET=self._status, DELETE=self._delete),
            route("/upload", POST=self._upload),
            route("/requests", GET=self._requests),
            route("/status/{id}/images", GET=self._images),
            route("/status/{id}/retry", POST=self._retry),
            route("/status/{id}/webhook", POST=self._send_webhook),
            route("/static/{id}.csv", csv, is_public=True, is_charged=True, GET=self._csv),
            description_route(settings),
            *project_routes(),
            *self._operations.routes,
        ]
        self.answer = Router(AccessControl(settings), routes).answer

    @property
    def is_draining(self) -> bool:
        """Whether no further upload is taken."""
        return self._operations.is_draining

    def drain(self) -> None:
        """Take no further upload; all else goes on."""
        self._operations.is_draining = True

    def _upload(self, call: Call) -> Response:
        if self.is_draining:
            raise unavailable("the service is stopping")
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
            raise not_found(
                f"there is no CSV yet, or no such request: GET {status_path(request_id)} tells"
            )
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
        redirect = file and self._public_files.redirect(file.key, request.method, _FOR_EVERY_SITE)
        if redirect:
            return redirect
        return self._file(request, file, _FOREVER | _FOR_EVERY_SITE)

    def _file(
        self, request: Request, file: StoredObject | None, headers: dict[str, str]
    ) -> Response:
        if file is None:
            raise not_found("there is no such file, or not yet: its request's status tells")
        return file_response(request, self._store, file, headers | _content_type(file.key))

    def _find_request(self, call: Call) -> dict[str, Any]:
        """Return the row of the caller's request.

        Raises HttpError 410 when it was deleted, and 404, also for another's.
        """
        with self._database.reading() as cursor:
            row = select_request(cursor, call.groups[0])
            found = row or select_deleted_request(cursor, call.groups[0])
        if found is None or (found["owner"] != call.owner and self._settings.api_keys):
            raise not_found("there is no such request of yours; GET /requests lists those that are")
        if row is None:
            raise _gone()
        return row

    @property
    def _base_url(self) -> str:
        return self._settings.base_url


def _digest(row: dict[str, Any]) -> str:
    """Return a digest of a request's row that changes with it, but not with the clock alone."""
    facts = {name: value for name, value in row.items() if name != "now"}
    return hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode()).hexdigest()[:32]


def _content_type(name: str) -> dict[str, str]:
    return {"Content-Type": content_type(name)}


def _gone() -> HttpError:
    return HttpError(HTTPStatus.GONE, "the request was deleted, by its owner or by its age")
