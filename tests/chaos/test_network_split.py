"""Two workers on hosts of their own, one of which loses the database for a while.

The packets vanish silently, as when a switch dies: neither side is told. The worker still reaches
the origin and the store, so it goes on and comes too late with what it made.
"""

from __future__ import annotations

import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from database_helper import Database, DatabaseUnavailableError
from postgres_programs import identity, runnable_binaries
from tests.chaos.audit import find_leftovers, find_violations, read_result
from tests.chaos.network import Host, Network, address, why_not
from tests.service import ROOT, Command, Service, Worker, csv_of
from tests.waiting import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))

LEASE_SECONDS = 6
CUT_OFF, OTHER = 11, 12
IMAGES = 240
DELAY_SECONDS = 0.25  # of the origin: 32 images a second and worker, at 8 at a time
PORT = 8000  # of the server, in a namespace of its own: free
SOME_FAILED = 1  # of submit.py
CSV = csv_of(
    *(f"http://ORIGIN/{n}.jpg, http://ORIGIN/{n + 1}.jpg" for n in range(1, IMAGES, 2)),
    *(f"http://ORIGIN/{n}.jpg" for n in range(1, 21)),  # each a second time
    "http://ORIGIN/missing.jpg, nowhere",
)
GOOD = IMAGES + 20


class _OnHost(Command):
    """A command that runs on a host."""

    def __init__(
        self, host: Host, script: str, folder: Path, *arguments: str, **settings: str
    ) -> None:
        folder.mkdir()
        super().__init__(script, folder, None, *arguments, **settings)
        self._command = [*host.enter, *self._command]


class _Server(_OnHost):
    says = Service.says


class _Worker(_OnHost):
    says = Worker.says


class Site:
    """PostgreSQL, origin and server at the hub, workers around it, one store for all."""

    def __init__(self, network: Network, folder: Path, stack: ExitStack) -> None:
        self.network = network
        self.store = folder / "store"
        self.store.mkdir()
        self._folder = folder
        self._stack = stack
        data = stack.enter_context(_postgres(network.hub))
        self.database = stack.enter_context(
            closing(Database(f"postgresql://postgres@/postgres?host={data}"))
        )
        authority = stack.enter_context(_origin(network.hub))
        self.csv = CSV.replace("ORIGIN", authority)
        self._settings = {
            "DATABASE_URL": f"postgresql://postgres@{address('data')}/postgres",
            "STORAGE_URL": f"file:{self.store}",
            "PUBLIC_URL": f"http://127.0.0.1:{PORT}",
            "ALLOWED_SOURCES": authority,
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "COMPRESS_PROCESSES": "1",
        }
        self._settings["PORT"] = str(PORT)
        server = _Server(
            network.hub, "server.py", folder / "server", "--no-worker", **self._settings
        )
        self.commands: list[Command] = [stack.enter_context(server)]

    def start_worker(self, host: Host) -> Command:
        """Start a worker on a host."""
        folder = self._folder / f"worker-{host.number}"
        worker = _Worker(host, "image_processor.py", folder, **self._settings)
        self.commands.append(self._stack.enter_context(worker))
        return worker

    def submit(self) -> tuple[str, subprocess.Popen[bytes]]:
        """Upload the CSV from the hub; return the request's id, and its client, which waits."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        (folder / "products.csv").write_text(self.csv)
        command = [sys.executable, str(ROOT / "submit.py"), "products.csv"]
        client = subprocess.Popen(
            [*self.network.hub.enter, *command, "--server", f"http://127.0.0.1:{PORT}"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        self._stack.callback(client.kill)
        known = "select id from requests order by created_at desc"
        before = self.query(known)
        wait_until(lambda: len(self.query(known)) > len(before))
        return str(self.query(known)[0]["id"]), client

    def query(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Return rows of the database."""
        with self.database.transaction() as cursor:
            cursor.execute(statement, values)
            return [dict(row) for row in cursor.fetchall()]

    def count(self, request_id: str, condition: str) -> int:
        """Return how many images of a request meet a condition."""
        statement = f"select count(*) from images where request_id = %s and {condition}"  # noqa: S608
        return int(self.query(statement, request_id)[0]["count"])

    def is_finished(self, request_id: str) -> bool:
        """Tell whether a request has its final status."""
        found = self.query("select finished_at from requests where id = %s", request_id)
        return found[0]["finished_at"] is not None


