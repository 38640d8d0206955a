"""The embedded server: real starts, stops and kills over directories of the tests' own."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg2
import pytest

import embedded_postgres
import postgres_programs
from embedded_postgres import EmbeddedPostgres
from errors import SettingsError
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).parents[2]
LONG_NAME = "a directory with spaces and a name " + "that goes on and on " * 6
OWNER = """
import sys
from pathlib import Path
from embedded_postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
server.stop()
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes to another user")


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a temp directory with a short path that every user may enter, as /tmp is.

    After `tmp_path`, which makes its own place in the real one.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make data to copy: most tests can do without the half second of an initdb."""
    directory = tmp_path_factory.mktemp("cluster")
    server = EmbeddedPostgres(directory)
    server.start()
    server.stop()
    return directory / "data"


@pytest.fixture
def make_server(tmp_path: Path, cluster: Path) -> Iterator[Callable[..., EmbeddedPostgres]]:
    """Give a maker of servers, all of them stopped in the end, over `tmp_path` if not told."""
    with contextlib.ExitStack() as stack:

        def make(directory: Path = tmp_path, *, is_new: bool = False) -> EmbeddedPostgres:
            if not is_new and not (directory / "data").exists():
                shutil.copytree(cluster, directory / "data")
            server = EmbeddedPostgres(directory)
            stack.callback(server.stop)
            return server

        yield make


@pytest.fixture
def start_owner(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Give a starter of processes that own, or share, the server over `tmp_path`."""
    with contextlib.ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            owner = subprocess.Popen(
                [sys.executable, "-c", OWNER, str(tmp_path)],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(owner)
            stack.callback(owner.kill)
            return owner

        yield start


def ask(uri: str, statement: str) -> Any:
    """Run one statement in a connection of its own; return the first value, if there is one."""
    connection = psycopg2.connect(uri)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()


def answers(uri: str) -> bool:
    """Tell whether the server takes connections."""
    with contextlib.suppress(psycopg2.OperationalError):
        return bool(ask(uri, "select true"))
    return False


def server_pid(directory: Path) -> int:
    """Return the process number of the server over the directory."""
    return int((directory / "data" / "postmaster.pid").read_text().split("\n")[0])


def kill_server(directory: Path) -> None:
    """End the server, a child of this process, with SIGKILL; nobody asks for its exit status."""
    pid = server_pid(directory)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: embedded_postgres._process_status(pid).startswith("Z"))


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process that still runs."""
    return embedded_postgres._process_status(pid)[:1] not in {"", "Z", "X"}


@pytest.mark.parametrize("name", ["with space", "with,comma", LONG_NAME])
def test_data_outlive_a_stop(
    name: str, tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """What was committed is there after stop and start, at the same address, whatever the path."""
    server = make_server(tmp_path / "new parent" / name, is_new=True)
    uri = server.start()
    ask(uri, "create table kept as select 42 as answer")
    pid = server_pid(tmp_path / "new parent" / name)
    server.stop()
    assert not is_alive(pid)
    assert server.start() == uri
    assert ask(uri, "select answer from kept") == 42
    with psycopg.connect(uri) as connection:
        assert connection.execute("select answer from kept").fetchone() == (42,)


def test_stop_is_idempotent(make_server: Callable[..., EmbeddedPostgres]) -> None:
    """Stopping twice, or before any start, does nothing, and a stopped server is left stopped."""
    server = make_server()
    server.stop()
    uri = server.start()
    server.stop()
    server.stop()
    server.ensure_running()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(uri)


def test_stop_does_not_wait_for_idle_clients(make_server: Callable[..., EmbeddedPostgres]) -> None:
    """A client that never leaves is cut off, and the server ends in good order."""
    server = make_server()
    connection = psycopg2.connect(server.start())
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 30
    with pytest.raises(psycopg2.OperationalError), connection.cursor() as cursor:
        cursor.execute("select 1")
    connection.close()


def test_second_instance_shares_and_does_not_stop(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """Who finds the server running gets the same address, and leaves it running."""
    first, second = make_server(), make_server()
    uri = first.start()
    pid = server_pid(tmp_path)
    assert second.start() == uri
    second.stop()
    assert server_pid(tmp_path) == pid
    assert ask(uri, "select 1") == 1


def test_three_cold_starts_share_one_server(
    tmp_path: Path, start_owner: Callable[[], subprocess.Popen[str]]
) -> None:
    """Three processes that start at once over a new directory meet in one server."""
    owners = [start_owner() for _ in range(3)]
    uris = {owner.stdout.readline().strip() for owner in owners if owner.stdout}
    assert len(uris) == 1
    assert ask(uris.pop(), "select 1") == 1
    log = (tmp_path / "postgres.log").read_text()
    assert log.count("ready to accept connections") == 1
    assert log.count("will be initialized") == 1


def test_killed_server_is_started_again(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """After kill -9 of the server ensure_running brings it back at the same address, data whole."""
    server = make_server()
    uri = server.start()
    ask(uri, "create table kept as select 42 as answer")
    pid = server_pid(tmp_path)
    server.ensure_running()
    assert server_pid(tmp_path) == pid
    kill_server(tmp_path)
    server.ensure_running()
    assert server_pid(tmp_path) != pid
    assert ask(uri, "select answer from kept") == 42


def test_another_instance_takes_a_killed_server_over(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """A sharer starts the server again although its owner has not buried the dead one."""
    owner, sharer = make_server(), make_server()
    uri = owner.start()
    sharer.start()
    kill_server(tmp_path)
    sharer.ensure_running()
    assert ask(uri, "select 1") == 1
    owner.stop()
    assert ask(uri, "select 1") == 1
    sharer.stop()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(uri)


@on_linux
def test_orphans_of_a_killed_server_are_waited_for(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """While a killed server's child still holds the data, the start is tried again until it ends."""
    server = make_server()
    uri = server.start()
    connection = psycopg2.connect(uri)
    orphan = connection.info.backend_pid
    os.kill(orphan, signal.SIGSTOP)
    kill_server(tmp_path)
    log = tmp_path / "postgres.log"

    def release() -> None:
        try:
            wait_until(lambda: embedded_postgres._ORPHANS in log.read_text())
        finally:
            os.kill(orphan, signal.SIGCONT)

    releaser = threading.Thread(target=release)
    releaser.start()
    server.ensure_running()
    releaser.join()
    connection.close()
    assert embedded_postgres._ORPHANS in log.read_text()
    assert ask(uri, "select 1") == 1


