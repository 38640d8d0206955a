"""What is a folder's own: links, descriptors, what a disk refuses, what a dead writer leaves."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from errors import ErrorCode, ImageError
from storage.folder_store import FolderStore
from storage.image_store import open_store
from storage.local_file import PIECE_BYTES
from storage.storage_keys import (
    STAGED_CSVS,
    STAGED_IMAGES,
    image_folder,
    image_key,
)
from tests.descriptors import watch_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from storage.stored_object import StoredObject

ID = "0123456789abcdef" * 2
KEY = image_key(ID, 1, "jpeg")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """Give a store in a folder of its own."""
    return FolderStore(tmp_path)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _read(store: FolderStore, key: str) -> bytes:
    with _opened(store, key) as file:
        return b"".join(store.read(file, 0, file.size))


@contextmanager
def _opened(store: FolderStore, key: str) -> Iterator[StoredObject]:
    with ExitStack() as closing:
        file = store.open(key, closing)
        assert file
        yield file


def _is_there(store: FolderStore, key: str) -> bool:
    with ExitStack() as closing:
        return store.open(key, closing) is not None


def test_a_copy_shares_its_bytes_on_a_disk_that_can(store: FolderStore, tmp_path: Path) -> None:
    """Nothing is read or written."""
    store.put(KEY, b"bytes")
    store.copy(KEY, image_key(ID, 2, "png"))
    assert (tmp_path / KEY).samefile(tmp_path / image_key(ID, 2, "png"))


def test_a_copy_is_written_where_the_disk_has_no_links(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or no more of one file: 65,000 are the limit of ext4."""

    def refuse(*_: Any) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    content = bytes(n % 251 for n in range(2 * PIECE_BYTES + 77))
    store.put(KEY, content)
    store.copy(KEY, second := image_key(ID, 2, "png"))
    assert _read(store, second) == content
    assert not (tmp_path / KEY).samefile(tmp_path / second)
    assert _files(tmp_path) == [KEY, second]
    with pytest.raises(FileNotFoundError):
        store.copy(image_key(ID, 3, "png"), second)


@pytest.mark.parametrize("content", [b"other", b"longer one", None])
def test_an_open_file_stays_what_it_is(store: FolderStore, content: bytes | None) -> None:
    """Its size and tag are told already, so another's bytes, or none, can't follow."""
    store.put(KEY, b"image")
    with _opened(store, KEY) as file:
        if content:
            store.put(KEY, content)
        else:
            store.delete(KEY)
        assert b"".join(store.read(file, 0, file.size)) == b"image"


def test_a_file_that_is_cut_is_not_read_to_its_end(store: FolderStore, tmp_path: Path) -> None:
    """Whoever told its size hears that there is less."""
    store.put(KEY, b"image")
    with _opened(store, KEY) as file:
        os.truncate(tmp_path / KEY, 3)
        with pytest.raises(OSError, match="cut"):
            list(store.read(file, 0, file.size))


def test_no_link_leads_out_of_the_store(store: FolderStore, tmp_path: Path) -> None:
    """Whatever somebody has put among our files: only plain files in plain folders are found."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / f"{ID}-1.jpg").write_bytes(b"secret")
    folder = tmp_path / "uploads" / ID
    folder.symlink_to(secret)
    assert not _is_there(store, KEY)
    folder.unlink()
    folder.mkdir()
    (tmp_path / KEY).symlink_to(secret / f"{ID}-1.jpg")
    assert not _is_there(store, KEY)
    (tmp_path / KEY).unlink()
    os.mkfifo(tmp_path / KEY)
    assert not _is_there(store, KEY)


def test_the_folders_of_the_store_may_be_elsewhere(tmp_path: Path) -> None:
    """An operator may keep the images on another disk, by a link in the root."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "uploads").symlink_to(tmp_path / "disk")
    store = FolderStore(tmp_path / "root")
    store.put(KEY, b"image")
    assert _read(store, KEY) == b"image"
    assert (tmp_path / "disk" / ID / f"{ID}-1.jpg").read_bytes() == b"image"


def test_a_store_that_fails_is_a_storage_error(store: FolderStore, tmp_path: Path) -> None:
    """A file in the way of a folder stands for every trouble of a disk; its path is not told."""
    (tmp_path / "uploads" / ID).write_text("in the way")
    with pytest.raises(ImageError) as caught:
        store.put(KEY, b"image")
    assert caught.value.code == ErrorCode.STORAGE_ERROR
    assert caught.value.is_retryable
    assert str(tmp_path) not in caught.value.detail


@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file:{}/"])
def test_a_folder_is_named_by_url(tmp_path: Path, form: str) -> None:
    """Absolute paths are taken with and without slashes before them; the folder is made."""
    folder = tmp_path / "new folder" / "100%"
    store = open_store(form.format(folder))
    store.put(KEY, b"image")
    store.check()
    assert _files(folder) == [KEY]


