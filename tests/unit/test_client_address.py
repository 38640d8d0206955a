"""Whose request it is, behind proxies and without."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from client_address import client_address, network_of

TRUSTED = [ip_network("127.0.0.0/8"), ip_network("::1"), ip_network("10.0.0.0/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),  # a stranger tells nothing
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),  # the first is the client's own
        ("127.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["6.6.6.6, 198.51.100.1, 10.1.2.3"], "198.51.100.1"),  # two proxies
        ("127.0.0.1", ["10.9.9.9, 10.1.2.3"], "10.9.9.9"),  # a client within the trusted net
        ("127.0.0.1", ["127.0.0.1, 198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["nonsense"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1, nonsense, 10.1.2.3"], "10.1.2.3"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1:5555"], "198.51.100.1"),
        ("127.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("127.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("127.0.0.1", ["[2001:db8::1"], "127.0.0.1"),
        ("fe80::1%eth0", [], "fe80::1"),
    ],
)
def test_the_nearest_stranger_is_the_client(
    peer: str, forwarded_for: list[str], client: str
) -> None:
    """What proxies of ours have written counts, what stands before it doesn't."""
    assert client_address(peer, forwarded_for, TRUSTED) == ip_address(client)


def test_without_trust_only_the_peer_counts() -> None:
    """Then nobody's header does."""
    assert client_address("127.0.0.1", ["198.51.100.1"], []) == ip_address("127.0.0.1")


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
    ],
)
def test_an_ipv6_site_is_one_client(address: str, client: str) -> None:
    """It has 2^64 addresses to ask from."""
    assert network_of(ip_address(address)) == client
