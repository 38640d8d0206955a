"""The end of a request: output CSV and report into the store, then the final status; its deletion.

Everything here may be done again from the start, with the same bytes: a worker may die midway.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import metrics
from database_helper import BATCH_SECONDS, DatabaseUnavailableError
from errors import ErrorCode, ServiceError
from job_queue import defer_webhook
from output_csv import OutputProduct, ReportImage, output_cell, write_output, write_report
from output_rows import NAMES, OUTPUTS, PRODUCTS, REPORTED, Rows, select_rows, update_output_urls
from redaction import redact_url
from request_queue import (
    FIRST_PURGED,
    finish_request,
    leave_finish,
    purge_rows,
    renew_finish,
    select_deleted,
    select_deleted_request,
    take_finish,
)
from request_rows import select_request
from request_view import is_finished, output_url
from storage.storage_keys import (
    STAGED_CSVS,
    STAGED_IMAGES,
    image_folder,
    output_csv_key,
    parse_staged_csv,
    report_csv_key,
    staged_csv_key,
)
from webhook_queue import enqueue_webhook

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from database_helper import Cursor, Database
    from output_files import OutputFiles
    from storage.image_store import ImageStore

PAGE: Final = 5000  # rows read at a time, and products updated at a time

logger = logging.getLogger(__name__)


class _LostError(ServiceError):
    """The finish is another's by now, or not to be made any more."""


