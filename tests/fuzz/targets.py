"""What is fuzzed: each target takes any bytes and raises when a promise is broken.

Pure functions, shared by `fuzz`, which searches for inputs guided by coverage, and the suite, which
tries generated ones for a moment. A promise is held against something that doesn't share its code:
the standard library, urllib3, another cut of the same bytes, a slow and simple second reading.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from email.message import Message
from http import HTTPStatus
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import parse_qsl

from codec.image_compressor import CompressedImage, ImageLimits
from csv_problems import MAX_ERRORS_LISTED, CsvRefusedError
from csv_validator import CsvLimits, ProductReader, split_urls
from decoder_pool import _read_reply
from decoder_protocol import HEADER_BYTES, ProtocolError, pack, unpack_header, unpack_message
from errors import ErrorCode, HttpError
from file_response import file_response
from http_protocol import MAX_HEADERS, Request, _parse_headers, json_response, problem_response
from idempotency import HEADER, MAX_KEY_CHARACTERS, parse_key
from image_store import ImageStore, StoredObject
from output_csv import OutputProduct, write_output
from paging import (
    MAX_IMAGE_NUMBER,
    MAX_LIMIT,
    image_cursor,
    parse_image_cursor,
    parse_limit,
    parse_request_cursor,
    request_cursor,
)
from request_options import parse_options
from tests.fuzz.addresses import POLICY, check_approved, check_url
from tests.fuzz.connection import check_conversation, check_service
from tests.fuzz.origin import check_download
from tests.fuzz.pictures import check_compression, check_walk
from upload_parser import UploadParser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from csv_validator import ProductRow
    from http_protocol import RequestBody

CSV_LIMITS: Final = CsvLimits(max_rows=1000, max_urls_per_row=5)
IMAGE_LIMITS: Final = ImageLimits(max_pixels=1_000_000, max_frames=10)
_MAX_BODY_BYTES: Final = 1000
_FILE: Final = StoredObject("a", size=100, etag="e", modified=0.0)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BOUNDARY: Final = re.compile(rb"--([0-9A-Za-z_-]{1,70})")
_HEADER: Final = re.compile(rb"[0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def csv_file(data: bytes) -> None:
    """Read a CSV: products that the database and every other reader take, or a refusal."""
    for strict in (False, True):
        try:
            reader = ProductReader(io.BytesIO(data), CSV_LIMITS, strict=strict)
            products = list(reader)
        except CsvRefusedError as refusal:
            _check_csv_refusal(refusal)
        else:
            assert list(reader) == products
            _check_products(reader, products)


def _check_csv_refusal(refusal: CsvRefusedError) -> None:
    _check_refusal(refusal, 400, 413, 422)
    errors = refusal.members["errors"]
    assert 1 <= len(errors) <= MAX_ERRORS_LISTED
    assert len(errors) == refusal.members["errors_total"] or len(errors) == MAX_ERRORS_LISTED
    lines = [error["line"] for error in errors]
    assert lines == sorted(lines)
    assert lines[0] >= 1


def _check_products(reader: ProductReader, products: list[ProductRow]) -> None:
    assert 1 <= len(products) <= CSV_LIMITS.max_rows
    serials = {product.serial_number.strip().lstrip("0") for product in products}
    assert len(serials) == len(products)
    assert all(re.fullmatch("[0-9]*", serial) for serial in serials)
    assert all(product.product_name.strip() for product in products)
    assert all(1 <= len(product.image_urls) <= CSV_LIMITS.max_urls_per_row for product in products)
    assert all(earlier.line < later.line for earlier, later in pairwise(products))
    written = b"".join(write_output(reader.columns, [_output_of(product) for product in products]))
    output = list(csv.reader(io.StringIO(written.decode(), newline=""), strict=True))
    for row, output_row in zip(_other_reading(reader), output, strict=True):
        assert "\0" not in "".join(row)
        for cell, written_cell in zip(row, output_row[:-1], strict=False):
            assert written_cell in {cell, f"'{cell}"}


def _output_of(product: ProductRow) -> OutputProduct:
    serial, name, urls, others = product[1:5]
    return OutputProduct(serial, name, urls, others, [None] * len(product.image_urls))


def _other_reading(reader: ProductReader) -> Iterator[list[str]]:
    """Yield the rows as the csv module alone finds them."""
    data = reader._file
    data.seek(0)
    content = data.read()
    is_wide = content[:2] in {b"\xff\xfe", b"\xfe\xff"}
    text = content.decode("utf-16" if is_wide else "utf-8-sig")
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=reader._delimiter, strict=True):
        if "".join(row).strip():
            yield row[: len(reader.columns)]


def url_cell(data: bytes) -> None:
    """Split a cell of URLs: as a slow reading letter by letter does, and each sound or refused."""
    cell = _text(data)
    urls = split_urls(cell)
    assert urls == _split_slowly(cell)
    for url in urls:
        check_url(url)


def _split_slowly(cell: str) -> list[str]:
    pieces = [""]
    for place, letter in enumerate(cell):
        following = cell[place + 1 : place + 2]
        is_end = following in {"", ","} or following.isspace() or _SCHEME.match(cell, place + 1)
        if letter == "," and is_end:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [piece.strip() for piece in pieces if piece.strip()]


def source_url(data: bytes) -> None:
    """Read a URL: every parser finds the very host that was judged."""
    check_url(_text(data))


def addresses(data: bytes) -> None:
    """Approve addresses, as text in lines or packed: none that another judge calls private."""
    check_approved(_text(data).split("\n"))
    if len(data) in {4, 16}:
        check_approved([str(ip_address(data))])


def multipart(data: bytes) -> None:
    """Parse an upload's body: one answer, however the body is cut into chunks.

    Its boundary is that of its first line, unless that is a Content-Type.
    """
    if found := _BOUNDARY.match(data):
        content_type, body = f"multipart/form-data; boundary={found[1].decode()}", data
    else:
        first_line, _, body = data.partition(b"\n")
        content_type = first_line.decode("latin-1")
    whole = _upload(content_type, body, max(1, len(body)))
    for step in (1, 2, 7, 61) if len(body) < 300 else (13, 197):
        assert _upload(content_type, body, step) == whole


def _upload(content_type: str, body: bytes, step: int) -> object:
    file = io.BytesIO()
    try:
        parser = UploadParser(content_type, len(body), file, _MAX_BODY_BYTES)
        for start in range(0, len(body), step):
            parser.feed(body[start : start + step])
        options = parser.finish()
    except HttpError as refusal:
        return _check_refusal(refusal, 400, 413, 415, 422)
    assert file.getvalue() in body
    return options, file.getvalue(), parser.csv_sha256


def decoder_frame(data: bytes) -> None:
    """Read a frame off a decoder's pipe: what a limit allows, or a ProtocolError."""
    if len(data) < HEADER_BYTES:
        return  # the pipe's end
    try:
        message_bytes, body_bytes = unpack_header(data[:HEADER_BYTES], _MAX_BODY_BYTES)
        text = data[HEADER_BYTES : HEADER_BYTES + message_bytes]
        message = unpack_message(text)
    except ProtocolError:
        return
    assert message_bytes <= 64 * 1024
    assert body_bytes <= _MAX_BODY_BYTES
    frame = pack(message, body_bytes)
    again = unpack_message(frame[HEADER_BYTES:])
    assert json.dumps(again) == json.dumps(message)  # NaN is no equal of itself
    _check_reply(text, data[HEADER_BYTES + message_bytes :][:body_bytes])


