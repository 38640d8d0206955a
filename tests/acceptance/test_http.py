"""Every route of the service as its clients see it: statuses, headers, bodies, refusals."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from database_helper import Database
from embedded_postgres import EmbeddedPostgres
from tests.images import photo, saved
from tests.origin import Reply
from tests.service import CSV_HEADER, ROOT, Service, assert_problem, csv_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests

    from tests.origin import Origin

    NewDatabase = Callable[[], Database]

UNKNOWN_ID = "0" * 32
INVALID = "ftp://files.example/a.jpg"  # fails at once, without a download
CSV = csv_of(INVALID)
KEYS = ("first key", "second key")
IMMUTABLE = "public, max-age=31536000, immutable"
WEB_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
SAMPLES = sorted(path.name for path in (ROOT / "samples").iterdir() if path.suffix != ".py")


def digest(key: str) -> str:
    """Return what API_KEYS takes for a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def form(*parts: tuple[str, str], boundary: str = "xyz") -> tuple[bytes, dict[str, str]]:
    """Return a multipart body with parts in this order, and its header; `file` is the CSV."""
    lines = []
    for name, value in parts:
        file = '; filename="a.csv"' if name == "file" else ""
        lines += [f"--{boundary}", f'Content-Disposition: form-data; name="{name}"{file}']
        lines += ["", value]
    body = "\r\n".join([*lines, f"--{boundary}--", ""]).encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def send(service: Service, head: str, body: bytes = b"") -> http.client.HTTPResponse:
    """Send a request as it stands and return the first answer."""
    address = urlsplit(service.url)
    sock = socket.create_connection((address.hostname, address.port), 10)
    sock.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    response = http.client.HTTPResponse(sock)
    response.begin()
    sock.close()  # the response keeps it open
    return response


@pytest.fixture(scope="module")
def finished(service: Service, module_origin: Origin) -> dict[str, Any]:
    """Give the status of a request with good images and a bad one."""
    jpeg = module_origin.serve("/good.jpg", saved(photo(), "JPEG", quality=95))
    png = module_origin.serve("/good.png", saved(photo(), "PNG"))
    status = service.run(csv_of(f"{jpeg},{module_origin.url('/gone.jpg')}", png, jpeg))
    assert status["status"] == "completed_with_errors"
    return status


