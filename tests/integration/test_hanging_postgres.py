"""A PostgreSQL that hangs or loses a process: calls end in time, and all is well when it is back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
import requests

import database_helper
import upload_intake
import watched_connection
from async_database import AsyncDatabase
from database_helper import Database, DatabaseUnavailableError, is_alive
from database_schema import apply_schema
from embedded_postgres import EmbeddedPostgres
from http_api import Api
from httpd.http_server import HttpServer
from image_processor import background_worker
from settings import Settings
from storage.folder_store import FolderStore
from tests.images import photo, saved
from tests.service import assert_problem, csv_of
from tests.waiting import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.origin import Origin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

STATEMENT_SECONDS = 0.5
SOON_SECONDS = 12.0  # what a few seconds may take at the very most on a busy machine


class Server:
    """An embedded PostgreSQL of this module's own, to be stopped and killed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._postgres = EmbeddedPostgres(directory)
        self.uri = self._postgres.start()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Stop the server and its processes as they stand; let them go on afterwards."""
        stopped = []
        try:
            pid = self.pid
            os.kill(pid, signal.SIGSTOP)  # first, so that it starts no other process
            stopped.append(pid)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGSTOP)
                stopped.append(int(child))
            yield
        finally:
            for process in stopped:
                with suppress(ProcessLookupError):  # one that had nothing more to do has ended
                    os.kill(process, signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The server's process."""
        return int((self._directory / "data/postmaster.pid").read_text().split("\n")[0])

    def stop(self) -> None:
        """End it."""
        self._postgres.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Run a server with the schema that nobody but this module uses."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        server = Server(Path(folder) / "postgres")
        database = Database(server.uri)
        apply_schema(database)
        database.close()
        yield server
        server.stop()


