"""Targets: a second opinion on URLs and addresses: what `address_policy` lets pass, others must too."""

from __future__ import annotations

import http.client
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import requests
from urllib3.util import parse_url

from address_policy import (
    DEFAULT_PORTS,
    AddressPolicy,
    SourceUrl,
    parse_source_url,
)
from errors import ErrorCode, ImageError
from redaction import redact, redact_url
from tests.fuzz.promises import any_text

if TYPE_CHECKING:
    from collections.abc import Sequence

POLICY: Final = AddressPolicy()
_ALLOWED: Final = SourceUrl("http://shop.internal:9000/", "http", "shop.internal", 9000)
_ALLOWING: Final = AddressPolicy(allowed_sources=["shop.internal:9000"])
_PUBLIC: Final = SourceUrl("http://shop.test/", "http", "shop.test", 80)
_METADATA: Final = [
    ip_network(text)
    for text in ("169.254.0.0/16", "100.100.100.200", "168.63.129.16", "192.0.0.192")
] + [ip_network(text) for text in ("fd00:ec2::254", "fd20:ce::254", "fd00:42::42")]


def source_url(data: bytes) -> None:
    """Read a URL: every parser finds the very host that was judged, and nobody is shown a password."""
    text = any_text(data)
    check_url(text)
    _check_redaction(text)


def addresses(data: bytes) -> None:
    """Approve addresses, as text in lines or packed: none that another judge calls private."""
    _check_approved(any_text(data).split("\n"))
    if len(data) in {4, 16}:
        _check_approved([str(ip_address(data))])


def check_url(text: str) -> None:
    """Read a URL and hold the result against every parser that meets it later."""
    try:
        source = POLICY.check_url(text)
    except ImageError as error:
        _check_refusal(error, ErrorCode.INVALID_URL, ErrorCode.BLOCKED_ADDRESS)
        return
    assert source.url.isascii()
    assert source.url.isprintable()
    assert " " not in source.url
    assert POLICY.check_url(source.url) == source
    assert parse_source_url(f" {source.url} ") == source
    _check_standard_library(source)
    _check_urllib3(source)
    _check_requests(source)
    _check_host(source.host)


def _check_redaction(text: str) -> None:
    """Show a URL, and one with the text for a password: nothing of the userinfo is left."""
    with suppress(ValueError):  # of what is no URL to it either
        parts = urlsplit(redact_url(text))
        assert (parts.username or "***").lstrip("\\") == "***"  # a further slash to others
        assert parts.password is None
    for start in ("http://", "https:/", "//", "http:\\\\", "ftp://"):
        url, shown = f"{start}me:{text}@shop.test/", f"{start}***@shop.test/"
        assert redact_url(url) == shown
        assert redact(url) == shown or any(space in text for space in " \t\r\n")


def _check_refusal(error: ImageError, *codes: ErrorCode) -> None:
    assert error.code in codes
    assert error.detail.encode()


def _check_standard_library(source: SourceUrl) -> None:
    parts = urlsplit(source.url)
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    assert (parts.scheme, parts.hostname, port) == (source.scheme, source.host, source.port)
    assert parts.username is parts.password is None
    assert not parts.fragment
    connection = http.client.HTTPConnection(parts.netloc)
    default = (
        connection.port == http.client.HTTP_PORT and ":" not in parts.netloc.rpartition("]")[2]
    )
    assert connection.host == source.host
    assert connection.port == source.port or default
    connection._validate_path(source.url.partition(parts.netloc)[2])  # type: ignore[attr-defined]


def _check_urllib3(source: SourceUrl) -> None:
    parts = parse_url(source.url)
    assert parts.scheme == source.scheme
    assert (parts.host or "").strip("[]") == source.host
    assert (parts.port or DEFAULT_PORTS[source.scheme]) == source.port
    assert parts.auth is None
    assert parts.fragment is None


def _check_requests(source: SourceUrl) -> None:
    prepared = requests.Request("GET", source.url).prepare()
    assert prepared.url
    assert parse_source_url(prepared.url) == parse_source_url(source.url) or (
        urlsplit(prepared.url).netloc == urlsplit(source.url).netloc
    )


def _check_host(host: str) -> None:
    """Find no address in a host but the one that was judged."""
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if isinstance(address, IPv6Address):
        assert socket.inet_pton(socket.AF_INET6, host) == address.packed
    else:
        try:
            packed = socket.inet_aton(host)  # as the resolver reads it
        except OSError:
            packed = None
        assert packed == (address.packed if address else None)
    if address:
        _judge(address)


def _check_approved(texts: Sequence[str]) -> None:
    """Have addresses approved and judge again each that was."""
    for policy, source in ((POLICY, _PUBLIC), (_ALLOWING, _ALLOWED)):
        try:
            approved = policy.approve(source, texts)
        except ImageError as error:
            _check_refusal(error, ErrorCode.BLOCKED_ADDRESS)
            continue
        assert approved == [str(ip_address(text)) for text in texts]
        for address in map(ip_address, approved):
            assert not _is_metadata(address)
            if policy is POLICY:
                _judge(address)


def _judge(address: IPv4Address | IPv6Address) -> None:
    """Demand that an address is a public one by Python's own tables, with what is in it."""
    assert not _is_metadata(address)
    inner = _inner(address)
    assert all(one.is_global and not one.is_multicast for one in inner)
    if inner and address in _TRANSLATED:
        return
    assert address.is_global
    assert not any([address.is_multicast, address.is_reserved, address.is_private])
    assert not getattr(address, "is_site_local", False)


def _is_metadata(address: IPv4Address | IPv6Address) -> bool:
    return any(one in network for one in (address, *_inner(address)) for network in _METADATA)


_NAT64: Final = ip_network("64:ff9b::/96")


class _Translated:
    """Where an IPv6 address is only another form of an IPv4 one."""

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv6Address) and bool(address.ipv4_mapped or address in _NAT64)


_TRANSLATED: Final = _Translated()


def _inner(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses within an IPv6 address, by the standard library where it knows."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    last = IPv4Address(address.packed[12:])
    if address in _NAT64 or not any(address.packed[:8] + address.packed[10:12]):
        found.append(last)
    if address.packed[8:12] in {bytes.fromhex("00005efe"), bytes.fromhex("02005efe")}:
        found.append(last)
    return [one for one in found if one]
