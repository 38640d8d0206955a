"""The commands as processes: how they start, stop, survive, and say what is wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from threading import Event
from typing import TYPE_CHECKING

import pytest
from psycopg2.extensions import make_dsn

from tests.images import photo, saved
from tests.service import ROOT, Service, Worker, assert_problem, csv_of

if TYPE_CHECKING:
    from pathlib import Path

    from database_helper import Database
    from tests.origin import Origin

JPEG = saved(photo(), "JPEG", quality=95)
INVALID = "ftp://files.example/a.jpg"
COMMANDS = ("server.py", "image_processor.py", "submit.py", "demo.py")
RUNNERS = ("server.py", "image_processor.py")
SOON_SECONDS = 25.0  # what a second or two may take at the very most on a busy machine


def run(
    folder: Path, script: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself, with nothing in its environment but what is given."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_refused(ended: subprocess.CompletedProcess[str], *names: str) -> list[str]:
    """Check that a command did not start, with a line for each name; return the lines."""
    assert ended.returncode not in {0, -signal.SIGKILL}
    assert "Traceback" not in ended.stderr
    lines = ended.stderr.splitlines()
    for name in names:
        assert any(name in line for line in lines), (name, ended.stderr)
    return lines


# Start

BAD = {
    "PORT": "http",
    "PUBLIC_URL": "images.example",
    "STORAGE_URL": "ftp://files.example",
    "API_KEYS": "letmein",
    "ALLOWED_SOURCES": "files.example",
    "SOURCE_PORTS": "80,0",
    "MAX_CSV_BYTES": "many",
    "MAX_CSV_ROWS": "0",
    "MAX_URLS_PER_ROW": "-1",
    "MAX_IMAGE_BYTES": "0",
    "MAX_IMAGE_PIXELS": "1.5",
    "MAX_IMAGE_FRAMES": "x",
    "CONNECT_SECONDS": "0",
    "DOWNLOAD_SECONDS": "-1",
    "COMPRESS_SECONDS": "soon",
    "DOWNLOAD_ATTEMPTS": "0",
    "DOWNLOAD_CONCURRENCY": "0",
    "HOST_CONCURRENCY": "0",
    "COMPRESS_PROCESSES": "none",
    "SHUTDOWN_SECONDS": "never",
    "LOG_FORMAT": "xml",
}


@pytest.mark.parametrize("script", RUNNERS)
def test_bad_settings(tmp_path: Path, script: str) -> None:
    """Bad settings stop the start, all of them named at once, secrets not repeated."""
    lines = assert_refused(run(tmp_path, script, **BAD), *BAD)
    assert len(lines) == len(BAD)
    assert "letmein" not in "".join(lines)
    assert not (tmp_path / "postgres-data").exists()


def test_open_host_needs_keys(tmp_path: Path) -> None:
    """A host that others can reach is refused without keys, before anything listens."""
    ended = run(tmp_path, "server.py", HOST="0.0.0.0", PORT="0")
    assert_refused(ended, "API_KEYS")
    assert "HOST" in ended.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "postgresql://user:hidden@127.0.0.1:1/db"),
        ("STORAGE_URL", "file:/dev/null"),
        ("POSTGRES_DIR", "/dev/null/postgres"),
        ("HOST", "192.0.2.1"),
    ],
)
def test_settings_that_can_not_work(tmp_path: Path, name: str, value: str) -> None:
    """What reads well but can't be used stops the start too, with a line that names it."""
    ended = run(tmp_path, "server.py", PORT="0", API_KEYS="none", **{name: value})
    lines = assert_refused(ended, name)
    assert "hidden" not in "".join(lines)


def test_settings_file(tmp_path: Path) -> None:
    """`.env` of the working directory is read, and the environment goes before it."""
    (tmp_path / ".env").write_text("PORT=from-file\nLOG_FORMAT=text\n")
    assert_refused(run(tmp_path, "server.py", LOG_FORMAT="yaml"), "PORT=from-file", "LOG_FORMAT")