@pytest.fixture(scope="module")
def keyed(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service with two keys."""
    digests = ",".join(map(digest, KEYS))
    folder = tmp_path_factory.mktemp("keyed")
    with Service(folder, new_database(), API_KEYS=digests) as running:
        yield running


@pytest.fixture(scope="module")
def narrow(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run HTTP alone, with narrow limits for CSVs."""
    limits = {"MAX_CSV_BYTES": "2000", "MAX_CSV_ROWS": "5", "MAX_URLS_PER_ROW": "3"}
    folder = tmp_path_factory.mktemp("narrow")
    with Service(folder, new_database(), "--no-worker", **limits) as running:
        yield running


# Uploads


def test_upload_is_accepted(service: Service) -> None:
    """An upload gets its id at once, and by then its rows are committed."""
    answer = service.upload(csv_of(INVALID, f"{INVALID}, {INVALID}"))
    body = answer.json()
    request_id = body["request_id"]
    assert answer.status_code == 202
    assert re.fullmatch(r"[0-9a-f]{32}", request_id)
    assert answer.headers["Location"] == f"/status/{request_id}"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"] == "application/json"
    assert body == {
        "request_id": request_id,
        "status": "pending",
        "status_url": f"{service.url}/status/{request_id}",
        "products": 2,
        "images": 3,
    }
    rows = "select products, images from requests where id = %s"
    assert service.query(rows, request_id) == [{"products": 2, "images": 3}]


OPTIONS = {
    "format": "webp",
    "quality": "55",
    "effort": "fast",
    "max_width": "640",
    "max_height": "480",
    "max_bytes": "100000",
    "background": "#00AAff",
    "strict": "true",
    "priority": "high",
}
SHOWN_OPTIONS = {
    "format": "webp",
    "quality": 55,
    "effort": "fast",
    "max_width": 640,
    "max_height": 480,
    "max_bytes": 100_000,
    "background": "#00aaff",
    "webhook_url": None,
    "strict": True,
    "priority": "high",
}
GOOD_CSV = csv_of("http://10.0.0.1/a.jpg")  # a valid URL, and never connected to


def test_options_of_a_form(service: Service) -> None:
    """Form fields before and after the file are the options, and the status shows them."""
    fields = list(OPTIONS.items())
    body, headers = form(*fields[:4], ("file", GOOD_CSV), *fields[4:])
    answer = service.request("POST", "/upload", data=body, headers=headers)
    assert answer.status_code == 202, answer.text
    assert service.finish(answer.json()["request_id"])["options"] == SHOWN_OPTIONS


def test_options_of_a_raw_body(service: Service) -> None:
    """A raw text/csv body has its options in the query."""
    headers = {"Content-Type": "text/csv"}
    answer = service.request("POST", "/upload", params=OPTIONS, data=GOOD_CSV, headers=headers)
    assert answer.status_code == 202, answer.text
    assert service.finish(answer.json()["request_id"])["options"] == SHOWN_OPTIONS


def test_options_left_out(service: Service) -> None:
    """Options have the defaults of the contract; a field that nobody filled counts as none."""
    options = service.run(CSV, quality="", webhook_url="")["options"]
    assert options == {
        "format": "keep",
        "quality": "auto",
        "effort": "balanced",
        "max_width": None,
        "max_height": None,
        "max_bytes": None,
        "background": "#ffffff",
        "webhook_url": None,
        "strict": False,
        "priority": "normal",
    }


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("format", ["keep", "jpeg", "png", "webp", "avif"]),
        ("quality", ["auto", "1", "100"]),
        ("effort", ["fast", "balanced", "best"]),
        ("max_width", ["1", "65535"]),
        ("max_height", ["1"]),
        ("max_bytes", ["1", "50000000"]),
        ("background", ["#000000"]),
        ("strict", ["false"]),
        ("dry_run", ["true"]),
        ("priority", ["low", "normal", "high"]),
    ],
)
def test_option_values(service: Service, option: str, values: list[str]) -> None:
    """Every value that the contract names is taken."""
    for value in values:
        answer = service.upload(CSV, {"dry_run": "true", option: value})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("colour", "red"),
        ("Format", "jpeg"),
        ("format", "gif"),
        ("format", "JPEG"),
        ("quality", "0"),
        ("quality", "101"),
        ("quality", "1.5"),
        ("quality", "best"),
        ("effort", "none"),
        ("max_width", "0"),
        ("max_width", "-1"),
        ("max_height", "ten"),
        ("max_bytes", "0"),
        ("max_bytes", "1" * 500),
        ("background", "white"),
        ("background", "#fff"),
        ("strict", "yes"),
        ("dry_run", "1"),
        ("priority", "urgent"),
        ("webhook_url", "https://shop.example/hook"),
    ],
)
def test_bad_options(service: Service, option: str, value: str) -> None:
    """An unknown option or a bad value is 422, names the option, and leaves nothing behind."""
    before = service.count_rows()
    answer = service.upload(CSV, {option: value})
    assert option in assert_problem(answer, 422)["detail"]
    raw = {"params": {option: value}, "headers": {"Content-Type": "text/csv"}}
    assert (
        option in assert_problem(service.request("POST", "/upload", data=CSV, **raw), 422)["detail"]
    )
    assert service.count_rows() == before


def test_options_of_a_form_and_the_query(service: Service) -> None:
    """A form's options go before those of the query, which are judged all the same."""
    body, headers = form(("file", CSV), ("quality", "6"))

    def upload(quality: str) -> requests.Response:
        path = f"/upload?quality={quality}&effort=best"
        return service.request("POST", path, data=body, headers=headers)

    options = service.finish(upload("5").json()["request_id"])["options"]
    assert (options["quality"], options["effort"]) == (6, "best")
    assert_problem(upload("500"), 422)


def test_option_given_twice(service: Service) -> None:
    """An option that stands twice has no meaning."""
    body, headers = form(("quality", "5"), ("file", CSV), ("quality", "6"))
    assert_problem(service.request("POST", "/upload", data=body, headers=headers), 422)


def test_dry_run(service: Service) -> None:
    """A dry run validates and counts, and keeps nothing."""
    before = service.count_rows()
    answer = service.upload(csv_of(INVALID, f"{INVALID},{INVALID}"), {"dry_run": "true"})
    assert answer.status_code == 200
    assert answer.json()["products"] == 2
    assert answer.json()["images"] == 3
    assert answer.json()["warnings_total"] == 3
    assert {warning["code"] for warning in answer.json()["warnings"]} == {"invalid_url"}
    assert "Location" not in answer.headers
    refused = service.upload(f"{CSV_HEADER}\r\nx,Name,{INVALID}\r\n", {"dry_run": "true"})
    assert assert_problem(refused, 422)["errors"][0]["code"] == "invalid_serial_number"
    assert service.count_rows() == before


def test_strict(service: Service) -> None:
    """A strict upload is refused for one invalid URL; otherwise that is the image's failure."""
    csv = csv_of("http://10.0.0.1/a.jpg", f"http://10.0.0.1/b.jpg, {INVALID}")
    problem = assert_problem(service.upload(csv, {"strict": "true"}), 422)
    assert problem["errors_total"] == 1
    error = problem["errors"][0]
    assert (error["line"], error["column"]) == (3, "Input Image Urls")
    assert error["code"] == "invalid_url"
    assert service.run(csv)["errors_by_code"] == {"blocked_address": 2, "invalid_url": 1}