@on_linux
def test_server_follows_its_killed_owner(
    tmp_path: Path,
    make_server: Callable[..., EmbeddedPostgres],
    start_owner: Callable[[], subprocess.Popen[str]],
) -> None:
    """After kill -9 of the owner the server ends in order, and a sharer becomes the next owner."""
    sharer = make_server()  # lays the data out
    owner = start_owner()
    assert owner.stdout
    uri = owner.stdout.readline().strip()
    assert sharer.start() == uri
    ask(uri, "create table kept as select 42 as answer")
    pid = server_pid(tmp_path)
    owner.kill()
    owner.wait()
    wait_until(lambda: not is_alive(pid))
    assert "received fast shutdown request" in (tmp_path / "postgres.log").read_text()
    sharer.ensure_running()
    assert ask(uri, "select answer from kept") == 42


def test_start_amid_the_owners_death(
    tmp_path: Path,
    make_server: Callable[..., EmbeddedPostgres],
    start_owner: Callable[[], subprocess.Popen[str]],
) -> None:
    """A start in the moment of the owner's death leads to a server of its own in the end."""
    server = make_server()  # lays the data out
    owner = start_owner()
    assert owner.stdout
    uri = owner.stdout.readline().strip()
    pid = server_pid(tmp_path)
    owner.kill()
    assert server.start() == uri

    def is_renewed() -> bool:
        server.ensure_running()
        with contextlib.suppress(FileNotFoundError):
            return server_pid(tmp_path) != pid and answers(uri)
        return False

    wait_until(is_renewed)


def test_interrupted_initdb_is_made_again(
    tmp_path: Path,
    make_server: Callable[..., EmbeddedPostgres],
    start_owner: Callable[[], subprocess.Popen[str]],
) -> None:
    """When the first start is killed amid initdb, the next one begins anew."""
    owner = start_owner()
    wait_until((tmp_path / "data.unfinished" / "global").exists)
    owner.kill()
    owner.wait()
    assert not (tmp_path / "data").exists()
    assert ask(make_server(is_new=True).start(), "select 1") == 1
    assert not (tmp_path / "data.unfinished").exists()


