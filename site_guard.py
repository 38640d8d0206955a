"""Keeps other people's web pages away from a service that asks for no key. Pure.

A browser on the service's machine or net sends for any page that it shows: to this service under a
foreign name that was made to point here (DNS rebinding), or straight to its address with a form
(cross-site request forgery). The first is known by `Host`, the second by `Origin`; neither can
be set by a page. With keys there is nothing to guard: a page doesn't know them.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from email.message import Message

_PORT: Final = re.compile(r":[0-9]*$")


class SiteGuard:
    """Knows what the service is called: `urls` are those under which it is reached."""

    def __init__(self, urls: Iterable[str]) -> None:
        sites = [urlsplit(url.lower()) for url in urls]
        self._names = {site.hostname for site in sites}
        self._origins = {f"{site.scheme}://{site.netloc}" for site in sites}

    def check(self, headers: Message) -> None:
        """Raise HttpError 421 for a request to another site's name, 403 for another page's."""
        host = headers.get("Host", "").strip().lower()
        if not self._is_own_name(_PORT.sub("", host).removesuffix(".")):
            raise HttpError(
                HTTPStatus.MISDIRECTED_REQUEST,
                "the service is not known under this name; if it is yours, set PUBLIC_URL to it",
            )
        origin = headers.get("Origin", "").strip().lower()
        if origin and origin not in {*self._origins, f"http://{host}", f"https://{host}"}:
            raise HttpError(
                HTTPStatus.FORBIDDEN,
                "web pages of other sites may not use this service; if this one is its own, "
                "set PUBLIC_URL to where it is found",
            )

    def _is_own_name(self, name: str) -> bool:
        # A name without a dot is nobody's on the internet: no stranger can make it point here.
        return "." not in name.removesuffix(".localhost") or name in self._names or _is_ip(name)


def _is_ip(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