@contextmanager
def _postgres(host: Host) -> Iterator[Path]:
    """Run a PostgreSQL that the data net may use, and we by a socket in the folder yielded."""
    account = pwd.getpwnam("nobody")  # PostgreSQL refuses root
    binaries = runnable_binaries(None, account)
    data = Path(tempfile.mkdtemp(prefix="split-"))
    shutil.chown(data, account.pw_uid, account.pw_gid)
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust"]
    subprocess.run(initdb, check=True, cwd="/", stdout=subprocess.DEVNULL, **identity(account))
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all postgres {address('data')}/24 trust\n")
    as_account = [*host.enter, f"--setuid={account.pw_uid}", f"--setgid={account.pw_gid}"]
    postgres = [str(binaries / "postgres"), "-D", str(data), "-k", str(data), "-h", address("data")]
    server = subprocess.Popen([*as_account, *postgres], cwd="/", stderr=subprocess.DEVNULL)
    try:
        with closing(Database(f"postgresql://postgres@/postgres?host={data}")) as database:
            wait_until(lambda: _is_up(database))
        yield data
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown
        server.wait()
        shutil.rmtree(data)


def _is_up(database: Database) -> bool:
    try:
        with database.transaction():
            return True
    except DatabaseUnavailableError:
        return False


@contextmanager
def _origin(host: Host) -> Iterator[str]:
    """Run an origin on the web net; yield its `host:port`."""
    command = [sys.executable, "-m", "tests.chaos.slow_origin", address("web")]
    with subprocess.Popen(
        [*host.enter, *command, str(IMAGES), str(DELAY_SECONDS)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdin
        yield process.stdout.readline().decode().strip()
        process.stdin.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give a site with two hosts on which nothing runs yet."""
    with ExitStack() as stack:
        network = stack.enter_context(Network([CUT_OFF, OTHER]))
        yield Site(network, tmp_path, stack)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("seconds", "is_amid"),
    [
        (20, False),
        pytest.param(30, True, marks=pytest.mark.chaos),
        pytest.param(60, False, marks=pytest.mark.chaos),
    ],
)
def test_a_worker_loses_the_database(site: Site, seconds: int, *, is_amid: bool) -> None:
    """What a worker held that is cut off, also amid a transaction that holds locks, is done by
    the other one, once; its own late results change nothing; when it is back it works as before.
    """
    lost = site.start_worker(site.network.hosts[CUT_OFF])
    request_id, client = site.submit()
    wait_until(lambda: site.count(request_id, "state = 'succeeded'") >= 16)
    assert site.count(request_id, "state = 'running'") > 0

    healed_at = time.monotonic() + seconds
    (_cut_amid_a_transaction if is_amid else _cut)(site, request_id)
    other = site.start_worker(site.network.hosts[OTHER])
    wait_until(lambda: site.is_finished(request_id))
    assert site.count(request_id, "fence > 1") > 0, "nothing was taken over"
    while time.monotonic() < healed_at:  # for so long at the least
        time.sleep(0.1)
    site.network.heal(site.network.hosts[CUT_OFF], "data")

    assert other.stop() == 0
    undisturbed_id, undisturbed = site.submit()  # by the worker that was lost, alone
    wait_until(lambda: site.is_finished(undisturbed_id))
    for each in (client, undisturbed):
        assert each.wait(PATIENCE_SECONDS) == SOME_FAILED
    assert lost.stop() == 0

    expected = read_result(site.database, site.store, undisturbed_id)
    assert expected.status == "completed_with_errors"
    assert Counter(image[1] for image in expected.images) == {"succeeded": GOOD, "failed": 2}
    assert find_violations(site.database, site.store, request_id, expected) == []
    assert find_violations(site.database, site.store, undisturbed_id, expected) == []
    assert find_leftovers(site.database, {request_id, undisturbed_id}) == []
    for command in site.commands:
        assert "Traceback" not in command.log.read_text()


def _cut(site: Site, request_id: str) -> None:
    site.network.cut(site.network.hosts[CUT_OFF], "data")


def _cut_amid_a_transaction(site: Site, request_id: str) -> None:
    """Cut the worker off while it waits for a lock, which it then gets and can't give back."""
    waiting = """select pid from pg_stat_activity
                  where client_addr = %s and wait_event_type = 'Lock'"""
    with site.database.transaction() as cursor:
        cursor.execute("select from requests where id = %s for update", (request_id,))
        wait_until(lambda: site.query(waiting, address("data", CUT_OFF)))
        _cut(site, request_id)
    holding = """select pid from pg_stat_activity
                  where client_addr = %s and state = 'idle in transaction'"""
    wait_until(lambda: site.query(holding, address("data", CUT_OFF)))
