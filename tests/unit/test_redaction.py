"""What is shown of URLs with credentials, and of those without."""

from __future__ import annotations

import pytest

from redaction import redact, redact_url


@pytest.mark.parametrize(
    "start",
    ["http://", "HTTPS://", "http:/", "http:///", "//", "http:\\\\", "http:\\", "postgresql://"],
)
@pytest.mark.parametrize(
    "secret",
    ["me:pw", "me:a#b", "me:a?b", "me:a/b", "me:a\\b", "me:a@b", "", "pw", "me:\u00a0", "é"],
)
def test_credentials_are_hidden(start: str, secret: str) -> None:
    """However they were written, and whatever parsers would make of it."""
    shown = f"{start}***@shop.example/a"
    url = f"{start}{secret}@shop.example/a"
    assert redact_url(url) == shown
    assert redact(f"GET {url} failed") == f"GET {shown} failed"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:my secret@shop.example/a", "http://***@shop.example/a"),
        (" http://me: @shop.example/a", " http://***@shop.example/a"),
        ("http:me:pw@shop.example", "http:***@shop.example"),
        ("me:p//w@shop.example", "***@shop.example"),
        ("h\tttp://me:pw@shop.example", "***@shop.example"),
        ("http://me:pw@shop.example/a@2x.jpg", "http://***@2x.jpg"),
        ("http://shop.example/?u=http://me:pw@a.b/", "http://shop.example/?u=http://***@a.b/"),
    ],
)
def test_credentials_of_a_single_url_are_hidden(url: str, shown: str) -> None:
    """Where the whole text is meant as one URL, spaces are no end of it."""
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/a@2x.jpg",
        "https://shop.example:8443/a@2x.jpg",
        "http://127.0.0.1:8000/a@2x.jpg",
        "http://shop.example?mail=a@b",
        "//cdn.example/@a",
        "shop.example/a",
    ],
)
def test_what_has_no_credentials_is_shown(url: str) -> None:
    """An @ behind a host of several labels is part of a path."""
    assert redact(f"GET {url} failed") == f"GET {url} failed"
    if not url.startswith("//"):
        assert redact_url(url) == url


def test_hiding_takes_no_time_to_speak_of() -> None:
    """A text of a megabyte, made to be searched again and again, is searched once."""
    for piece in ("/", "://", "a.", "//a.b/", "://a"):
        text = piece * 250_000
        assert redact(f"{text}@").endswith("@")
        assert redact_url(f"{text}@").endswith("@")
