"""What is a bucket's own: headers, few requests, answers that stay what they are, what it refuses."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
import pytest
import requests

from content_types import FOREVER
from errors import ErrorCode, ImageError
from storage import bucket_store
from storage.bucket_store import BucketStore
from storage.image_store import open_store
from storage.storage_keys import STAGED_IMAGES, image_folder, image_key, output_csv_key
from tests.bucket import NAME, Bucket
from tests.origin import Origin, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.stored_object import StoredObject

ID = "0123456789abcdef" * 2
KEY = image_key(ID, 1, "jpeg")
STAGED = f"{STAGED_IMAGES}{ID}-1.1.jpg"
URL = f"s3://{NAME}/of/ours"


@pytest.fixture(scope="module")
def _running_bucket() -> Iterator[Bucket]:
    with Bucket() as running:
        yield running


@pytest.fixture
def bucket(_running_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Give an empty bucket whose credentials are in the environment."""
    for name, value in _running_bucket.variables.items():
        monkeypatch.setenv(name, value)
    keys = [meta["path"] for meta in _running_bucket.objects("").values()]
    if keys:
        obstore.delete(_running_bucket.client(), keys)
    _running_bucket.forget_calls()
    return _running_bucket


@pytest.fixture
def store(bucket: Bucket) -> BucketStore:
    """Give a store in the bucket, below a prefix."""
    return BucketStore(URL)


@contextmanager
def _opened(store: BucketStore, key: str) -> Iterator[StoredObject]:
    with ExitStack() as closing:
        file = store.open(key, closing)
        assert file
        yield file


def _refused(step: Callable[[], object]) -> str:
    """Return why a step is a storage error."""
    with pytest.raises(ImageError) as caught:
        step()
    assert caught.value.code == ErrorCode.STORAGE_ERROR
    assert caught.value.is_retryable
    assert "http" not in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (KEY, {"Content-Type": "image/jpeg", "Cache-Control": FOREVER}),
        (image_key(ID, 1, "avif"), {"Content-Type": "image/avif", "Cache-Control": FOREVER}),
        (output_csv_key(ID), {"Content-Type": "text/csv; charset=utf-8"}),
    ],
)
def test_clients_that_are_sent_to_the_bucket_find_the_right_headers(
    store: BucketStore, bucket: Bucket, key: str, headers: dict[str, str]
) -> None:
    """What it is put with stays with an object that is moved and copied, be it large or in pieces."""
    staged = f"{STAGED_IMAGES}x.{key.rpartition('.')[2]}"
    for data in (b"image", [b"a", b"b"], b"x" * 6_000_000):
        store.put(key if key.endswith("csv") else staged, data)
        if not key.endswith("csv"):
            store.move(staged, key)
        assert obstore.get(bucket.client(), f"of/ours/{key}").attributes == headers


def test_an_image_s_way_takes_three_requests(store: BucketStore, bucket: Bucket) -> None:
    """It is staged, copied and deleted; a reader asks for its tag, then reads it in one go."""
    store.put(STAGED, b"x" * 1_000_000)
    store.move(STAGED, KEY)
    assert bucket.calls == {"PUT staged": 1, "PUT uploads": 1, "POST delete": 1}
    bucket.forget_calls()
    with _opened(store, KEY) as file:
        assert sum(map(len, store.read(file, 0, file.size))) == 1_000_000
    assert bucket.calls == {"HEAD uploads": 1, "GET uploads": 1}


def test_who_only_asks_for_headers_reads_nothing(store: BucketStore, bucket: Bucket) -> None:
    """A HEAD's answer has a body that nobody reads."""
    store.put(KEY, b"image")
    bucket.forget_calls()
    with _opened(store, KEY) as file:
        store.read(file, 0, file.size)
    assert bucket.calls == {"HEAD uploads": 1}


def test_deleting_is_done_by_the_thousand(store: BucketStore, bucket: Bucket) -> None:
    """A deleted request has as many objects as images, and each request takes its time."""
    client = bucket.client()
    for n in range(1, 1101):
        obstore.put(client, f"of/ours/{image_key(ID, n, 'png')}", b"")
    bucket.forget_calls()
    store.delete_folder(image_folder(ID))
    assert bucket.objects() == {}
    assert bucket.calls["POST delete"] == 2
    assert bucket.calls["GET list"] <= 4


def test_what_others_have_staged_is_not_listed(store: BucketStore, bucket: Bucket) -> None:
    """A finish asks for the names of its own request, however many others go on."""
    client = bucket.client()
    for n in range(1100):
        obstore.put(client, f"of/ours/{STAGED_IMAGES}{n:032x}-1.1.jpg", b"")
    bucket.forget_calls()
    assert len(list(store.list_keys(STAGED_IMAGES, f"{1050:032x}"))) == 1
    assert bucket.calls == {"GET list": 1}


