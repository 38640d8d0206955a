"""The service as a process, as its users have it: started, asked over HTTP, stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from database_helper import Database

ROOT = Path(__file__).parent.parent
START_SECONDS = 60
STOP_SECONDS = 40  # longer than SHUTDOWN_SECONDS
FINISH_SECONDS = 60
# Tracebacks, SQL, paths.
_INSIDES = re.compile(
    r"Traceback|[a-z]Error\b|psycopg|\.py\b|/(?:tmp|usr|home|root|var|etc)\b|"
    r"\b(?:select|insert|update|copy|from|relation|column)\b.*\b(?:requests|images|image_links)\b",
    re.IGNORECASE,
)
_START = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from decoder import decoder_handle
import server
decoder_handle._PROGRAM = Path({decoder!r})
server.main()
"""
CSV_HEADER = "Serial Number,Product Name,Input Image Urls"


class Command:
    """A command of ours that runs until it is stopped; `folder` is where it is at home.

    Without a database it brings its own. Settings are given as keywords.
    """

    says = re.compile("")  # what it prints once it works

    def __init__(
        self, script: str, folder: Path, database: Database | None, *arguments: str, **settings: str
    ) -> None:
        self.folder = folder
        self.log = folder / f"{script}.log"
        self._command = [sys.executable, str(ROOT / script), *arguments]
        self._environment = {
            "PATH": os.environ["PATH"],
            "PORT": "0",
            "STORAGE_URL": f"file:{folder}",
        } | settings
        if database:
            self._environment["DATABASE_URL"] = database.conninfo

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )
        self._wait_until_started()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; a second call returns it again."""
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def _wait_until_started(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            has_ended = self.process.poll() is not None
            if self.says.search(self.log.read_text()):
                return
            if has_ended:
                break
            time.sleep(0.02)
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"the command did not start\n{self.log.read_text()}")


class Worker(Command):
    """`image_processor.py`: a worker alone."""

    says = re.compile("Working until")

    def __init__(self, folder: Path, database: Database, **settings: str) -> None:
        super().__init__("image_processor.py", folder, database, **settings)


class Service(Command):
    """`server.py`: HTTP, and the worker unless `--no-worker` is given."""

    says = re.compile(r"Listening on (http://\S+)")

    def __init__(
        self, folder: Path, database: Database | None, *arguments: str, **settings: str
    ) -> None:
        super().__init__("server.py", folder, database, *arguments, **settings)
        self.database = database
        self.url = ""
        self.session = requests.Session()
        self.session.trust_env = False

    def __enter__(self) -> Self:
        super().__enter__()
        found = self.says.search(self.log.read_text())
        assert found
        self.url = found[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
        self.stop()

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path."""
        return self.request("GET", path, **options)

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Ask for a path by any method."""
        return self.session.request(method, self.url + path, timeout=FINISH_SECONDS, **options)

    def upload(
        self, csv: str | bytes, fields: dict[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """POST a CSV as a browser's form would."""
        return self.session.post(
            f"{self.url}/upload",
            files={"file": ("products.csv", csv)},
            data=fields or {},
            timeout=FINISH_SECONDS,
            **options,
        )

    def finish(self, request_id: str) -> dict[str, Any]:
        """Wait until a request is finished and return its status."""
        deadline = time.monotonic() + FINISH_SECONDS
        while time.monotonic() < deadline:
            status: dict[str, Any] = self.get(f"/status/{request_id}").json()
            if status["finished_at"]:
                return status
            time.sleep(0.02)
        raise AssertionError(f"request not finished: {status}\n{self.log.read_text()}")

    def run(self, csv: str | bytes, **fields: str) -> dict[str, Any]:
        """Upload, wait for the end, return the status."""
        answer = self.upload(csv, fields)
        assert answer.status_code == 202, answer.text
        return self.finish(answer.json()["request_id"])

    def images(self, request_id: str) -> list[dict[str, Any]]:
        """Return every image of a request."""
        images: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = self.get(
                f"/status/{request_id}/images", params={"cursor": cursor} if cursor else {}
            ).json()
            images += page["images"]
            cursor = page["next_cursor"]
        return images

    def query(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Return rows of the service's database."""
        assert self.database
        with self.database.transaction() as cursor:
            cursor.execute(statement, values)
            return [dict(row) for row in cursor.fetchall()]

    def wait_until(self, is_met: Callable[[], Any]) -> None:
        """Wait until a condition is met."""
        deadline = time.monotonic() + FINISH_SECONDS
        while not is_met():
            if time.monotonic() > deadline:
                raise AssertionError(f"it never came true\n{self.log.read_text()}")
            time.sleep(0.02)

    def count_rows(self) -> dict[str, int]:
        """Return how many rows each table has that an upload writes to."""
        return self.query(
            """select (select count(*) from requests) as requests,
                      (select count(*) from image_links) as image_links,
                      (select count(*) from images) as images"""
        )[0]


class WithDecoder(Service):
    """The service with another program for its decoders."""

    def __init__(
        self, folder: Path, database: Database | None, decoder: Path, **settings: str
    ) -> None:
        super().__init__(folder, database, **settings)
        self._command[1:] = ["-c", _START.format(root=str(ROOT), decoder=str(decoder))]


def assert_problem(response: requests.Response, status: int) -> dict[str, Any]:
    """Check that this is an RFC 9457 document which tells nothing of our insides; return it."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    for name in ("type", "title", "detail"):
        assert isinstance(problem[name], str)
        assert problem[name]
    assert not _INSIDES.search(response.text), response.text
    return problem


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, in MiB (Linux)."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0  # a zombie has none


def csv_of(*cells: str) -> str:
    """Return a CSV with a product for each cell of URLs."""
    lines = [f'{row},Product {row},"{cell}"' for row, cell in enumerate(cells, 1)]
    return "\r\n".join([CSV_HEADER, *lines, ""])
