"""Places for uploads that are worked on at the same time, shared out among the owners of keys."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL_SECONDS: Final = 10  # after which to come again when there are too many


class UploadPlaces:
    """A number of places, of which one owner gets three quarters at most; None is no owner."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._of_one = max(1, places * 3 // 4)
        self._held: Counter[str | None] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, owner: str | None, seconds: float) -> Iterator[None]:
        """Hold one of the places, waiting for it so long at most. Raises HttpError 429."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(owner), seconds):
                raise HttpError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "too many uploads are being taken in, of this key or of all; send it again in "
                    f"{FULL_SECONDS} s",
                    headers={"Retry-After": str(FULL_SECONDS)},
                )
            self._held[owner] += 1
        try:
            yield
        finally:
            with self._changed:
                self._held -= Counter({owner: 1})  # which forgets who holds none
                self._changed.notify_all()

    def _has_room(self, owner: str | None) -> bool:
        is_within_share = owner is None or self._held[owner] < self._of_one
        return is_within_share and self._held.total() < self._places