@pytest.mark.parametrize("content", [b"other", b"longer one", None])
def test_another_s_bytes_never_follow(store: BucketStore, content: bytes | None) -> None:
    """Size and tag of the file are told already: reading ends in an error when it was replaced."""
    store.put(KEY, b"image")
    with _opened(store, KEY) as file:
        if content:
            store.put(KEY, content)
        else:
            store.delete(KEY)
        with pytest.raises((ImageError, FileNotFoundError)):
            list(store.read(file, 0, file.size))


def test_a_bucket_that_is_not_there_is_named(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it was there once, and an asked key would merely be missing."""
    store = BucketStore("s3://nowhere")
    for step in (store.check, lambda: store.put(KEY, b"image")):
        assert _refused(step) == "there is no bucket of this name"
    monkeypatch.setattr(store, "_is_written", True)
    assert _refused(store.check) == "there is no bucket of this name"


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_are_refused_are_named(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Whoever has mistyped the secret reads so at the start."""
    origin.serve("/shop/static/.ready", status=status)
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.url(""))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "wrong")
    assert _refused(BucketStore("s3://shop").check) == "the store refuses our credentials"


def test_the_first_look_writes_and_later_ones_read(store: BucketStore, bucket: Bucket) -> None:
    """A bucket that only lets us read is none; being ready is asked often, and reading is cheap.

    Whoever empties the bucket loses nothing by it.
    """
    for _ in range(3):
        store.check()
    assert bucket.calls == {"PUT static": 1, "HEAD static": 2}
    obstore.delete(bucket.client(), "of/ours/static/.ready")
    store.check()
    assert bucket.calls == {"PUT static": 2, "HEAD static": 3, "POST delete": 1}


def test_a_bucket_that_hangs_holds_nobody_for_long(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step ends in an error, be it told or amid an answer; after the pause all is well."""
    for name in ("SILENCE", "PROBE"):
        monkeypatch.setattr(bucket_store, name, timedelta(seconds=0.5))
    store = BucketStore(URL)
    store.check()
    store.put(KEY, b"image")
    with _opened(store, KEY) as file, ExitStack() as closing:
        bucket.send(signal.SIGSTOP)
        start = time.monotonic()
        for step in (
            store.check,
            lambda: store.put(KEY, b"image"),
            lambda: store.move(KEY, STAGED),
            lambda: store.delete(KEY),
            lambda: store.open(KEY, closing),
            lambda: list(store.read(file, 0, 5)),
            lambda: list(store.list_keys("uploads/")),
        ):
            _refused(step)
        assert time.monotonic() - start < 15
        bucket.send(signal.SIGCONT)
    store.check()
    store.put(KEY, b"image")


def test_a_slow_reader_is_no_silence_of_the_bucket(
    store: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client on a bad line takes its minutes; the bucket has answered all the same."""
    monkeypatch.setattr(bucket_store, "SILENCE", timedelta(seconds=1))
    content = bytes(8_000_000)
    store.put(KEY, content)
    with _opened(store, KEY) as file:
        pieces = iter(BucketStore(URL).read(file, 0, file.size))
        length = len(next(pieces))
        time.sleep(1.5)  # the reader's pause is what is tested
        assert length + sum(map(len, pieces)) == len(content)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_signed_url_opens_one_object_by_one_method(store: BucketStore, method: str) -> None:
    """Whoever has it needs no credentials."""
    store.put(KEY, b"image")
    by_get, by_head = (store.signed_url(KEY, m, timedelta(seconds=77)) for m in ("GET", "HEAD"))
    assert by_get != by_head
    url = by_head if method == "HEAD" else by_get
    assert "X-Amz-Expires=77&" in url
    answer = requests.request(method, url, timeout=10)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/jpeg"


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("s3://shop//of//ours", {}),
        ("s3://shop", {"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "maybe"}),
    ],
)
def test_what_can_be_no_bucket_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str]
) -> None:
    """In one line, before anything is asked for."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="Generic") as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_a_bucket_that_is_away_is_a_storage_error(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens any more."""
    with Origin() as gone:
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", gone.url(""))
    assert _refused(BucketStore(URL).check) == "the store did not take or give a file"


def test_a_bucket_that_fails_for_a_moment_is_asked_again(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it answers 503 to is no failed image yet."""
    stored = Reply(headers={"ETag": '"1"'})
    origin.serve_in_turn(f"/shop/{KEY}", *[Reply(status=503)] * 2, stored)
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.url(""))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    BucketStore("s3://shop").put(KEY, b"image")
    assert origin.count(f"/shop/{KEY}") == 3
