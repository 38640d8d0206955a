"""What an origin's status and headers mean: lengths, encodings, redirects, waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from urllib3 import HTTPHeaderDict

from address_policy import parse_source_url
from errors import ImageError
from fetching.source_response import (
    MAX_RETRY_AFTER_SECONDS,
    Validators,
    check_encoding,
    declared_length,
    redirect_target,
    refusal,
    retry_after,
    validators,
)

SOURCE = parse_source_url("https://shop.example/a/b.jpg?c=1")


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((), None),
        (("0",), 0),
        (("17",), 17),
        ((" 17 ",), 17),
        (("17", "17"), 17),
        (("17, 17",), 17),
    ],
)
def test_a_clear_length_is_taken(lengths: tuple[str, ...], expected: int | None) -> None:
    """One length, or the same one several times, is the length; none is unknown."""
    headers = HTTPHeaderDict([("Content-Length", length) for length in lengths])
    assert declared_length(headers) == expected


@pytest.mark.parametrize(
    "lengths",
    [
        ("17", "18"),
        ("17, 18",),
        ("-1",),
        ("+1",),
        ("1_0",),
        ("0x10",),
        ("",),
        ("ten",),
        ("1.0",),
        ("9" * 19,),
        ("٣",),
        ("17,",),
    ],
)
def test_an_unclear_length_is_refused(lengths: tuple[str, ...]) -> None:
    """Differing and malformed lengths leave the end of the body to guesses."""
    headers = HTTPHeaderDict([("Content-Length", length) for length in lengths])
    with pytest.raises(ImageError) as caught:
        declared_length(headers)
    assert caught.value.code == "connect_error"


@pytest.mark.parametrize("coding", ["chunked", "Chunked", " chunked "])
def test_chunks_outrank_a_length(coding: str) -> None:
    """With chunks the declared length says nothing."""
    assert declared_length({"Transfer-Encoding": coding, "Content-Length": "5"}) is None


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, chunked", "identity", "x", ""])
def test_other_transfer_encodings_are_refused(coding: str) -> None:
    """Only chunks can be taken apart again."""
    with pytest.raises(ImageError) as caught:
        declared_length({"Transfer-Encoding": coding})
    assert caught.value.code == "connect_error"


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_a_plain_body_is_taken(encoding: str) -> None:
    """No encoding, or one that does nothing, is what was asked for."""
    check_encoding({"Content-Encoding": encoding})


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "zstd", "unheard"])
def test_an_encoded_body_is_refused(encoding: str) -> None:
    """An encoding that nobody asked for is refused instead of unpacked."""
    with pytest.raises(ImageError) as caught:
        check_encoding({"Content-Encoding": encoding})
    assert caught.value.code == "unsupported_format"
    assert not caught.value.is_retryable


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://other.example/x", "https://other.example/x"),
        ("/x", "https://shop.example/x"),
        ("x", "https://shop.example/a/x"),
        ("?x", "https://shop.example/a/b.jpg?x"),
        ("//other.example/x", "https://other.example/x"),
        ("ftp://other.example/x", "ftp://other.example/x"),
        ("/ü".encode().decode("latin-1"), "https://shop.example/ü"),
        ("/\xfc", "https://shop.example/ü"),
    ],
)
def test_a_redirect_leads_where_it_says(location: str, target: str) -> None:
    """Relative places are completed, UTF-8 and Latin-1 are told apart."""
    for status in (301, 302, 303, 307, 308):
        assert redirect_target(SOURCE, status, {"Location": location}) == target


@pytest.mark.parametrize(
    ("status", "location"),
    [(302, ""), (302, None), (300, "/x"), (304, "/x"), (305, "/x"), (200, "/x"), (404, "/x")],
)
def test_other_answers_redirect_nowhere(status: int, location: str | None) -> None:
    """A redirect needs both a status that means one and a place."""
    headers = {} if location is None else {"Location": location}
    assert redirect_target(SOURCE, status, headers) is None


def test_a_redirect_to_nonsense_is_an_invalid_url() -> None:
    """A place that can't be read at all fails as a bad URL does."""
    with pytest.raises(ImageError) as caught:
        redirect_target(SOURCE, 302, {"Location": "https://[::1/x"})
    assert caught.value.code == "invalid_url"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("999999999", MAX_RETRY_AFTER_SECONDS),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 9015 07:28:00 GMT", MAX_RETRY_AFTER_SECONDS),
        ("", None),
        ("-7", None),
        ("7.5", None),
        ("soon", None),
        ("9" * 40, None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str, seconds: float | None) -> None:
    """Seconds and dates count, the past is now, the far future is capped, the rest is nothing."""
    assert retry_after(value) == seconds


def test_retry_after_counts_down_to_its_date() -> None:
    """A date in the near future is so many seconds away."""
    date = datetime.now(UTC) + timedelta(seconds=90)
    seconds = retry_after(format_datetime(date, usegmt=True))
    assert seconds is not None
    assert 80 < seconds <= 90