@pytest.mark.parametrize(
    "content_type",
    [None, "application/json", "text/plain", "text/csv; charset=latin-1", "multipart/mixed; boundary=a"],
)  # fmt: skip
def test_other_content_types(service: Service, content_type: str | None) -> None:
    """Only a form or a CSV can be uploaded."""
    headers = {"Content-Type": content_type}
    answer = service.request("POST", "/upload", data=CSV.encode(), headers=headers)
    assert_problem(answer, 415)


@pytest.mark.parametrize(
    "content_type", ["text/csv", "TEXT/CSV; charset=UTF-8", 'text/csv; charset="utf-8"']
)
def test_csv_content_types(service: Service, content_type: str) -> None:
    """A raw CSV may say that it is UTF-8."""
    headers = {"Content-Type": content_type}
    options = {"dry_run": "true"}
    answer = service.request("POST", "/upload", params=options, data=CSV, headers=headers)
    assert answer.status_code == 200, answer.text


def test_encoded_body(service: Service) -> None:
    """A packed CSV is not taken for a plain one."""
    headers = {"Content-Type": "text/csv", "Content-Encoding": "gzip"}
    assert_problem(service.request("POST", "/upload", data=CSV, headers=headers), 415)


def test_no_length(service: Service) -> None:
    """A body without a length is refused."""
    head = "POST /upload HTTP/1.1\nHost: a\nContent-Type: text/csv"
    assert send(service, head).status == 411
    assert send(service, f"{head}\nTransfer-Encoding: chunked").status == 411


BODY, FORM = form(("file", CSV))


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (BODY, "multipart/form-data"),
        (BODY, "multipart/form-data; boundary="),
        (BODY, "multipart/form-data; boundary=other"),
        (BODY[:-10], FORM["Content-Type"]),
        (BODY[: len(BODY) // 2], FORM["Content-Type"]),
        (BODY[1:], FORM["Content-Type"]),
        (BODY.replace(b"form-data", b"attachment"), FORM["Content-Type"]),
        (b"", FORM["Content-Type"]),
        (form()[0], FORM["Content-Type"]),
        (form(("quality", "5"))[0], FORM["Content-Type"]),
        (form(("file", CSV), ("file", CSV))[0], FORM["Content-Type"]),
        (BODY.replace(b'name="file"', b'name="csv"'), FORM["Content-Type"]),
        (BODY.replace(b"\r\n\r\n", b"\r\n", 1), FORM["Content-Type"]),
        (form(("quality", "5"), ("file", CSV))[0].replace(b"5", b"\xff"), FORM["Content-Type"]),
    ],
)  # fmt: skip
def test_malformed_form(service: Service, body: bytes, content_type: str) -> None:
    """A form that can't be taken apart, or has not exactly one file, is 400."""
    before = service.count_rows()
    headers = {"Content-Type": content_type}
    assert_problem(service.request("POST", "/upload", data=body, headers=headers), 400)
    assert service.count_rows() == before


def test_body_cut_short(service: Service) -> None:
    """A raw CSV that ends before its length is not half accepted."""
    before = service.count_rows()
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), 10) as sock:
        length = len(CSV) + 1
        sock.sendall(
            f"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Type: text/csv\r\n"
            f"Content-Length: {length}\r\n\r\n{CSV}".encode()
        )
        sock.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.status == 400
    assert service.count_rows() == before


def test_too_large_is_refused_unread(service: Service) -> None:
    """A length over the limit is refused before a byte of the body is asked for."""
    head = (
        "POST /upload HTTP/1.1\nHost: a\nContent-Type: text/csv\n"
        "Content-Length: 200000000\nExpect: 100-continue"
    )
    response = send(service, head)
    assert response.status == 413
    assert response.getheader("Content-Type") == "application/problem+json"


def test_wrong_type_is_refused_unread(service: Service) -> None:
    """Nor is the body of another content type asked for."""
    head = (
        "POST /upload HTTP/1.1\nHost: a\nContent-Type: image/png\n"
        "Content-Length: 2000\nExpect: 100-continue"
    )
    assert send(service, head).status == 415


def test_body_is_asked_for(service: Service) -> None:
    """A client that waits for 100 Continue gets its upload through."""
    head = (
        "POST /upload?dry_run=true HTTP/1.1\nHost: a\nContent-Type: text/csv\n"
        f"Content-Length: {len(CSV)}\nExpect: 100-continue"
    )
    assert send(service, head, CSV.encode()).status == 200  # http.client passes over the 100


def rows(count: int, *, url: str = INVALID) -> str:
    """Return a CSV with so many products."""
    return csv_of(*[url] * count)


