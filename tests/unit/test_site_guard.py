"""Which names and pages a service without keys listens to."""

from __future__ import annotations

from email.message import Message

import pytest

from errors import HttpError
from site_guard import SiteGuard

GUARD = SiteGuard(["https://images.example.com/shop", "http://127.0.0.1:8000"])


def refusal(**headers: str) -> int:
    """Return the status that a request with these headers gets, 0 for none."""
    message = Message()
    for name, value in headers.items():
        message[name] = value
    try:
        GUARD.check(message)
    except HttpError as error:
        return error.status
    return 0


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "localhost:8000",
        "LOCALHOST:8000",
        "shop.localhost:8000",
        "127.0.0.1:8000",
        "192.0.2.1",
        "[::1]:8000",
        "[2001:db8::1]",
        "images.example.com",
        "Images.Example.Com.",
        "images.example.com:443",
        "server",  # of a composition of containers
        "server:8000",
    ],
)
def test_own_names_are_answered(host: str) -> None:
    """Addresses, names that nobody on the internet can have, and that of PUBLIC_URL."""
    assert refusal(Host=host) == 0


@pytest.mark.parametrize(
    "host",
    [
        "rebind.evil.example",
        "rebind.evil.example:8000",
        "images.example.com.evil.example",
        "evil-images.example.com",
        "127.0.0.1.evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1:8000.evil.example",
        "127.0.0.1@evil.example",
        "example.com",
        "localhost.localdomain",
    ],
)
def test_a_foreign_name_is_refused(host: str) -> None:
    """It may have been made to point here, by whoever owns it."""
    assert refusal(Host=host) == 421


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:9000", "http://localhost:9000"),
        ("images.example.com", "https://images.example.com"),
        ("10.0.0.1:8000", "https://images.example.com"),  # a proxy that asks by address
    ],
)
def test_the_own_page_may_ask(host: str, origin: str) -> None:
    """Under whichever of the own names the browser found it."""
    assert refusal(Host=host, Origin=origin) == 0


@pytest.mark.parametrize(
    "origin",
    [
        "null",  # a sandboxed frame, a local file
        "https://evil.example",
        "http://127.0.0.1:8001",
        "http://127.0.0.1",
        "http://127.0.0.1:8000.evil.example",
        "https://images.example.com.evil.example",
        "http://images.example.com",
        "file://",
    ],
)
def test_another_page_may_not(origin: str) -> None:
    """Whatever address it sends its form to."""
    assert refusal(Host="127.0.0.1:8000", Origin=origin) == 403