@pytest.fixture
def database(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Give an impatient door to the server, with a connection open."""
    monkeypatch.setattr(database_helper, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(database_helper, "WAIT_SECONDS", 2.0)
    monkeypatch.setattr(database_helper, "ABANDONED_SECONDS", 1)
    monkeypatch.setattr(watched_connection, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(upload_intake, "BATCH_SECONDS", STATEMENT_SECONDS)
    database = Database(server.uri, statement_seconds=STATEMENT_SECONDS)
    ask(database)
    yield database
    database.close()


def ask(database: Database, statement: str = "select 1") -> Any:
    """Return the first value that a statement gives."""
    with database.transaction() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone() if cursor.description else None
    return next(iter(row.values())) if row else None


@contextmanager
def no_wait_for_ever() -> Iterator[None]:
    """Check that the block finds the database away in a few seconds."""
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailableError):
        yield
    assert time.monotonic() - started < SOON_SECONDS


# --- Connections -----------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["begin", "statement", "copy", "commit", "rollback"])
def test_a_call_of_a_server_that_hangs_ends(
    server: Server, database: Database, moment: str
) -> None:
    """Whatever the call, it fails in time, and the next one after the hanging goes well."""
    ask(database, "create table if not exists things (n integer)")
    with ExitStack() as stack:
        if moment == "rollback":
            stack.enter_context(pytest.raises(ArithmeticError))
        else:
            stack.enter_context(no_wait_for_ever())
        if moment == "begin":
            stack.enter_context(server.hanging())
        with database.transaction() as cursor:
            if moment != "begin":
                cursor.execute("insert into things values (1)")
                stack.enter_context(server.hanging())
            if moment == "copy":
                cursor.copy_expert("copy things from stdin", open(os.devnull))  # noqa: SIM115, PTH123
            elif moment == "rollback":
                raise ArithmeticError
            elif moment != "commit":
                is_alive(cursor)
    wait_until(lambda: answers(database))
    if moment != "commit":  # that may have arrived
        assert ask(database, "select count(*) from things") == 0
    ask(database, "drop table things")


def answers(database: Database) -> bool:
    """Tell whether the database is there."""
    try:
        return bool(ask(database))
    except DatabaseUnavailableError:
        return False


def test_connecting_to_a_server_that_hangs_ends(server: Server, database: Database) -> None:
    """The kernel takes the connection for a stopped server, but nobody says a word."""
    database.close()
    with server.hanging(), no_wait_for_ever():
        ask(database)
    assert ask(database) == 1


def test_every_thread_comes_free(server: Server, database: Database) -> None:
    """More callers than threads: each has its answer, none is stuck behind it."""

    async def run() -> list[Any]:
        loop_database = AsyncDatabase(database)
        with server.hanging():
            calls = (loop_database.run(is_alive) for _ in range(8))
            answers = await asyncio.gather(*calls, return_exceptions=True)
        answers.append(await loop_database.run(is_alive))
        loop_database.close()
        return answers

    *away, last = asyncio.run(run())
    assert [type(answer) for answer in away] == [DatabaseUnavailableError] * 8
    assert last is True


def test_a_transaction_may_have_more_time(database: Database) -> None:
    """What takes longer for good reason says so, for itself alone."""
    nap = f"select pg_sleep({STATEMENT_SECONDS * 2})"
    with database.transaction(PATIENCE_SECONDS) as cursor:
        cursor.execute(nap)
    with database.transaction() as cursor:
        cursor.allow(PATIENCE_SECONDS)
        cursor.execute(nap)
    with no_wait_for_ever():
        ask(database, nap)


def test_time_is_for_a_statement_not_for_a_transaction(database: Database) -> None:
    """A transaction of many statements, or of much work between them, takes what it takes."""
    with database.transaction() as cursor:
        for _ in range(4):
            cursor.execute("select pg_sleep(%s)", (STATEMENT_SECONDS / 2,))


def test_an_abandoned_statement_ends_at_the_server_too(database: Database) -> None:
    """It would else go on to its end with every lock that it has."""
    with no_wait_for_ever():
        ask(database, "select pg_sleep(600)")
    wait_until(
        lambda: (
            not ask(
                database,
                "select count(*) from pg_stat_activity"
                " where query like '%sleep(600)%' and pid <> pg_backend_pid()",
            )
        )
    )


def test_a_backend_that_is_killed_is_a_server_that_is_away(
    server: Server, database: Database
) -> None:
    """PostgreSQL then cuts all connections and recovers; nobody hears more than that."""
    backend: int = ask(database, "select pg_backend_pid()")  # the one connection of this door

    def kill() -> None:
        connection = psycopg2.connect(server.uri)
        connection.autocommit = True
        with connection.cursor() as cursor:
            find = "select pid from pg_stat_activity where query like '%sleep(601)'"
            cursor.execute(find)
            while cursor.fetchone() != (backend,):
                cursor.execute(find)
        connection.close()
        os.kill(backend, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with no_wait_for_ever(), database.transaction(PATIENCE_SECONDS) as cursor:
        cursor.execute("select pg_sleep(601)")
    killer.join()
    wait_until(lambda: answers(database))


# --- The service -----------------------------------------------------------------------------


@pytest.fixture
def service(
    server: Server, database: Database, origin: Origin, tmp_path: Path
) -> Iterator[Callable[..., requests.Response]]:
    """Run HTTP and a worker over the server; give a function that asks it."""
    http = HttpServer("127.0.0.1", 0)
    values: dict[str, Any] = {
        "_env_file": None,
        "port": http.server_port,
        "compress_processes": 1,
        "shutdown_seconds": 10,
        "allowed_sources": origin.authority,
    }
    settings = Settings(**values)
    store = FolderStore(tmp_path)
    session = requests.Session()
    session.trust_env = False

    def call(method: str, path: str, **options: Any) -> requests.Response:
        return session.request(method, f"{settings.own_url}{path}", timeout=20, **options)

    with background_worker(settings, database, store):
        http.start(Api(settings, database, store).answer)
        yield call
        http.drain(5)
        http.server_close()
    session.close()


def test_the_service_outlives_a_server_that_hangs(
    server: Server,
    database: Database,
    origin: Origin,
    service: Callable[..., requests.Response],
) -> None:
    """Clients are told to come again, and the worker's turns go on when the server does."""
    jpeg = saved(photo(64, 48), "JPEG", quality=95)
    urls = [origin.serve(f"/{n}.jpg", jpeg, delay=0.05) for n in range(60)]
    csv = csv_of(*urls)
    upload = {"data": csv, "headers": {"Content-Type": "text/csv", "Idempotency-Key": "a"}}
    path = service("POST", "/upload", **upload).headers["Location"]
    wait_until(lambda: service("GET", path).json()["progress"]["done"] > 0)
    with server.hanging():
        for method, target, options in [
            ("GET", path, {}),
            ("GET", f"{path}/images", {}),
            ("GET", "/readyz", {}),
            ("POST", "/upload", upload),
        ]:
            answer = service(method, target, **options)
            assert_problem(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0
        assert service("GET", "/healthz").status_code == 200
    wait_until(lambda: answers(database) and service("GET", path).json()["finished_at"])
    status = service("GET", path).json()
    assert (status["status"], status["progress"]["succeeded"]) == ("completed", 60)
    assert service("POST", "/upload", **upload).headers["Idempotency-Replayed"] == "true"
