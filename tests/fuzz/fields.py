"""Targets: header fields, query fields and options, as strangers write them."""

from __future__ import annotations

import re
from email.message import Message
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import parse_qsl

from errors import HttpError
from file_response import file_response
from httpd.http_protocol import MAX_HEADERS, Request, _parse_headers, json_response
from idempotency import HEADER, MAX_KEY_CHARACTERS, parse_key
from paging import (
    MAX_LIMIT,
    image_cursor,
    parse_image_place,
    parse_limit,
    parse_request_cursor,
    request_cursor,
)
from request_options import parse_options
from storage.bucket_store import BucketStore
from storage.stored_object import StoredObject
from tests.fuzz.addresses import POLICY
from tests.fuzz.promises import any_text, check_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from httpd.http_protocol import RequestBody

_FILE: Final = StoredObject("a", size=100, etag="e", modified=0.0)
_HEADER: Final = re.compile(rb"[0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


def header_fields(data: bytes) -> None:
    """Read the headers that we take: a sound key, a range within the file, or a refusal."""
    headers = _headers(data)
    try:
        key = parse_key(headers)
    except HttpError as refusal:
        check_refusal(refusal, 422)
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


class _Store(BucketStore):
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
        check_refusal(refusal, 416, *([412] if "If-Match" in headers else []))
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
    """Read a page's limit and cursor: values that the database's columns take, or 422."""
    query = dict(parse_qsl(any_text(data), keep_blank_values=True, max_num_fields=None))
    _refused_or(_check_limit, query)
    _refused_or(_check_image_cursor, query)
    _refused_or(_check_request_cursor, query)


def upload_options(data: bytes) -> None:
    """Read an upload's options: whole and as JSON the same again, or 422."""
    fields = dict(parse_qsl(any_text(data), keep_blank_values=True))
    _refused_or(_check_options, fields)


def _refused_or(check: Callable[[dict[str, str]], None], fields: dict[str, str]) -> None:
    try:
        check(fields)
    except HttpError as refusal:
        check_refusal(refusal, 422)


def _check_limit(query: dict[str, str]) -> None:
    assert 1 <= parse_limit(query) <= MAX_LIMIT


def _check_image_cursor(query: dict[str, str]) -> None:
    number = parse_image_place(query)
    assert 0 <= number < 2**31
    assert parse_image_place({"cursor": image_cursor({"n": number})}) == number


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
