"""The `Idempotency-Key` header, and which uploads are the same."""

from __future__ import annotations

import hashlib
from email.message import Message
from http import HTTPStatus

import pytest

from errors import HttpError
from idempotency import fingerprint, parse_key
from request_options import parse_options

CSV = hashlib.sha256(b"a CSV").digest()


def _headers(*values: str) -> Message:
    headers = Message()
    for value in values:
        headers["Idempotency-Key"] = value
    return headers


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("  a\t", "a"),
        ("!~", "!~"),
        (r'"a\"b\\c"', r'a"b\c'),
        (r"a\b", r"a\b"),
        ('a"b', 'a"b'),
        ("a" * 255, "a" * 255),
        ('"' + r"\"" * 255 + '"', '"' * 255),
    ],
)
def test_key(value: str, key: str) -> None:
    """A key stands as a structured field's string, or bare."""
    assert parse_key(_headers(value)) == key


def test_no_key() -> None:
    """Most uploads come without."""
    assert parse_key(Message()) is None


@pytest.mark.parametrize(
    "values",
    [
        [""],
        ['""'],
        ["a b"],
        ['"a b"'],
        ['"a'],
        ['"a"b"'],
        [r'"a\b"'],
        ['"a\\"'],
        ['"a";b=1'],
        ["schlüssel"],
        ["a\x00"],
        ["a\x7f"],
        ["a" * 256],
        ['"' + "a" * 256 + '"'],
        ["a", "b"],
        ["a", "a"],
    ],
)
def test_no_usable_key(values: list[str]) -> None:
    """Anything else is refused rather than taken for no key."""
    with pytest.raises(HttpError, match="Idempotency-Key: takes one key") as caught:
        parse_key(_headers(*values))
    assert caught.value.status == HTTPStatus.UNPROCESSABLE_ENTITY


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"quality": "auto", "strict": "false", "priority": "normal", "format": ""}),
        ({"format": "webp", "max_width": "5"}, {"max_width": " 5 ", "format": "webp"}),
        ({"background": "#ABCDEF"}, {"background": "#abcdef"}),
    ],
)
def test_same_content(one: dict[str, str], other: dict[str, str]) -> None:
    """Options count by what they mean, not by how they are written."""
    assert fingerprint(CSV, parse_options(one)) == fingerprint(CSV, parse_options(other))


def test_other_content() -> None:
    """Any other option, or a single other byte, is another content."""
    fields: list[dict[str, str]] = [
        {},
        *[{"quality": quality} for quality in ("1", "75")],
        *[{"format": "jpeg"}, {"effort": "best"}, {"max_width": "5"}, {"max_height": "5"}],
        *[{"max_bytes": "5"}, {"background": "#000000"}, {"strict": "true"}, {"priority": "low"}],
        *[{"max_width": "5", "max_height": "5"}],
    ]
    prints = [fingerprint(CSV, parse_options(given)) for given in fields]
    prints.append(fingerprint(hashlib.sha256(b"a CSV ").digest(), parse_options({})))
    assert len(set(prints)) == len(prints)


def test_options_that_are_left_alone_do_not_count() -> None:
    """A later version with one more option recognises what this one took."""
    plain = hashlib.sha256(CSV + b"{}").hexdigest()
    assert fingerprint(CSV, parse_options({})) == plain
    webp = hashlib.sha256(CSV + b'{"format": "webp"}').hexdigest()
    assert fingerprint(CSV, parse_options({"format": "webp"})) == webp