def test_too_many_bytes(narrow: Service) -> None:
    """A CSV over MAX_CSV_BYTES is 413, in a form and raw; just below it is taken."""
    full = f"{CSV_HEADER}\r\n1,{'n' * 1900},{INVALID}\r\n".ljust(2000, "\n")
    raw: dict[str, Any] = {"headers": {"Content-Type": "text/csv"}}
    for csv, status in ((full, 202), (f"{full}\n", 413)):
        answers = [narrow.upload(csv), narrow.request("POST", "/upload", data=csv, **raw)]
        assert [answer.status_code for answer in answers] == [status, status]
    assert_problem(answers[0], 413)


def test_too_many_rows(narrow: Service) -> None:
    """A CSV over MAX_CSV_ROWS is 413 and says on which line it was given up."""
    before = narrow.count_rows()
    problem = assert_problem(narrow.upload(rows(6)), 413)
    assert [(error["line"], error["code"]) for error in problem["errors"]] == [(7, "too_many_rows")]
    assert problem["errors_total"] == 1
    assert narrow.count_rows() == before
    assert narrow.upload(rows(5)).status_code == 202


def test_too_many_urls(narrow: Service) -> None:
    """A product over MAX_URLS_PER_ROW is refused with its line and column."""
    before = narrow.count_rows()
    problem = assert_problem(narrow.upload(csv_of(INVALID, ",".join([INVALID] * 4))), 422)
    error = problem["errors"][0]
    assert (error["line"], error["column"]) == (3, "Input Image Urls")
    assert error["code"] == "too_many_urls"
    assert narrow.count_rows() == before
    assert narrow.upload(csv_of(",".join([INVALID] * 3))).status_code == 202


# Statuses


def test_status_of_a_finished_request(service: Service, finished: dict[str, Any]) -> None:
    """The status of a finished request has every member, and nothing is left open."""
    request_id = finished["request_id"]
    answer = service.get(f"/status/{request_id}")
    status = answer.json()
    assert answer.headers["Content-Type"] == "application/json"
    assert "Retry-After" not in answer.headers
    assert status == finished
    for name in ("created_at", "started_at", "finished_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", status[name])
    times = [
        datetime.fromisoformat(status[f"{name}_at"]) for name in ("created", "started", "finished")
    ]
    assert times == sorted(times)
    assert times[2] - times[0] < timedelta(minutes=5)
    progress = status["progress"]
    assert progress.pop("images_per_second") > 0
    assert progress == {
        "total": 4,
        "done": 4,
        "succeeded": 3,
        "failed": 1,
        "percent": 100.0,
        "eta_seconds": 0,
    }
    assert status["errors_by_code"] == {"http_404": 1}
    assert status["webhook"] is None
    assert status["bytes_in"] > status["bytes_out"] > 0
    saved_percent = 100 * (1 - status["bytes_out"] / status["bytes_in"])
    assert status["saved_percent"] == pytest.approx(saved_percent, abs=0.1)
    assert status["links"] == {
        "self": f"{service.url}/status/{request_id}",
        "images": f"{service.url}/status/{request_id}/images",
        "output_csv": f"{service.url}/static/{request_id}.csv",
        "report_csv": f"{service.url}/static/{request_id}-report.csv",
    }


def test_status_while_running(service: Service, module_origin: Origin) -> None:
    """Until the end a client is told when to ask again, and there is no CSV yet."""
    jpeg = saved(photo(), "JPEG")
    slow = module_origin.serve_in_turn("/slow.jpg", Reply(silent=True), Reply(jpeg))
    request_id = service.upload(csv_of(f"{INVALID},{slow}")).json()["request_id"]
    service.wait_until(lambda: module_origin.count("/slow.jpg") == 1)
    service.wait_until(lambda: service.get(f"/status/{request_id}").json()["progress"]["done"])
    answer = service.get(f"/status/{request_id}")
    status = answer.json()
    assert int(answer.headers["Retry-After"]) > 0
    assert service.get(f"/status/{request_id}").headers["ETag"] == answer.headers["ETag"]
    assert status["status"] == "processing"
    assert status["started_at"]
    assert status["finished_at"] is None
    assert status["saved_percent"] is None
    for name, value in {
        "total": 2,
        "done": 1,
        "succeeded": 0,
        "failed": 1,
        "percent": 50.0,
    }.items():
        assert status["progress"][name] == value
    assert status["links"]["output_csv"] is None
    assert status["links"]["report_csv"] is None
    for name in (f"{request_id}.csv", f"{request_id}-report.csv"):
        (service.folder / "static").mkdir(exist_ok=True)
        (service.folder / "static" / name).write_text("written, but the request goes on")
        assert_problem(service.get(f"/static/{name}"), 404)
    states = [image["state"] for image in service.images(request_id)]
    assert states == ["failed", "running"]
    module_origin.drop_connections()
    last = service.finish(request_id)
    assert last["status"] == "completed_with_errors"
    assert service.get(f"/status/{request_id}").headers["ETag"] != answer.headers["ETag"]