def test_port_is_taken(tmp_path: Path, database: Database) -> None:
    """A port that another program has is told in one clear line."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = str(other.getsockname()[1])
        ended = run(tmp_path, "server.py", PORT=port, DATABASE_URL=database.conninfo)
    (line,) = assert_refused(ended, port)
    assert "in use; another program has it" in line


def test_role_without_rights(tmp_path: Path, empty_database: Database) -> None:
    """A role that may not make tables is told of in one line, too."""
    with empty_database.transaction() as cursor:
        cursor.execute("create role visitor login")
    try:
        visitor = make_dsn(empty_database.conninfo, options="-c role=visitor")
        ended = run(tmp_path, "server.py", PORT="0", DATABASE_URL=visitor)
    finally:
        with empty_database.transaction() as cursor:
            cursor.execute("drop role visitor")
    (line,) = assert_refused(ended, "DATABASE_URL")
    assert "the role has to own its database" in line


def test_misspelt_setting_is_warned_of(tmp_path: Path, database: Database) -> None:
    """A name that is nearly a setting's starts the service, with a warning that says where it is."""
    (tmp_path / ".env").write_text("# limits\n\nMAX_CSV_ROW=5\nPOSTGRES_DB=somebody else's\n")
    with Service(tmp_path, database, "--no-worker", STORAGE_ULR="file:elsewhere") as service:
        log = service.log.read_text()
    assert "MAX_CSV_ROW (.env line 3) is no setting; perhaps MAX_CSV_ROWS is meant" in log
    assert "STORAGE_ULR (in the environment) is no setting; perhaps STORAGE_URL is meant" in log
    assert "POSTGRES_DB" not in log


def test_settings_file_that_is_no_text(tmp_path: Path) -> None:
    """A file that can't be read is told in one line."""
    (tmp_path / ".env").write_bytes(b"\xff\xfe")
    assert_refused(run(tmp_path, "server.py"), ".env: can't be read")


