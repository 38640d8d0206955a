"""An upload's way in: body → spooled CSV → product rows → one transaction → 202.

The body is spooled to a temporary file first: a slow client holds neither a transaction nor a place
that others wait for, and the validator can look at the file twice. Memory doesn't grow with it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import metrics
from csv_validator import CsvLimits, ProductReader
from database_helper import BATCH_SECONDS
from dry_run import dry_run
from errors import ErrorCode, HttpError, ImageError
from httpd.connection_places import ConnectionOverError
from httpd.http_protocol import Response, json_response
from idempotency import (
    REPLAYED_HEADER,
    KeyedUpload,
    claim_key,
    fingerprint,
    parse_key,
    remember_answer,
)
from job_queue import defer_begin
from request_options import parse_options
from request_view import status_path
from upload_parser import UploadParser
from upload_places import FULL_SECONDS, UploadPlaces
from upload_rows import UploadCounts, copy_products, insert_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_helper import Database
    from httpd.http_protocol import Request, RequestNotes
    from request_options import RequestOptions
    from settings import Settings
    from storage.image_store import ImageStore

FORM_OVERHEAD_BYTES: Final = 512 * 1024  # option fields and boundaries around the CSV
DISK_RESERVE_BYTES: Final = 2**30  # that spooled uploads leave free, or a tenth of a small disk
MAX_UPLOADS: Final = 64  # at a time, of those that have arrived
MAX_COPIES: Final = 4  # of these, validated and copied at a time; others wait their turn
COPY_WAIT_SECONDS: Final = 60.0
FIRST_POLL_SECONDS: Final = 1

logger = logging.getLogger(__name__)


class UploadIntake:
    """Takes uploads; shared by the server's threads."""

    def __init__(self, settings: Settings, database: Database, store: ImageStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._places = UploadPlaces(MAX_UPLOADS)
        self._limits = CsvLimits(settings.max_csv_rows, settings.max_urls_per_row)
        self._copies = UploadPlaces(MAX_COPIES)
        self._policy = settings.address_policy
        self._webhook_policy = self._policy if settings.webhook_secret else None

    def take(self, request: Request, owner: str | None) -> Response:
        """Answer `POST /upload`: 202 once the rows are committed, 200 to a dry run.

        Raises HttpError for what is refused, with nothing kept, and ImageError `storage_error` when
        the upload can't be spooled.
        """
        with _counting_failures():
            return self._take(request, owner)

    def _take(self, request: Request, owner: str | None) -> Response:
        length = self._check_length(request)
        _check_encoding(request)
        key = parse_key(request.headers)
        self._store.check()
        with _spool_errors(), tempfile.TemporaryFile() as spool:
            fields, csv_sha256 = self._receive(request, length, spool)
            parse_options(request.query, self._webhook_policy)  # also what the form has otherwise
            options = parse_options(request.query | fields, self._webhook_policy)
            spool.seek(0)
            with self._places.hold(owner, 0), self._copies.hold(owner, COPY_WAIT_SECONDS):
                products = ProductReader(spool, self._limits, strict=options.strict)
                if options.dry_run:
                    report = dry_run(products, self._policy)
                    metrics.UPLOADS.labels("dry_run").inc()
                    return json_response(report)
                keyed = None
                if key:
                    keyed = KeyedUpload(owner or "", key, fingerprint(csv_sha256, options))
                return self._keep(products, options, owner, keyed, request.notes)

    def _check_length(self, request: Request) -> int:
        length = request.body.length
        if length is None:
            raise HttpError(
                HTTPStatus.LENGTH_REQUIRED,
                "the upload needs a Content-Length: send it in one piece, not as a stream",
            )
        most = self._settings.max_csv_bytes
        if length > most + FORM_OVERHEAD_BYTES:
            raise HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the upload has {length} bytes, and its CSV may have {most} (MAX_CSV_BYTES); "
                "send it as several files",
            )
        return length

    def _receive(
        self, request: Request, length: int, spool: BinaryIO
    ) -> tuple[dict[str, str], bytes]:
        """Write the CSV of the body to `spool`; return the option fields and the CSV's SHA-256.

        Raises HttpError. Whoever is slow has taken what has arrived, not what was declared:
        otherwise a few would have it all.
        """
        content_type = request.headers.get("Content-Type", "")
        parser = UploadParser(content_type, length, spool, self._settings.max_csv_bytes)
        _check_disk(spool, length)
        for piece in request.body:
            _check_disk(spool, len(piece))
            parser.feed(piece)
        return parser.finish(), parser.csv_sha256

    def _keep(
        self,
        products: ProductReader,
        options: RequestOptions,
        owner: str | None,
        keyed: KeyedUpload | None,
        notes: RequestNotes,
    ) -> Response:
        """Write an upload's rows, or find out that an earlier one with its key did."""
        request_id = uuid.uuid4().hex
        with self._database.transaction(BATCH_SECONDS) as cursor:
            cursor.allow_pauses(BATCH_SECONDS)  # rows are read between two batches
            if keyed and (first := claim_key(cursor, keyed, request_id)):
                notes.request_id = first["request_id"]
                metrics.UPLOADS.labels("replayed").inc()
                return accepted(first, {REPLAYED_HEADER: "true"})
            counts = copy_products(cursor, request_id, products)
            insert_request(
                cursor,
                request_id,
                options=options.to_json(),
                columns=products.columns,
                base_url=self._settings.base_url,
                counts=counts,
                owner=owner,
            )
            defer_begin(cursor, request_id)
            body = self._body(request_id, counts)
            if keyed:
                remember_answer(cursor, keyed, body)
        notes.request_id = request_id
        metrics.UPLOADS.labels("accepted").inc()
        metrics.UPLOAD_ROWS.inc(counts.products)
        metrics.UPLOAD_IMAGES.inc(counts.images)
        logger.info(
            "%s accepted: %d products, %d images",
            *(request_id, counts.products, counts.images),
            extra={"request_id": request_id},
        )
        return accepted(body)

    def _body(self, request_id: str, counts: UploadCounts) -> dict[str, Any]:
        return {
            "request_id": request_id,
            "status": "pending",
            "status_url": self._settings.base_url + status_path(request_id),
            "products": counts.products,
            "images": counts.images,
        }


