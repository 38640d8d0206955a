"""The store in an S3 bucket, or any store that speaks its protocol.

Credentials, region and endpoint are those of the environment's `AWS_` variables. A bucket that
hangs holds a thread for a minute at most, an answer that keeps moving for an hour. Requests are
few: each method says how many it sends.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from content_types import FOREVER, content_type
from errors import first_line
from storage.stored_object import StoredObject, storage_error, storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import ExitStack

    from obstore import Attributes

CHUNK_BYTES: Final = 256 * 1024
CONNECT: Final = timedelta(seconds=5)
SILENCE: Final = timedelta(seconds=30)  # of a bucket, before and while it answers
LONGEST: Final = timedelta(hours=1)  # for one answer, as its reader may be slow
PROBE: Final = timedelta(seconds=5)  # clients wait for it
DELETED_AT_A_TIME: Final = 1000  # what one request of S3 takes
MARKER: Final = "static/.ready"  # what is asked for to see whether the bucket answers


class BucketStore:
    """Objects in a bucket, below a prefix. What `image_store` promises of them."""

    is_on_disk: Final = False
    threads: Final = 32

    def __init__(self, url: str) -> None:
        self._store = _connect(url, silence=SILENCE, longest=LONGEST, retries=3)
        self._probe = _connect(url, silence=PROBE, longest=PROBE, retries=1)
        self._is_written = False

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Store an object with its content type: one request, of an iterable three or more."""
        with _missing_bucket(), storage_errors():
            obstore.put(self._store, key, data, attributes=_attributes(key))

    def copy(self, source: str, target: str) -> None:
        """Have the bucket copy an object with its headers: one request."""
        with storage_errors():
            obstore.copy(self._store, source, target)

    def move(self, source: str, target: str) -> bool:
        """Copy an object, then delete it: two requests. In between it lies under both keys."""
        try:
            self.copy(source, target)
        except FileNotFoundError:
            return False
        self.delete(source)
        return True

    def sync(self, folder: str) -> None:
        """Do nothing: what a bucket has answered to is durable."""

    def delete(self, *keys: str) -> None:
        """Delete objects, a thousand by a request."""
        with _missing_bucket(), storage_errors():
            obstore.delete(self._store, keys)

    def delete_folder(self, folder: str) -> None:
        """Delete everything below a prefix: two requests for each thousand objects."""
        with storage_errors():
            for page in obstore.list(self._store, folder, chunk_size=DELETED_AT_A_TIME):
                self.delete(*(found["path"] for found in page))

    def list_keys(self, folder: str, start: str = "") -> Iterator[str]:
        """Yield the keys in a folder: a request for each thousand. A bucket lists in order."""
        wanted = folder + start
        with storage_errors():
            for page in obstore.list(self._store, folder, offset=wanted):
                for found in page:
                    if not found["path"].startswith(wanted):
                        return
                    yield found["path"]

    def open(self, key: str, closing: ExitStack) -> StoredObject | None:  # noqa: ARG002  # a disk's
        """Ask for size and tag: one request."""
        with storage_errors():
            try:
                meta = obstore.head(self._store, key)
            except FileNotFoundError:
                return None
        etag = str(meta["e_tag"]).strip('"')
        return StoredObject(key, meta["size"], etag, meta["last_modified"].timestamp())

    def read(self, file: StoredObject, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of what was opened, as it comes: one request, once it is read."""
        if start == end:
            return
        with storage_errors():
            answer = obstore.get(
                self._store,
                file.key,
                options={"range": (start, end), "if_match": f'"{file.etag}"'},
            )
            yield from answer.stream(CHUNK_BYTES)

    def has(self, key: str, size: int, sha256: str) -> bool:  # noqa: ARG002  # a disk's
        """Tell whether an object has this size: a bucket keeps checksums of its own."""
        with storage_errors():
            try:
                return obstore.head(self._store, key)["size"] == size
            except FileNotFoundError:
                return False

    def check(self) -> None:
        """Raise ImageError unless the bucket answers; its first call writes to it, too."""
        with _missing_bucket(), storage_errors():
            with suppress(FileNotFoundError):
                if self._is_written:
                    obstore.head(self._probe, MARKER)
                    return
            obstore.put(self._probe, MARKER, b"")
            self._is_written = True

    def signed_url(self, key: str, method: str, life: timedelta) -> str:
        """Return a URL by which anybody may GET or HEAD an object for a while: no request."""
        with storage_errors():
            return obstore.sign(self._store, "HEAD" if method == "HEAD" else "GET", key, life)


def _connect(url: str, *, silence: timedelta, longest: timedelta, retries: int) -> S3Store:
    """Return a client of the bucket. Raises ValueError for what can't be one."""
    try:
        return S3Store.from_url(
            url,
            client_options={
                "allow_http": True,  # the endpoint says whether
                "connect_timeout": CONNECT,
                "read_timeout": silence,
                "timeout": longest,
            },
            retry_config={
                "max_retries": retries,
                "retry_timeout": min(silence, timedelta(seconds=20)),
                "backoff": {"max_backoff": timedelta(seconds=2)},
            },
        )
    except BaseError as error:
        raise ValueError(first_line(str(error))) from None


@contextmanager
def _missing_bucket() -> Iterator[None]:
    """Name the one thing that is not found when something is written."""
    try:
        yield
    except FileNotFoundError as error:
        raise storage_error("there is no bucket of this name") from error


def _attributes(key: str) -> Attributes:
    """Return the headers that those get who are sent to the bucket."""
    attributes: dict[Any, str] = {"Content-Type": content_type(key)}
    if key.startswith("uploads/"):
        attributes["Cache-Control"] = FOREVER
    return attributes