@pytest.mark.parametrize("script", COMMANDS)
def test_help(tmp_path: Path, script: str) -> None:
    """Every command explains itself, and does nothing else."""
    ended = run(tmp_path, script, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert script in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_service_manager_is_told(tmp_path: Path, database: Database) -> None:
    """A service manager that asks hears when the service is ready and when it stops."""
    name = str(tmp_path / "notify")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(name)
        manager.settimeout(SOON_SECONDS)
        with Service(tmp_path, database, "--no-worker", NOTIFY_SOCKET=name) as service:
            assert manager.recv(100) == b"READY=1"
            assert service.get("/healthz").status_code == 200
            assert service.stop() == 0
            assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("script", RUNNERS)
def test_unknown_argument(tmp_path: Path, script: str) -> None:
    """An argument that there isn't is refused with the usage."""
    assert_refused(run(tmp_path, script, "--no-such-thing"), "usage", "--no-such-thing")


def test_ipv6(tmp_path: Path, database: Database) -> None:
    """The service listens on IPv6 too, and its URLs say so."""
    with Service(tmp_path, database, "--no-worker", HOST="::1") as service:
        assert service.url.startswith("http://[::1]:")
        assert service.get("/healthz").status_code == 200
        status_url = service.upload(csv_of(INVALID)).json()["status_url"]
        assert status_url.startswith(f"{service.url}/status/")


def test_public_url(tmp_path: Path, database: Database) -> None:
    """Every URL handed out begins with PUBLIC_URL, in the output CSV too."""
    public = "https://images.example/shop"
    with Service(tmp_path, database, PUBLIC_URL=f"{public}/") as service:
        status = service.run(csv_of(f"{service.url}/samples/vase.jpg"))
        request_id = status["request_id"]
        assert status["links"]["self"] == f"{public}/status/{request_id}"
        expected = f"{public}/uploads/{request_id}/{request_id}-1.jpg"
        assert service.get(f"/static/{request_id}.csv").text.rstrip().endswith(expected)


def test_everything_by_default(tmp_path: Path) -> None:
    """Without settings, from any directory, the service brings its PostgreSQL and its files."""
    with Service(tmp_path, None, STORAGE_URL="") as service:
        source = (
            (ROOT / "test.csv").read_text("utf-8").replace("http://localhost:8000", service.url)
        )
        status = service.run(source)
        assert status["status"] == "completed", status["errors_by_code"]
        assert (tmp_path / "static" / f"{status['request_id']}.csv").is_file()
        assert (tmp_path / "uploads" / status["request_id"]).is_dir()
        assert (tmp_path / "postgres-data").is_dir()
        assert service.stop() == 0
    with Service(tmp_path, None, STORAGE_URL="") as service:
        assert service.get(f"/status/{status['request_id']}").json()["status"] == "completed"


# Stop


def test_images_under_way_finish(tmp_path: Path, database: Database, origin: Origin) -> None:
    """SIGTERM lets what is under way end and takes no new upload; nothing is fetched twice."""
    may_end = Event()
    url = origin.serve("/slow.jpg", JPEG, until=may_end)
    with Service(tmp_path, database, ALLOWED_SOURCES=origin.authority) as service:
        request_id = service.upload(csv_of(url)).json()["request_id"]
        service.wait_until(lambda: origin.count("/slow.jpg") == 1)
        service.process.send_signal(signal.SIGTERM)
        service.wait_until(lambda: service.get("/readyz").status_code == 503)
        refused = service.upload(csv_of(INVALID))
        assert_problem(refused, 503)
        assert int(refused.headers["Retry-After"]) > 0
        assert service.get(f"/status/{request_id}").json()["status"] == "processing"
        may_end.set()
        assert service.process.wait(SOON_SECONDS) == 0
        (image,) = service.query("select state, attempts from images")
        assert image == {"state": "succeeded", "attempts": 1}
    with Service(tmp_path, database, ALLOWED_SOURCES=origin.authority) as service:
        assert service.finish(request_id)["status"] == "completed"
    assert origin.count("/slow.jpg") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_images_that_take_too_long_are_handed_back(
    tmp_path: Path, database: Database, origin: Origin, number: signal.Signals
) -> None:
    """After SHUTDOWN_SECONDS the service ends all the same, and the next start goes on at once."""
    url = origin.serve("/stuck.jpg", silent=True)
    settings = {"ALLOWED_SOURCES": origin.authority, "SHUTDOWN_SECONDS": "1"}
    with Service(tmp_path, database, **settings) as service:
        request_id = service.upload(csv_of(url)).json()["request_id"]
        service.wait_until(lambda: origin.count("/stuck.jpg") == 1)
        began = time.monotonic()
        assert service.stop(number) == 0
        assert time.monotonic() - began < SOON_SECONDS
        (image,) = service.query("select state, attempts from images")
        assert image == {"state": "pending", "attempts": 0}
    origin.serve("/stuck.jpg", JPEG)
    with Service(tmp_path, database, **settings) as service:
        assert service.finish(request_id)["status"] == "completed"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal(tmp_path: Path, origin: Origin, second: signal.Signals) -> None:
    """A second signal ends the whole service at once, PostgreSQL with it, and loses nothing."""
    url = origin.serve("/stuck.jpg", silent=True)
    settings = {"ALLOWED_SOURCES": origin.authority, "LEASE_SECONDS": "2"}
    with Service(tmp_path, None, **settings) as service:
        request_id = service.upload(csv_of(url, INVALID)).json()["request_id"]
        service.wait_until(lambda: origin.count("/stuck.jpg") == 1)
        service.process.send_signal(signal.SIGTERM)
        service.wait_until(lambda: service.get("/readyz").status_code == 503)
        began = time.monotonic()
        assert service.stop(second) == -second
        assert time.monotonic() - began < SOON_SECONDS
    origin.serve("/stuck.jpg", JPEG)
    with Service(tmp_path, None, **settings) as service:
        status = service.finish(request_id)
        assert status["progress"]["succeeded"] == status["progress"]["failed"] == 1


def test_stop_right_after_the_start(tmp_path: Path, database: Database) -> None:
    """A signal that comes while the worker is still starting ends the service too."""
    for _ in range(3):
        with Service(tmp_path, database) as service:
            began = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - began < SOON_SECONDS


def test_idle_commands_stop_at_once(tmp_path: Path, database: Database) -> None:
    """Without anything under way, server and worker end with exit status 0."""
    with Service(tmp_path, database) as service, Worker(tmp_path, database) as worker:
        service.run(csv_of(INVALID))
        began = time.monotonic()
        assert (worker.stop(), service.stop()) == (0, 0)
        assert time.monotonic() - began < SOON_SECONDS
        assert "Traceback" not in service.log.read_text() + worker.log.read_text()


def test_what_was_accepted_survives(tmp_path: Path, database: Database, origin: Origin) -> None:
    """A server that is killed right after its 202 has lost nothing: the next one does the work."""
    url = origin.serve("/a.jpg", JPEG)
    with Service(tmp_path, database, "--no-worker") as service:
        request_id = service.upload(csv_of(url, INVALID)).json()["request_id"]
        assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    with Service(tmp_path, database, ALLOWED_SOURCES=origin.authority) as service:
        assert service.finish(request_id)["status"] == "completed_with_errors"
    assert origin.count("/a.jpg") == 1


# Workers apart


def test_workers_alone(tmp_path: Path, database: Database, origin: Origin) -> None:
    """HTTP alone and two workers share the work of one request; every image is fetched once."""
    paths = [f"/{n}.jpg" for n in range(300)]
    cells = [
        ", ".join(origin.serve(path, JPEG) for path in paths[n : n + 10]) for n in range(0, 300, 10)
    ]
    folders = [tmp_path / name for name in ("server", "first", "second")]
    for folder in folders:
        folder.mkdir()
    settings = {
        "ALLOWED_SOURCES": origin.authority,
        "STORAGE_URL": f"file:{tmp_path}",
        "PUBLIC_URL": "http://images.example",  # workers don't know where HTTP listens
        "LOG_FORMAT": "json",
    }
    with (
        Service(folders[0], database, "--no-worker", **settings) as service,
        Worker(folders[1], database, **settings),
        Worker(folders[2], database, **settings),
    ):
        status = service.run(csv_of(*cells))
        assert status["status"] == "completed"
        output = service.get(f"/static/{status['request_id']}.csv").text
        assert output.count("http://images.example/uploads/") == len(paths)
    assert [origin.count(path) for path in paths] == [1] * len(paths)
    lines = service.log.read_text().splitlines()
    events = [json.loads(line) for line in lines if not line.startswith("Listening on")]
    assert any(event.get("request_id") == status["request_id"] for event in events)


# submit.py


@pytest.fixture(scope="module")
def http(
    module_database: Database, module_origin: Origin, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    """Name the service that submit.py talks to."""
    folder = tmp_path_factory.mktemp("service")
    return Service(folder, module_database, ALLOWED_SOURCES=module_origin.authority)


def test_submit(http: Service, module_origin: Origin, tmp_path: Path) -> None:
    """submit.py saves the output; its exit status tells success, failures and refusal."""
    good = module_origin.serve("/good.jpg", JPEG)
    files = {"good": csv_of(good), "mixed": csv_of(f"{good},{INVALID}"), "bad": "no header"}
    with http as service:
        for name, text in files.items():
            (tmp_path / f"{name}.csv").write_text(text)
        ended = {
            name: run(
                tmp_path,
                *("submit.py", f"{name}.csv", "--server", service.url),
                *("--output", f"{name}-out.csv", "--option", "format=webp"),
            )
            for name in files
        }
        assert [one.returncode for one in ended.values()] == [0, 1, 2]
        for name, slots in {"good": ["webp"], "mixed": ["webp", ""]}.items():
            with (tmp_path / f"{name}-out.csv").open(newline="", encoding="utf-8") as file:
                (row,) = csv.DictReader(file)
            found = [url.rpartition(".")[2] for url in row["Output Image Urls"].split(",")]
            assert found == slots
        assert not (tmp_path / "bad-out.csv").exists()
        assert "Serial Number" in ended["bad"].stderr
        assert "Traceback" not in "".join(one.stderr for one in ended.values())
    assert run(tmp_path, "submit.py", "good.csv", "--server", service.url).returncode == 2
