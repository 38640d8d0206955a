"""The images that this worker has claimed and not yet recorded: how many, whose, and room.

Bounds what a worker holds. A request has a window of its own, so that one whose origin is slow
fills only that and leaves room for others. Lives in the event loop; not for threads.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from image_queue import ClaimedImage

REQUEST_WINDOW: Final = 64  # images of one request
TOTAL_WINDOW: Final = 1024  # images of all requests


class InFlight:
    """A set of claimed images with room for so many."""

    def __init__(self) -> None:
        self._images: set[ClaimedImage] = set()  # one claimed anew, after its lease, is another
        self._per_request: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self._images)

    @property
    def images(self) -> list[ClaimedImage]:
        """What is held now."""
        return list(self._images)

    def add(self, images: Iterable[ClaimedImage]) -> None:
        """Hold images that were just claimed."""
        for image in images:
            self._images.add(image)
            self._per_request[image.request_id] += 1

    async def discard(self, image: ClaimedImage) -> None:
        """Let go of an image whose outcome is recorded."""
        self._images.remove(image)
        self._per_request -= Counter([image.request_id])  # drops the entry at zero
        async with self._changed:
            self._changed.notify_all()

    async def room(self, request_id: str) -> int:
        """Wait until images of a request may be claimed; return how many."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._room(request_id) > 0)
            return self._room(request_id)

    async def wait_empty(self) -> None:
        """Wait until nothing is held."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._images)

    def _room(self, request_id: str) -> int:
        return min(REQUEST_WINDOW - self._per_request[request_id], TOTAL_WINDOW - len(self._images))