def test_status_of_a_pending_request(narrow: Service) -> None:
    """What is not known yet is null."""
    request_id = narrow.upload(CSV).json()["request_id"]
    answer = narrow.get(f"/status/{request_id}")
    status = answer.json()
    assert int(answer.headers["Retry-After"]) > 0
    assert status["status"] == "pending"
    for name in ("started_at", "finished_at", "saved_percent", "webhook"):
        assert status[name] is None
    assert status["progress"]["images_per_second"] is None
    assert status["progress"]["eta_seconds"] is None
    assert (status["bytes_in"], status["bytes_out"], status["errors_by_code"]) == (0, 0, {})
    etag = answer.headers["ETag"]
    again = narrow.get(f"/status/{request_id}", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert int(again.headers["Retry-After"]) > 0


def test_status_that_is_known(service: Service, finished: dict[str, Any]) -> None:
    """A client that has the status already gets 304."""
    path = f"/status/{finished['request_id']}"
    etag = service.get(path).headers["ETag"]
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answer = service.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == etag
    assert service.get(path, headers={"If-None-Match": '"x"'}).json() == finished


@pytest.mark.parametrize(
    "path",
    [
        f"/status/{UNKNOWN_ID}",
        f"/status/{UNKNOWN_ID}/images",
        "/status/1",
        "/status/",
        f"/status/{'A' * 32}",
        f"/status/{UNKNOWN_ID}/",
        f"/status/{UNKNOWN_ID}%00",
        f"/static/{UNKNOWN_ID}.csv",
        f"/static/{UNKNOWN_ID}-report.csv",
        "/static/.gitkeep",
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        f"/uploads/{UNKNOWN_ID}/{UNKNOWN_ID}-1.jpg",
        f"/uploads/{UNKNOWN_ID}/",
        "/uploads/../schema.sql",
        "/server.py",
        "/schema.sql",
        "/.env",
        "/.git/config",
        "/web/../server.py",
        "/web/index.html/..",
        "/samples/",
        "/samples/make_samples.py",
        "/samples/../server.py",
        "/samples/none.jpg",
        "/nothing",
        "/upload/",
        "/%75pload",
        "/nothing\\..",
        "/n%C3%A4her",
    ],
)
def test_nothing_there(service: Service, path: str) -> None:
    """What isn't there is 404, and nothing but what is meant to be served can be had."""
    answer = send(service, f"GET {path} HTTP/1.1\nHost: a")  # no client tidies the path up
    assert answer.status == 404
    assert answer.getheader("Content-Type") == "application/problem+json"


# Methods

ROUTES = {
    "/upload": "POST",
    "/requests": "GET, HEAD",
    f"/status/{UNKNOWN_ID}/images": "GET, HEAD",
    f"/static/{UNKNOWN_ID}.csv": "GET, HEAD",
    f"/static/{UNKNOWN_ID}-report.csv": "GET, HEAD",
    f"/uploads/{UNKNOWN_ID}/{UNKNOWN_ID}-1.jpg": "GET, HEAD",
    "/": "GET, HEAD",
    "/web/app.js": "GET, HEAD",
    "/samples/vase.jpg": "GET, HEAD",
    "/healthz": "GET, HEAD",
    "/readyz": "GET, HEAD",
}


@pytest.mark.parametrize("path", ROUTES)
def test_other_methods(service: Service, path: str) -> None:
    """Another method is 405 and told which are allowed."""
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
        if method in ROUTES[path]:
            continue
        answer = service.request(method, path)
        assert_problem(answer, 405)
        assert answer.headers["Allow"] == ROUTES[path]
    head = service.request("HEAD", path)
    assert (head.status_code == 405) == ("HEAD" not in ROUTES[path])


def test_head(service: Service, finished: dict[str, Any]) -> None:
    """HEAD gives the headers of GET and no body."""
    request_id = finished["request_id"]
    image = urlsplit(service.images(request_id)[0]["output_url"]).path
    paths = [
        *(f"/status/{request_id}", f"/status/{request_id}/images", "/requests?limit=1"),
        *(f"/static/{request_id}.csv", f"/static/{request_id}-report.csv", image),
        *("/", "/web/app.js", "/samples/vase.jpg", "/healthz", "/readyz", "/nothing"),
    ]
    for path in paths:
        full, head = service.get(path), service.request("HEAD", path)
        assert (head.status_code, head.content) == (full.status_code, b""), path
        del full.headers["Date"], head.headers["Date"]
        assert head.headers == full.headers, path
        assert int(full.headers["Content-Length"]) == len(full.content)


def test_connection_is_kept(service: Service) -> None:
    """One connection carries an upload and what follows it."""
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.netloc, timeout=30)
    connection.connect()
    sock = connection.sock
    connection.request("POST", "/upload?dry_run=true", CSV, {"Content-Type": "text/csv"})
    assert connection.getresponse().read()
    for path in ("/healthz", "/", "/requests"):
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.read()
        assert (response.status, response.version) == (200, 11)
        assert connection.sock is sock
    connection.close()