@pytest.mark.parametrize("folder", [".", "uploads", "static", STAGED_IMAGES, STAGED_CSVS])
def test_a_store_with_a_folder_that_is_closed_to_us_is_not_ready(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Be it root's since the service once ran as root: every image would fail at its end."""
    store.check()
    closed = (tmp_path / folder).resolve()
    monkeypatch.setattr(os, "access", lambda path, _: path.resolve() != closed)
    with pytest.raises(ImageError) as caught:
        store.check()
    assert caught.value.code == ErrorCode.STORAGE_ERROR


def test_a_relative_folder_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`file:.` is the default; the folder stays the one of the start."""
    monkeypatch.chdir(tmp_path)
    store = open_store("file:.")
    monkeypatch.chdir("/")
    store.put(KEY, b"image")
    assert _files(tmp_path) == [KEY]


def test_threads_share_a_store(store: FolderStore, tmp_path: Path) -> None:
    """Many files in one new folder, written at once, are all there."""
    keys = [image_key(ID, n, "png") for n in range(1, 41)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: store.put(key, key.encode()), keys))
    assert _files(tmp_path) == sorted(keys)
    assert all(_read(store, key) == key.encode() for key in keys)


def test_readers_never_see_half_a_file(store: FolderStore) -> None:
    """Who reads while a file is replaced gets the old or the new one, at its full size."""
    contents = [b"a" * 300_000, b"b" * 200_000]
    store.put(KEY, contents[0])

    def replace(_: int) -> None:
        for content in contents * 5:
            store.put(KEY, content)

    def look(_: int) -> set[int]:
        with ExitStack() as closing:
            files = [store.open(KEY, closing) for _ in range(200)]
        return {file.size for file in files if file}

    with ThreadPoolExecutor(2) as threads:
        replaced = threads.submit(replace, 0)
        sizes = threads.submit(look, 0).result()
        replaced.result()
    assert sizes <= {300_000, 200_000}


def test_what_is_not_there_is_not_moved(store: FolderStore, tmp_path: Path) -> None:
    """Its place keeps what it has, and no folder is made for nothing."""
    source = f"{STAGED_IMAGES}{ID}-1.1.jpg"
    assert not store.move(source, KEY)
    assert not (tmp_path / image_folder(ID)).exists()
    store.put(KEY, b"kept")
    assert not store.move(source, KEY)
    assert _read(store, KEY) == b"kept"


def test_two_names_of_one_file_become_one(store: FolderStore, tmp_path: Path) -> None:
    """A disk that shares the bytes of copies would rename one to the other by doing nothing."""
    staged = f"{STAGED_IMAGES}{ID}-1.1.jpg"
    store.put(KEY, b"image")
    (tmp_path / staged).hardlink_to(tmp_path / KEY)
    assert store.move(staged, KEY)
    assert _files(tmp_path) == [KEY]
    assert _read(store, KEY) == b"image"


def test_a_move_that_a_disk_refuses_is_a_storage_error(store: FolderStore, tmp_path: Path) -> None:
    """What was to be moved stays."""
    staged = f"{STAGED_IMAGES}{ID}-1.1.jpg"
    store.put(staged, b"image")
    (tmp_path / KEY).mkdir(parents=True)
    with pytest.raises(ImageError) as caught:
        store.move(staged, KEY)
    assert caught.value.code == ErrorCode.STORAGE_ERROR
    assert _read(store, staged) == b"image"


def test_the_names_of_a_folder_that_is_not_there_need_no_sync(
    store: FolderStore, tmp_path: Path
) -> None:
    """Every image of a request may have failed."""
    store.sync(image_folder(ID))
    assert not (tmp_path / image_folder(ID)).exists()


def test_two_that_delete_a_folder_leave_nothing_of_it(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other one deletes first is no reason to stop."""
    keys = [image_key(ID, n, "png") for n in range(1, 9)]
    for key in keys:
        store.put(key, b"image")
    unlink, races = os.unlink, iter(range(3))

    def unlink_twice(path: str, **where: int) -> None:
        unlink(path, **where)
        if next(races, None) is not None:
            unlink(path, **where)  # the other one was a moment quicker

    monkeypatch.setattr(os, "unlink", unlink_twice)
    store.delete_folder(image_folder(ID))
    monkeypatch.undo()
    assert _files(tmp_path) == []


@pytest.mark.parametrize(
    ("start", "listed"),
    [("", ["a-1", "a-2", "b-1", "b-1#1"]), ("a", ["a-1", "a-2"]), ("a-2", ["a-2"]), ("c", [])],
)
def test_the_keys_of_a_folder_are_listed(
    store: FolderStore, tmp_path: Path, start: str, listed: list[str]
) -> None:
    """Those whose names begin so, and what a writer that died has left; nothing beside it."""
    store.put(KEY, b"image")
    for name in ("a-1", "a-2", "b-1", "b-1#1"):
        (tmp_path / STAGED_IMAGES / name).write_bytes(b"staged")
    keys = sorted(store.list_keys(STAGED_IMAGES, start))
    assert keys == [STAGED_IMAGES + name for name in listed]


def test_a_read_that_takes_its_time_holds_one_descriptor(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the file alone: a slow client's download must not cost the process one for each folder."""
    store.put(KEY, b"image")
    held = watch_descriptors(monkeypatch)
    with _opened(store, KEY) as file:
        assert held == {file.descriptor}
    assert not held
