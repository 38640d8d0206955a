"""The images that this worker has claimed and not yet recorded: how many, whose, and room.

Bounds what a worker holds. A request has a window of its own, so that one whose origin is slow
fills only that and leaves room for others. Lives in one event loop; not for threads.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from image_queue import ClaimedImage

REQUEST_WINDOW: Final = 64  # images of one request, for each two decoders
TOTAL_WINDOW: Final = 4096  # images of all requests
GATHER_SECONDS: Final = 0.25


class InFlight:
    """A set of claimed images with room for so many.

    `downloads` is how many the worker can make at a time, `processes` its decoders: one request
    may keep all of them busy.
    """

    def __init__(self, downloads: int, processes: int = 1) -> None:
        self._request_window = max(REQUEST_WINDOW * ((processes + 1) // 2), downloads)
        self._images: set[ClaimedImage] = set()  # one claimed anew, after its lease, is another
        self._per_request: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self._images)

    @property
    def images(self) -> list[ClaimedImage]:
        """What is held now."""
        return list(self._images)

    async def discard(self, image: ClaimedImage) -> None:
        """Let go of an image whose outcome is recorded."""
        self._images.remove(image)
        await self._leave(image.request_id, 1)

    async def reserve(self, request_id: str, most: int) -> int:
        """Wait for room and take up to `most` places of it; `fill` has to follow.

        Waits a moment for more than one: a claim costs about the same whatever it brings.
        """
        worth = min(most, self._request_window // 2)
        async with self._changed:
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._changed.wait_for(lambda: self._room(request_id) >= worth)
            await self._changed.wait_for(lambda: self._room(request_id) > 0)
            places = min(most, self._room(request_id))
            self._per_request[request_id] += places
            return places

    async def fill(self, request_id: str, places: int, images: Collection[ClaimedImage]) -> None:
        """Hold images that were just claimed for places taken before; leave the others."""
        self._images.update(images)
        await self._leave(request_id, places - len(images))

    async def wait_empty(self) -> None:
        """Wait until nothing is held."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._images)

    async def _leave(self, request_id: str, places: int) -> None:
        self._per_request -= Counter({request_id: places})  # drops the entry at zero
        async with self._changed:
            self._changed.notify_all()

    def _room(self, request_id: str) -> int:
        total = self._per_request.total()
        return min(self._request_window - self._per_request[request_id], TOTAL_WINDOW - total)
