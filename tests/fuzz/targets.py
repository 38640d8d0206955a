"""What is fuzzed: each target takes any bytes and raises when a promise is broken.

Pure functions, shared by `fuzz`, which searches for inputs guided by coverage, and the suite, which
tries generated ones for a moment. A promise is held against something that doesn't share its code:
the standard library, urllib3, another cut of the same bytes, a slow and simple second reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.fuzz.addresses import addresses, source_url
from tests.fuzz.connection import http_connection, service_connection
from tests.fuzz.fields import header_fields, query_fields, upload_options
from tests.fuzz.origin import origin_answer
from tests.fuzz.pictures import decoder_frame, decoder_reply, image_compression, image_container
from tests.fuzz.products import csv_file, multipart, output_rows, url_cell

if TYPE_CHECKING:
    from collections.abc import Callable

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        csv_file,
        url_cell,
        source_url,
        addresses,
        multipart,
        decoder_frame,
        decoder_reply,
        http_connection,
        service_connection,
        origin_answer,
        image_container,
        image_compression,
        header_fields,
        query_fields,
        upload_options,
        output_rows,
    )
}