# Lists


def walk(service: Service, path: str, key: str, **query: str) -> list[list[dict[str, Any]]]:
    """Return every page of a list."""
    pages = []
    cursor: dict[str, str] = {}
    while True:
        page = service.get(path, params=query | cursor).json()
        pages.append(page[key])
        if page["next_cursor"] is None:
            return pages
        cursor = {"cursor": page["next_cursor"]}


def test_requests_are_listed(service: Service) -> None:
    """All requests come page by page, newest first, each as its status says."""
    ids = [service.run(CSV)["request_id"] for _ in range(3)]
    pages = walk(service, "/requests", "requests", limit="2")
    listed = [request for page in pages for request in page]
    assert [request["request_id"] for request in listed[:3]] == ids[::-1]
    assert [len(page) for page in pages[:-1]] == [2] * (len(pages) - 1)
    assert len({request["request_id"] for request in listed}) == service.count_rows()["requests"]
    created = [request["created_at"] for request in listed]
    assert created == sorted(created, reverse=True)
    assert listed[0] == service.get(f"/status/{ids[2]}").json()
    everything = service.get("/requests", params={"limit": "1000"}).json()
    assert everything == {"requests": listed, "next_cursor": None}


def test_images_are_listed(service: Service, finished: dict[str, Any]) -> None:
    """All images come page by page, in input order, with every member."""
    path = f"/status/{finished['request_id']}/images"
    pages = walk(service, path, "images", limit="2")
    images = [image for page in pages for image in page]
    assert [len(page) for page in pages] == [2, 2]
    assert [(image["row"], image["position"]) for image in images] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (3, 1),
    ]
    assert [image["state"] for image in images] == ["succeeded", "failed", "succeeded", "succeeded"]
    assert [image["reused"] for image in images] == [False, False, False, True]
    assert images == service.get(path, params={"limit": "1000"}).json()["images"]
    good, bad = images[:2]
    assert good.keys() == {
        *("row", "serial_number", "product_name", "position", "input_url", "output_url", "state"),
        *("reused", "error", "attempts", "bytes_in", "bytes_out", "width", "height", "format"),
        *("quality", "sha256"),
    }
    assert (good["serial_number"], good["product_name"]) == ("1", "Product 1")
    assert (good["format"], good["width"], good["height"]) == ("jpeg", 160, 120)
    assert good["error"] is None
    assert bad["error"] == {
        "code": "http_404",
        "detail": "The origin answered with HTTP status 404.",
        "http_status": 404,
        "retryable": False,
    }
    for name in (
        "output_url",
        "bytes_in",
        "bytes_out",
        "width",
        "height",
        "format",
        "quality",
        "sha256",
    ):
        assert bad[name] is None


def test_images_are_filtered(service: Service, finished: dict[str, Any]) -> None:
    """The state picks images, over page ends too."""
    path = f"/status/{finished['request_id']}/images"
    for state, rows in {"succeeded": [1, 2, 3], "failed": [1], "pending": []}.items():
        pages = walk(service, path, "images", limit="1", state=state)
        images = [image for page in pages for image in page]
        assert [(image["state"], image["row"]) for image in images] == [
            (state, row) for row in rows
        ]
    (failed,) = service.get(path, params={"code": "http_404"}).json()["images"]
    assert failed["error"]["code"] == "http_404"
    assert service.get(path, params={"code": "timeout"}).json()["images"] == []
    rest = service.get(path, params={"from": "3"}).json()["images"]
    assert [image["row"] for image in rest] == [2, 3]


@pytest.mark.parametrize(
    "query",
    [
        *["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=1.0"],
        *["cursor=x", "cursor=", "cursor=%00", "cursor=" + "W" * 10_000, "cursor=" + "1" * 5000],
        *["cursor=bnVsbA", "cursor=MS41", "cursor=LTE", "cursor=WyIyMDI2LTAxLTAxIiwiXHUwMDAwIl0"],
    ],
)
def test_bad_pages(service: Service, finished: dict[str, Any], query: str) -> None:
    """A limit or cursor that was never offered is refused, whatever it is made of."""
    for path in ("/requests", f"/status/{finished['request_id']}/images"):
        assert_problem(service.get(f"{path}?{query}"), 422)


def test_bad_state(service: Service, finished: dict[str, Any]) -> None:
    """A state that images don't have is refused."""
    for state in ("done", "", "Failed", "%00"):
        assert_problem(service.get(f"/status/{finished['request_id']}/images?state={state}"), 422)


# Files


