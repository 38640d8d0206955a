"""Who may have how many downloads of one origin host: the arithmetic.

Pure: workers' wants in, shares out. `origin_queue` keeps the workers' places in PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's place in the line for one host.

    `wanted` counts the images it would download now, those under way included; `slots` are held
    by it and by nobody else; `served_seconds` is for how long it may have been downloading, None
    while it may not.
    """

    worker: str
    wanted: int
    slots: int
    served_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a worker gets at one host.

    It may begin downloads as long as fewer than `limit` are under way. `slots` is what counts as
    taken by it: more than `limit` until downloads that are under way have ended.
    """

    limit: int
    slots: int
    is_moved_back: bool


def fair_shares(slots: int, wanted: Sequence[int]) -> list[int]:
    """Share slots out max-min fairly: who wants less than the others gets all of it.

    Where they don't divide evenly, the first in the line get one more.
    """
    shares = [0] * len(wanted)
    while slots > 0 and (hungry := [n for n, most in enumerate(wanted) if shares[n] < most]):
        portion = max(1, slots // len(hungry))
        for n in hungry:
            taken = min(portion, wanted[n] - shares[n], slots)
            shares[n] += taken
            slots -= taken
    return shares


def grant(
    line: Sequence[Place], worker: str, *, held: int, capacity: int, turn_seconds: float
) -> Grant:
    """Return what the worker gets of a host's `capacity`; its place is in the line.

    `held` is how many downloads it may have under way until it hears of this grant. Where there
    are more workers than slots they take turns: one that was served for `turn_seconds` goes back
    to the end of the line while another has nothing.
    """
    mine = next(place for place in line if place.worker == worker)
    others = [place for place in line if place.worker != worker]
    shares = _shares(capacity, line)
    is_over = (
        mine.served_seconds is not None
        and mine.served_seconds >= turn_seconds
        and any(shares[place.worker] == 0 for place in others)
    )
    if is_over:
        shares = _shares(capacity, [*others, mine])
    free = capacity - sum(place.slots for place in others)
    limit = max(0, min(shares[worker], free))
    return Grant(limit, max(held, limit), is_over)


def _shares(capacity: int, line: Sequence[Place]) -> dict[str, int]:
    """Return each worker's share; what nobody wants yet is spread too, for what comes next."""
    shares = fair_shares(capacity, [place.wanted for place in line])
    spare = fair_shares(capacity - sum(shares), [capacity] * len(line))
    return {place.worker: a + b for place, a, b in zip(line, shares, spare, strict=True)}
