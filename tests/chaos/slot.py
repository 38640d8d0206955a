"""A place where chaos happens: database, folder, origin, and the service's processes over them.

Owns starting, striking and restarting, and the check of what came of a request. What is done to
it in which order is for `rounds`.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import signal
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import requests

from database_helper import DatabaseUnavailableError
from tests.chaos.audit import Result, find_leftovers, find_violations, read_result
from tests.chaos.points import POINTS
from tests.images import photo, saved
from tests.origin import Origin, Reply
from tests.service import ROOT, Command, Service, Worker, csv_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from database_helper import Database
    from embedded_postgres import EmbeddedPostgres

LEASE_SECONDS: Final = 4.0
RECOVERY_SECONDS: Final = 2 * LEASE_SECONDS
PATIENCE_SECONDS: Final = 60.0  # for anything: what takes longer never comes
LAUNCHER: Final = ROOT / "tests/chaos/launcher.py"
PUBLIC_URL: Final = "http://images.example"  # the same after each start, whatever the port
SECRET: Final = "whsec_" + "Y2hhb3M0" * 4  # of nobody
_REPORT_ATTEMPTS: Final = "attempts"

_SERIAL = itertools.count(1)


class HarnessError(Exception):
    """Chaos itself failed: what was to be struck was not."""


class Launched(Command):
    """A command with its points watched."""

    def launch(self) -> None:
        """Have it started by the launcher, with a log, an arm and a journal of its own."""
        script = self._command[1].rpartition("/")[2]
        stem = self.folder / f"{script.removesuffix('.py')}-{next(_SERIAL)}"
        self.log = stem.with_suffix(".log")
        self.arm_file = stem.with_suffix(".arm")
        self.journal = stem.with_suffix(".journal")
        self._command[1:2] = [str(LAUNCHER), script]
        self._environment |= {"CHAOS_ARM": str(self.arm_file), "CHAOS_JOURNAL": str(self.journal)}

    def arm(self, point: str, call: int = 1, number: int = signal.SIGKILL, pid: int = 0) -> None:
        """Have the `call`-th call of a point from now on send a signal, to itself by default."""
        assert point in POINTS
        order = {"point": point, "call": call, "signal": int(number), "pid": pid}
        fresh = self.arm_file.with_suffix(".fresh")
        fresh.write_text(json.dumps(order))
        fresh.rename(self.arm_file)

    @property
    def is_struck(self) -> bool:
        """Whether the call that was meant has come."""
        return self.arm_file.with_suffix(".struck").exists()

    def wait_struck(self) -> None:
        """Wait until the point has struck. Raises HarnessError when it doesn't."""
        wait_until(lambda: self.is_struck, lambda: f"{self.arm_file.name} never struck")
        self.arm_file.with_suffix(".struck").unlink()

    def wait_killed(self) -> None:
        """Wait for the end by SIGKILL. Raises HarnessError when it ended otherwise."""
        code = self.process.wait(PATIENCE_SECONDS)
        if code != -signal.SIGKILL:
            raise HarnessError(f"ended by itself with {code}:\n{self.log.read_text()[-2000:]}")

    def entries(self) -> list[dict[str, Any]]:
        """Return what its journal has."""
        return [json.loads(line) for line in self.journal.read_text().splitlines()]


class LaunchedWorker(Launched, Worker):
    """`image_processor.py`, watched."""

    def __init__(self, folder: Path, database: Database, **settings: str) -> None:
        super().__init__(folder, database, **settings)
        self.launch()


class LaunchedServer(Launched, Service):
    """`server.py`, watched."""

    def __init__(
        self, folder: Path, database: Database | None, *arguments: str, **settings: str
    ) -> None:
        super().__init__(folder, database, *arguments, **settings)
        self.launch()


def wait_until(
    is_met: Callable[[], Any], complaint: Callable[[], str], seconds: float = PATIENCE_SECONDS
) -> None:
    """Wait until a condition is met. Raises HarnessError when it never is."""
    deadline = time.monotonic() + seconds
    while not is_met():
        if time.monotonic() > deadline:
            raise HarnessError(complaint())
        time.sleep(0.03)