@pytest.mark.parametrize("end", [".csv", "-report.csv"])
def test_csv_is_a_download(service: Service, finished: dict[str, Any], end: str) -> None:
    """Output and report are attachments that a client may revalidate."""
    name = f"{finished['request_id']}{end}"
    answer = service.get(f"/static/{name}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.content == (service.folder / "static" / name).read_bytes()
    known = {"If-None-Match": answer.headers["ETag"]}
    assert service.get(f"/static/{name}", headers=known).status_code == 304


def test_image_is_served(service: Service, finished: dict[str, Any]) -> None:
    """An image comes as what it is, may be kept for ever, and nothing in it may run."""
    for image in service.images(finished["request_id"]):
        if image["state"] != "succeeded":
            continue
        path = image["output_url"].removeprefix(service.url)
        answer = service.get(path)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == f"image/{image['format']}"
        assert answer.headers["Cache-Control"] == IMMUTABLE
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"  # shops embed it
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert len(answer.content) == image["bytes_out"]
        assert hashlib.sha256(answer.content).hexdigest() == image["sha256"]
        assert answer.content == (service.folder / path.lstrip("/")).read_bytes()
        part = service.get(path, headers={"Range": "bytes=2-5"})
        assert (part.status_code, part.content) == (206, answer.content[2:6])
        known = {"If-None-Match": answer.headers["ETag"]}
        assert service.get(path, headers=known).status_code == 304
        beyond = service.get(path, headers={"Range": "bytes=99999999-"})
        assert_problem(beyond, 416)


def test_image_that_failed_is_not_served(service: Service, finished: dict[str, Any]) -> None:
    """There is no file of an image that failed, nor under another extension."""
    request_id = finished["request_id"]
    for name in ("2.jpg", "1.png", "0.jpg", "01.jpg", "5.jpg", "1.jpg.png", "1.exe", "1"):
        assert_problem(service.get(f"/uploads/{request_id}/{request_id}-{name}"), 404)
    assert_problem(service.get(f"/uploads/{UNKNOWN_ID}/{request_id}-1.jpg"), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/uploads/{id}/{id}-1.jpg%00",
        "/uploads/{id}/{id}-1.jpg/",
        "/uploads/{id}/{id}-1.JPG",
        "/uploads/{id}/{id}-1%2ejpg",
        "/uploads/{id}/{id}-%31.jpg",
        "/uploads/{id}%2f{id}-1.jpg",
        "/uploads/{id}//{id}-1.jpg",
        "/uploads/{id}/./{id}-1.jpg",
        "/uploads/../uploads/{id}/{id}-1.jpg",
        "//uploads/{id}/{id}-1.jpg",
        "/uploads\\{id}\\{id}-1.jpg",
        "/uploads/{id}/",
        "/uploads/.staged/",
        "/uploads/",
        "/static/",
        "/static/{id}.csv%0a",
        "/static/./{id}.csv",
        "/static/{id}-report-report.csv",
    ],
)
def test_file_has_one_name(service: Service, finished: dict[str, Any], path: str) -> None:
    """A file that is there is served under its very name; folders aren't listed."""
    named = path.format(id=finished["request_id"])
    for method in ("GET", "HEAD"):
        answer = send(service, f"{method} {named} HTTP/1.1\nHost: a")
        assert answer.status == 404


