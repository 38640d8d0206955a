"""Finding the earlier image: the newest success of the same recipe whose request is still there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import worker_steps
from image_reuse import Recipe, find_earlier
from request_options import ImageOptions
from tests.queued import LEASE, Queue, analyze, count_reads, failure, success, urls

if TYPE_CHECKING:
    from database_helper import Database
    from image_queue import ClaimedImage

RECIPE = Recipe(ImageOptions(), b"seal")
OTHER = Recipe(ImageOptions(), b"other seal")
SHA256 = "ab" * 32
URL = urls(1)[0]


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def _claim(queue: Queue, recipe: Recipe = RECIPE) -> list[ClaimedImage]:
    with queue.database.transaction() as cursor:
        return worker_steps.claim(cursor, queue.id, recipe, limit=1000, lease_seconds=LEASE)


def _made(
    database: Database,
    *image_urls: str,
    recipe: Recipe = RECIPE,
    facts: dict[str, Any] | None = None,
) -> Queue:
    """Return a finished request whose images can be reused."""
    queue = Queue(database, *image_urls)
    while claims := queue.claim():
        for image in claims:
            key = recipe.key(image.input_url) if image.repeats is None else None
            made = {"reuse_key": key, "source_sha256": SHA256} | (facts or {})
            queue.record(replace(success(image), **made))
    assert queue.take_finish()
    assert queue.finish()
    return queue


def test_an_image_is_claimed_with_the_one_that_was_made_before(database: Database) -> None:
    """With all that there is to know of it: attempt, result, source and validators."""
    facts = {"source_url": "http://cdn.example/1", "hint": "As WebP, less."}
    before = _made(database, *urls(2), facts=facts)
    first, second, third = _claim(Queue(database, *reversed(urls(3))))
    assert first.earlier is None
    assert second.earlier
    assert third.earlier
    assert (second.earlier.request_id, second.earlier.n, second.earlier.fence) == (before.id, 2, 1)
    assert (third.earlier.n, third.earlier.source_sha256) == (1, SHA256)
    row = before.images[0]
    assert third.earlier.result().items() <= row.items()
    assert third.earlier.result()["hint"] == facts["hint"]
    assert third.earlier.known(URL) == (facts["source_url"], row["etag"], row["last_modified"])


def test_the_newest_is_taken_that_is_not_deleted(database: Database) -> None:
    """One that is purged before long is none any more."""
    queues = [_made(database, URL) for _ in range(3)]
    for expected in reversed(queues):
        (image,) = _claim(Queue(database, URL))
        assert image.earlier
        assert image.earlier.request_id == expected.id
        expected.delete()
    (image,) = _claim(Queue(database, URL))
    assert image.earlier is None


def test_another_recipe_s_image_is_none(database: Database) -> None:
    """Other options, another owner, another compressor."""
    _made(database, URL, recipe=OTHER)
    (image,) = _claim(Queue(database, URL))
    assert image.earlier is None


def test_only_what_succeeded_is_reused(database: Database) -> None:
    """A failure is tried anew, and finds what was made meanwhile."""
    queue = Queue(database, URL)
    queue.record(failure(queue.claim()[0]))
    assert [image.earlier for image in _claim(Queue(database, URL))] == [None]
    before = _made(database, URL)
    queue.retry()
    (image,) = _claim(queue)
    assert image.earlier
    assert image.earlier.request_id == before.id


def test_of_a_url_that_stands_often_only_one_can_be_found(database: Database) -> None:
    """Whoever has repeated one a million times makes no claim of others slow."""
    often = _made(database, *[URL] * 50)
    assert [image["reuse_key"] is None for image in often.images] == [False] + [True] * 49
    assert all(image["made_at"] is None for image in often.images[1:])
    (image, *_) = _claim(Queue(database, URL, URL))
    assert image.earlier
    assert image.earlier.n == 1


@pytest.mark.parametrize("is_analyzed", [False, True])
def test_earlier_images_are_found_by_an_index(database: Database, *, is_analyzed: bool) -> None:
    """However many there are, and whatever the statistics know of them."""
    queue = _made(database, *urls(500))
    with database.transaction() as cursor:
        cursor.execute(
            """insert into images (request_id, n, row, position, input_url, state, reuse_key,
                                   made_at)
               select %s, n, n, 1, '', 'succeeded', md5(n::text)::uuid, now()
                 from generate_series(1000, 5000) as n""",
            (queue.id,),
        )
    if is_analyzed:
        analyze(database)
    with database.transaction() as cursor:
        keys = [RECIPE.key(url) for url in urls(16)]
        before = count_reads(cursor)
        assert find_earlier(cursor, keys).keys() == set(keys)
        assert count_reads(cursor) - before <= 2 * len(keys)
