"""Staged files: seen only when their row says so, and never over what another attempt made."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import output_files
from codec.compressed_image import CompressedImage
from errors import ErrorCode, ImageError
from output_files import OutputFiles
from request_finisher import RequestFinisher
from request_queue import purge_rows
from storage.folder_store import FolderStore
from storage.storage_keys import STAGED_IMAGES, StagedImage
from tests.queued import Queue, success, urls

if TYPE_CHECKING:
    from pathlib import Path

    from database_helper import Database
    from image_queue import ClaimedImage
    from storage.stored_object import StoredObject


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


class Shop:
    """A store and the files of requests in it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.store = FolderStore(folder)
        self.outputs = OutputFiles(database, self.store)

    def stage(self, image: ClaimedImage, data: bytes = b"image") -> StagedImage:
        """Stage a JPEG of an attempt."""
        self.outputs.stage(image, CompressedImage(data, "jpeg", 4, 3, "82"))
        return StagedImage.of(image.request_id, image.n, image.fence, "jpeg")

    def put(self, key: str) -> str:
        """Put a file where it is; it says where it was first."""
        (self.folder / key).write_text(key)
        return key

    def find(self, request_id: str, n: int, extension: str) -> StoredObject | None:
        """Return what is served of an image."""
        with ExitStack() as closing:
            return self.outputs.open(request_id, n, extension, closing)

    @property
    def files(self) -> dict[str, bytes]:
        """Every file of the store."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Shop:
    """Give an empty store over the database."""
    return Shop(database, tmp_path)


def _published(request_id: str, n: int) -> str:
    return f"uploads/{request_id}/{request_id}-{n}.jpg"


# --- From an attempt to the world ------------------------------------------------------------


def test_a_file_is_seen_when_its_row_names_it(shop: Shop) -> None:
    """Before the commit there is nothing to serve; after it the bytes are those of the attempt."""
    queue = Queue(shop.database, *urls(1))
    (image,) = queue.claim()
    digest = shop.outputs.stage(image, CompressedImage(b"image", "jpeg", 4, 3, "82"))
    assert digest == hashlib.sha256(b"image").hexdigest()
    assert shop.files == {f"{STAGED_IMAGES}{queue.id}-1.1.jpg": b"image"}
    assert shop.find(queue.id, 1, "jpg") is None
    queue.record(success(image))
    shop.outputs.publish(StagedImage.of(queue.id, 1, 1, "jpeg"))
    assert shop.files == {_published(queue.id, 1): b"image"}
    found = shop.find(queue.id, 1, "jpg")
    assert found
    assert (found.key, found.size) == (_published(queue.id, 1), 5)


def test_who_looks_for_a_file_publishes_what_is_staged_and_named(shop: Shop) -> None:
    """A worker may have died, or be slow, between the commit and the move."""
    queue = Queue(shop.database, *urls(1))
    staged = shop.stage(queue.claim()[0])
    queue.record(success(queue.claim_of(1)))
    found = shop.find(queue.id, 1, "jpg")
    assert found
    assert shop.files == {_published(queue.id, 1): b"image"}
    shop.outputs.publish(staged)  # the slow worker, at last
    assert shop.files == {_published(queue.id, 1): b"image"}


@pytest.mark.parametrize("state", ["pending", "running", "failed", "cancelled"])
def test_what_no_success_names_is_not_found(shop: Shop, state: str) -> None:
    """Nor under the name of another format, or of an image that is not there."""
    queue = Queue(shop.database, *urls(2))
    staged = [shop.stage(image) for image in queue.claim()]
    queue.change("state = 'succeeded', format = 'jpeg'", 2)
    queue.change(f"state = '{state}'", 1)
    assert shop.find(queue.id, 1, "jpg") is None
    assert shop.find(queue.id, 2, "png") is None
    assert shop.find(queue.id, 3, "jpg") is None
    assert shop.find("ab" * 16, 1, "jpg") is None
    assert set(shop.files) == {image.key for image in staged}


def test_a_late_attempt_s_file_is_not_the_one_that_is_served(shop: Shop) -> None:
    """Each attempt stages under a key of its own; the row names one, and the other is deleted."""
    queue = Queue(shop.database, *urls(1))
    (late,) = queue.claim(lease_seconds=-1)
    queue.give_back_expired()
    (again,) = queue.claim()
    mine = shop.stage(again, b"right")
    queue.record(success(again))
    theirs = shop.stage(late, b"late")
    assert queue.record(success(late)).accepted == set()
    shop.outputs.settle_one(theirs)
    shop.outputs.settle_one(mine)
    assert shop.files == {_published(queue.id, 1): b"right"}
    shop.outputs.settle_one(theirs)
    assert shop.files == {_published(queue.id, 1): b"right"}


# --- Copies ----------------------------------------------------------------------------------

TWIN_SHA256 = hashlib.sha256(b"twin").hexdigest()


@pytest.mark.parametrize("is_published", [False, True])
def test_a_copy_is_made_of_what_its_twin_has(shop: Shop, *, is_published: bool) -> None:
    """Of a twin, too, whose worker has not moved its file in place yet."""
    one = urls(1)[0]
    queue = Queue(shop.database, one, one)
    twin = shop.stage(queue.claim()[0], b"twin")
    queue.record(success(queue.claim_of(1)))
    if is_published:
        shop.outputs.publish(twin)
    (copy,) = queue.claim()
    shop.outputs.stage_copy(copy, twin, 4, TWIN_SHA256)
    assert shop.files == {
        _published(queue.id, 1): b"twin",
        f"{STAGED_IMAGES}{queue.id}-2.1.jpg": b"twin",
    }
    queue.record(success(copy))
    shop.outputs.settle(queue.id)
    assert shop.files == {_published(queue.id, n): b"twin" for n in (1, 2)}


@pytest.mark.parametrize(
    ("size", "sha256"),
    [(3, TWIN_SHA256), (5, TWIN_SHA256), (4, hashlib.sha256(b"Twin").hexdigest())],
)
def test_a_copy_of_other_bytes_than_its_row_says_is_none(
    shop: Shop, size: int, sha256: str
) -> None:
    """Whatever has become of the file: nothing is staged."""
    before, queue = Queue(shop.database, *urls(1)), Queue(shop.database, *urls(1))
    twin = shop.stage(before.claim()[0], b"twin")
    before.record(success(before.claim_of(1)))
    shop.outputs.publish(twin)
    with pytest.raises(FileNotFoundError):
        shop.outputs.stage_copy(queue.claim()[0], twin, size, sha256)
    assert shop.files == {_published(before.id, 1): b"twin"}


def test_a_copy_of_what_is_not_there_is_none(shop: Shop) -> None:
    """Be it that its request was deleted."""
    queue = Queue(shop.database, *urls(1))
    with pytest.raises(FileNotFoundError):
        shop.outputs.stage_copy(
            queue.claim()[0], StagedImage("ab" * 16, 1, 1, "jpg"), 4, TWIN_SHA256
        )
    assert shop.files == {}


def test_a_copy_that_was_made_twice_leaves_nothing_staged(shop: Shop) -> None:
    """Disks share the bytes of copies: renaming one name of a file to the other does nothing."""
    queue = Queue(shop.database, *urls(1))
    staged = shop.stage(queue.claim()[0])
    queue.record(success(queue.claim_of(1)))
    published = shop.folder / staged.published_key
    published.parent.mkdir()
    os.link(shop.folder / staged.key, published)
    shop.outputs.publish(staged)
    assert shop.files == {staged.published_key: b"image"}


# --- Settling --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "fence", "suffix", "fate"),
    [
        ("state = 'succeeded'", 3, "", "published"),
        ("state = 'succeeded'", 3, "#1", "deleted"),
        ("state = 'succeeded'", 2, "", "deleted"),
        ("state = 'running'", 3, "", "kept"),
        ("state = 'running'", 3, "#1", "kept"),
        ("state = 'running'", 2, "", "deleted"),
        ("state = 'running'", 2, "#1", "deleted"),
        ("state = 'pending'", 3, "", "deleted"),
        ("state = 'failed'", 3, "", "deleted"),
        ("state = 'cancelled'", 3, "", "deleted"),
    ],
)
@pytest.mark.parametrize("scope", ["one", "request", "all"])
def test_a_staged_file_is_judged_by_its_row(
    shop: Shop, row: str, fence: int, suffix: str, fate: str, scope: str
) -> None:
    """Published when it is named, kept while its attempt goes on, deleted when no row can name it
    any more; `#1` is what a worker that died in writing leaves.
    """
    queue = Queue(shop.database, *urls(1))
    queue.change(f"fence = 3, {row}")
    key = shop.put(f"{STAGED_IMAGES}{queue.id}-1.{fence}.jpg{suffix}")
    data = key.encode()
    _settle(shop, scope, key)
    expected = {"published": {_published(queue.id, 1): data}, "kept": {key: data}, "deleted": {}}
    assert shop.files == expected[fate]
    _settle(shop, scope, key)
    assert shop.files == expected[fate]


def _settle(shop: Shop, scope: str, key: str) -> None:
    staged = StagedImage.parse(key)
    assert staged
    if scope == "request":
        shop.outputs.settle(staged.request_id)
    elif scope == "one" and key == staged.key:
        shop.outputs.settle_one(staged)
    else:
        shop.outputs.settle()


def test_what_a_store_has_of_others_stays(shop: Shop) -> None:
    """Requests of another database, other files, and other requests when one was meant."""
    mine, deleted = Queue(shop.database, *urls(1)), Queue(shop.database, *urls(1))
    for queue in (mine, deleted):
        queue.end("s")
        queue.take_finish()
        queue.finish()
    deleted.delete()
    with shop.database.transaction() as cursor:
        while purge_rows(cursor, deleted.id):
            pass
    keys = {shop.put(STAGED_IMAGES + name) for name in (f"{'ab' * 16}-1.1.jpg", "notes.txt")}
    named, late = (shop.put(f"{STAGED_IMAGES}{q.id}-1.1.jpg") for q in (mine, deleted))
    shop.outputs.settle("cd" * 16)
    assert set(shop.files) == {*keys, named, late}
    shop.outputs.settle(deleted.id)
    assert set(shop.files) == {*keys, named}
    shop.outputs.settle()
    assert set(shop.files) == {*keys, _published(mine.id, 1)}


def test_many_files_are_settled_in_portions(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, whatever the number of rows read at a time."""
    monkeypatch.setattr(output_files, "SETTLED_AT_A_TIME", 3)
    queue = Queue(shop.database, *urls(7))
    for image in queue.claim():
        shop.stage(image)
    queue.record(*[success(queue.claim_of(n)) for n in range(1, 8)])
    shop.outputs.settle()
    assert set(shop.files) == {_published(queue.id, n) for n in range(1, 8)}


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_a_file_that_can_not_be_settled_keeps_no_other_from_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Whoever settles hears of it in the end."""
    monkeypatch.setattr(output_files, "SETTLED_AT_A_TIME", 3)
    queue = Queue(shop.database, *urls(7))
    staged = [shop.stage(image) for image in queue.claim()]
    queue.change(f"state = '{state}', format = 'jpeg'")
    failing = staged[3].key

    class Failing(FolderStore):
        def move(self, source: str, target: str) -> bool:
            return super().move(self._check(source), target)

        def delete(self, *keys: str) -> None:
            super().delete(*map(self._check, keys))

        def _check(self, key: str) -> str:
            if key == failing:
                raise ImageError(ErrorCode.STORAGE_ERROR, "the disk is away")
            return key

    outputs = OutputFiles(shop.database, Failing(shop.folder))
    with pytest.raises(ImageError):
        outputs.settle()
    published = {_published(queue.id, n) for n in (1, 2, 3, 5, 6, 7)}
    assert set(shop.files) == {failing} | (published if state == "succeeded" else set())
    with pytest.raises(ImageError):
        outputs.settle_one(staged[3])
    shop.outputs.settle()
    assert failing not in shop.files


def test_a_worker_that_publishes_after_the_deletion_makes_nothing(shop: Shop) -> None:
    """Neither what it had staged before nor what it stages now comes to be seen, or stays."""
    queue = Queue(shop.database, *urls(2))
    claims = queue.claim()
    staged = [shop.stage(image) for image in claims]
    queue.record(*map(success, claims))
    queue.take_finish()
    queue.finish()
    queue.delete()
    RequestFinisher(shop.database, shop.store, shop.outputs, lease_seconds=60).purge(queue.id)
    for image in staged:
        shop.outputs.publish(image)
        shop.outputs.settle_one(image)
    assert shop.files == {}
    assert shop.find(queue.id, 1, "jpg") is None
    stray = shop.stage(claims[0])
    shop.outputs.settle_one(stray)
    assert shop.files == {}
