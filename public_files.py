"""Where clients are sent for an output image: nowhere, to the bucket itself, or to another server.

`PUBLIC_FILES_URL` says which. That the image exists was looked at before.
"""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from httpd.http_protocol import Response
from settings import SIGNED
from storage.bucket_store import BucketStore

if TYPE_CHECKING:
    from storage.image_store import ImageStore

LIFE: Final = timedelta(hours=1)  # of a signed URL
KEPT_SECONDS: Final = 300  # by a client that was sent elsewhere; far less than that life


class PublicFiles:
    """Makes the redirects to the images' public URLs, where there are any. Shared by threads."""

    def __init__(self, public_files_url: str | None, store: ImageStore) -> None:
        self._base_url = public_files_url
        self._bucket = None
        if public_files_url == SIGNED and isinstance(store, BucketStore):
            self._bucket = store

    def redirect(self, key: str, method: str, headers: dict[str, str]) -> Response | None:
        """Return the answer that sends a client to an image, or None: it gets the image here."""
        url = self._url(key, method)
        if url is None:
            return None
        kept = {"Cache-Control": f"public, max-age={KEPT_SECONDS}"}
        return Response(HTTPStatus.TEMPORARY_REDIRECT, b"", {"Location": url} | kept | headers)

    def _url(self, key: str, method: str) -> str | None:
        if self._bucket:
            return self._bucket.signed_url(key, method, LIFE)
        return self._base_url and f"{self._base_url}/{key}"
