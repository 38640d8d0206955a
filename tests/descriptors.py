"""Which descriptors are held: what `os.open` gave and `os.close` has not had back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def watch_descriptors(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Return a set that from now on has the descriptors which are open."""
    held: set[int] = set()
    open_one, close_one = os.open, os.close

    def opening(*args: Any, **options: Any) -> int:
        held.add(descriptor := open_one(*args, **options))
        return descriptor

    def closing(descriptor: int) -> None:
        held.discard(descriptor)
        close_one(descriptor)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "close", closing)
    return held
