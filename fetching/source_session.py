"""How origins are asked: over connections that are kept, of URL and conditions alone.

Owns what a request says, and which habits of the library's are switched off. It knows nothing of
environment, cookies, credentials and redirects. Connections are `source_connection`'s, redirects
and bodies `image_downloader`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from urllib3 import PoolManager

from fetching.source_connection import POOL_CLASSES
from service_version import VERSION

if TYPE_CHECKING:
    import ssl

    from urllib3.response import BaseHTTPResponse

    from address_policy import SourceUrl

USER_AGENT = f"csv-image-compressor/{VERSION}"  # RFC 9110 section 10.1.5
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
HOSTS_KEPT = 32  # whose idle connections are kept


class Session:
    """Asks for many threads at once; `connections` is how many idle ones are kept to a host."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._pools = PoolManager(HOSTS_KEPT, maxsize=connections, ssl_context=context)
        self._pools.pool_classes_by_scheme = POOL_CLASSES

    def fetch(self, source: SourceUrl, conditions: dict[str, str]) -> BaseHTTPResponse:
        """Ask for a source, on conditions (RFC 9110 section 13); return the head of what answers.

        The caller closes it, which keeps the connection if the body was read. Raises urllib3's
        HTTPError.
        """
        pool = self._pools.connection_from_host(source.host, source.port, source.scheme)
        return pool.urlopen(
            "GET",
            source.target,
            headers=_HEADERS | conditions,
            retries=False,
            redirect=False,
            assert_same_host=False,  # it would parse the URL once more
            preload_content=False,
            decode_content=False,
        )

    def close(self) -> None:
        """Close the idle connections."""
        self._pools.clear()
