"""How origins are asked: requests over connections that are kept, of URL and conditions alone.

Owns what a request says and doesn't say, and which libraries' habits are switched off.
Connections are `source_connection`'s, redirects and bodies `image_downloader`'s.
"""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter

from fetching.source_connection import POOL_CLASSES

if TYPE_CHECKING:
    import ssl

    from address_policy import SourceUrl

USER_AGENT = "csv-image-compressor/0.1.0"  # RFC 9110 section 10.1.5
HOSTS_KEPT = 32  # whose idle connections are kept


class Session(requests.Session):
    """Knows nothing of environment, cookies, credentials and redirects.

    `connections` is how many idle ones are kept to a host.
    """

    def __init__(self, context: ssl.SSLContext, connections: int, user_agent: str) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers.clear()
        self.headers.update(
            {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        )
        adapter = _Adapter(context, connections)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def fetch(self, source: SourceUrl, conditions: dict[str, str]) -> requests.Response:
        """Ask for a source, on conditions (RFC 9110 section 13); return the head of what answers.

        Raises RequestException.
        """
        request = self.prepare_request(requests.Request("GET", source.url, conditions))
        request.url = source.url  # as it was judged, without another normalisation
        return self.send(request, stream=True, allow_redirects=False)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return nothing: otherwise requests reads the whole body of a redirect, however large."""


class _Adapter(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=HOSTS_KEPT, pool_maxsize=connections)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,  # noqa: FBT001, FBT002  # the signature is requests'
        **pool_kwargs: Any,
    ) -> None:
        super().init_poolmanager(
            connections, maxsize, block, ssl_context=self._context, **pool_kwargs
        )
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def cert_verify(self, *args: Any) -> None:
        # The context verifies; requests would read the CA bundle again for each connection.
        pass
