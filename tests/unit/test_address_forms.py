"""Every spelling of an address that a stranger may try, as the text of a URL.

Judged as a download is: the URL is read, its host looked up (here in a table) and every address
approved. `test_address_policy` judges bare addresses.
"""

from __future__ import annotations

import pytest

from address_policy import AddressPolicy
from errors import ImageError
from tests.address_forms import (
    ADDRESSES,
    BLOCKED_HOSTS,
    BLOCKED_URLS,
    INVALID_URLS,
    ORDINARY_URLS,
)


def judge(url: str) -> str:
    """Return `fetched`, or the code that an image with this URL fails with."""
    policy = AddressPolicy()
    try:
        source = policy.check_url(url)
        is_literal = ":" in source.host or source.host.replace(".", "").isdigit()
        public = [source.host] if is_literal else ["93.184.216.34"]
        policy.approve(source, ADDRESSES.get(source.host, public))
    except ImageError as error:
        return error.code
    return "fetched"


def test_the_tables_are_as_long_as_promised() -> None:
    """Hundreds of forms that are refused, dozens that are not, each once."""
    refused = [*(f"http://{host}/a.jpg" for host in BLOCKED_HOSTS), *BLOCKED_URLS, *INVALID_URLS]
    assert len(set(refused)) == len(refused) >= 300
    assert len(set(ORDINARY_URLS)) == len(ORDINARY_URLS) >= 70


@pytest.mark.parametrize(
    "url", [*(f"http://{host}/a.jpg" for host in BLOCKED_HOSTS), *BLOCKED_URLS]
)
def test_no_spelling_opens_an_address_that_is_not_public(url: str) -> None:
    """Numbers in any base and shape, wide and circled digits, IPv4 inside IPv6, userinfo, names."""
    assert judge(url) == "blocked_address"


@pytest.mark.parametrize("url", INVALID_URLS)
def test_what_parsers_read_differently_is_not_read_at_all(url: str) -> None:
    """Where one would find a private host and another none, there is no URL."""
    assert judge(url) == "invalid_url"


@pytest.mark.parametrize("url", ORDINARY_URLS)
def test_what_shops_really_write_is_fetched(url: str) -> None:
    """Ordinary hosts, international ones and public addresses pass, however they look."""
    assert judge(url) == "fetched"
