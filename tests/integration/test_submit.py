"""The command-line client against a small hand-written fake of the service's HTTP."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

import submit

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ID = "0190a1b2"
OUTPUT = b"S. No.,Product Name,Input Image Urls,Output Image Urls\r\n"


def status_body(status: str, *, done: int, failed: int = 0, **more: Any) -> dict[str, Any]:
    """Return what GET /status answers for four images."""
    links: dict[str, str | None] = {"output_csv": None, "report_csv": None}
    if status in submit.FINAL_STATUSES:
        links = {"output_csv": "http://elsewhere/o.csv", "report_csv": "http://elsewhere/r.csv"}
    progress = {"total": 4, "done": done, "succeeded": done - failed, "failed": failed}
    sizes = {"bytes_in": 4000, "bytes_out": 1000, "saved_percent": 75.0, "errors_by_code": {}}
    return {"status": status, "progress": progress, "links": links} | sizes | more


class FakeService(ThreadingHTTPServer):
    """Answers as scripted and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.upload_answer: tuple[int, Any] = (
            202,
            {"request_id": ID, "status_url": f"{self.url}/status/{ID}"}
            | {"products": 2, "images": 4},
        )
        self.statuses = deque([status_body("completed", done=4)])  # the last one stays
        self.outages: deque[int] = deque()  # answers before GETs work again; 0 hangs up
        self.uploads: list[tuple[str, dict[str, str], int]] = []  # target, headers, body bytes
        self.keys: set[str | None] = set()
        self.image_pages: dict[str, Any] = {}
        self.was_polled = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def service(self) -> FakeService:
        return cast("FakeService", self.server)

    def log_message(self, *_args: object) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        left = total = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 65_536)))
        self.service.uploads.append((self.path, dict(self.headers), total))
        self.service.keys.add(self.headers["Authorization"])
        status, body = self.service.upload_answer
        self._answer(status, body)

    def do_GET(self) -> None:
        service = self.service
        service.keys.add(self.headers["Authorization"])
        if service.outages:
            outage = service.outages.popleft()
            if outage:
                self._answer(outage, {"detail": "away"})
            self.close_connection = True
        elif self.path == f"/status/{ID}":
            self._answer(200, service.statuses[0])
            if len(service.statuses) > 1:
                service.statuses.popleft()
            service.was_polled.set()
        elif self.path == f"/static/{ID}.csv":
            self._answer(200, OUTPUT)
        elif self.path in service.image_pages:
            self._answer(200, service.image_pages[self.path])
        else:
            self._answer(404, {"title": "Not Found", "detail": "There is no such request."})

    def _answer(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", "0")
        if status == 308:
            self.send_header("Location", "http://127.0.0.1:1/upload")
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def service() -> Iterator[FakeService]:
    """Run a fake service on a free port."""
    with FakeService() as fake:
        thread = threading.Thread(target=fake.serve_forever, args=(0.01,))
        thread.start()
        yield fake
        fake.shutdown()
        thread.join()


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """Return a small CSV; the fake does not look into it."""
    path = tmp_path / "products.csv"
    path.write_bytes(b"S. No.,Product Name,Input Image Urls\n1,Vase,http://shop/v.jpg\n")
    return path


def run(service: FakeService, *arguments: str | Path) -> int:
    """Run the command in this process."""
    return submit.main([*map(str, arguments), "--server", service.url])


def test_success_saves_the_output_beside_the_input(
    service: FakeService, products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All images succeeded: exit 0, the output saved, id, progress and saving shown."""
    service.statuses = deque(
        [
            status_body("pending", done=0),
            status_body("processing", done=2),
            status_body("completed", done=4),
        ]
    )
    assert run(service, products) == 0
    assert products.with_name("products-output.csv").read_bytes() == OUTPUT
    assert sorted(path.name for path in products.parent.iterdir()) == [
        "products-output.csv",
        "products.csv",
    ]
    shown = capsys.readouterr()
    assert f"Request {ID}: 2 products, 4 images" in shown.out
    assert "4.00kB became 1.00kB (75.0 % saved)" in shown.out
    assert "2/4" in shown.err
    assert "4/4" in shown.err


@pytest.mark.parametrize("status", ["completed_with_errors", "failed", "cancelled"])
def test_some_failed(
    service: FakeService, products: Path, capsys: pytest.CaptureFixture[str], status: str
) -> None:
    """Anything but `completed` is exit 1, names the codes and the report, and saves the output."""
    service.statuses = deque(
        [status_body(status, done=4, failed=3, errors_by_code={"http_404": 2, "timeout": 1})]
    )
    out = products.with_name("o.csv")
    assert run(service, products, "--output", out) == 1
    assert out.read_bytes() == OUTPUT
    shown = capsys.readouterr().out
    assert f"{status}: 1 of 4 images" in shown
    assert "2 failed: http_404" in shown
    assert "1 failed: timeout" in shown
    assert "Report: http://elsewhere/r.csv" in shown


def test_options_travel_as_query(service: FakeService, products: Path) -> None:
    """Options are query parameters, percent-encoded; the body is text/csv with its length."""
    run(service, products, "--option", "format=webp", "--option", "background=#ffffff")
    target, headers, size = service.uploads[0]
    assert target == "/upload?format=webp&background=%23ffffff"
    assert headers["Content-Type"] == "text/csv"
    assert size == products.stat().st_size


def test_refusal_lists_lines_and_columns(
    service: FakeService, products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refused CSV is exit 2 with every error that the service told, and how many it didn't."""
    errors = [
        {"line": 3, "column": 2, "code": "empty_name", "detail": "The product name is empty."},
        {"line": None, "column": None, "code": "no_header", "detail": "A header is missing."},
    ]
    service.upload_answer = (
        400,
        {"title": "Bad", "detail": "The CSV has errors.", "errors": errors, "errors_total": 9},
    )
    assert run(service, products) == 2
    assert capsys.readouterr().err.splitlines() == [
        "Refused (400 Bad Request): The CSV has errors.",
        "  line 3, column 2: The product name is empty. (empty_name)",
        "  file: A header is missing. (no_header)",
        "  and 7 more",
    ]


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((503, {"detail": "The database is away."}), "The database is away."),
        ((502, b"<html>"), "Refused (502 Bad Gateway)."),
        ((401, {"title": "Unauthorized"}), "Refused (401 Unauthorized): Unauthorized"),
        ((308, b""), "use --server http://127.0.0.1:1/upload"),
        ((200, b"<html>"), "is not this service"),
        ((200, {"hello": "world"}), "is not this service"),
    ],
)
def test_other_refusals_are_one_line(
    service: FakeService,
    products: Path,
    capsys: pytest.CaptureFixture[str],
    answer: tuple[int, Any],
    line: str,
) -> None:
    """Whatever else answers an upload ends with exit 2 and one line that says so."""
    service.upload_answer = answer
    assert run(service, products) == 2
    shown = capsys.readouterr().err
    assert line in shown
    assert shown.count("\n") == 1


