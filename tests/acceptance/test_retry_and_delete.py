"""What a user does with a request that is there: retries it, cancels it, deletes it, lets it age."""

from __future__ import annotations

import csv
import hashlib
import io
import signal
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.images import photo, saved
from tests.origin import Origin
from tests.service import Service, assert_problem, csv_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from database_helper import Database

JPEG = saved(photo(), "JPEG", quality=95)
LEASE_SECONDS = "2"
AT_A_TIME = 3  # downloads from the origin
MANY = 24
NOT_THERE = "0" * 32


@pytest.fixture(scope="module")
def service(
    module_database: Database,
    module_origin: Origin,
    resting_origin: Origin,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """Run the service with few downloads at a time."""
    with Service(
        tmp_path_factory.mktemp("service"),
        module_database,
        ALLOWED_SOURCES=f"{module_origin.authority},{resting_origin.authority}",
        LEASE_SECONDS=LEASE_SECONDS,
        HOST_CONCURRENCY=str(AT_A_TIME),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def resting_origin() -> Iterator[Origin]:
    """Run another origin, which wants nobody to come again for a long time."""
    with Origin() as server:
        server.serve("/rest.jpg", status=503, headers={"Retry-After": "300"})
        yield server


@pytest.fixture
def release() -> Iterator[Event]:
    """Give an event that held replies wait for; it comes at the latest when the test ends."""
    event = Event()
    yield event
    event.set()


def retry(service: Service, request_id: str) -> dict[str, Any]:
    """Retry a request and return the answer's body."""
    answer = service.request("POST", f"/status/{request_id}/retry")
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/status/{request_id}"
    body: dict[str, Any] = answer.json()
    assert (body["request_id"], body["status_url"]) == (
        request_id,
        f"{service.url}/status/{request_id}",
    )
    return body


def delete(service: Service, request_id: str) -> dict[str, Any]:
    """Cancel or delete a request and return the answer's body."""
    answer = service.request("DELETE", f"/status/{request_id}")
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


def upload(service: Service, *cells: str) -> str:
    """Upload a product for each cell of URLs and return the request's id."""
    return str(service.upload(csv_of(*cells)).json()["request_id"])


def slots(service: Service, request_id: str) -> list[list[bool]]:
    """Return which slots of the output CSV have a URL, row by row."""
    answer = service.get(f"/static/{request_id}.csv")
    rows = list(csv.reader(io.StringIO(answer.text)))[1:]
    return [[bool(url) for url in row[-1].split(",")] for row in rows]


def files(service: Service, request_id: str) -> dict[str, tuple[int, int, str]]:
    """Return inode, time of modification and digest of every output image."""
    folder = service.folder / "uploads" / request_id
    return {
        path.name: (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in folder.iterdir()
    }


def left_of(service: Service, *request_ids: str) -> set[str]:
    """Return the names of all files and tables that have something of these requests."""
    ids = list(request_ids)
    tables = ("images", "image_links", "requests")
    paths = [
        path for folder in ("uploads", "static") for path in (service.folder / folder).rglob("*")
    ]
    return {path.name for path in paths if any(one in path.name for one in ids)} | {
        table
        for table in tables
        if service.query(
            f"select from {table} where {'id' if table == 'requests' else 'request_id'} = any(%s)",
            ids,
        )
    }


def has_job(service: Service, task: str) -> bool:
    """Tell whether the engine has a job of a task, waiting or under way."""
    return bool(service.query("select from procrastinate_jobs where task_name = %s", task))


def wait_for_cleaning(service: Service) -> None:
    """Wait until the worker has done from the start what it does every two leases.

    Keys of uploads that are over go first: when a second one is gone, all that followed the first
    is done.
    """
    for _ in range(2):
        service.query(
            """insert into idempotency_keys (owner, key, fingerprint, request_id, created_at)
               values ('', 'of old', '', '', '2001-01-01') returning key"""
        )
        service.wait_until(lambda: not service.query("select from idempotency_keys"))


# Retrying


def test_only_what_failed_is_fetched_again(
    service: Service, module_origin: Origin, release: Event
) -> None:
    """The others' files stay untouched; of a repeated URL one is fetched; the output is complete."""
    good = [module_origin.serve(f"/good{n}.jpg", JPEG) for n in (1, 2)]
    bad = module_origin.url("/recovers.jpg")
    request_id = upload(service, f"{good[0]},{bad}", f"{bad} , {good[1]}", bad)
    first = service.finish(request_id)
    assert (first["status"], first["errors_by_code"]) == ("completed_with_errors", {"http_404": 3})
    assert slots(service, request_id) == [[True, False], [False, True], [False]]
    before = files(service, request_id)

    module_origin.serve("/recovers.jpg", JPEG, until=release)
    answer = retry(service, request_id)
    assert (answer["status"], answer["images"]) == ("processing", 3)
    during = service.get(f"/status/{request_id}").json()
    assert (during["status"], during["finished_at"]) == ("processing", None)
    assert during["errors_by_code"] == {}
    assert during["progress"]["total"] == 5
    assert during["progress"]["done"] == during["progress"]["succeeded"] == 2
    assert (during["progress"]["failed"], during["progress"]["percent"]) == (0, 40.0)
    assert during["progress"]["eta_seconds"] is None  # by this run's pace, which has none yet
    assert during["links"]["output_csv"] is None
    assert_problem(service.get(f"/static/{request_id}.csv"), 404)
    release.set()

    last = service.finish(request_id)
    assert (last["status"], last["errors_by_code"]) == ("completed", {})
    assert (last["progress"]["succeeded"], last["progress"]["failed"]) == (5, 0)
    assert last["bytes_in"] == 5 * len(JPEG)
    assert last["created_at"] == first["created_at"]
    assert last["finished_at"] > first["finished_at"]
    assert slots(service, request_id) == [[True, True], [True, True], [True]]
    after = files(service, request_id)
    assert len(after) == 5
    assert before.items() <= after.items()
    assert [module_origin.count(f"/{name}.jpg") for name in ("good1", "good2")] == [1, 1]
    assert module_origin.count("/recovers.jpg") == 2
    images = service.images(request_id)
    assert [image["reused"] for image in images] == [False, False, True, False, True]
    assert {(image["state"], image["attempts"], image["error"]) for image in images} == {
        ("succeeded", 1, None)
    }


def test_what_fails_again_is_counted_anew(service: Service, module_origin: Origin) -> None:
    """The counters and codes are those of the last run, not of all runs together."""
    url = module_origin.url("/other-reason.jpg")
    request_id = service.run(csv_of(f"{url}, no-url"))["request_id"]
    module_origin.serve("/other-reason.jpg", status=403)
    assert retry(service, request_id)["images"] == 2
    status = service.finish(request_id)
    assert status["status"] == "failed"
    assert status["errors_by_code"] == {"http_403": 1, "invalid_url": 1}
    assert (status["progress"]["done"], status["progress"]["failed"]) == (2, 2)


def test_retry_with_nothing_failed(service: Service, module_origin: Origin) -> None:
    """It is accepted and changes nothing at all."""
    url = module_origin.serve("/fine.jpg", JPEG)
    request_id = service.run(csv_of(url))["request_id"]
    paths = (f"/status/{request_id}", f"/static/{request_id}.csv")
    before = [service.get(path).headers["ETag"] for path in paths], files(service, request_id)
    answer = retry(service, request_id)
    assert (answer["status"], answer["images"]) == ("completed", 0)
    assert before == (
        [service.get(path).headers["ETag"] for path in paths],
        files(service, request_id),
    )
    assert module_origin.count("/fine.jpg") == 1


def test_retry_while_others_are_under_way(
    service: Service, module_origin: Origin, release: Event
) -> None:
    """What has failed so far runs again in the same run; the others are not begun twice."""
    held = module_origin.serve("/held.jpg", JPEG, until=release)
    bad = module_origin.url("/back-soon.jpg")
    request_id = upload(service, f"{bad},{held}", held)
    service.wait_until(
        lambda: service.get(f"/status/{request_id}").json()["progress"]["failed"] == 1
    )
    module_origin.serve("/back-soon.jpg", JPEG)
    answer = retry(service, request_id)
    assert (answer["status"], answer["images"]) == ("processing", 1)
    release.set()
    status = service.finish(request_id)
    assert (status["status"], status["progress"]["succeeded"]) == ("completed", 3)
    assert (module_origin.count("/held.jpg"), module_origin.count("/back-soon.jpg")) == (1, 2)


# Cancelling


def test_cancel(
    service: Service, module_origin: Origin, resting_origin: Origin, release: Event
) -> None:
    """What is under way ends, what waits is cancelled at once, however long it was to wait."""
    good = module_origin.serve("/before.jpg", JPEG)
    held = module_origin.serve("/under-way.jpg", JPEG, until=release)
    rest = resting_origin.url("/rest.jpg")
    late = resting_origin.serve(
        "/rest-late.jpg", status=503, headers={"Retry-After": "300"}, until=release
    )
    request_id = upload(service, f"{good},{held},{late}", rest, "no-url", rest)
    service.wait_until(
        lambda: (
            service.get(f"/status/{request_id}").json()["progress"]["done"] == 2
            and resting_origin.count("/rest.jpg")
            and resting_origin.count("/rest-late.jpg")
            and module_origin.count("/under-way.jpg")
        )
    )
    assert delete(service, request_id)["status"] == "cancelling"
    service.wait_until(
        lambda: service.get(f"/status/{request_id}").json()["errors_by_code"].get("cancelled") == 2
    )
    assert_problem(service.request("POST", f"/status/{request_id}/retry"), 409)
    assert delete(service, request_id)["status"] == "cancelling"  # a second time is no other thing
    assert_problem(service.get(f"/static/{request_id}.csv"), 404)
    service.wait_until(lambda: not has_job(service, "turn"))  # so that nobody happens to look
    release.set()

    status = service.finish(request_id)
    assert status["status"] == "cancelled"
    assert status["errors_by_code"] == {"cancelled": 3, "invalid_url": 1}
    progress = status["progress"]
    assert (progress["total"], progress["done"], progress["percent"]) == (6, 6, 100.0)
    assert (progress["succeeded"], progress["failed"]) == (2, 1)
    assert slots(service, request_id) == [[True, True, False], [False], [False], [False]]
    assert len(files(service, request_id)) == 2
    report = list(csv.DictReader(io.StringIO(service.get(f"/static/{request_id}-report.csv").text)))
    states = ["succeeded"] * 2 + ["cancelled"] * 2 + ["failed", "cancelled"]
    assert [line["state"] for line in report] == states
    codes = ["", "", "cancelled", "cancelled", "invalid_url", "cancelled"]
    assert [line["code"] for line in report] == codes
    images = service.images(request_id)
    assert [image["state"] for image in images] == states
    for image in (*images[2:4], images[5]):
        assert (image["error"]["code"], image["error"]["retryable"]) == ("cancelled", False)
        assert image["output_url"] is None
    assert module_origin.count("/under-way.jpg") == 1


def test_cancel_with_a_slow_origin(service: Service, module_origin: Origin) -> None:
    """Images that a worker has taken, but not begun to download, begin only after a retry."""
    urls = [module_origin.serve(f"/slow{n}.jpg", JPEG, delay=2.0) for n in range(MANY)]
    request_id = upload(service, ",".join(urls))
    service.wait_until(lambda: module_origin.count("/slow0.jpg"))
    delete(service, request_id)
    status = service.finish(request_id)
    fetched = sum(module_origin.count(f"/slow{n}.jpg") for n in range(MANY))
    assert fetched < MANY // 2  # time enough on a busy machine
    assert status["progress"]["succeeded"] == fetched
    assert status["errors_by_code"] == {"cancelled": MANY - fetched}
    before = files(service, request_id)
    for n in range(MANY):
        module_origin.serve(f"/slow{n}.jpg", JPEG)
    assert retry(service, request_id)["images"] == MANY - fetched
    status = service.finish(request_id)
    assert (status["status"], status["errors_by_code"]) == ("completed", {})
    assert [module_origin.count(f"/slow{n}.jpg") for n in range(MANY)] == [1] * MANY
    assert before.items() <= files(service, request_id).items()
    assert slots(service, request_id) == [[True] * MANY]


def test_cancel_before_the_beginning(tmp_path: Path, database: Database, origin: Origin) -> None:
    """Nothing is fetched; a retry begins it from the start."""
    url = origin.serve("/a.jpg", JPEG)
    settings = {"ALLOWED_SOURCES": origin.authority}
    with Service(tmp_path, database, "--no-worker", **settings) as service:
        request_id = upload(service, url, url)
        answer = retry(service, request_id)
        assert (answer["status"], answer["images"]) == ("pending", 0)
        assert delete(service, request_id)["status"] == "cancelling"
    with Service(tmp_path, database, **settings) as service:
        status = service.finish(request_id)
        assert (status["status"], status["started_at"]) == ("cancelled", None)
        assert status["errors_by_code"] == {"cancelled": 2}
        assert slots(service, request_id) == [[False], [False]]
        assert not origin.requests
        assert retry(service, request_id)["images"] == 2
        status = service.finish(request_id)
        assert (status["status"], origin.count("/a.jpg")) == ("completed", 1)


# Deleting


def test_delete(service: Service, module_origin: Origin) -> None:
    """Every trace of a finished request goes but that there was one; another one is untouched."""
    urls = [module_origin.serve(f"/deleted{n}.jpg", JPEG) for n in (1, 2)]
    kept, request_id = (service.run(csv_of(*urls))["request_id"] for _ in range(2))
    before = files(service, kept)
    assert {"images", "image_links", "requests", f"{request_id}-2.jpg"} <= left_of(
        service, request_id
    )
    assert delete(service, request_id) == {"request_id": request_id, "status": "deleted"}
    for path in (f"/status/{request_id}", f"/static/{request_id}.csv"):
        assert_problem(service.get(path), 410)
        assert service.request("HEAD", path).status_code == 410
    assert_problem(service.get(f"/status/{request_id}/images"), 410)
    assert_problem(service.get(f"/static/{request_id}-report.csv"), 410)
    assert_problem(service.request("POST", f"/status/{request_id}/retry"), 410)
    assert_problem(service.request("DELETE", f"/status/{request_id}"), 410)
    listed = [one["request_id"] for one in service.get("/requests").json()["requests"]]
    assert kept in listed
    assert request_id not in listed
    service.wait_until(lambda: not left_of(service, request_id))
    assert service.get(f"/uploads/{request_id}/{request_id}-1.jpg").status_code == 404
    assert service.get(f"/status/{request_id}").status_code == 410
    assert files(service, kept) == before
    assert service.get(f"/static/{kept}.csv").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("DELETE", f"/status/{NOT_THERE}", 404, None),
        ("POST", f"/status/{NOT_THERE}/retry", 404, None),
        ("GET", f"/status/{NOT_THERE}/retry", 405, {"POST"}),
        ("DELETE", f"/status/{NOT_THERE}/retry", 405, {"POST"}),
        ("HEAD", f"/status/{NOT_THERE}/retry", 405, {"POST"}),
        ("POST", f"/status/{NOT_THERE}", 405, {"GET", "HEAD", "DELETE"}),
        ("DELETE", f"/status/{NOT_THERE}/images", 405, {"GET", "HEAD"}),
        ("DELETE", f"/static/{NOT_THERE}.csv", 405, {"GET", "HEAD"}),
    ],
)
def test_what_can_not_be_done(
    service: Service, method: str, path: str, status: int, allow: set[str] | None
) -> None:
    """An unknown id is 404; a method that a path doesn't take is 405 and names those it does."""
    answer = service.request(method, path)
    assert answer.status_code == status
    if method != "HEAD":
        assert_problem(answer, status)
    if allow:
        assert set(answer.headers["Allow"].split(", ")) == allow


def test_another_key_and_no_retention(tmp_path: Path, database: Database) -> None:
    """To another key a request never was; without retention it stays however old it gets."""
    digests = ",".join(hashlib.sha256(name.encode()).hexdigest() for name in "ab")
    mine, other = ({"Authorization": f"Bearer {name}"} for name in "ab")
    settings = {"API_KEYS": digests, "RETENTION_DAYS": "0", "LEASE_SECONDS": LEASE_SECONDS}
    with Service(tmp_path, database, **settings) as service:
        request_id = service.upload(csv_of("no-url"), headers=mine).json()["request_id"]
        path = f"/status/{request_id}"
        service.wait_until(lambda: service.get(path, headers=mine).json()["finished_at"])
        service.query("update requests set finished_at = '2001-01-01' returning id")
        wait_for_cleaning(service)
        assert service.get(path, headers=mine).status_code == 200

        def refuse_the_other() -> None:
            assert_problem(service.get(path, headers=other), 404)
            assert_problem(service.request("POST", f"{path}/retry", headers=other), 404)
            assert_problem(service.request("DELETE", path, headers=other), 404)
            assert_problem(service.request("DELETE", path), 401)

        refuse_the_other()
        assert service.request("DELETE", path, headers=mine).status_code == 202
        refuse_the_other()
        assert_problem(service.get(path, headers=mine), 410)


def test_retention(service: Service, module_origin: Origin) -> None:
    """What was finished longer than RETENTION_DAYS ago is deleted as if its owner had done it."""
    url = module_origin.serve("/aged.jpg", JPEG)
    old, young = (service.run(csv_of(url))["request_id"] for _ in range(2))
    for request_id, days in ((old, 30.1), (young, 29.9)):
        service.query(
            "update requests set finished_at = now() - make_interval(secs => %s) where id = %s"
            " returning id",
            days * 86_400,
            request_id,
        )
    service.wait_until(lambda: not left_of(service, old))
    assert_problem(service.get(f"/status/{old}"), 410)
    assert_problem(service.get(f"/static/{old}.csv"), 410)
    assert service.get(f"/status/{young}").status_code == 200
    assert len(files(service, young)) == 1


# SIGKILL right after the answer


class Killed(NamedTuple):
    """A service that was started anew after it had answered, and what it had been asked for."""

    service: Service
    retried: str
    cancelled: str
    deleted: str


@pytest.fixture(scope="module")
def killed(
    new_database: Callable[[], Database],
    module_origin: Origin,
    resting_origin: Origin,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Killed]:
    """Ask for a retry, a cancellation and a deletion, kill the service, start it again."""
    folder, database = tmp_path_factory.mktemp("killed"), new_database()
    settings = {
        "ALLOWED_SOURCES": f"{module_origin.authority},{resting_origin.authority}",
        "LEASE_SECONDS": LEASE_SECONDS,
    }
    good = module_origin.serve("/survives.jpg", JPEG)
    silent = module_origin.serve("/silent.jpg", silent=True)
    resting_origin.serve("/rest-too.jpg", status=503, headers={"Retry-After": "300"})
    with Service(folder, database, **settings) as service:
        retried = service.run(csv_of(good, module_origin.url("/up-again.jpg")))["request_id"]
        deleted = service.run(csv_of(good))["request_id"]
        cancelled = upload(service, f"{good},{silent}", resting_origin.url("/rest-too.jpg"))
        service.wait_until(
            lambda: module_origin.count("/silent.jpg") and resting_origin.count("/rest-too.jpg")
        )
        path = f"/status/{cancelled}"
        service.wait_until(lambda: service.get(path).json()["progress"]["succeeded"] == 1)
        module_origin.serve("/up-again.jpg", JPEG)
        retry(service, retried)
        delete(service, cancelled)
        delete(service, deleted)
        service.stop(signal.SIGKILL)
    with Service(folder, database, **settings) as service:
        yield Killed(service, retried, cancelled, deleted)


def test_retry_survives(killed: Killed) -> None:
    """What was to run again does so."""
    status = killed.service.finish(killed.retried)
    assert (status["status"], status["progress"]["succeeded"]) == ("completed", 2)
    assert slots(killed.service, killed.retried) == [[True], [True]]


def test_cancellation_survives(killed: Killed) -> None:
    """What the dead one had under way is cancelled, too, once its lease is over."""
    status = killed.service.finish(killed.cancelled)
    assert (status["status"], status["errors_by_code"]) == ("cancelled", {"cancelled": 2})
    assert slots(killed.service, killed.cancelled) == [[True, False], [False]]


def test_deletion_survives(killed: Killed) -> None:
    """Nothing of the request is left."""
    assert_problem(killed.service.get(f"/status/{killed.deleted}"), 410)
    killed.service.wait_until(lambda: not left_of(killed.service, killed.deleted))
