"""Output images between an attempt and the world: staged, then published by the row's commit.

An attempt stages its file under a key of its own. Recording the outcome makes the row name that
attempt; only then the file is moved to where it is served. Whoever finds a staged file whose row
names it may publish it, once or twice; one that no row can name any more is deleted. So a file
is visible only when its row says so, and a worker that was stopped past its lease puts nothing
over what another has made.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from errors import ImageError
from image_queue import ImageState
from request_queue import select_deleted
from request_rows import select_image_fences
from storage.storage_keys import STAGED_IMAGES, StagedImage, image_folder, published_image_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from codec.compressed_image import CompressedImage
    from database_helper import Database
    from image_queue import ClaimedImage
    from storage.image_store import ImageStore
    from storage.stored_object import StoredObject

SETTLED_AT_A_TIME: Final = 1000


class OutputFiles:
    """The output images in the store. Shared by threads; every method blocks."""

    def __init__(self, database: Database, store: ImageStore) -> None:
        self._database = database
        self._store = store

    @property
    def threads(self) -> int:
        """How many threads should wait for the store at a time."""
        return self._store.threads

    def stage(self, image: ClaimedImage, compressed: CompressedImage) -> str:
        """Store an output durably, to be published; return its SHA-256.

        Raises ImageError `storage_error`.
        """
        staged = StagedImage.of(image.request_id, image.n, image.fence, compressed.format)
        self._store.put(staged.key, compressed.data)
        return hashlib.sha256(compressed.data).hexdigest()

    def stage_copy(self, image: ClaimedImage, twin: StagedImage, size: int, sha256: str) -> None:
        """Stage what the ended `twin` has, as its row describes it, as the output of another image.

        On disk both are names of one file. Raises ImageError `storage_error`, and FileNotFoundError
        when there is no such file, be it that the twin was deleted or the file damaged.
        """
        copy = StagedImage(image.request_id, image.n, image.fence, twin.extension)
        try:
            self._store.copy(twin.published_key, copy.key)
        except FileNotFoundError:  # its row names it, but it is not moved yet
            self.publish(twin)
            self._store.copy(twin.published_key, copy.key)
        if not self._store.has(copy.key, size, sha256):
            self._store.delete(copy.key)
            raise FileNotFoundError(copy.key)

    def publish(self, staged: StagedImage) -> None:
        """Move a staged file, which its row names, to where it is served."""
        self._store.move(staged.key, staged.published_key)

    def open(
        self,
        request_id: str,
        n: int,
        extension: str,
        closing: ExitStack,
        before_waiting: Callable[[], None] = lambda: None,
    ) -> StoredObject | None:
        """Return an output image that may be served until `closing` is closed, or None.

        Before it asks the database it calls `before_waiting`.
        """
        published = published_image_key(request_id, n, extension)
        file = self._store.open(published, closing)
        if file is None:
            before_waiting()
            if staged := self._find_named(request_id, n, extension):
                self.publish(staged)
                file = self._store.open(published, closing)
        return file

    def settle(self, request_id: str = "") -> None:
        """Publish the staged files that their rows name; delete those that none can name any more.

        Of one request, or of all.
        """
        found = (
            (key, StagedImage.parse(key))
            for key in self._store.list_keys(STAGED_IMAGES, request_id)
        )
        staged = [(key, image) for key, image in found if image]
        errors = []
        for start in range(0, len(staged), SETTLED_AT_A_TIME):
            errors += self._settle(staged[start : start + SETTLED_AT_A_TIME])
        if errors:
            raise errors[0]
        if request_id:
            self._store.sync(image_folder(request_id))

    def settle_one(self, staged: StagedImage) -> None:
        """Do so with one file."""
        for error in self._settle([(staged.key, staged)]):
            raise error

    def _settle(self, files: Sequence[tuple[str, StagedImage]]) -> list[ImageError]:
        """Settle some files; return what failed, as one keeps no other from being settled."""
        # The rows are read after the files were seen: a fence only rises.
        images = [(image.request_id, image.n) for _, image in files]
        with self._database.transaction() as cursor:
            rows = select_image_fences(cursor, images)
            deleted = select_deleted(cursor, [request_id for request_id, _ in images])
        errors = []
        for key, image in files:
            try:
                row = rows.get((image.request_id, image.n))
                if row is None:  # what is not deleted may be another database's, in the same store
                    if image.request_id in deleted:
                        self._store.delete(key)
                    continue
                is_current = row["fence"] == image.fence
                if is_current and row["state"] == ImageState.SUCCEEDED and key == image.key:
                    self.publish(image)
                elif not is_current or row["state"] != ImageState.RUNNING:
                    self._store.delete(key)
            except ImageError as error:
                errors.append(error)
        return errors

    def _find_named(self, request_id: str, n: int, extension: str) -> StagedImage | None:
        with self._database.reading() as cursor:
            row = select_image_fences(cursor, [(request_id, n)]).get((request_id, n))
        if row and row["state"] == ImageState.SUCCEEDED:
            return StagedImage(request_id, n, row["fence"], extension)
        return None