def test_dry_run_prints_counts(
    service: FakeService, products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run has no request: the counts are printed, nothing is polled or saved."""
    service.upload_answer = (200, {"products": 2, "images": 4})
    assert run(service, products, "--option", "dry_run=true") == 0
    assert "2 products, 4 images" in capsys.readouterr().out
    assert not service.was_polled.is_set()
    assert list(products.parent.iterdir()) == [products]


def test_empty_file_is_sent_with_its_length(service: FakeService, products: Path) -> None:
    """An empty file goes to the service, which says what is wrong, with Content-Length 0."""
    products.write_bytes(b"")
    run(service, products)
    assert service.uploads[0][2] == 0
    assert "Transfer-Encoding" not in service.uploads[0][1]


def test_upload_does_not_hold_the_file(service: FakeService, products: Path) -> None:
    """Uploading 40 MB needs less than 4 MB of memory."""
    with products.open("wb") as file:
        file.truncate(40_000_000)
    tracemalloc.start()
    try:
        run(service, products)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert service.uploads[0][2] == 40_000_000
    assert peak < 4_000_000


@pytest.mark.parametrize("outage", [[503], [0, 0], [502, 504, 429, 500, 0]])
def test_an_outage_while_polling_is_waited_out(
    service: FakeService, products: Path, outage: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is away for a moment while polled loses nothing."""
    monkeypatch.setattr(submit, "OUTAGE_PAUSE_SECONDS", 0.01)
    service.outages = deque(outage)
    assert run(service, products) == 0
    assert not service.outages


def test_a_longer_outage_ends_with_an_error(service: FakeService) -> None:
    """Patience has an end, and says what the service answers."""
    service.outages = deque([503] * 10_000)
    client = submit.ServiceClient(service.url, outage_seconds=0.05)
    with client, pytest.raises(submit.SubmitError, match="answers 503 Service Unavailable"):
        client.status(ID)


def test_refusal_while_polling_names_the_request(
    service: FakeService, products: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the status can't be had any more, the person learns where the request is."""
    service.outages = deque([401])
    assert run(service, products) == 2
    shown = capsys.readouterr().err
    assert f"still has the request: {service.url}/status/{ID}" in shown
    assert "Refused (401 Unauthorized): away" in shown


def test_nobody_listens(products: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refused connection is exit 2 and one plain line."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets the port
        server = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        assert submit.main([str(products), "--server", server]) == 2
    assert capsys.readouterr().err == (
        f"No service answers at {server}. Is it running there? (--server says where)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["missing.csv"], "is not a file"),
        (["products.csv", "--output", "products.csv"], "would replace the input"),
        (["products.csv", "--output", "nowhere/o.csv"], "can't be written"),
    ],
)
def test_bad_paths_are_refused_before_uploading(
    service: FakeService,
    products: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    line: str,
) -> None:
    """A path that can't work is exit 2 before anything is sent."""
    monkeypatch.chdir(products.parent)
    assert run(service, *arguments) == 2
    assert line in capsys.readouterr().err
    assert not service.uploads


@pytest.mark.parametrize("arguments", [["--option", "webp"], ["--server", "localhost:8000"], []])
def test_usage_errors(products: Path, arguments: list[str]) -> None:
    """A command line that can't be read is argparse's exit 2."""
    with pytest.raises(SystemExit) as exit_info:
        submit.main([*([str(products)] if arguments else []), *arguments])
    assert exit_info.value.code == 2


def test_api_key_goes_with_every_request(
    service: FakeService, products: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """API_KEY is sent as a bearer token with the upload, the polls and the download."""
    monkeypatch.setenv("API_KEY", "secret\n")
    assert run(service, products) == 0
    assert service.keys == {"Bearer secret"}


def test_images_follow_the_cursor(service: FakeService) -> None:
    """Every page of images is read, in order."""
    first = f"/status/{ID}/images?limit=1000"
    service.image_pages = {
        first: {"images": [{"row": 1}, {"row": 2}], "next_cursor": "a b"},
        f"{first}&cursor=a+b": {"images": [{"row": 3}], "next_cursor": None},
    }
    with submit.ServiceClient(service.url) as client:
        assert [image["row"] for image in client.images(ID)] == [1, 2, 3]


def test_interrupt_says_where_the_request_is(service: FakeService, products: Path) -> None:
    """Ctrl-C while waiting is exit 130 and names the status URL."""
    service.statuses = deque([status_body("processing", done=1)])
    command = [sys.executable, str(ROOT / "submit.py"), str(products), "--server", service.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert service.was_polled.wait(20)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"still has the request: {service.url}/status/{ID}" in shown
    assert f"curl -X DELETE {service.url}/status/{ID}" in shown
    assert "Traceback" not in shown


def test_test_csv_names_every_sample() -> None:
    """The CSV that the demo uploads has every sample once, at the default address."""
    with (ROOT / "test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    urls = [url.strip() for row in rows for url in row["Input Image Urls"].split(",")]
    samples = {p.name for p in (ROOT / "samples").iterdir() if p.suffix not in {".py", ""}}
    assert {row["S. No."] for row in rows} == {str(n + 1) for n in range(len(rows))}
    assert sorted(urls) == sorted(f"http://localhost:8000/samples/{name}" for name in samples)
