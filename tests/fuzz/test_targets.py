"""Every fuzzing target on generated inputs for a moment, on what it once found, and on broken code.

The search itself, guided by coverage and for as long as one likes, is `make fuzz`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import address_policy
import file_response
import http_api
import output_csv
import paging
import request_options
from codec.compressed_image import CompressedImage
from csv_validator import ProductReader
from decoder import decoder_pool
from decoder.decoder_protocol import pack
from fetching import image_downloader
from fetching.source_response import Validators
from httpd import http_protocol
from tests.fuzz import addresses, pictures, products
from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS
from upload_parser import _FormParser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from csv_validator import ProductRow

_A_JPEG = SEEDS["image_compression"][0]
_NO_PIXELS = b'{"format":"jpeg","width":0,"height":1,"quality":"80"}\0' + _A_JPEG
_TWO_LENGTHS = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
EXAMPLES = 500  # about a second for each target
_MULTIPART = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/x; a*=1; a*4=2\r\n\r\n"
_NINE_HEADERS = b"--XyZ\r\nC:\r\nd:\r\nn:\r\nt:\r\nn:\n\r\nd:\r\nn:\r\ne:\r\no\r\n"
FOUND = {  # inputs that broke a promise once
    "parameters that the standard library fails over, of a client": ("http_connection", _MULTIPART),
    "parameters that the standard library fails over, of an origin": (
        "origin_answer",
        b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x; a*=1; a*4=2\r\n\r\nabc",
    ),
    "the same behind a bare carriage return": (
        "origin_answer",
        b"HTTP/1.1 200 OK\r\nX: y\rContent-Type: multipart/x; a*=1; a*4=2\r\n\r\nabc",
    ),
    "a line feed in a header seen or not, as the body was cut": ("multipart", _NINE_HEADERS),
}


def inputs(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy of seeds, of seeds with something else in the middle, and of anything."""
    seed = st.sampled_from(seeds)
    piece = st.binary(max_size=4) | seed | st.sampled_from([b"\r\n", b"\0", b'"', b",", b"0", b":"])
    places = st.tuples(st.integers(0, 400), st.integers(0, 400))

    def spliced(data: bytes, piece: bytes, places: tuple[int, int]) -> bytes:
        start, end = sorted(place % (len(data) + 1) for place in places)
        return data[:start] + piece + data[end:]

    return seed | st.builds(spliced, seed, piece, places) | st.binary(max_size=100)


@pytest.mark.parametrize("name", TARGETS)
def test_generated_inputs(name: str) -> None:
    """No promise is broken by a seed, by what is made of the seeds, or by any bytes."""

    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    @given(inputs(SEEDS[name]))
    def try_one(data: bytes) -> None:
        TARGETS[name](data)

    for seed in SEEDS[name]:
        TARGETS[name](seed)
    try_one()


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found_once(found: str) -> None:
    """An input that broke a promise breaks none any more."""
    name, data = FOUND[found]
    TARGETS[name](data)


class _Swapping(ProductReader):
    """Gives the URLs for the name."""

    def __iter__(self) -> Iterator[ProductRow]:
        for row in super().__iter__():
            yield row._replace(product_name=row.input_image_urls)


def _pixel_and_more(data: bytes) -> CompressedImage:
    return CompressedImage(data + b"trailing", "jpeg", 1, 1, "80")


BROKEN: dict[str, tuple[object, str, object, bytes]] = {  # one thing made worse for each target
    "csv_file": (products, "ProductReader", _Swapping, SEEDS["csv_file"][0]),
    "url_cell": (products, "split_urls", lambda cell: cell.split(","), b"http://a/1,2.jpg"),
    "source_url": (address_policy, "_write_out_ipv4", str, b"http://0x7f.1/"),
    "addresses": (address_policy, "_is_public", bool, b"10.0.0.1"),
    "multipart": (
        *(_FormParser, "feed", lambda parser, chunk: parser._parse(chunk, chunk)),
        SEEDS["multipart"][0],
    ),
    "decoder_frame": (pictures, "unpack_header", lambda *_: (2, 10**9), pack({}, 0)),
    "decoder_reply": (decoder_pool, "_is_side", lambda _: True, _NO_PIXELS),
    "http_connection": (http_protocol, "_AT_MOST_ONCE", (), _TWO_LENGTHS),
    "service_connection": (
        http_api,
        "parse_limit",
        lambda _: 1 / 0,
        SEEDS["service_connection"][3],
    ),
    "origin_answer": (
        image_downloader,
        "validators",
        lambda url, _: Validators(url, "\0", None),
        SEEDS["origin_answer"][0],
    ),
    "image_container": (
        pictures,
        "strip",
        lambda *_, **__: bytes(9999),
        SEEDS["image_container"][0],
    ),
    "image_compression": (pictures, "compress", lambda data, *_: _pixel_and_more(data), _A_JPEG),
    "header_fields": (file_response, "_requested_range", lambda *_: (3, 200), b"Range: bytes=3-"),
    "query_fields": (paging, "MAX_LIMIT", 10**6, b"limit=2000"),
    "upload_options": (request_options, "_COLOUR", re.compile(".*"), b"background=red"),
    "output_rows": (output_csv, "_STARTS_A_FORMULA", frozenset("=+-"), b"a\x001\0@x"),
}


@pytest.mark.parametrize("data", [b"a b", b"a/b", b"https://a:b@c.test/d@e"])
def test_a_shown_password_is_noticed(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target of URLs finds fault with credentials that are hidden by the book alone."""

    def by_the_book(text: str) -> str:
        return re.sub(r"(?<=://)[^\s/?#]*@", "***@", text)

    TARGETS["source_url"](data)
    monkeypatch.setattr(addresses, "redact_url", by_the_book)
    with pytest.raises(AssertionError):
        TARGETS["source_url"](data)


@pytest.mark.parametrize("name", TARGETS)
def test_broken_code_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each target finds fault with code that is made worse on purpose, and none without."""
    owner, attribute, substitute, data = BROKEN[name]
    TARGETS[name](data)
    monkeypatch.setattr(owner, attribute, substitute)
    with pytest.raises(AssertionError):
        TARGETS[name](data)
