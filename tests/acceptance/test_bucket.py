"""The whole service over a bucket: a server and a worker, each a process, and S3 by a third one."""

from __future__ import annotations

import csv
import hashlib
import io
import signal
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import requests

from tests.bucket import NAME, Bucket
from tests.chaos.launched import LaunchedWorker
from tests.images import opened, photo, saved
from tests.service import Service, Worker, assert_problem, csv_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from database_helper import Database
    from tests.origin import Origin

JPEG = saved(photo(), "JPEG", quality=95)
PNG = saved(photo(90, 60), "PNG")
LEASE_SECONDS = "2"
AGES_AGO = "0.00001"  # days: finished a second ago


class Shop(NamedTuple):
    """A server without a worker, the bucket and the origin; workers are started over both."""

    server: Service
    bucket: Bucket
    origin: Origin
    settings: dict[str, str]
    database: Database
    folder: Path

    def worker(self, **settings: str) -> Worker:
        """Return a worker of its own."""
        return Worker(self.folder, self.database, **self.settings | settings)

    def run(self, *paths: str) -> dict[str, Any]:
        """Have the images at these paths made, in one request."""
        return self.server.run(csv_of(",".join(map(self.origin.url, paths))))

    def get(self, url: str, **options: Any) -> requests.Response:
        """Ask for what a URL of the service names."""
        return self.server.get(url.removeprefix(self.server.url), **options)


@contextmanager
def open_shop(bucket: Bucket, database: Database, origin: Origin, folder: Path) -> Iterator[Shop]:
    """Run a server over a bucket."""
    settings = bucket.settings | {
        "ALLOWED_SOURCES": origin.authority,
        "LEASE_SECONDS": LEASE_SECONDS,
        "WEBHOOK_SECRET": "whsec_" + "QUJD" * 8,
    }
    origin.serve("/a.jpg", JPEG, headers={"ETag": '"a"'})
    origin.serve("/b.png", PNG, headers={"ETag": '"b"'})
    with Service(folder, database, "--no-worker", **settings) as server:
        yield Shop(server, bucket, origin, settings, database, folder)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """Run an S3 server for the tests of this module."""
    with Bucket() as running:
        yield running