def test_web_page(service: Service) -> None:
    """The page comes with a policy that runs its own modules alone, and its parts are there."""
    page = service.get("/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    parts = set(re.findall(r'(?:src|href)="(web/[^"]+)"', page.text))
    parts |= {f"web/{path.name}" for path in (ROOT / "web").glob("*.js")}
    assert {Path(part).suffix for part in parts} == WEB_TYPES.keys()
    for part in parts:
        answer = service.get(f"/{part}")
        assert answer.content == (ROOT / part).read_bytes()
        assert answer.headers["Content-Type"] == WEB_TYPES[Path(part).suffix]
        unchanged = service.get(f"/{part}", headers={"If-None-Match": answer.headers["ETag"]})
        assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_what_a_browser_asks_for_by_itself(service: Service) -> None:
    """There is an icon also for who looks at a status."""
    icon = service.get("/favicon.ico")
    assert icon.headers["Content-Type"] == "image/svg+xml"
    assert icon.content == (ROOT / "web/icon.svg").read_bytes()


def test_the_example_is_served(service: Service) -> None:
    """The page's own trial takes the CSV that the README names."""
    assert service.get("/test.csv").content == (ROOT / "test.csv").read_bytes()


@pytest.mark.parametrize("name", SAMPLES)
def test_samples(service: Service, name: str) -> None:
    """Every sample is served as what it is, so that test.csv works."""
    answer = service.get(f"/samples/{name}")
    suffix = Path(name).suffix.lstrip(".")
    assert answer.content == (ROOT / "samples" / name).read_bytes()
    assert answer.headers["Content-Type"] == f"image/{'jpeg' if suffix == 'jpg' else suffix}"


def test_health(service: Service) -> None:
    """The process says that it lives, and that database and storage answer."""
    assert service.get("/healthz").status_code == 200
    assert service.get("/readyz").status_code == 200


# Keys


def keyed_paths(request_id: str) -> list[tuple[str, str]]:
    """Return every call that needs a key."""
    return [
        ("POST", "/upload"),
        ("GET", "/requests"),
        ("GET", f"/status/{request_id}"),
        ("GET", f"/status/{request_id}/images"),
        ("GET", "/nothing"),
        ("PUT", "/requests"),
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("third key"),
        bearer(""),
        bearer(digest(KEYS[0])),
        {"Authorization": KEYS[0]},
        {"Authorization": f"Basic {KEYS[0]}"},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_key_is_needed(keyed: Service, headers: dict[str, str]) -> None:
    """Without an accepted key there is 401 and nothing else."""
    before = keyed.count_rows()
    for method, path in keyed_paths(UNKNOWN_ID):
        answer = keyed.request(method, path, headers=headers)
        assert_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert_problem(keyed.upload(CSV, headers=headers), 401)
    assert keyed.count_rows() == before


def test_request_belongs_to_its_key(keyed: Service) -> None:
    """With a key one's own requests are there; another key's are not, in no list either."""
    mine, other = map(bearer, KEYS)
    request_id = keyed.upload(CSV, headers=mine).json()["request_id"]
    keyed.wait_until(lambda: keyed.get(f"/status/{request_id}", headers=mine).json()["finished_at"])
    for path in (f"/status/{request_id}", f"/status/{request_id}/images"):
        assert keyed.get(path, headers=mine).status_code == 200
        problem = assert_problem(keyed.get(path, headers=other), 404)
        unknown = keyed.get(path.replace(request_id, UNKNOWN_ID), headers=other)
        assert unknown.json() == problem
    own = keyed.get("/requests", headers=mine).json()["requests"]
    assert [request["request_id"] for request in own] == [request_id]
    assert keyed.get("/requests", headers=other).json()["requests"] == []
    assert keyed.get(f"/static/{request_id}.csv").status_code == 200
    assert keyed.get("/requests", headers={"Authorization": f"bearer {KEYS[0]}"}).status_code == 200


def test_public_paths_need_no_key(keyed: Service) -> None:
    """The page, the probes and the files whose names can't be guessed are for everybody."""
    for path in ("/", "/web/app.js", "/web/style.css", "/healthz", "/readyz"):
        assert keyed.get(path).status_code == 200
    assert keyed.get(f"/samples/{SAMPLES[0]}").status_code == 200  # or test.csv would fail
    for path in (f"/static/{UNKNOWN_ID}.csv", f"/uploads/{UNKNOWN_ID}/{UNKNOWN_ID}-1.jpg"):
        assert_problem(keyed.get(path), 404)


# Without the database


def test_database_is_away(tmp_path: Path) -> None:
    """Without PostgreSQL everything that needs it is 503 until it is back; the rest goes on."""
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    database = Database(postgres.start())
    try:
        with Service(tmp_path, database, "--no-worker") as service:
            request_id = service.upload(CSV).json()["request_id"]
            assert service.get("/readyz").status_code == 200
            database.close()
            postgres.stop()
            for path in (
                "/readyz",
                "/requests",
                f"/status/{request_id}",
                f"/static/{request_id}.csv",
            ):
                _assert_unavailable(service.get(path))
            _assert_unavailable(service.upload(CSV))
            assert service.get("/healthz").status_code == 200
            assert service.get("/").status_code == 200
            assert_problem(service.upload("no header"), 422)
            postgres.start()
            assert service.get("/readyz").status_code == 200
            assert service.get(f"/status/{request_id}").json()["status"] == "pending"
            assert service.upload(CSV).status_code == 202
            assert service.count_rows()["requests"] == 2
    finally:
        database.close()
        postgres.stop()


def test_store_is_away(tmp_path: Path, new_database: NewDatabase) -> None:
    """An upload whose images could not be stored is not taken."""
    folder = tmp_path / "store"
    folder.mkdir()
    storage = f"file:{folder}"
    with Service(tmp_path, new_database(), "--no-worker", STORAGE_URL=storage) as service:
        assert service.upload(CSV).status_code == 202
        folder.rename(tmp_path / "elsewhere")
        _assert_unavailable(service.get("/readyz"))
        _assert_unavailable(service.upload(CSV))
        (tmp_path / "elsewhere").rename(folder)
        (folder / "uploads").rename(tmp_path / "uploads")
        (folder / "uploads").write_text("not a folder")
        _assert_unavailable(service.upload(CSV))
        (folder / "uploads").unlink()
        assert service.upload(CSV).status_code == 202
        assert service.count_rows()["requests"] == 2


def _assert_unavailable(answer: requests.Response) -> None:
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
