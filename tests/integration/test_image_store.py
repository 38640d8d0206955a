"""What every store promises, a folder as well as a bucket: whole objects or none, under keys."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from storage.bucket_store import MARKER
from storage.image_store import open_store
from storage.storage_keys import (
    STAGED_IMAGES,
    image_folder,
    image_key,
    output_csv_key,
    report_csv_key,
)
from tests.bucket import NAME, Bucket

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from storage.image_store import ImageStore
    from storage.stored_object import StoredObject

ID = "0123456789abcdef" * 2
KEY = image_key(ID, 1, "jpeg")
STAGED = f"{STAGED_IMAGES}{ID}-1.1.jpg"
MIB = 2**20


class Place(Protocol):
    """A store, and what lies in it as others see it."""

    store: ImageStore

    def keys(self) -> list[str]:
        """Return every key."""


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = open_store(f"file:{path}")

    def keys(self) -> list[str]:
        files = [path for path in self.path.rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.path)) for path in files)


class _Prefix:
    def __init__(self, bucket: Bucket, name: str) -> None:
        self.bucket = bucket
        self.prefix = f"{name}/"
        self.store = open_store(f"s3://{NAME}/{name}")

    def keys(self) -> list[str]:
        return sorted(self.bucket.objects(self.prefix))


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """Run an S3 server for the tests of this module."""
    with Bucket() as running:
        yield running


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Give an empty folder, then an empty prefix of a bucket."""
    if request.param == "folder":
        return _Folder(tmp_path)
    bucket: Bucket = request.getfixturevalue("bucket")
    for name, value in bucket.variables.items():
        monkeypatch.setenv(name, value)
    return _Prefix(bucket, tmp_path.name)


def _read(store: ImageStore, key: str) -> bytes:
    with _opened(store, key) as file:
        return b"".join(store.read(file, 0, file.size))


@contextmanager
def _opened(store: ImageStore, key: str) -> Iterator[StoredObject]:
    with ExitStack() as closing:
        file = store.open(key, closing)
        assert file
        yield file


@pytest.mark.parametrize(
    ("image_format", "extension"),
    [("jpeg", "jpg"), ("png", "png"), ("webp", "webp"), ("gif", "gif"), ("avif", "avif")],
)
def test_keys_are_as_promised(image_format: str, extension: str) -> None:
    """Images and CSVs lie where the contract says."""
    assert image_key(ID, 12, image_format) == f"uploads/{ID}/{ID}-12.{extension}"
    assert output_csv_key(ID) == f"static/{ID}.csv"
    assert report_csv_key(ID) == f"static/{ID}-report.csv"


@pytest.mark.parametrize(
    ("pieces", "stored"),
    [
        (b"image", b"image"),
        (b"", b""),
        ([b"one ", b"", b"two"], b"one two"),
        ([], b""),
        ([b"x" * 100_000] * 120, b"x" * 12_000_000),
        (b"x" * 12_000_000, b"x" * 12_000_000),
    ],
    ids=["bytes", "no bytes", "pieces", "no pieces", "many pieces", "many bytes"],
)
def test_what_is_put_is_there(place: Place, pieces: bytes | list[bytes], stored: bytes) -> None:
    """Bytes and iterables of bytes lie under their key, whole, and nothing lies beside them."""
    data: bytes | Iterable[bytes] = pieces if isinstance(pieces, bytes) else iter(pieces)
    place.store.put(KEY, data)
    assert _read(place.store, KEY) == stored
    assert place.keys() == [KEY]


@pytest.mark.parametrize("pieces", [0, 1, 130])
@pytest.mark.parametrize("before", [None, b"old"])
def test_an_iterable_that_raises_changes_nothing(
    place: Place, pieces: int, before: bytes | None
) -> None:
    """The error comes through as it is, no part of a file stays, and what was there does."""

    def data() -> Iterator[bytes]:
        for _ in range(pieces):
            yield b"x" * 100_000
        raise ArithmeticError("no more rows")

    if before:
        place.store.put(KEY, before)
    with pytest.raises(ArithmeticError, match="no more rows"):
        place.store.put(KEY, data())
    assert place.keys() == ([KEY] if before else [])
    assert not before or _read(place.store, KEY) == before


def test_putting_again_replaces(place: Place) -> None:
    """The tag tells that the content is another one."""
    place.store.put(KEY, b"old")
    with _opened(place.store, KEY) as before:
        place.store.put(KEY, b"newer")
    with _opened(place.store, KEY) as after:
        pass
    assert (before.key, before.size, after.size) == (KEY, 3, 5)
    assert before.etag != after.etag
    assert '"' not in after.etag
    assert after.modified >= before.modified