def accepted(body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """Return a 202 that names the status of the request in `body`: there the end will be seen."""
    place = {"Location": status_path(body["request_id"]), "Retry-After": str(FIRST_POLL_SECONDS)}
    return json_response(body, HTTPStatus.ACCEPTED, place | (headers or {}))


@contextmanager
def _counting_failures() -> Iterator[None]:
    try:
        yield
    except HttpError as error:
        is_ours = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        metrics.UPLOADS.labels("unavailable" if is_ours else "refused").inc()
        raise
    except ConnectionOverError:
        metrics.UPLOADS.labels("abandoned").inc()
        raise
    except Exception:
        metrics.UPLOADS.labels("unavailable").inc()
        raise


@contextmanager
def _spool_errors() -> Iterator[None]:
    """Name what a disk does that is full: at any write, and once more when the file is closed."""
    try:
        yield
    except OSError as error:
        raise ImageError(ErrorCode.STORAGE_ERROR, f"spooling failed: {error}") from error


def _check_disk(spool: BinaryIO, size: int) -> None:
    """Raise HttpError 503 when so much more would leave too little for PostgreSQL and images."""
    disk = os.fstatvfs(spool.fileno())
    reserve = min(DISK_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 10)
    if disk.f_bavail * disk.f_frsize - size < reserve:
        raise HttpError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the service's disk is too full for this upload until its operator makes room; "
            f"it may be sent again in {FULL_SECONDS} s",
            headers={"Retry-After": str(FULL_SECONDS)},
        )


def _check_encoding(request: Request) -> None:
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise HttpError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "send the CSV as it is, not packed, without a Content-Encoding",
        )
