"""What a worker holds: counted by request and in all, bounded by both windows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import in_flight
from image_queue import ClaimedImage
from in_flight import InFlight

if TYPE_CHECKING:
    from collections.abc import Coroutine

PATIENCE_SECONDS = 30.0


def _run(test: Coroutine[None, None, None]) -> None:
    async def patiently() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await test

    asyncio.run(patiently())


def _images(request_id: str, count: int, fence: int = 1) -> list[ClaimedImage]:
    return [
        ClaimedImage(request_id, n, fence, attempts=0, input_url="http://a/", repeats=None)
        for n in range(1, count + 1)
    ]


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "REQUEST_WINDOW", 4)
    monkeypatch.setattr(in_flight, "TOTAL_WINDOW", 6)


async def _hold(held: InFlight, images: list[ClaimedImage]) -> None:
    places = await held.reserve(images[0].request_id, len(images))
    assert places == len(images)
    await held.fill(images[0].request_id, places, images)


def test_a_request_has_a_window_of_its_own() -> None:
    """What one request holds leaves room for others, until all of it is taken."""

    async def test() -> None:
        held = InFlight(downloads=1)
        await _hold(held, _images("a", 3))
        assert await held.reserve("a", 9) == 1
        assert await held.reserve("b", 9) == 2
        assert len(held) == 3

    _run(test())


def test_one_request_may_use_all_downloads() -> None:
    """A worker with many downloads has a window as wide for each request."""

    async def test() -> None:
        assert await InFlight(downloads=5).reserve("a", 9) == 5

    _run(test())


def test_many_decoders_have_a_window_each_two() -> None:
    """What waits for a commit keeps no decoder waiting, however many they are."""

    async def test() -> None:
        assert await InFlight(downloads=1, processes=2).reserve("a", 99) == 4
        assert await InFlight(downloads=1, processes=3).reserve("a", 6) == 6

    _run(test())


def test_places_that_no_image_was_found_for_are_free_again() -> None:
    """Two turns of a request never claim more than its window together."""

    async def test() -> None:
        held = InFlight(downloads=1)
        places = await held.reserve("a", 9)
        second = asyncio.create_task(held.reserve("a", 9))
        await asyncio.sleep(0)
        assert not second.done()
        await held.fill("a", places, _images("a", 1))
        assert await second == 3

    _run(test())


@pytest.mark.parametrize("ended", ["a", "b"])
def test_who_finds_no_room_waits_for_it(ended: str) -> None:
    """A full worker claims again when an image ends, be it of another request."""

    async def test() -> None:
        held = InFlight(downloads=1)
        await _hold(held, _images("a", 3))
        await _hold(held, _images("b", 3))
        room = asyncio.create_task(held.reserve("a", 9))
        await asyncio.sleep(0)
        assert not room.done()
        await held.discard(_images(ended, 1)[0])
        assert await room == 1

    _run(test())


def test_a_claim_waits_until_half_a_window_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim costs about the same whatever it brings: not one for each image that ends."""
    monkeypatch.setattr(in_flight, "GATHER_SECONDS", 3600)

    async def test() -> None:
        held = InFlight(downloads=1)
        images = _images("a", 4)
        await _hold(held, images)
        room = asyncio.create_task(held.reserve("a", 9))
        await held.discard(images[0])
        for _ in range(10):
            await asyncio.sleep(0)
        assert not room.done()
        await held.discard(images[1])
        assert await room == 2

    _run(test())


def test_a_full_request_waits_for_its_own_images() -> None:
    """An image that ends elsewhere doesn't open a request's window."""

    async def test() -> None:
        held = InFlight(downloads=1)
        await _hold(held, _images("a", 4))
        await _hold(held, _images("b", 1))
        room = asyncio.create_task(held.reserve("a", 9))
        await held.discard(_images("b", 1)[0])
        await asyncio.sleep(0)
        assert not room.done()
        await held.discard(_images("a", 1)[0])
        assert await room == 1

    _run(test())


def test_the_end_is_waited_for() -> None:
    """Draining ends when the last image has."""

    async def test() -> None:
        held = InFlight(downloads=1)
        await held.wait_empty()
        images = _images("a", 2)
        await _hold(held, images)
        empty = asyncio.create_task(held.wait_empty())
        await held.discard(images[1])
        await asyncio.sleep(0)
        assert not empty.done()
        assert held.images == [images[0]]
        await held.discard(images[0])
        await empty

    _run(test())


def test_an_image_that_is_claimed_again_is_held_twice() -> None:
    """A worker that slept past its leases may claim what it still works on: both attempts count,
    and the end of the old one lets nothing go of the new one.
    """

    async def test() -> None:
        held = InFlight(downloads=1)
        (old,), (new,) = _images("a", 1, fence=1), _images("a", 1, fence=2)
        await _hold(held, [old])
        await _hold(held, [new])
        await held.discard(old)
        assert held.images == [new]
        await held.discard(new)
        assert len(held) == 0
        assert await held.reserve("a", 9) == 4

    _run(test())