@pytest.fixture(scope="module")
def idle_shop(
    bucket: Bucket,
    module_database: Database,
    module_origin: Origin,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    """Run a server over the bucket that the tests of this module share."""
    folder = tmp_path_factory.mktemp("shop")
    with open_shop(bucket, module_database, module_origin, folder) as shop:
        yield shop


@pytest.fixture
def shop(idle_shop: Shop) -> Iterator[Shop]:
    """Have a worker beside the server."""
    with idle_shop.worker():
        yield idle_shop


@pytest.fixture
def release() -> Iterator[Event]:
    """Give an event that held replies wait for; it comes at the latest when the test ends."""
    event = Event()
    yield event
    event.set()


def rows(answer: requests.Response) -> list[dict[str, str]]:
    """Return the lines of a CSV."""
    assert answer.status_code == 200
    return list(csv.DictReader(io.StringIO(answer.text)))


def keys_of(shop: Shop, request_id: str) -> set[str]:
    """Return what the bucket has of a request, staged or not."""
    return {key for key in shop.bucket.objects() if request_id in key}


def keys_to_be(request_id: str, *names: str) -> set[str]:
    """Return what it has to have of a finished one."""
    images = {f"uploads/{request_id}/{request_id}-{name}" for name in names}
    return images | {f"static/{request_id}.csv", f"static/{request_id}-report.csv"}


# --- The whole job ---------------------------------------------------------------------------


def test_a_request_s_whole_life(shop: Shop) -> None:
    """From the upload to the deletion: the same promises as on disk, and nothing stays."""
    origin, server = shop.origin, shop.server
    origin.serve("/late.jpg", status=404)
    status = shop.run("/a.jpg", "/b.png", "/late.jpg")
    request_id = status["request_id"]
    assert (status["status"], status["errors_by_code"]) == (
        "completed_with_errors",
        {"http_404": 1},
    )
    assert keys_of(shop, request_id) == keys_to_be(request_id, "1.jpg", "2.png")
    before = shop.bucket.objects()

    origin.serve("/late.jpg", JPEG)
    assert server.request("POST", f"/status/{request_id}/retry").status_code == 202
    status = server.finish(request_id)
    assert status["status"] == "completed"
    assert keys_of(shop, request_id) == keys_to_be(request_id, "1.jpg", "2.png", "3.jpg")
    for name in ("1.jpg", "2.png"):  # what succeeded stays as it is
        key = f"uploads/{request_id}/{request_id}-{name}"
        assert shop.bucket.objects()[key] == before[key]

    (line,) = rows(shop.get(status["links"]["output_csv"]))
    urls = line["Output Image Urls"].split(",")
    report = rows(shop.get(status["links"]["report_csv"]))
    assert [image["state"] for image in report] == ["succeeded"] * 3
    for url, image in zip(urls, server.images(request_id), strict=True):
        served = shop.get(url)
        assert hashlib.sha256(served.content).hexdigest() == image["sha256"]
        assert opened(served.content).size == (image["width"], image["height"])
        assert served.headers["Content-Type"] == f"image/{image['format']}"

    assert server.request("DELETE", f"/status/{request_id}").status_code == 202
    server.wait_until(lambda: not keys_of(shop, request_id))
    assert shop.get(urls[0]).status_code == 404
    assert shop.get(status["links"]["output_csv"]).status_code == 410


def test_an_image_is_served_as_from_a_disk(shop: Shop) -> None:
    """Validators, ranges, HEAD; and each answer is one object read once."""
    status = shop.run("/a.jpg")
    (image,) = shop.server.images(status["request_id"])
    path = image["output_url"].removeprefix(shop.server.url)
    shop.bucket.forget_calls()
    whole = shop.server.get(path)
    assert shop.bucket.calls == {"HEAD uploads": 1, "GET uploads": 1}
    assert "immutable" in whole.headers["Cache-Control"]
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    for span, content in (
        ("bytes=0-9", whole.content[:10]),
        ("bytes=100-", whole.content[100:]),
        ("bytes=-7", whole.content[-7:]),
    ):
        part = shop.server.get(path, headers={"Range": span})
        assert (part.status_code, part.content) == (206, content)
    known = {"If-None-Match": whole.headers["ETag"]}
    shop.bucket.forget_calls()
    assert shop.server.get(path, headers=known).status_code == 304
    head = shop.server.request("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(whole.content))
    assert shop.bucket.calls == {"HEAD uploads": 2}
    other = {"Range": "bytes=99999999-"}
    assert_problem(shop.server.get(path, headers=other), 416)
    assert_problem(shop.server.get(path.replace("-1.jpg", "-2.jpg")), 404)


def test_a_later_request_takes_over_what_is_there(shop: Shop) -> None:
    """Its object is a copy of its own, which outlives the first one."""
    first = shop.run("/a.jpg")["request_id"]
    second = shop.run("/a.jpg", "/a.jpg")["request_id"]
    images = shop.server.images(second)
    assert [image["reused"] for image in images] == [True, True]
    assert keys_of(shop, second) == keys_to_be(second, "1.jpg", "2.jpg")
    shop.server.request("DELETE", f"/status/{first}")
    shop.server.wait_until(lambda: not keys_of(shop, first))
    assert (
        hashlib.sha256(shop.get(images[1]["output_url"]).content).hexdigest() == images[1]["sha256"]
    )


def test_what_an_image_costs(shop: Shop) -> None:
    """Three requests each, and as many for the end of a request, whatever its size.

    Whoever finishes a request may find images staged that are just being copied; then it does so, too.
    A worker lists what is staged now and then besides.
    """
    paths = [f"/cost-{n}.png" for n in range(20)]
    for n, path in enumerate(paths):
        shop.origin.serve(path, saved(photo(40 + n, 30), "PNG"))
    shop.bucket.forget_calls()
    shop.run(*paths)
    calls = shop.bucket.calls
    assert calls["PUT staged"] == 20 + 2
    assert 20 <= calls["PUT uploads"] <= 30
    assert 22 <= calls["POST delete"] <= 32
    assert {"POST staged": 4, "PUT static": 2}.items() <= calls.items()
    assert 2 <= calls["GET list"] < 10


def test_age_deletes_every_object(shop: Shop, idle_shop: Shop) -> None:
    """After RETENTION_DAYS nothing of a request is left in the bucket."""
    request_id = shop.run("/b.png")["request_id"]
    with idle_shop.worker(RETENTION_DAYS=AGES_AGO):
        shop.server.wait_until(lambda: not keys_of(shop, request_id))
        shop.server.wait_until(lambda: shop.server.get(f"/status/{request_id}").status_code == 410)


# --- What goes wrong -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(idle_shop: Shop) -> bytes:
    """Return the output CSV of a request that nobody disturbs, without its id."""
    with idle_shop.worker():
        status = idle_shop.run("/a.jpg", "/b.png")
    answer = idle_shop.get(status["links"]["output_csv"])
    return answer.content.replace(status["request_id"].encode(), b"id")


@pytest.mark.parametrize(
    ("point", "quality"),
    [("staged", 71), ("record after commit", 72), ("image copied", 73), ("CSV copied", 74)],
)
def test_a_killed_worker_loses_and_doubles_nothing(
    idle_shop: Shop, undisturbed: bytes, point: str, quality: int
) -> None:
    """Whether what it made is staged, named by its row, or copied and not deleted yet.

    Of another quality nothing is there to be taken over.
    """
    server = idle_shop.server
    with LaunchedWorker(
        idle_shop.folder, idle_shop.database, **idle_shop.settings, DOWNLOAD_CONCURRENCY="1"
    ) as worker:
        worker.arm(point)
        urls = ",".join(map(idle_shop.origin.url, ("/a.jpg", "/b.png")))
        options = {"quality": str(quality)}
        request_id = server.upload(csv_of(urls), options).json()["request_id"]
        worker.wait_killed()
    with idle_shop.worker():
        status = server.finish(request_id)
        assert (status["status"], status["progress"]["succeeded"]) == ("completed", 2)
        expected = keys_to_be(request_id, "1.jpg", "2.png")
        server.wait_until(lambda: keys_of(idle_shop, request_id) == expected)
    output = idle_shop.get(status["links"]["output_csv"]).content
    assert output.replace(request_id.encode(), b"id") == undisturbed


@pytest.fixture
def own_shop(
    new_database: Callable[[], Database], origin: Origin, tmp_path: Path
) -> Iterator[Shop]:
    """Run a server over a bucket that may go away."""
    with Bucket() as bucket, open_shop(bucket, new_database(), origin, tmp_path) as shop:
        yield shop


def test_a_bucket_that_is_away_and_comes_back(own_shop: Shop, release: Event) -> None:
    """Uploads are 503 meanwhile; images that could not be stored are tried again, and end well."""
    server, origin = own_shop.server, own_shop.origin
    origin.serve("/held.jpg", JPEG, until=release)
    with own_shop.worker():
        held = csv_of(origin.url("/held.jpg"))
        request_id = server.upload(held).json()["request_id"]
        server.wait_until(lambda: origin.count("/held.jpg"))
        own_shop.bucket.stop()
        assert_problem(refused := server.upload(held), 503)
        assert refused.headers["Retry-After"]
        assert_problem(server.get("/readyz"), 503)
        assert server.get("/healthz").status_code == 200
        release.set()
        error = "select error_code from images where error_code is not null"
        server.wait_until(lambda: server.query(error))
        assert server.query(error)[0]["error_code"] == "storage_error"
        own_shop.bucket.start()
        status = server.finish(request_id)
        assert status["status"] == "completed"
        assert keys_of(own_shop, request_id) == keys_to_be(request_id, "1.jpg")
        assert server.images(request_id)[0]["attempts"] > 1
        assert server.get("/readyz").status_code == 200


def test_a_bucket_that_hangs(own_shop: Shop, release: Event) -> None:
    """Whoever uploads hears so after seconds; what was under way ends when it goes on."""
    server, origin = own_shop.server, own_shop.origin
    origin.serve("/held.jpg", JPEG, until=release)
    with own_shop.worker():
        held = csv_of(origin.url("/held.jpg"))
        request_id = server.upload(held).json()["request_id"]
        server.wait_until(lambda: origin.count("/held.jpg"))
        own_shop.bucket.send(signal.SIGSTOP)
        release.set()
        assert_problem(refused := server.upload(held), 503)
        assert refused.elapsed.total_seconds() < 30
        assert server.get(f"/status/{request_id}").status_code == 200
        own_shop.bucket.send(signal.SIGCONT)
        assert server.finish(request_id)["status"] == "completed"
        assert keys_of(own_shop, request_id) == keys_to_be(request_id, "1.jpg")


# --- Images from elsewhere -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["signed", "public"])
def test_clients_are_sent_to_the_bucket(shop: Shop, kind: str, tmp_path: Path) -> None:
    """To what is there only; output CSVs and reports come from the service itself."""
    public = f"{shop.bucket.endpoint}/{NAME}/of/ours"
    settings = shop.settings | {"PUBLIC_FILES_URL": "signed" if kind == "signed" else public}
    if kind == "public":
        shop.bucket.open_to_all()
    status = shop.run("/a.jpg")
    (image,) = shop.server.images(status["request_id"])
    path = image["output_url"].removeprefix(shop.server.url)
    with Service(tmp_path, shop.database, "--no-worker", **settings) as server:
        for method in ("GET", "HEAD"):
            answer = server.request(method, path, allow_redirects=False)
            assert (answer.status_code, answer.content) == (307, b"")
            assert answer.headers["Location"].startswith(public + path)
            assert ("X-Amz-Signature=" in answer.headers["Location"]) == (kind == "signed")
            assert answer.headers["Cache-Control"] == "public, max-age=300"
            found = requests.request(method, answer.headers["Location"], timeout=10)
            assert found.status_code == 200
            assert found.headers["Content-Type"] == "image/jpeg"
            assert "immutable" in found.headers["Cache-Control"]
        followed = server.get(path).content
        assert hashlib.sha256(followed).hexdigest() == image["sha256"]
        assert_problem(server.get(path.replace("-1.jpg", "-2.jpg")), 404)
        for name in ("output_csv", "report_csv"):
            link = status["links"][name].removeprefix(shop.server.url)
            assert server.get(link, allow_redirects=False).status_code == 200
        (line,) = rows(server.get(status["links"]["output_csv"].removeprefix(shop.server.url)))
        assert line["Output Image Urls"] == image["output_url"]


def test_clients_may_be_sent_to_a_web_server_over_the_folder(
    new_database: Callable[[], Database], origin: Origin, tmp_path: Path
) -> None:
    """A folder has no URLs of its own, but an operator may serve it."""
    origin.serve("/a.jpg", JPEG)
    elsewhere = {"PUBLIC_FILES_URL": "https://cdn.example.com/images"}
    sources = {"ALLOWED_SOURCES": origin.authority}
    with Service(tmp_path, new_database(), **elsewhere, **sources) as server:
        request_id = server.run(csv_of(origin.url("/a.jpg")))["request_id"]
        name = f"/uploads/{request_id}/{request_id}-1.jpg"
        answer = server.get(name, allow_redirects=False)
        assert answer.status_code == 307
        assert answer.headers["Location"] == f"https://cdn.example.com/images{name}"
        assert server.get(name.replace("-1", "-2"), allow_redirects=False).status_code == 404


# --- The start -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"STORAGE_URL": "s3://nowhere"},
            "STORAGE_URL=s3://nowhere: there is no bucket of this name (Object at location",
        ),
        ({"AWS_ENDPOINT_URL": "shop"}, "AWS_ENDPOINT_URL=shop: takes a URL like"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "Missing SecretAccessKey"),
        (
            {"STORAGE_URL": "file:.", "PUBLIC_FILES_URL": "signed"},
            "PUBLIC_FILES_URL=signed: only an s3: STORAGE_URL has URLs to sign",
        ),
    ],
)
def test_what_can_t_be_stops_the_start(
    idle_shop: Shop, tmp_path: Path, settings: dict[str, str | None], said: str
) -> None:
    """With a line that names the setting."""
    given = {name: text for name, text in (idle_shop.settings | settings).items() if text}
    service = Service(tmp_path, idle_shop.database, "--no-worker", **given)
    with pytest.raises(AssertionError, match="did not start") as caught, service:
        pass
    (line,) = [text for text in str(caught.value).splitlines() if "cannot start" in text]
    assert said in line
    assert "<" not in line
    assert "Traceback" not in str(caught.value)