class Slot:
    """A service to do harm to. Used by one thread.

    `is_whole`: one process is server and worker; else one each. `brings_postgres`: it starts and
    watches a PostgreSQL of its own in `folder/postgres-data`, at which `database` looks.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        *,
        is_whole: bool = False,
        brings_postgres: bool = False,
    ) -> None:
        self.folder = folder
        self.database = database
        self.is_whole = is_whole
        self.origin = Origin()
        self.recoveries: list[float] = []
        self.accepted: set[str] = set()
        self.ready_at = 0.0  # by the wall clock: when a worker was there again
        self.clean: Result
        self.clean_report: list[dict[str, str]]
        self.postgres: EmbeddedPostgres | None = None  # the slot's own, if it has one
        self._service_database = None if brings_postgres else database
        self._settings = {
            "ALLOWED_SOURCES": self.origin.authority,
            "LEASE_SECONDS": f"{LEASE_SECONDS:g}",
            "COMPRESS_PROCESSES": "1",
            "DOWNLOAD_CONCURRENCY": "8",
            "HOST_CONCURRENCY": "8",
            "PUBLIC_URL": PUBLIC_URL,
            "WEBHOOK_SECRET": SECRET,
        }
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            stack.callback(self.origin.close)
            self.serve_images()
            self.csv = self._make_csv()
            self.start_server()
            if not self.is_whole:
                self.start_worker()
            stack.callback(self._stop)
            self._run_undisturbed()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- The processes

    def start_server(self) -> None:
        """Start the server, new or again."""
        arguments = () if self.is_whole else ("--no-worker",)
        self.server = LaunchedServer(
            self.folder, self._service_database, *arguments, **self._settings
        )
        self.server.__enter__()
        self._note_ready()

    def start_worker(self) -> None:
        """Start a worker, new or again."""
        self.worker = self.make_worker()
        self._note_ready()

    def make_worker(self) -> LaunchedWorker:
        """Return a further worker that runs."""
        worker = LaunchedWorker(self.folder, self.database, **self._settings)
        worker.__enter__()
        return worker

    def _note_ready(self) -> None:
        self.ready_at = time.time()

    def _stop(self) -> None:
        commands: list[Command] = [self.server] if self.is_whole else [self.server, self.worker]
        for command in commands:
            command.process.kill()
            command.process.wait()
        self.server.session.close()

    # --- The sources

    def serve_images(self, slowest: float = 0.5) -> None:
        """Serve every source, one in pieces for `slowest` seconds, one missing."""
        base = photo(320, 240)
        for n, name in enumerate("abcde"):
            image = saved(base.rotate(72 * n).crop((0, 0, 200 + 8 * n, 200)), "JPEG", quality=95)
            self.origin.serve(f"/{name}.jpg", image, delay=0.06 * n)
        png = saved(base.resize((90, 70)), "PNG")
        self.origin.serve("/flat.png", png, delay=0.2)
        slow = saved(base, "JPEG", quality=97)
        piece = len(slow) // 5 + 1
        self.origin.serve("/slow.jpg", slow, piece=piece, pause=slowest / 6)
        self.origin.serve("/broken.jpg", png[:60] + bytes(20) + png[80:], delay=0.1)
        self.origin.serve("/missing.jpg", b"not found", status=404)

    def _make_csv(self) -> str:
        path = self.origin.url
        cells = [
            f"{path('/a.jpg')}, {path('/b.jpg')}",
            f"{path('/slow.jpg')}, {path('/a.jpg')}",
            f"{path('/missing.jpg')}, {path('/c.jpg')}, {path('/slow.jpg')}",
            f"{path('/broken.jpg')}, {path('/b.jpg')}",
            f"{path('/flat.png')}, {path('/d.jpg')}, {path('/e.jpg')}, nowhere",
        ]
        return csv_of(*cells)

    # --- Uploads

    def new_fields(self) -> dict[str, str]:
        """Return the options of an upload, with a webhook address of its own."""
        return {"webhook_url": self.origin.serve(f"/hook/{uuid.uuid4().hex}")}

    def upload(self, fields: dict[str, str]) -> str:
        """Upload, and return the id of what was accepted."""
        return self.note_accepted(self.server.upload(self.csv, fields))

    def upload_until_taken(self, fields: dict[str, str], key: str) -> str:
        """Upload under a key again and again until it is taken, or raise HarnessError."""
        headers = {"Idempotency-Key": f'"{key}"'}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = self.server.upload(self.csv, fields, headers=headers)
            except requests.ConnectionError:
                time.sleep(0.1)
                continue
            if answer.status_code not in {429, 503}:
                return self.note_accepted(answer)
            time.sleep(0.2)
        raise HarnessError(f"the upload was never taken: {self.server.log.read_text()[-2000:]}")

    def note_accepted(self, answer: requests.Response) -> str:
        """Return the id of an upload that was accepted, and expect it to be there."""
        if answer.status_code != 202:
            raise HarnessError(f"refused: {answer.status_code} {answer.text}")
        request_id: str = answer.json()["request_id"]
        self.accepted.add(request_id)
        return request_id

    # --- What the database says

    def query(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Return rows, also while PostgreSQL comes back."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with self.database.transaction() as cursor:
                    cursor.execute(statement, values)
                    return [dict(row) for row in cursor.fetchall()]
            except DatabaseUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def request_row(self, request_id: str) -> dict[str, Any]:
        """Return a request's row; empty when there is none."""
        rows = self.query("select * from requests where id = %s", request_id)
        return rows[0] if rows else {}

    def wait_finished(self, request_id: str) -> None:
        """Wait for the end of a request."""
        wait_until(
            lambda: self.request_row(request_id).get("finished_at"),
            lambda: f"never finished: {self.request_row(request_id)}",
        )

    def settle(self, request_id: str) -> None:
        """Wait for a request's end and the delivery of its events; note how long that took."""
        self.wait_finished(request_id)
        undelivered = "select * from webhooks where request_id = %s and state <> 'delivered'"
        wait_until(
            lambda: not self.query(undelivered, request_id),
            lambda: f"never delivered: {self.query(undelivered, request_id)}",
        )
        ends = self.query(
            """select extract(epoch from greatest(finished_at, max(delivered_at)))::float as at
                 from requests r left join webhooks w on w.request_id = r.id
                where r.id = %s group by r.finished_at""",
            request_id,
        )
        self.note_recovery(ends[0]["at"])

    def note_recovery(self, ended_at: float) -> None:
        """Note how long after a worker was there everything had ended."""
        self.recoveries.append(max(0.0, ended_at - self.ready_at))

    # --- What must hold

    def _run_undisturbed(self) -> None:
        request_id = self.upload(self.new_fields())
        self.wait_finished(request_id)
        self.clean = read_result(self.database, self.folder, request_id)
        self.clean_report = self._read_report(request_id)
        states = [image[1] for image in self.clean.images]
        assert states.count("succeeded") == 10, states
        assert states.count("failed") == 3, states
        # As it will be once the missing image is there.
        self.origin.serve("/missing.jpg", saved(photo(100, 90), "JPEG"))
        assert self.server.request("POST", f"/status/{request_id}/retry").status_code == 202
        self.wait_finished(request_id)
        self.clean_retried = read_result(self.database, self.folder, request_id)
        self.serve_images()

    def violations(
        self, fields: dict[str, str], request_id: str, *, is_retried: bool = False, events: int = 1
    ) -> list[str]:
        """Return what is wrong with a request that has ended; `events` were to be sent."""
        expected = self.clean_retried if is_retried else self.clean
        if self.request_row(request_id).get("status") == "cancelled":
            expected = self._cancelled(request_id)
        found = find_violations(self.database, self.folder, request_id, expected)
        if expected is self.clean and self._read_report(request_id) != self.clean_report:
            found.append("the report differs from the undisturbed run's")
        found += self._event_violations(fields, request_id, events)
        return found + self.leftovers(request_id)

    def leftovers(self, request_id: str) -> list[str]:
        """Return what is left of a request's work, or of requests that nobody knows."""
        found: list[str] = []
        deadline = time.monotonic() + RECOVERY_SECONDS
        while True:  # jobs of a dead worker go with the next sweep
            found = find_leftovers(self.database, self.accepted)
            for folder in ("uploads", "static"):
                staged = (self.folder / folder / ".staged").iterdir()
                found += [f"staged: {p.name}" for p in staged if request_id in p.name]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def purge_violations(self, request_id: str) -> list[str]:
        """Return what is wrong with a deleted request whose purge has ended."""
        paths = [f"/status/{request_id}", f"/static/{request_id}.csv"]
        answers = [(path, self.server.get(path).status_code) for path in paths]
        found = [f"{path} is {status}" for path, status in answers if status != 410]
        for table in ("images", "image_links", "webhooks"):
            count = "select count(*) as rows from {} where request_id = %s".format(table)  # noqa: S608, UP032
            rows = self.query(count, request_id)[0]["rows"]
            found += [f"{rows} rows left in {table}"] if rows else []
        if self.request_row(request_id):
            found.append("its row is left")
        files = [
            *self.folder.glob(f"*/{request_id}*"),
            *self.folder.glob(f"*/.staged/*{request_id}*"),
        ]
        found += [f"a file is left: {path.name}" for path in files]
        return found + self.leftovers(request_id)

    def _event_violations(self, fields: dict[str, str], request_id: str, events: int) -> list[str]:
        path = fields["webhook_url"].removeprefix(self.origin.url(""))
        with self.origin.lock:
            got = [r for r in self.origin.requests if r.path == path]
        ids = {post.headers["webhook-id"] for post in got}
        rows = self.query("select id, state from webhooks where request_id = %s", request_id)
        if len(ids) != events or {row["id"] for row in rows} != ids:
            return [f"{len(ids)} events came, {rows} are written, of {events}"]
        return []

    def _read_report(self, request_id: str) -> list[dict[str, str]]:
        path = self.folder / f"static/{request_id}-report.csv"
        text = path.read_text("utf-8").replace(request_id, "ID")
        lines = list(csv.DictReader(text.splitlines()))
        assert all(line.pop(_REPORT_ATTEMPTS) for line in lines)
        return lines

    def _cancelled(self, request_id: str) -> Result:
        """Return what a cancelled request must come to, its own choice of images granted."""
        rows = self.query(
            "select n, row, position, state from images where request_id = %s order by n",
            request_id,
        )
        cancelled = {row["n"] for row in rows if row["state"] == "cancelled"}
        lost = ("cancelled", "cancelled", *[None] * 8)
        images = tuple(
            (image[0], *lost) if image[0] in cancelled else image for image in self.clean.images
        )
        lines = list(csv.reader(self.clean.output_csv.decode().splitlines()))
        for row in rows:
            if row["n"] in cancelled:
                slots = lines[row["row"]][-1].split(",")
                slots[row["position"] - 1] = ""
                lines[row["row"]][-1] = ",".join(slots)
        return Result("cancelled", _written(lines), images)

    # --- Late finishers

    def serve_twice(self, first: Iterator[bytes], second: Iterator[bytes]) -> None:
        """Serve other bytes at the second time."""
        for name in ("a", "b", "c", "d", "e", "slow", "broken"):
            self.origin.serve_in_turn(f"/{name}.jpg", Reply(next(first)), Reply(next(second)))
        self.origin.serve_in_turn("/missing.jpg", Reply(status=404), Reply(next(second)))

    def snapshot(self, request_id: str) -> dict[str, Any]:
        """Return everything that a late finisher could change."""
        tables = {"requests": "id", "images": "request_id", "image_links": "request_id"}
        state: dict[str, Any] = {
            table: self.query(f"select * from {table} where {key} = %s order by 1, 2", request_id)  # noqa: S608
            for table, key in tables.items()
        }
        state["webhooks"] = self.query(
            "select id, body, state, attempts from webhooks where request_id = %s", request_id
        )
        files = [p for p in self.folder.glob(f"*/{request_id}*") if p.is_file()]
        files += self.folder.glob(f"uploads/{request_id}/*")
        state |= {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
        return state


def _written(lines: list[list[str]]) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\r\n").writerows(lines)
    return sink.getvalue().encode()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def program(pid: int) -> str:
    """Return a process's command line."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes().replace(b"\0", b" ").decode() if path.exists() else ""
