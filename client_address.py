"""Whose request it is: the address behind the proxies that are trusted to tell it. Pure.

A proxy appends the address that it was called from to `X-Forwarded-For`, so the header is read
from its end, for as long as those who wrote are trusted: what a stranger put in front counts
for nothing.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from ipaddress import IPv4Network

    Network = IPv4Network | IPv6Network

# Some proxies tell the port as well.
_HOST: Final = re.compile(r"\[([^\]]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+|(.*)")


def client_address(
    peer: str, forwarded_for: Iterable[str], trusted: Collection[Network]
) -> IPv4Address | IPv6Address:
    """Return the nearest address that is not a trusted proxy's; the peer's where none is told.

    `forwarded_for` are the values of `X-Forwarded-For` in their order.
    """
    address = _parse(peer) or IPv4Address(0)
    told = [part for value in forwarded_for for part in value.split(",")]
    while told and any(address in network for network in trusted):
        before = _parse(told.pop())
        if before is None:
            break
        address = before
    return address


def network_of(address: IPv4Address | IPv6Address) -> str:
    """Return what stands for one client: an IPv4 address, or the /64 that IPv6 gives to a site."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    match = _HOST.fullmatch(text.strip())
    host = (match[1] or match[2] or match[3]) if match else ""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