class RequestFinisher:
    """Finishes requests and purges deleted ones. Shared by threads; every method blocks.

    A finish is leased and fenced. Its CSVs are staged, then the fence is confirmed, then they
    are moved in place, then the status says so. Whoever takes the finish after a lease was over
    deletes first what the one before has staged, so that this can't be moved in place any more.
    """

    def __init__(
        self, database: Database, store: ImageStore, files: OutputFiles, *, lease_seconds: float
    ) -> None:
        self._database = database
        self._store = store
        self._files = files
        self._lease_seconds = lease_seconds

    def finish(self, request_id: str) -> None:
        """Write both CSVs of a request whose images have all ended, and set its final status.

        Raises ImageError `storage_error` and DatabaseUnavailableError; then it is to be done again.
        """
        with self._database.transaction() as cursor:
            request = take_finish(cursor, request_id, lease_seconds=self._lease_seconds)
        if request is None:
            return
        try:
            self._finish(request)
        except _LostError as error:
            logger.warning("%s: %s", request_id, error, extra={"request_id": request_id})
        except Exception:
            with suppress(DatabaseUnavailableError), self._database.transaction() as cursor:
                leave_finish(cursor, request_id, request["fence"])
            raise

    def purge(self, request_id: str) -> None:
        """Delete every file and row of a deleted request. Raises like `finish`."""
        with self._database.transaction() as cursor:
            deleted = select_deleted_request(cursor, request_id)
        if deleted is None or deleted["purged_at"]:
            return
        for folder in (STAGED_IMAGES, STAGED_CSVS):
            self._store.delete(*self._store.list_keys(folder, request_id))
        self._store.delete(output_csv_key(request_id), report_csv_key(request_id))
        self._store.delete_folder(image_folder(request_id))
        place: tuple[str, int] | None = FIRST_PURGED
        while place:
            with self._database.transaction() as cursor:
                place = purge_rows(cursor, request_id, place)

    def clean(self) -> None:
        """Settle what dead workers left in the store."""
        for key in self._store.list_keys(STAGED_CSVS):
            if not self._is_wanted(key):
                self._store.delete(key)
        self._files.settle()

    def _finish(self, request: dict[str, Any]) -> None:
        request_id, fence = request["id"], request["fence"]
        for key in self._store.list_keys(STAGED_CSVS, request_id):
            staged = parse_staged_csv(key)
            if staged and staged[1] < fence:  # we may be the late one
                self._store.delete(key)
        self._files.settle(request_id)
        output, report = output_csv_key(request_id), report_csv_key(request_id)
        products = self._products(request)
        self._store.put(staged_csv_key(output, fence), write_output(request["columns"], products))
        lines = self._report_lines(request)
        self._store.put(staged_csv_key(report, fence), write_report(lines))
        with self._database.transaction() as cursor:
            self._keep(cursor, request)
        for key in (output, report):
            if not self._store.move(staged_csv_key(key, fence), key):
                raise _LostError("another one has taken the finish")
        self._store.sync("static")
        with self._database.transaction() as cursor:
            finished = finish_request(cursor, request_id, fence)
            if finished and enqueue_webhook(cursor, finished):
                defer_webhook(cursor, request_id)
        if finished:
            metrics.REQUESTS_FINISHED.labels(finished["status"]).inc()
            logger.info(
                "%s %s: %d images succeeded, %d failed%s",
                *(request_id, finished["status"], finished["succeeded"], finished["failed"]),
                _reasons(finished["errors_by_code"]),
                extra={"request_id": request_id},
            )

    def _keep(self, cursor: Cursor, request: dict[str, Any]) -> None:
        """Renew the lease, and let nobody take the finish before the commit. Raises _LostError."""
        if not renew_finish(
            cursor, request["id"], request["fence"], lease_seconds=self._lease_seconds
        ):
            raise _LostError("the finish was taken by another one, or the request retried")

    def _is_wanted(self, key: str) -> bool:
        """Tell whether a staged CSV may still be moved in place."""
        staged = parse_staged_csv(key)
        if staged is None:
            return True  # not ours
        request_id, fence = staged
        with self._database.transaction() as cursor:
            request = select_request(cursor, request_id)
            if request is None:
                return not select_deleted(cursor, [request_id])
        return request["fence"] == fence and not is_finished(request)

    def _pages(self, request: dict[str, Any], rows: Rows) -> Iterator[Sequence[dict[str, Any]]]:
        """Yield rows of a request in input order, a page at a time, the lease renewed."""
        after = 0
        while True:
            with self._database.transaction(BATCH_SECONDS) as cursor:
                self._keep(cursor, request)
                page = select_rows(cursor, request["id"], rows, after=after, limit=PAGE)
            if not page:
                return
            yield page
            after = page[-1][rows.number]

    def _rows(self, request: dict[str, Any], rows: Rows) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(self._pages(request, rows))

    def _products(self, request: dict[str, Any]) -> Iterator[OutputProduct]:
        """Yield the products in input order, having written their output cell to the database."""
        images = itertools.groupby(self._rows(request, OUTPUTS), itemgetter("row"))
        base_url = request["base_url"]
        for page in self._pages(request, PRODUCTS):
            cells = [
                (row, output_cell([output_url(image, base_url) for image in of_product]))
                for row, of_product in itertools.islice(images, len(page))
            ]
            with self._database.transaction(BATCH_SECONDS) as cursor:
                self._keep(cursor, request)
                update_output_urls(cursor, request["id"], cells)
            for product, (row, cell) in zip(page, cells, strict=True):
                assert product["row"] == row  # noqa: S101  # no product is without an image
                yield _output_product(product, cell)

    def _report_lines(self, request: dict[str, Any]) -> Iterator[ReportImage]:
        """Yield what the report says of each image, in input order."""
        products = self._rows(request, NAMES)
        base_url = request["base_url"]
        for _, images in itertools.groupby(self._rows(request, REPORTED), itemgetter("row")):
            product = next(products)
            for image in images:
                yield _report_line(image | product, base_url)


def _reasons(errors_by_code: dict[str, int]) -> str:
    """Return how often images failed for what, the most frequent first, as ` (timeout 2, …)`."""
    codes = Counter(errors_by_code)
    del codes[ErrorCode.CANCELLED]  # these didn't fail
    reasons = ", ".join(f"{code} {images}" for code, images in codes.most_common())
    return reasons and f" ({reasons})"


def _output_product(product: dict[str, Any], cell: str) -> OutputProduct:
    return OutputProduct(
        serial_number=product["serial_number"],
        product_name=product["product_name"],
        input_image_urls=product["input_image_urls"],
        other_cells=product["other_cells"],
        output_cell=cell,
    )


def _report_line(image: dict[str, Any], base_url: str) -> ReportImage:
    return ReportImage(
        row=image["row"],
        serial_number=image["serial_number"],
        product_name=image["product_name"],
        position=image["position"],
        input_url=redact_url(image["input_url"]),
        output_url=output_url(image, base_url),
        state=image["state"],
        code=image["error_code"],
        detail=image["error_detail"],
        http_status=image["http_status"],
        attempts=image["attempts"],
        bytes_in=image["bytes_in"],
        bytes_out=image["bytes_out"],
        width=image["width"],
        height=image["height"],
        format=image["format"],
        quality=image["quality"],
        hint=image["hint"],
    )