@pytest.mark.parametrize("whose", ["nobody's", "ours", "another server's"])
def test_stale_pid_file_is_no_hindrance(
    whose: str, tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """Lock files of a dead server are passed over, be their number free or in use again."""
    server = make_server(tmp_path / "a")
    server.start()
    server.stop()
    pid = os.getpid()
    if whose == "nobody's":
        ended = subprocess.Popen(["/bin/true"])
        ended.wait()
        pid = ended.pid
    elif whose == "another server's":
        make_server(tmp_path / "b").start()
        pid = server_pid(tmp_path / "b")
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        (tmp_path / "a" / "data" / name).write_text(f"{pid}\n/somewhere\n")
    assert ask(server.start(), "select 1") == 1
    assert is_alive(pid) is (whose != "nobody's")


@on_linux
def test_server_that_others_started_is_not_pushed_aside(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a living server holds the data but doesn't answer, nothing of it is removed."""
    make_server().start()
    pid = server_pid(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    try:
        monkeypatch.setattr(embedded_postgres, "_START_SECONDS", 0.1)
        monkeypatch.setattr(embedded_postgres, "_refusal", lambda _: "no answer")
        with pytest.raises(SettingsError, match="no answer"):
            make_server().start()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert server_pid(tmp_path) == pid


@on_linux
def test_only_a_private_socket_listens(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """The socket's directory is 0700, and the server has no TCP socket at all."""
    make_server().start()
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data" / ".s.PGSQL.5432").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "postgres.log").stat().st_mode) == 0o600
    process = Path(f"/proc/{server_pid(tmp_path)}")
    links = {link.readlink().name for link in (process / "fd").iterdir()}
    tables = "".join((process / "net" / name).read_text() for name in ("tcp", "tcp6"))
    listening = {f"socket:[{inode}]" for inode in re.findall(r" 0A .* (\d+) +1 ", tables)}
    assert any(link.startswith("socket:") for link in links)
    assert not links & listening


@on_linux
@as_root
def test_root_runs_it_as_nobody(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """Under root the server has nobody's user and group and no other, and no parent is opened."""
    modes = [parent.stat().st_mode for parent in tmp_path.parents]
    make_server().start()
    status = Path(f"/proc/{server_pid(tmp_path)}/status").read_text()
    nobody = pwd.getpwnam("nobody")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert fields["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert fields["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert not fields["Groups"].split()
    assert [parent.stat().st_mode for parent in tmp_path.parents] == modes


@on_linux
@as_root
def test_another_user_is_refused(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """Even who gets at the socket is refused when the kernel says that it isn't us."""
    make_server().start()
    said, say = os.pipe()
    child = os.fork()
    if not child:
        os.chdir(tmp_path / "data")
        os.setuid(pwd.getpwnam("nobody").pw_uid)
        try:
            psycopg2.connect("postgresql://postgres@/postgres?host=/proc/self/cwd")
        except psycopg2.OperationalError as error:
            os.write(say, str(error).encode())
        os._exit(0)
    os.close(say)
    os.waitpid(child, 0)
    with os.fdopen(said) as answer:
        assert "Peer authentication failed" in answer.read()


@on_linux
@as_root
def test_data_that_root_restored_are_served(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """Data that root copied back, and so owns, are given to the server's account."""
    server = make_server()
    assert (tmp_path / "data" / "PG_VERSION").stat().st_uid == 0
    assert ask(server.start(), "select 1") == 1
    assert (tmp_path / "data" / "PG_VERSION").stat().st_uid == pwd.getpwnam("nobody").pw_uid


@on_linux
@as_root
def test_unreadable_programs_are_copied_once(
    tmp_path: Path,
    temp: Path,
    make_server: Callable[..., EmbeddedPostgres],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Programs below a private directory are run from a copy, which the next start uses again."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    major, binaries = postgres_programs._installed_binaries()[0]
    root, package = binaries.parents[2], binaries.parents[1].name
    for part in (f"{package}.libs", binaries.parent.relative_to(root)):
        shutil.copytree(root / part, private / part, ignore=shutil.ignore_patterns("include"))
    found = [(major, private / binaries.relative_to(root))]
    monkeypatch.setattr(postgres_programs, "_installed_binaries", lambda: found)
    server = make_server(tmp_path / "data directory")
    server.start()
    program = Path(f"/proc/{server_pid(tmp_path / 'data directory')}/exe").readlink()
    assert program.is_relative_to(temp)
    server.stop()
    inode = program.stat().st_ino
    (lost,) = program.parents[1].rglob("postgres.bki")
    lost.unlink()
    server.start()
    assert program.stat().st_ino == inode
    assert lost.exists()


def test_major_version_follows_the_data(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory of an older PostgreSQL is served by that one, though a newer is installed."""
    installed = postgres_programs._installed_binaries()
    oldest = installed[-1][0]
    assert oldest < installed[0][0]
    with monkeypatch.context() as patch:
        patch.setattr(postgres_programs, "_installed_binaries", lambda: installed[::-1])
        server = make_server(is_new=True)
        server.start()
        server.stop()
    assert int(ask(server.start(), "show server_version_num")) // 10_000 == oldest


def test_unknown_major_version_is_named(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """When no program matches the data, the error says which is needed and which are there."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "PG_VERSION").write_text("11\n")
    with pytest.raises(SettingsError, match=r"PostgreSQL 11.*installed: \d+.*DATABASE_URL"):
        make_server().start()


def test_error_carries_the_logs_last_complaint(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """A server that can't start is reported at once, with what PostgreSQL said."""
    server = make_server()
    server.start()
    server.stop()
    shutil.rmtree(tmp_path / "data" / "pg_wal")
    with pytest.raises(SettingsError, match=r"^POSTGRES_DIR: .*FATAL: .*pg_wal"):
        server.start()


def test_clients_that_are_turned_away_are_no_reason(tmp_path: Path) -> None:
    """What a dying server says to clients comes after what it dies of, and tells nothing."""
    reason = "FATAL:  required WAL directory does not exist"
    (tmp_path / "postgres.log").write_text(
        f"{reason}\nFATAL:  the database system is in recovery\n"
    )
    assert EmbeddedPostgres(tmp_path)._last_trouble() == reason


def test_directory_that_is_a_file_is_named(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """A POSTGRES_DIR that can't be a directory is a SettingsError, not a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"^POSTGRES_DIR: .*file can't be used"):
        make_server(tmp_path / "file", is_new=True).start()


def test_refusal_ends_the_start_at_once(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """A running server that doesn't know us is reported at once, not waited for."""
    uri = make_server().start()
    (tmp_path / "data" / "pg_ident.conf").write_text("")
    ask(uri, "select pg_reload_conf()")
    wait_until(lambda: not answers(uri))
    with pytest.raises(SettingsError, match="Peer authentication failed"):
        make_server().start()


def test_large_log_is_emptied(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start empties a log above its limit, and keeps a smaller one."""
    server = make_server()
    log = tmp_path / "postgres.log"
    log.write_text("kept\n")
    server.start()
    server.stop()
    assert log.read_text().startswith("kept\n")
    monkeypatch.setattr(embedded_postgres, "_MAX_LOG_BYTES", 100)
    server.start()
    assert "kept" not in log.read_text()
    assert "ready to accept connections" in log.read_text()


@on_linux
def test_environment_is_not_handed_on(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables of ours change neither cluster nor connection, and secrets stay with us."""
    ours = {"LC_ALL": "de_DE.UTF-8", "PGPORT": "1", "PGUSER": "x", "WEBHOOK_SECRET": "whsec_x"}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    uri = make_server(is_new=True).start()
    assert ask(uri, "show lc_messages") == "C"
    assert ask(uri, "show server_encoding") == "UTF8"
    assert ask(uri, "select datcollate from pg_database where datname = 'postgres'") == "C"
    assert ask(uri, "show fsync") == "on"
    handed_on = Path(f"/proc/{server_pid(tmp_path)}/environ").read_text()
    assert "whsec_x" not in handed_on
    assert "de_DE" not in handed_on


def test_ctrl_c_is_not_for_the_server(
    tmp_path: Path, make_server: Callable[..., EmbeddedPostgres]
) -> None:
    """The server is outside our process group, which a terminal's Ctrl-C goes to."""
    make_server().start()
    assert os.getpgid(server_pid(tmp_path)) != os.getpgid(0)


@pytest.mark.parametrize(
    ("status", "lives"),
    [
        ("S postgres", True),
        ("Ss   /opt/with space/bin/postgres", True),  # as ps of macOS says it
        ("Z postgres", False),
        ("Z+   (postgres)", False),
        ("S python3", False),
        ("S postgres_exporter", False),
        ("", False),
    ],
)
def test_only_a_living_postgres_counts(status: str, lives: bool) -> None:  # noqa: FBT001  # a table
    """A zombie, another program or none doesn't hold the data."""
    assert bool(embedded_postgres._POSTGRES_LIVES.fullmatch(status)) is lives


@on_linux
@pytest.mark.parametrize(("user", "lives"), [("ours", True), ("another", False)])
def test_a_server_that_hides_is_judged_by_its_user(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: str,
    lives: bool,  # noqa: FBT001  # a table
) -> None:
    """Our own server in another namespace lets us not look at its directory, and is one all the same."""

    def refuse(*_: object) -> bool:
        raise PermissionError

    us = os.geteuid() or 65_533  # root is never kept from looking by the user alone
    owner = os.stat_result([0] * 4 + [us if user == "ours" else us + 1] + [0] * 5)
    monkeypatch.setattr(os, "geteuid", lambda: us)
    monkeypatch.setattr(embedded_postgres, "_process_status", lambda _: "S postgres")
    monkeypatch.setattr(Path, "samefile", refuse)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: owner)
    assert embedded_postgres._is_server(os.getpid(), tmp_path) is lives
