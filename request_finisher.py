"""The end of a request: output CSV and report into the store, then the final status.

Everything here may be done again from the start, with the same bytes: a worker may die midway.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any, Final

import image_queue
from database_helper import select_images, select_request, update_output_urls
from output_csv import OutputProduct, ReportImage, output_cell, write_output, write_report
from request_view import is_finished, output_url
from storage_keys import output_csv_key, report_csv_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_helper import Database
    from image_store import ImageStore

PAGE: Final = 5000  # rows read at a time, and products updated at a time

logger = logging.getLogger(__name__)


def write_outputs(database: Database, store: ImageStore, request_id: str) -> None:
    """Write both CSVs of a request whose images have all ended, and finish it.

    Raises ImageError `storage_error` and DatabaseUnavailableError; then it is to be done again.
    """
    with database.transaction() as cursor:
        request = select_request(cursor, request_id)
    if request is None or is_finished(request):
        return
    base_url = request["base_url"]
    products = _products(database, request_id, base_url)
    store.put(output_csv_key(request_id), write_output(request["columns"], products))
    report = (_report_line(image, base_url) for image in _images(database, request_id))
    store.put(report_csv_key(request_id), write_report(report))
    with database.transaction() as cursor:
        finished = image_queue.finish_request(cursor, request_id)
    if finished:
        logger.info(
            "%s %s: %d images succeeded, %d failed",
            *(request_id, finished["status"], finished["succeeded"], finished["failed"]),
            extra={"request_id": request_id},
        )


def _images(database: Database, request_id: str) -> Iterator[dict[str, Any]]:
    """Yield the images of a request in input order, a page at a time."""
    after = 0
    while True:
        with database.transaction() as cursor:
            page = select_images(cursor, request_id, state=None, after=after, limit=PAGE)
        if not page:
            return
        yield from page
        after = page[-1]["n"]


def _products(database: Database, request_id: str, base_url: str) -> Iterator[OutputProduct]:
    """Yield the products in input order, having written their output cell into `image_links`."""
    by_row = itertools.groupby(_images(database, request_id), key=lambda image: image["row"])
    numbered = ((row, _product(list(images), base_url)) for row, images in by_row)
    while batch := list(itertools.islice(numbered, PAGE)):
        with database.transaction() as cursor:
            cells = [(row, output_cell(product.output_urls)) for row, product in batch]
            update_output_urls(cursor, request_id, cells)
        yield from (product for _, product in batch)


def _product(images: list[dict[str, Any]], base_url: str) -> OutputProduct:
    first = images[0]
    return OutputProduct(
        serial_number=first["serial_number"],
        product_name=first["product_name"],
        input_image_urls=first["input_image_urls"],
        other_cells=first["other_cells"],
        output_urls=[output_url(image, base_url) for image in images],
    )


def _report_line(image: dict[str, Any], base_url: str) -> ReportImage:
    return ReportImage(
        row=image["row"],
        serial_number=image["serial_number"],
        product_name=image["product_name"],
        position=image["position"],
        input_url=image["input_url"],
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
    )