def test_a_copy_has_a_life_of_its_own(place: Place) -> None:
    """Overwriting either leaves the other as it was, even where a disk shares their bytes."""
    store = place.store
    first, second, third = (image_key(ID, n, "png") for n in (1, 2, 3))
    store.put(first, b"bytes")
    store.copy(first, second)
    store.copy(second, third)
    store.put(first, b"other")
    assert [_read(store, key) for key in (first, second, third)] == [b"other", b"bytes", b"bytes"]
    store.put(third, b"third")
    for _ in range(2):
        store.copy(first, third)
    assert [_read(store, key) for key in (second, third)] == [b"bytes", b"other"]
    assert place.keys() == [first, second, third]


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (5, 5), (3, 9), (MIB, MIB + 1), (0, 3 * MIB), (7, 3 * MIB - 1)]
)
def test_a_range_is_read(place: Place, start: int, end: int) -> None:
    """From the first byte asked for up to, not including, the last, in pieces."""
    content = bytes(n % 251 for n in range(3 * MIB))
    place.store.put(KEY, content)
    with _opened(place.store, KEY) as file:
        pieces = list(place.store.read(file, start, end))
    assert b"".join(pieces) == content[start:end]
    assert all(0 < len(piece) <= MIB for piece in pieces)


@pytest.mark.parametrize("key", [KEY, "static/none.csv", f"uploads/{ID}", "uploads", "static"])
def test_what_is_not_there_is_not_found(place: Place, key: str) -> None:
    """A missing key and a folder are no files."""
    place.store.put(image_key(ID, 2, "png"), b"another")
    with ExitStack() as closing:
        assert place.store.open(key, closing) is None
    assert not place.store.has(key, 7, "")
    with pytest.raises(FileNotFoundError):
        place.store.copy(key, image_key(ID, 2, "jpeg"))


def test_what_is_moved_lies_elsewhere(place: Place) -> None:
    """The folder of its new place is made, and what lay there is replaced."""
    for data in (b"first", b"second"):
        place.store.put(STAGED, data)
        assert place.store.move(STAGED, KEY)
        place.store.sync(image_folder(ID))
        assert (place.keys(), _read(place.store, KEY)) == ([KEY], data)


def test_what_is_not_there_is_not_moved(place: Place) -> None:
    """Its place keeps what it has."""
    assert not place.store.move(STAGED, KEY)
    place.store.put(KEY, b"kept")
    assert not place.store.move(STAGED, KEY)
    assert _read(place.store, KEY) == b"kept"


def test_what_is_deleted_is_gone(place: Place) -> None:
    """One by one or many at once; deleting them again, or none, is no trouble."""
    keys = [image_key(ID, n, "png") for n in range(1, 6)]
    for key in keys:
        place.store.put(key, b"image")
    for _ in range(2):
        place.store.delete(keys[0])
        assert place.keys() == keys[1:]
    for _ in range(2):
        place.store.delete(*keys[:4])
        assert place.keys() == keys[4:]
    place.store.delete()
    place.store.delete("static/none/at/all.csv")
    assert place.keys() == keys[4:]


def test_a_folder_is_deleted_with_all_that_is_in_it(place: Place) -> None:
    """And nothing else, however alike its name; deleting it again is no trouble."""
    other, longer = image_key("ab" * 16, 1, "png"), f"uploads/{ID}0/x.png"
    for key in (KEY, image_key(ID, 2, "png"), other, longer):
        place.store.put(key, b"image")
    for _ in range(2):
        place.store.delete_folder(image_folder(ID))
        assert place.keys() == sorted([other, longer])


@pytest.mark.parametrize(
    ("start", "listed"),
    [("", [0, 1, 2, 3]), ("a", [0, 1]), ("a-2", [1]), ("b-1", [2, 3]), ("c", [])],
)
def test_the_keys_of_a_folder_are_listed(place: Place, start: str, listed: list[int]) -> None:
    """Those whose names begin so, and nothing beside it."""
    keys = [f"{STAGED_IMAGES}{name}.jpg" for name in ("a-1", "a-2", "b-1", "b-11")]
    for key in (*keys, KEY, "static/a-1.csv"):
        place.store.put(key, b"image")
    assert sorted(place.store.list_keys(STAGED_IMAGES, start)) == [keys[n] for n in listed]


def test_a_folder_that_is_not_there_has_no_keys(place: Place) -> None:
    """A store that nothing was put in yet is no trouble."""
    assert list(place.store.list_keys("none/at/all/")) == []


def test_a_store_that_works_says_so(place: Place) -> None:
    """As often as it is asked, and there is nothing more than a mark of it to see."""
    for _ in range(3):
        place.store.check()
    assert not set(place.keys()) - {MARKER}


def test_damage_is_told(place: Place) -> None:
    """At least where the size is another: a bucket keeps sums of its own."""
    digest = "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"  # of image
    place.store.put(KEY, b"image")
    assert place.store.has(KEY, 5, digest)
    assert not place.store.has(KEY, 6, digest)