def decoder_reply(data: bytes) -> None:
    """Read a decoder's answer, JSON and body apart by a NUL: sound, or a ProtocolError."""
    text, _, body = data.partition(b"\0")
    _check_reply(text, body)


def _check_reply(text: bytes, body: bytes) -> None:
    try:
        outcome = _read_reply(unpack_message(text), body, IMAGE_LIMITS)
    except ProtocolError:
        return
    if isinstance(outcome, CompressedImage):
        assert outcome.data == body != b""
        assert outcome.format in {"jpeg", "png", "webp", "gif", "avif"}
        assert type(outcome.width) is type(outcome.height) is int
        assert 0 < outcome.width * outcome.height <= IMAGE_LIMITS.max_pixels
        assert outcome.width > 0
        assert re.fullmatch(r"[a-z]{1,10}|[0-9]{1,3}", outcome.quality)
    else:
        assert outcome.code in set(ErrorCode)
        assert len(outcome.detail) <= 500
        assert outcome.detail.isprintable()


def http_connection(data: bytes) -> None:
    """Answer a connection: strict HTTP alone is understood, in one way, and nothing fails."""
    check_conversation(data)


def service_connection(data: bytes) -> None:
    """Answer a connection by the whole service but its database: nothing is our fault."""
    check_service(data)


def origin_answer(data: bytes) -> None:
    """Download from an origin: an image within its limits, or an error of ours."""
    check_download(data)


def image_container(data: bytes) -> None:
    """Walk through an image's container: the same picture without metadata, or an error of ours."""
    check_walk(data)


def image_compression(data: bytes) -> None:
    """Compress an image: a sound one, or an error of ours."""
    check_compression(data)


def header_fields(data: bytes) -> None:
    """Read the headers that we take: a sound key, a range within the file, or a refusal."""
    headers = _headers(data)
    try:
        key = parse_key(headers)
    except HttpError as refusal:
        _check_refusal(refusal, 422)
    else:
        _check_key(key)
    for method in ("GET", "HEAD"):
        _check_range(method, headers)


def _headers(data: bytes) -> Message:
    lines = [line for line in data.splitlines() if _HEADER.fullmatch(line)]
    return _parse_headers(lines[:MAX_HEADERS])


