"""A place where chaos happens: database, folder, origin, and the service's processes over them.

Owns starting and restarting, the sources, and asking. What is done to it in which order is for
`rounds`, what must come of it for `verdict`.
"""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any, Final, Self

import requests

from database_helper import DatabaseUnavailableError
from tests.chaos.audit import read_result
from tests.chaos.launched import (
    PATIENCE_SECONDS,
    HarnessError,
    LaunchedServer,
    LaunchedWorker,
    wait_until,
)
from tests.chaos.verdict import Undisturbed, read_report
from tests.images import photo, saved
from tests.origin import Origin, Reply
from tests.service import Command, csv_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from database_helper import Database
    from embedded_postgres import EmbeddedPostgres

LEASE_SECONDS: Final = 4.0
RECOVERY_SECONDS: Final = 2 * LEASE_SECONDS
PUBLIC_URL: Final = "http://images.example"  # the same after each start, whatever the port
SECRET: Final = "whsec_" + "Y2hhb3M0" * 4  # of nobody


@dataclass(frozen=True, slots=True)
class HeldReply(Reply):
    """A reply whose body comes when it is released."""

    released: Event = field(default_factory=Event)

    def pieces(self) -> Iterator[bytes]:
        """Yield the head; then the rest, in time."""
        for piece in Reply.pieces(self):
            yield piece
            self.released.wait(PATIENCE_SECONDS)


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
        self.undisturbed: Undisturbed
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
        self._commands: list[Command] = []  # all that were ever started
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.origin.close)
            stack.callback(self._stop)
            self.serve_images()
            self.csv = self._make_csv()
            self.start_server()
            if not self.is_whole:
                self.start_worker()
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
        self._start(self.server)

    def start_worker(self) -> None:
        """Start a worker: the first, again, or beside one that is stopped."""
        self.worker = LaunchedWorker(self.folder, self.database, **self._settings)
        self._start(self.worker)

    def _start(self, command: Command) -> None:
        self._commands.append(command)
        command.__enter__()
        self.ready_at = time.time()

    def _stop(self) -> None:
        for command in self._commands:
            command.process.kill()
            command.process.wait()
            if isinstance(command, LaunchedServer):
                command.session.close()

    # --- The sources

    def serve_images(self) -> None:
        """Serve every source: one slow, one broken, one missing."""
        base = photo(320, 240)
        for n, name in enumerate("abcde"):
            image = saved(base.rotate(72 * n).crop((0, 0, 200 + 8 * n, 200)), "JPEG", quality=95)
            headers = {"ETag": f'"{name}"'} if n % 2 else {}
            self.origin.serve(f"/{name}.jpg", image, delay=0.06 * n, headers=headers)
        png = saved(base.resize((90, 70)), "PNG")
        self.origin.serve("/flat.png", png, delay=0.2)
        slow = saved(base, "JPEG", quality=97)
        piece = len(slow) // 5 + 1
        self.origin.serve("/slow.jpg", slow, piece=piece, pause=0.08)
        self.origin.serve("/broken.jpg", png[:60] + bytes(20) + png[80:], delay=0.1)
        self.origin.serve("/missing.jpg", b"not found", status=404)

    def hold_slow_image(self) -> Event:
        """Keep the slow image half sent until the event that is returned is set."""
        held = HeldReply(saved(photo(320, 240), "JPEG", quality=97))
        self.origin.serve_in_turn("/slow.jpg", held)
        return held.released

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
        """Return the options of an upload, with a webhook address of its own.

        No earlier upload has its background, so that all images are made. None shows it.
        """
        number = uuid.uuid4().hex
        return {
            "webhook_url": self.origin.serve(f"/hook/{number}"),
            "background": f"#{number[:6]}",
        }

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

    def settle(self, request_id: str) -> float:
        """Wait for a request's end and the delivery of its events; return when that was."""
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
        at: float = ends[0]["at"]
        return at

    def recover(self, request_id: str) -> None:
        """Settle, and note how long after a worker was there that was."""
        self.note_recovery(self.settle(request_id))

    def note_recovery(self, ended_at: float) -> None:
        """Note how long after a worker was there everything had ended."""
        self.recoveries.append(max(0.0, ended_at - self.ready_at))

    def _run_undisturbed(self) -> None:
        request_id = self.upload(self.new_fields())
        self.wait_finished(request_id)
        plain = read_result(self.database, self.folder, request_id)
        report = read_report(self.folder, request_id)
        states = [image[1] for image in plain.images]
        assert states.count("succeeded") == 10, states
        assert states.count("failed") == 3, states
        # As it will be once the missing image is there.
        self.origin.serve("/missing.jpg", saved(photo(100, 90), "JPEG"))
        assert self.server.request("POST", f"/status/{request_id}/retry").status_code == 202
        self.wait_finished(request_id)
        retried = read_result(self.database, self.folder, request_id)
        self.undisturbed = Undisturbed(plain, retried, report)
        self.serve_images()

    # --- Late finishers

    def serve_twice(self, first: Iterator[bytes], second: Iterator[bytes]) -> None:
        """Serve other bytes at the second time."""
        for name in ("a", "b", "c", "d", "e", "slow", "broken"):
            self.origin.serve_in_turn(f"/{name}.jpg", Reply(next(first)), Reply(next(second)))
        self.origin.serve_in_turn("/missing.jpg", Reply(status=404), Reply(next(second)))
