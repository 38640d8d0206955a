"""Whether a URL may be fetched, and an address reached for it.

Owns the reading of strangers' URLs and the judgement of addresses. Opens no socket and asks
no resolver: `source_connection` looks the host up, has every address approved here, and
connects to what was approved.

The URL that comes out is plain ASCII with one meaning, so that every later parser finds the
very host that was judged.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import quote

import idna

from errors import ErrorCode, ImageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

MAX_URL_CHARACTERS = 8192  # few origins take longer ones
DEFAULT_PORTS = {"http": 80, "https": 443}

_MAX_HOST_CHARACTERS = 253  # RFC 1035 section 2.3.4, without the root's dot
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # and what no URL can encode
_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+)(?::([0-9]{0,5}))?")
_MISREAD = re.compile(r"[\s\\]")
_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PATH_SAFE = "/:@!$&'()*+,;=%"  # RFC 3986 section 3.3; the unreserved ones are safe anyway
_QUERY_SAFE = _PATH_SAFE + "?"

# Reached by no URL whatever the settings allow: they hand out a machine's credentials.
_METADATA = tuple(
    ip_network(network)
    for network in (
        "169.254.0.0/16",  # 169.254.169.254 of nearly all clouds, 169.254.170.2 of containers
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure; a public address otherwise
        "192.0.0.192/32",  # Oracle
        "fe80::a9fe:a9fe/128",  # OpenStack
        "fd00:a9fe:a9fe::/48",  # Akamai
        "fd00:c1::a9fe:a9fe/128",  # Oracle
        "fd00:ec2::/32",  # Amazon
        "fd20:ce::254/128",  # Google
        "fd00:42::42/128",  # Scaleway
    )
)

# The special-purpose registries of IANA (RFC 6890), for IPv6 within _GLOBAL_UNICAST. Our own
# list: what `is_global` says differs from one release of Python to another.
_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by customers of a carrier
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host agent
        "169.254.0.0/16",  # link-local
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the broadcast address
        "2001::/23",  # IETF protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation, RFC 9637
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that has been given out of IPv6

# IPv4 inside IPv6: where, and how far to shift it down.
_MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")  # RFC 8215
_TEREDO = IPv6Network("2001::/32")  # RFC 4380
_EMBEDDINGS = (
    (_MAPPED, 0),
    (_NAT64, 0),
    (_NAT64_LOCAL, 0),
    (_TEREDO, 64),  # the server; the client stands inverted in the low bits
    (IPv6Network("::/96"), 0),  # compatible, RFC 4291
    (IPv6Network("::ffff:0:0:0/96"), 0),  # translated, RFC 7915
    (IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
)
_ISATAP = 0x5EFE  # RFC 5214: the interface identifier's upper half, but for the u and g bits


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """An http(s) URL in the one form that we fetch, without credentials and fragment.

    `host` is lower-case ASCII (IDNA) or an address without brackets, `port` always a number.
    """

    url: str
    scheme: str
    host: str
    port: int

    @property
    def target(self) -> str:
        """Path and query, as a request names them."""
        return "/" + self.url.split("/", 3)[3]


def parse_source_url(url: str) -> SourceUrl:
    """Read a stranger's URL.

    Spaces around it don't count; what a URL can't hold is percent-encoded in path and query;
    an IPv4 address in an odd form (octal, hexadecimal, short) is written out. Credentials are
    dropped and never stand in an error. Raises ImageError `invalid_url`.
    """
    text = url.strip(" ")
    if len(text) > MAX_URL_CHARACTERS:
        raise _invalid(f"The URL is longer than {MAX_URL_CHARACTERS} characters.")
    if _CONTROL.search(text):
        raise _invalid("The URL contains a control character.")
    parts = _URL.fullmatch(text)
    if not parts:
        raise _invalid("The URL does not start with http:// or https://.")
    scheme, authority, path, query = parts[1].lower(), parts[2], parts[3], parts[4]
    host, port = _parse_authority(authority)
    port = port or DEFAULT_PORTS[scheme]
    normal = f"{scheme}://{_netloc(host, port, scheme)}{_encode_target(path, query)}"
    if len(normal) > MAX_URL_CHARACTERS:
        raise _invalid(f"The URL is longer than {MAX_URL_CHARACTERS} characters when encoded.")
    return SourceUrl(url=normal, scheme=scheme, host=host, port=port)


class AddressPolicy:
    """Which sources may be fetched; one immutable value, shared by all threads.

    `allowed_sources` are exact "host:port" strings (an IPv6 address in brackets) that are
    fetched although their address is not public, cloud metadata addresses excepted. `ports`
    are those that any other URL may name. Raises ValueError for an allowed source of another
    form, or one that names a metadata address.
    """

    def __init__(
        self, *, allowed_sources: Collection[str] = (), ports: Collection[int] = (80, 443)
    ) -> None:
        self._allowed = frozenset(map(parse_allowed_source, allowed_sources))
        self._ports = frozenset(ports)

    def check_url(self, url: str) -> SourceUrl:
        """Read the URL and judge what can be judged without a resolver.

        Raises ImageError `invalid_url`, or `blocked_address` for a port or a literal address.
        """
        source = parse_source_url(url)
        if source.port not in self._ports and not self._is_allowed(source):
            raise ImageError(
                ErrorCode.BLOCKED_ADDRESS,
                f"The URL names port {source.port}, which this service does not connect to.",
            )
        if _parse_address(source.host):
            self.approve(source, [source.host])
        return source

    def approve(self, source: SourceUrl, addresses: Sequence[str]) -> list[str]:
        """Return the addresses of the source's host that may be connected to, in their order.

        One bad address condemns them all: a host that has a public and a private one is
        playing games. Raises ImageError `blocked_address`.
        """
        approved = []
        for text in addresses:
            address = _parse_address(text)
            if (
                address is None
                or _is_metadata(address)
                or not (_is_public(address) or self._is_allowed(source))
            ):
                raise ImageError(
                    ErrorCode.BLOCKED_ADDRESS,
                    f"{source.host} has an address that is not a public one.",
                )
            approved.append(str(address))
        return approved

    def _is_allowed(self, source: SourceUrl) -> bool:
        return (source.host, source.port) in self._allowed


def _invalid(detail: str) -> ImageError:
    return ImageError(ErrorCode.INVALID_URL, detail)


def _parse_authority(authority: str) -> tuple[str, int | None]:
    # Parsers disagree on a backslash: some end the host there, some don't; and on white space.
    parts = _HOST_AND_PORT.fullmatch(authority.rpartition("@")[2])
    if not parts or _MISREAD.search(authority):
        raise _invalid("The URL has no valid host and port.")
    if not parts[2]:
        return _parse_host(parts[1]), None
    port = int(parts[2])
    if not 1 <= port <= 65535:
        raise _invalid("The URL has a port that is not from 1 to 65535.")
    return _parse_host(parts[1]), port


def _parse_host(text: str) -> str:
    if text.startswith("["):
        address = _parse_address(text[1:-1])
        if not isinstance(address, IPv6Address):
            raise _invalid("The URL has no valid address between its brackets.")
        return str(address)
    host = _to_ascii(text).lower().removesuffix(".")
    if len(host) > _MAX_HOST_CHARACTERS or not _HOST_NAME.fullmatch(host):
        raise _invalid("The URL has no valid host.")
    return _write_out_ipv4(host)


def _to_ascii(host: str) -> str:
    # UTS 46 is what browsers do: it also makes ASCII digits and dots of their wide forms.
    if host.isascii():
        return host
    if len(host) > _MAX_HOST_CHARACTERS:
        raise _invalid("The URL has no valid host.")
    return _encode_international(host)


@lru_cache(maxsize=1024)  # many URLs of a CSV have one host, and this takes longer than all else
def _encode_international(host: str) -> str:
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError:
        raise _invalid("The URL has no valid international host.") from None


def _write_out_ipv4(host: str) -> str:
    # The resolver reads numbers as inet_aton does, so ask inet_aton itself.
    try:
        return str(IPv4Address(socket.inet_aton(host)))
    except OSError:
        pass
    if _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
        raise _invalid("The URL has a number for a host that is no address.")
    return host


def _netloc(host: str, port: int, scheme: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == DEFAULT_PORTS[scheme] else f"{name}:{port}"


def _encode_target(path: str, query: str | None) -> str:
    # A backslash in the path is a slash to every browser that the URL was tried in.
    target = quote(_BARE_PERCENT.sub("%25", path.replace("\\", "/")) or "/", safe=_PATH_SAFE)
    if query:
        target += "?" + quote(_BARE_PERCENT.sub("%25", query), safe=_QUERY_SAFE)
    return target


def parse_allowed_source(text: str) -> tuple[str, int]:
    """Read the `host:port` of an address that may be fetched though it is not public.

    Raises ValueError, in words for the operator.
    """
    try:
        host, port = _parse_authority(text.strip())
    except ImageError:
        port = None
    if port is None or "@" in text:
        raise ValueError(f"{text[:100]!r} is not host:port")
    address = _parse_address(host)
    if address and _is_metadata(address):
        raise ValueError(f"{text[:100]!r} is a cloud metadata address, which is never fetched")
    return host, port


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    is_scoped = isinstance(address, IPv6Address) and address.scope_id is not None
    return None if is_scoped else address


def _is_metadata(address: IPv4Address | IPv6Address) -> bool:
    forms = [address, *_embedded_ipv4(address)]
    return any(form in network for form in forms for network in _METADATA)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    embedded = _embedded_ipv4(address)
    if address in _MAPPED or address in _NAT64:
        return all(map(_is_public, embedded))
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    is_special = any(address in network for network in _NOT_PUBLIC)
    return not is_special and all(map(_is_public, embedded))


def _embedded_ipv4(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    if isinstance(address, IPv4Address):
        return []
    bits = int(address)
    found = [bits >> shift for network, shift in _EMBEDDINGS if address in network]
    if address in _TEREDO:
        found.append(~bits)
    if address in _NAT64_LOCAL:  # RFC 6052 section 2.2: octet 8 is empty, the address around it
        squeezed = (bits >> 64 << 56) | (bits & (1 << 56) - 1)
        found += [squeezed >> 40, squeezed >> 32, squeezed >> 24]
    if (bits >> 32) & 0xFCFF_FFFF == _ISATAP:
        found.append(bits)
    return [IPv4Address(value & 0xFFFF_FFFF) for value in found]