def _check_key(key: str | None) -> None:
    if key is None:
        return
    assert 1 <= len(key) <= MAX_KEY_CHARACTERS
    assert re.fullmatch(r"[\x21-\x7e]+", key)
    again = Message()
    again[HEADER] = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert parse_key(again) == key


class _Store(ImageStore):
    """A store with one file of zeros."""

    def __init__(self) -> None:
        pass

    def read(self, file: StoredObject, start: int, end: int) -> Iterator[bytes]:
        assert file is _FILE
        assert 0 <= start < end <= _FILE.size
        return iter([bytes(end - start)])


def _check_range(method: str, headers: Message) -> None:
    request = Request(method, "/a", {}, headers, cast("RequestBody", None))
    try:
        response = file_response(request, _Store(), _FILE, {})
    except HttpError as refusal:
        _check_refusal(refusal, 416)
        return
    if response.status == HTTPStatus.NOT_MODIFIED:
        return
    length = sum(map(len, response.body)) if not isinstance(response.body, bytes) else -1
    assert response.headers["Content-Length"] == str(length)
    if response.status == HTTPStatus.OK:
        assert length == _FILE.size
        return
    assert response.status == HTTPStatus.PARTIAL_CONTENT
    span = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/100", response.headers["Content-Range"])
    assert span
    assert int(span[2]) - int(span[1]) + 1 == length


def query_fields(data: bytes) -> None:
    """Read a page's limit and cursor: values that the database's columns take, or 422.

    A cursor may stand as it is, or as its JSON behind a `!`.
    """
    text = _text(data)
    query = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=None))
    if text.startswith("!"):
        query = {"cursor": base64.urlsafe_b64encode(text[1:].encode("utf-8", "replace")).decode()}
    _refused_or(_check_limit, query)
    _refused_or(_check_image_cursor, query)
    _refused_or(_check_request_cursor, query)


def upload_options(data: bytes) -> None:
    """Read an upload's options: whole and as JSON the same again, or 422."""
    fields = dict(parse_qsl(_text(data), keep_blank_values=True))
    _refused_or(_check_options, fields)


def _refused_or(check: Callable[[dict[str, str]], None], fields: dict[str, str]) -> None:
    try:
        check(fields)
    except HttpError as refusal:
        _check_refusal(refusal, 422)


def _check_limit(query: dict[str, str]) -> None:
    assert 1 <= parse_limit(query) <= MAX_LIMIT


def _check_image_cursor(query: dict[str, str]) -> None:
    number = parse_image_cursor(query)
    assert type(number) is int
    assert 0 <= number <= MAX_IMAGE_NUMBER
    assert parse_image_cursor({"cursor": image_cursor({"n": number})}) == number


def _check_request_cursor(query: dict[str, str]) -> None:
    place = parse_request_cursor(query)
    if place is None:
        return
    created_at, request_id = place
    assert created_at.utcoffset() is not None
    assert re.fullmatch("[0-9a-f]{32}", request_id)
    again = request_cursor({"created_at": created_at, "id": request_id})
    assert parse_request_cursor({"cursor": again}) == place


def _check_options(fields: dict[str, str]) -> None:
    options = parse_options(fields, POLICY)
    json_response(options.to_json())
    image = options.image
    assert image.quality in {None, *range(1, 101)}
    assert re.fullmatch("#[0-9a-f]{6}", image.background)
    assert all(size is None or size > 0 for size in (image.max_width, image.max_height))
    assert type(image).from_json(image.to_json()) == image


def output_rows(data: bytes) -> None:
    """Write an output CSV: its cells are read back by the csv module, and no spreadsheet runs one.

    Cells are apart by a NUL; the first is a further column's name.
    """
    name, *texts = data.decode("utf-8", "ignore").split("\0")
    columns = ["S. No.", "Product Name", "URLs", name]
    rows = [[*texts[at : at + 4], *[""] * 4][:4] for at in range(0, len(texts), 4)]
    urls = [None, "http://a/1"]
    products = [OutputProduct(row[0], row[1], row[2], row[3:], urls) for row in rows]
    try:
        written = b"".join(write_output(columns, products))
    except CsvRefusedError:
        return  # the name doubles another column's
    found = list(csv.reader(io.StringIO(written.decode(), newline=""), strict=True))
    assert len(found) == len(rows) + 1
    for row, cells in zip([columns, *rows], found, strict=True):
        _check_cells(row, cells)


def _check_cells(cells: Sequence[str], written: Sequence[str]) -> None:
    for cell, found in zip(cells, written[:4], strict=True):
        assert found in {cell, f"'{cell}"}
        assert found[:1] not in set("=+-@\t\r") or _NUMBER.fullmatch(found)


def _check_refusal(refusal: HttpError, *statuses: int) -> int:
    """Check a refusal and that it can be told, which is in UTF-8; return its status."""
    assert refusal.status in statuses
    assert problem_response(refusal).body
    return refusal.status


def _text(data: bytes) -> str:
    """Return any text, lone surrogates among it."""
    return data.decode("utf-8", "surrogateescape")


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
