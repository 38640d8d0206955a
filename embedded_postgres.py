"""The PostgreSQL that the service brings along when `DATABASE_URL` is unset.

Owns one directory: `data` (the cluster, and its Unix socket), `postgres.log` and `lock`, and the
server process over it. Nothing listens on TCP, and only processes of this user may connect.

Leaves finding programs that can run to `postgres_programs`, and everything that is said to the
server to `database_helper`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import psycopg2

from errors import SettingsError
from postgres_programs import identity, is_ours, runnable_binaries, server_account, temp_path

if TYPE_CHECKING:
    from collections.abc import Iterator

_logger = logging.getLogger(__name__)

_SOCKET = ".s.PGSQL.5432"  # the port is only part of the socket's name
_PID_FILES = ("postmaster.pid", f"{_SOCKET}.lock")  # both begin with a line that is the pid
_MAX_SOCKET_PATH_BYTES = 103  # sun_path less its NUL: 103 on macOS, 107 on Linux
_MAX_LOG_BYTES = 10 * 2**20
_START_SECONDS = 300.0  # replaying max_wal_size after a crash takes minutes on a slow disk
_POLL_SECONDS = 0.02
_OPEN_FILES = Path("/proc/self/fd")  # Linux: names an open directory without its parents
_ORPHANS = "pre-existing shared memory block"  # a killed server's last children still end
_PASSING = re.compile("the database system is|terminating connection")  # coming up, going down
_COMPLAINT = re.compile(r"(FATAL|PANIC|ERROR|error|could not)\b")
_POSTGRES_LIVES = re.compile(r"[^ZX]\S* +(?:\S.*/)?postgres")  # state, then the program

# smart: clients may finish; fast: they are cut off; immediate: no checkpoint, the log is replayed
_STOP_STEPS = ((signal.SIGTERM, 1), (signal.SIGINT, 60), (signal.SIGQUIT, 10))

# On the command line rather than in postgresql.conf, so that old directories have them too.
# fsync, full_page_writes and synchronous_commit stay on: what we answered 202 to must last.
_SETTINGS = {
    "listen_addresses": "",  # no TCP at all
    "port": "5432",  # names the socket
    "unix_socket_directories": ".",  # the data directory: 0700, and short however long its path
    "unix_socket_permissions": "0700",  # and the socket itself is as closed
    "shared_buffers": "128MB",  # holds the hot rows; a small machine needs its memory for images
    "max_connections": "100",  # a few pools; each idle connection costs little
    "max_wal_size": "2GB",  # COPY of a million rows without a checkpoint every few seconds
    "max_parallel_workers_per_gather": "0",  # the cores belong to images; /dev/shm may be 64 MiB
    "max_parallel_maintenance_workers": "0",  # likewise
    "jit": "off",  # our statements are short: compiling them costs more than it gives
    "log_checkpoints": "off",  # the log should grow by troubles only
    "log_timezone": "UTC",
    "timezone": "UTC",
}

_INITDB_OPTIONS = ["--username=postgres", "--locale=C", "--encoding=UTF8", "--auth=peer"]

# Nothing of ours: LC_* and PG* would change what initdb makes, secrets are none of its business.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}

_PR_SET_PDEATHSIG = 1
# Looked up before any fork. PyDLL: the child must not wait for a lock that a thread held.
_prctl = ctypes.PyDLL(None).prctl if sys.platform == "linux" else None


class EmbeddedPostgres:
    """One PostgreSQL server over one directory, shared by the processes of this user that name it.

    The first process that asks starts it and is its owner: its `stop` ends the server, and so
    does, on Linux, its death. The others only connect; when the owner went away,
    `ensure_running` makes one of them the next. The address never changes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._data = self._directory / "data"
        self._log = self._directory / "postgres.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._is_wanted = False
        self._log_start = 0  # bytes in the log before the latest try
        self._mutex = threading.RLock()

    def start(self) -> str:
        """Start the server, or find it running; return the URI to connect to, as user postgres.

        The URI suits psycopg2 and psycopg 3. Blocks until the server takes connections; a new
        directory needs a second, a crash recovery at worst minutes. Raises SettingsError.

        On Linux the server ends when the calling *thread* does: call from the main thread, or
        from one that lives as long as the process.
        """
        with self._mutex:
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                uri = self._uri()
                with _locked(self._directory / "lock") as lock:
                    self._start_or_reuse(uri, lock)
            except (OSError, subprocess.SubprocessError, KeyError) as error:  # KeyError: no account
                raise self._failure(f"can't be used: {error}") from error
            self._is_wanted = True
            return uri

    def ensure_running(self) -> None:
        """Start the server again if it ended since `start`, under the same URI; else do nothing.

        Takes microseconds while the server runs, so a supervisor may call it every second. Does
        nothing before `start` and after `stop`. The thread that calls it must be a lasting one:
        see `start`. Raises SettingsError.
        """
        with self._mutex:
            if not self._is_wanted:
                return
            if self._is_running():
                self._uri()  # a temp cleaner may have taken the short path away
                return
            _logger.warning("PostgreSQL has ended; starting it again")
            self.start()

    def stop(self) -> None:
        """End the server and wait for its end, if it was we who started it; else do nothing."""
        with self._mutex:
            self._is_wanted = False
            self._end_child()

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for number, seconds in _STOP_STEPS:
            child.send_signal(number)  # does nothing once it has ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(seconds)
                return

    def _uri(self) -> str:
        host = urllib.parse.quote(os.fsencode(self._socket_directory()), safe="")
        return f"postgresql://postgres@/postgres?host={host}&port=5432"

    def _socket_directory(self) -> Path:
        """Return a path of the data directory that a client can name.

        libpq takes a comma for the start of another host, and the kernel no long path: such a
        directory gets a link of ours in the temp directory.
        """
        if _is_socket_path(self._data):
            return self._data
        link = temp_path(self._data)
        if not (link.is_symlink() and is_ours(link) and link.readlink() == self._data):
            fresh = link.with_suffix(f".{os.getpid()}")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self._data)
            fresh.replace(link)  # the sticky temp directory refuses it over another user's link
        if not _is_socket_path(link):
            raise self._failure(f"is too long a path, and so is {link}")
        return link

    def _start_or_reuse(self, uri: str, lock: int) -> None:
        """Return when the server answers; under the lock, so that nobody else starts one."""
        deadline = time.monotonic() + _START_SECONDS
        is_spawned = False
        while (refusal := _refusal(uri)) is not None:
            if _is_final(refusal) or time.monotonic() > deadline:
                self._end_child()
                raise self._failure(f"has a server that doesn't let us in: {refusal}")
            if not self._is_running():  # else it is on its way up, or down
                if is_spawned and not any(_ORPHANS in line for line in self._new_log_lines()):
                    raise self._failure(f"can't be served: {self._last_trouble()}")
                self._spawn(lock)
                is_spawned = True
            time.sleep(_POLL_SECONDS)

    def _mark_log(self) -> None:
        """Have the new lines of the log begin here, and the log empty if it grew too large."""
        with _open_private(self._log) as log:
            if log.tell() > _MAX_LOG_BYTES:
                log.truncate(0)
            self._log_start = os.fstat(log.fileno()).st_size

    def _new_log_lines(self) -> list[str]:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace").split("\n")

    def _last_trouble(self) -> str:
        """Return the last complaint among the new lines of the log, or their last."""
        lines = [line for line in self._new_log_lines() if line]
        # Clients that are turned away meanwhile are none.
        telling = [line for line in lines if not _PASSING.search(line)]
        complaints = [line for line in telling if _COMPLAINT.search(line)]
        return next(reversed(complaints or lines), "no reason given")

    def _is_running(self) -> bool:
        """Tell whether a server, ours or another process's, works on the data directory."""
        if self._child is not None and self._child.poll() is None:  # also buries a dead one
            return True
        return any(_is_server(_read_pid(self._data / name), self._data) for name in _PID_FILES)

    def _spawn(self, lock: int) -> None:
        """Start the server as our child, over a directory that no living server holds."""
        self._mark_log()
        account = server_account(self._data)
        binaries = runnable_binaries(_data_major(self._data), account)
        if not (self._data / "PG_VERSION").exists():
            self._initialise(binaries, account, lock)
        elif account and self._data.stat().st_uid == 0:
            _give(self._data, account)  # restored by root from a back-up
        _write_access_rules(self._data, account)
        for name in _PID_FILES:  # PostgreSQL itself is fooled by a dead server's number used again
            (self._data / name).unlink(missing_ok=True)
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        self._child = self._run(binaries / "postgres", self._data, account, settings)

    def _initialise(self, binaries: Path, account: pwd.struct_passwd | None, lock: int) -> None:
        """Make the cluster. It gets its name when it is whole; what was cut short is made again.

        initdb holds our lock too: should we be killed, the next process waits for its end.
        """
        unfinished = self._data.with_suffix(".unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        if account:
            _give(unfinished, account)
        child = self._run(binaries / "initdb", unfinished, account, _INITDB_OPTIONS, lock)
        if child.wait() != 0:
            raise self._failure(f"can't be initialised: {self._last_trouble()}")
        unfinished.rename(self._data)
        with _open_directory(self._directory) as descriptor:
            os.fsync(descriptor)

    def _run(
        self,
        program: Path,
        data: Path,
        account: pwd.struct_passwd | None,
        options: list[str],
        lock: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Run a program over `data`, its words to the log; it dies with us if it has no `lock`."""
        follow = partial(_follow, os.getpid()) if lock is None else None
        with _open_directory(data) as opened, _open_private(self._log) as log:
            # The account that root changes to need not reach the data through their parents.
            path = _OPEN_FILES / str(opened) if account and _OPEN_FILES.exists() else data
            return subprocess.Popen(
                [str(program), "-D", str(path), *options],
                cwd="/",  # older releases go out and back to it when they look where they are
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=0o077,
                start_new_session=True,  # Ctrl-C is for us alone: we stop it when we are done
                pass_fds=(opened,) if lock is None else (opened, lock),
                preexec_fn=follow,  # noqa: PLW1509  # one system call, looked up before the fork
                **identity(account),
            )

    def _failure(self, problem: str) -> SettingsError:
        return SettingsError(f"POSTGRES_DIR: {self._directory} {problem}")


# --- processes


def _follow(parent: int) -> None:
    """Have the kernel stop this process, just forked, when the thread that forked it ends."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # it ended before we could ask
            os._exit(1)


def _read_pid(path: Path) -> int:
    """Return the process number in a lock file of PostgreSQL's; 0 if there is none."""
    try:
        return abs(int(path.read_text().split("\n")[0]))  # a single-user server writes it negative
    except (FileNotFoundError, ValueError):
        return 0


def _is_server(pid: int, data: Path) -> bool:
    """Tell whether `pid` is a PostgreSQL over `data`: no zombie, and no number used again."""
    if not pid or not _POSTGRES_LIVES.fullmatch(_process_status(pid)):
        return False
    try:
        return sys.platform != "linux" or Path(f"/proc/{pid}/cwd").samefile(data)
    except FileNotFoundError:  # it ended this moment
        return False
    except PermissionError:  # another user's, or in a namespace that keeps us from looking
        return os.geteuid() in {0, Path(f"/proc/{pid}").stat().st_uid}


def _process_status(pid: int) -> str:
    """Return a process's state letters and program, or nothing if there is no such process."""
    if sys.platform != "linux":
        ps = ["/bin/ps", "-o", "stat=", "-o", "comm=", "-p", str(pid)]
        return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return re.sub(r"(?s)\d+ \((.*)\) (\w).*", r"\2 \1", text)
    return ""


def _refusal(uri: str) -> str | None:
    """Return why the server doesn't let us in, in a line; None if it does."""
    try:
        psycopg2.connect(uri, connect_timeout=5).close()
    except psycopg2.OperationalError as error:
        return " ".join(str(error).split())
    return None


def _is_final(refusal: str) -> bool:
    """Tell a server that won't have us from one that starts, stops or isn't there."""
    return "FATAL:" in refusal and not _PASSING.search(refusal)


# --- files


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold a lock among processes; give its descriptor, for a child to hold it too."""
    with _open_private(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _open_private(path: Path) -> BinaryIO:
    """Open a file of ours for appending, made if need be; nobody else may read it."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


@contextlib.contextmanager
def _open_directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_socket_path(directory: Path) -> bool:
    """Tell whether libpq and the kernel take a socket in this directory by its name."""
    path = os.fsencode(directory / _SOCKET)
    return len(path) <= _MAX_SOCKET_PATH_BYTES and b"," not in path


def _give(directory: Path, account: pwd.struct_passwd) -> None:
    """Make a directory and everything in it the account's own."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _write_access_rules(data: Path, account: pwd.struct_passwd | None) -> None:
    """Let in nobody but our own user, by what the kernel says of the socket's other end."""
    us = pwd.getpwuid(os.geteuid()).pw_name
    rules = {
        "pg_hba.conf": "local all postgres peer map=owner\n",
        "pg_ident.conf": f'owner "{us}" postgres\n',
    }
    for name, text in rules.items():
        (data / name).unlink(missing_ok=True)
        with (data / name).open("x") as file:  # never through a link that the account left there
            file.write(text)
        if account:
            _give(data / name, account)


def _data_major(data: Path) -> int | None:
    """Return the major version that made the data; None if there is no data yet."""
    try:
        return int((data / "PG_VERSION").read_text().split(".")[0])
    except FileNotFoundError:
        return None