@pytest.mark.parametrize(
    ("status", "code", "is_retryable"),
    [
        (404, "http_404", False),
        (204, "http_204", False),
        (206, "http_206", False),
        (304, "http_304", False),
        (408, "http_408", True),
        (425, "http_425", True),
        (429, "rate_limited", True),
        (503, "http_503", True),
    ],
)
def test_a_refusal_names_the_status(status: int, code: str, *, is_retryable: bool) -> None:
    """The status is in the code in full, and decides about another attempt."""
    error = refusal(status, {"Retry-After": "3"})
    assert (error.code, error.http_status, error.retry_after) == (code, status, 3.0)
    assert error.is_retryable is is_retryable


URL = "http://a/1.jpg"
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = "Mon, 07 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("name", "value", "is_kept"),
    [
        ("ETag", '"abc"', True),
        ("ETag", 'W/"1"', True),
        ("ETag", '""', True),
        ("ETag", f'"{"x" * 1000}"', True),
        ("ETag", f'"{"x" * 1001}"', False),
        ("ETag", "", False),
        ("ETag", "abc", False),
        ("ETag", "*", False),
        ("ETag", '"a", "b"', False),
        ("ETag", 'w/"1"', False),
        ("ETag", '"a b"', False),
        ("ETag", '"\x00"', False),
        ("ETag", '"a"\r\nCookie: b', False),
        ("ETag", '"a"\n', False),
        ("ETag", '"ü"', False),
        ("Last-Modified", DATE, True),
        ("Last-Modified", "", False),
        ("Last-Modified", f"{DATE}\n", False),
        ("Last-Modified", f"{DATE}, {DATE}", False),
        ("Last-Modified", "yesterday", False),
        ("Last-Modified", "Sunday, 06-Nov-94 08:49:37 GMT", False),
        ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 +0100", False),
        ("Last-Modified", "Sun, 99 Nov 1994 08:49:37 GMT", False),
        ("Last-Modified", "Sun, 06 Nov 1994 08:49:3٧ GMT", False),
    ],
)
def test_only_validators_of_the_right_form_are_kept(
    name: str, value: str, *, is_kept: bool
) -> None:
    """They are stored, and sent back in a header: nothing else may hide in them."""
    kept = value if is_kept else None
    expected = (URL, kept, None) if name == "ETag" else (URL, None, kept)
    assert validators(URL, {name: value, "Date": LATER}) == expected


@pytest.mark.parametrize(
    ("date", "is_kept"),
    [
        ("Sun, 06 Nov 1994 08:49:38 GMT", True),
        ("Sun, 06 Nov 1994 08:49:37 GMT", False),
        ("Sun, 06 Nov 1994 08:49:36 GMT", False),
        ("Sun, 06 Nov 1994 08:49:38 +0000", False),
        ("Sun, 99 Nov 1994 08:49:38 GMT", False),
        ("", False),
        (None, False),
    ],
)
def test_a_date_is_kept_when_its_second_is_over(date: str | None, *, is_kept: bool) -> None:
    """Within it the image could change again unnoticed."""
    headers = {"ETag": '"1"', "Last-Modified": DATE} | ({} if date is None else {"Date": date})
    assert validators(URL, headers) == (URL, '"1"', DATE if is_kept else None)


@pytest.mark.parametrize(
    ("known", "conditions"),
    [
        (Validators(URL, '"1"', DATE), {"If-None-Match": '"1"', "If-Modified-Since": DATE}),
        (Validators(URL, 'W/"1"', None), {"If-None-Match": 'W/"1"'}),
        (Validators(URL, None, DATE), {"If-Modified-Since": DATE}),
        (Validators(URL, None, None), {}),
    ],
)
def test_conditions_are_for_the_url_that_gave_the_validators(
    known: Validators, conditions: dict[str, str]
) -> None:
    """Another file's date or tag would say nothing, and be told to a stranger."""
    assert known.conditions(URL) == conditions
    assert known.conditions("http://a/2.jpg") == {}


@pytest.mark.parametrize(
    ("known", "headers", "agrees"),
    [
        (('"1"', DATE), {}, True),
        (('"1"', DATE), {"ETag": '"1"', "Last-Modified": DATE}, True),
        (('"1"', None), {"ETag": 'W/"1"'}, True),
        (('W/"1"', None), {"ETag": '"1"'}, True),
        (('"1"', DATE), {"ETag": '"1"', "Last-Modified": LATER}, True),
        (('"1"', DATE), {"ETag": '"2"', "Last-Modified": DATE}, False),
        (('"1"', None), {"ETag": 'W/"2"'}, False),
        (('W/"1"', None), {"ETag": '"2"'}, False),
        (('"1"', None), {"ETag": "no tag"}, False),
        ((None, DATE), {"ETag": '"2"', "Last-Modified": DATE}, True),
        ((None, DATE), {"ETag": '"2"', "Last-Modified": LATER}, False),
        (('"1"', DATE), {"Last-Modified": LATER}, False),
        (('"1"', None), {"Last-Modified": LATER}, True),
    ],
)
def test_a_304_has_to_be_about_the_state_that_is_known(
    known: tuple[str | None, str | None], headers: dict[str, str], *, agrees: bool
) -> None:
    """Of another state it says that this other one is unchanged."""
    assert Validators(URL, *known).agree(headers) is agrees
