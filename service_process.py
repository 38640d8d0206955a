"""What every long-running command does alike: settings, log, PostgreSQL, signals."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import metrics
from codec.codec_version import codec_version
from database_helper import Database, DatabaseUnavailableError
from database_schema import apply_schema
from embedded_postgres import EmbeddedPostgres
from errors import ImageError, SettingsError
from httpd.http_server import HttpServer
from redaction import redact_url
from service_log import configure_log, is_json_log
from settings import Settings, load_settings
from settings_places import misspelt
from storage.image_store import open_store
from storage.stored_object import reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.image_store import ImageStore

EXIT_CANNOT_START: Final = 2
WATCH_SECONDS: Final = 1.0
HEAPS: Final = 2  # for all threads
_M_ARENA_MAX: Final = -8  # glibc's malloc.h
_LISTEN_HINTS: Final = {
    errno.EADDRINUSE: "another program has it, perhaps this service: stop that, or take another",
    errno.EACCES: "ports below 1024 are root's: take another, and put a proxy in front",
}
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A command that runs until a signal: its settings, database and store."""

    settings: Settings
    database: Database
    store: ImageStore
    postgres: EmbeddedPostgres | None
    stop: threading.Event

    @contextmanager
    def open_database(self) -> Iterator[Database]:
        """Open the database once more, with connections of its own."""
        with closing(self.database.clone()) as database:
            yield database

    def wait_for_signal(self) -> None:
        """Return after SIGTERM or SIGINT; meanwhile see that the embedded PostgreSQL runs.

        Only from the main thread: signals arrive there, and the embedded server ends with the
        thread that started it.
        """
        tell_manager("READY=1")
        while not self.stop.wait(WATCH_SECONDS):
            self._watch_postgres()
        logger.info("stopping")
        tell_manager("STOPPING=1")

    def _watch_postgres(self) -> None:
        try:
            if self.postgres:
                self.postgres.ensure_running()
        except SettingsError as error:
            logger.error("PostgreSQL does not start: %s", error.detail)  # noqa: TRY400  # said whole


@contextmanager
def service_process() -> Iterator[ServiceProcess]:
    """Read the settings and open database and store; close them at the end.

    What can't be ends the process with a line that names it. The end of the block ends it too,
    with success and at once: threads may be in downloads whose images are handed back already.
    """
    bound_heaps()
    stop = _stop_on_signal()
    with ExitStack() as stack:
        try:
            yield _open(stack, stop)
        except SettingsError as error:
            _say_why_not(error.detail)
            sys.exit(EXIT_CANNOT_START)
    sys.stdout.flush()
    os._exit(0)


def _say_why_not(detail: str) -> None:
    """Say on standard error why the process can't start, as a line of the log if that is JSON."""
    text = f"cannot start: {detail}"
    if is_json_log():
        logger.critical("%s", text)
    else:
        sys.stderr.write(f"{text}\n")


def bound_heaps() -> None:
    """Have the threads that are yet to start share few of glibc's heaps.

    It gives them up to eight a core, and what was freed in one is of no use in another: so a
    worker would grow for hours. `MALLOC_ARENA_MAX` in the environment goes first. Elsewhere than
    on glibc nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, HEAPS)


def listen(host: str, port: int, setting: str = "PORT") -> HttpServer:
    """Return a server that has the address, and answers nobody yet. Raises SettingsError."""
    try:
        return HttpServer(host, port)
    except OSError as error:
        raise SettingsError(
            f"HOST={host} {setting}={port}: cannot listen there: {error.strerror}; "
            f"{_LISTEN_HINTS.get(error.errno or 0, 'HOST takes an address of this machine')}"
        ) from error


def tell_manager(state: str) -> None:
    """Tell the service manager how far we are, if there is one that asks (sd_notify(3))."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, suppress(OSError):
            manager.sendto(state.encode(), address.replace("@", "\0", 1))


def _stop_on_signal() -> threading.Event:
    """Take the first signal for the wish to stop; a second one ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, frame: Any) -> None:  # noqa: ARG001  # signal passes them
        stop.set()
        for either in _STOP_SIGNALS:
            signal.signal(either, signal.SIG_DFL)

    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)
    return stop


def _open(stack: ExitStack, stop: threading.Event) -> ServiceProcess:
    settings = load_settings()
    configure_log(settings.log_format)
    for line in misspelt(Settings.model_fields):
        logger.warning(line)
    conninfo, postgres = settings.database_url, None
    if conninfo is None:
        postgres = EmbeddedPostgres(Path(settings.postgres_dir))
        conninfo = postgres.start()
        stack.callback(postgres.stop)
    # Its locks are gone before its leases are.
    database = Database(conninfo, stopped_seconds=settings.lease_seconds / 2)
    stack.callback(database.close)
    try:
        apply_schema(database)
    except DatabaseUnavailableError as error:
        name = "POSTGRES_DIR" if postgres else "DATABASE_URL"
        hint = "see that PostgreSQL runs there, and that user, password and database are right"
        raise SettingsError(f"{name}: {error.detail}; {hint}") from error
    try:
        store = open_store(settings.storage_url)
        store.check()
    except (OSError, ValueError, ImageError) as error:
        because = f" ({said})" if (said := reason(error)) else ""
        shown = f"STORAGE_URL={redact_url(settings.storage_url)}"
        hint = "the service has to be able to read and write there"
        raise SettingsError(f"{shown}: {error}{because}; {hint}") from error
    metrics.describe_build(codec_version())
    metrics.EMBEDDED_POSTGRES.set(postgres is not None)
    return ServiceProcess(settings, database, store, postgres, stop)
