"""PostgreSQL: the one door to it.

No other module imports psycopg2, but for `watched_connection`, whose connections these are, and
the look of `embedded_postgres` whether its server answers. Owns connections and transactions;
the statements are in modules of their own, one short function each, named for its meaning. These
take the cursor of an open transaction, so that callers decide what commits together.
`schema.sql` explains the tables, `database_schema` applies it.
"""

from __future__ import annotations

import select
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg2
from psycopg2.errors import InsufficientPrivilege
from psycopg2.extensions import parse_dsn

from errors import ServiceError, SettingsError, first_line
from watched_connection import WatchedConnection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

CONNECT_SECONDS: Final = 5
WAIT_SECONDS: Final = 10.0  # for a free connection
STATEMENT_SECONDS: Final = 15.0
BATCH_SECONDS: Final = 60.0  # for a statement over thousands of rows
LONG_SECONDS: Final = 900.0  # for a statement over all rows of a request
STOPPED_SECONDS: Final = 15.0  # between two statements of a transaction
ABANDONED_SECONDS: Final = 5  # after which the server ends a statement whose client has gone
# A server that went away is noticed within so long, also in the middle of a statement.
KEEPALIVE: Final[dict[str, Any]] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_SET_STOPPED: Final = "select set_config('idle_in_transaction_session_timeout', %s, %s)"
# Gone, out of resources, or (internal) failed over to a read-only one.
_AWAY: Final = (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.InternalError)


class Cursor(psycopg2.extensions.cursor):
    """A cursor of an open transaction; its rows are dictionaries.

    psycopg2's own dictionaries are filled key by key, which takes six times as long.
    Only `execute` and `copy_expert` are held to a time; no others are used.
    """

    def allow(self, seconds: float) -> None:
        """Let each statement of this transaction from here on, and its commit, take so long."""
        self._connection.seconds = seconds

    def execute(self, *args: Any, **kwargs: Any) -> None:
        """Run a statement."""
        with self._connection.limit():
            super().execute(*args, **kwargs)

    def copy_expert(self, *args: Any, **kwargs: Any) -> None:
        """Run a COPY."""
        with self._connection.limit():
            super().copy_expert(*args, **kwargs)

    def fetchone(self) -> dict[str, Any] | None:  # type: ignore[override]  # no tuple
        """Return the next row, None if there is none."""
        row = super().fetchone()
        return None if row is None else dict(zip(self._names, row, strict=True))

    def fetchall(self) -> list[dict[str, Any]]:  # type: ignore[override]  # no tuples
        """Return all rows that are left."""
        names = self._names
        return [dict(zip(names, row, strict=True)) for row in super().fetchall()]

    def allow_pauses(self, seconds: float) -> None:
        """Let so long pass between two statements of this transaction."""
        self.execute(_SET_STOPPED, (f"{seconds * 1000:.0f}ms", True))

    @property
    def _names(self) -> list[str]:
        return [column.name for column in self.description or ()]

    @property
    def _connection(self) -> WatchedConnection:
        return cast("WatchedConnection", self.connection)


class DatabaseUnavailableError(ServiceError):
    """PostgreSQL is away, full or restarting; the same call may succeed later."""


class Database:
    """Connections that threads share: opened when needed, kept while they live.

    psycopg2's own pool raises when it is exhausted and hands out connections that died while
    they were idle; waiting and looking first is less code than working around both.
    Raises SettingsError when `conninfo` can't be parsed. `statement_seconds` is the longest that a
    statement may take whose transaction says nothing else; `stopped_seconds` without one, and
    PostgreSQL ends the transaction: a process that was stopped holds up the others with its locks.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        max_connections: int = 16,
        statement_seconds: float = STATEMENT_SECONDS,
        stopped_seconds: float = STOPPED_SECONDS,
    ) -> None:
        try:
            parse_dsn(conninfo)
        except psycopg2.ProgrammingError:  # its message has parts of the password
            raise SettingsError(
                "DATABASE_URL: takes a URL like postgresql://user:password@host/database"
            ) from None
        self.conninfo = conninfo
        self._max_connections = max_connections
        self._statement_seconds = statement_seconds
        self._stopped_seconds = stopped_seconds
        self._idle: list[WatchedConnection] = []
        self._free = threading.BoundedSemaphore(max_connections)

    def clone(self) -> Database:
        """Return the same database with connections of its own."""
        return Database(
            self.conninfo,
            max_connections=self._max_connections,
            statement_seconds=self._statement_seconds,
            stopped_seconds=self._stopped_seconds,
        )

    def close(self) -> None:
        """Close the idle connections; transactions under way go on to their end."""
        while self._idle:
            self._idle.pop().close()

    def transaction(self, seconds: float | None = None) -> AbstractContextManager[Cursor]:
        """Commit what the block does, or nothing of it.

        Waits for a free connection, but not for ever; `seconds` is the longest that a single
        statement or the commit may take. Raises DatabaseUnavailableError when there is no
        connection, or when PostgreSQL can't be reached, doesn't answer in time, or gives up;
        whether a commit that failed so has happened is not known. Raises SettingsError when the
        role lacks a right.
        """
        return self._use(seconds, autocommit=False)

    def reading(self) -> AbstractContextManager[Cursor]:
        """Read by statements that each stand for themselves.

        One turn with PostgreSQL instead of three, with BEGIN and COMMIT: on a busy machine each
        waits for a core twice. Otherwise like `transaction`.
        """
        return self._use(None, autocommit=True)

    @contextmanager
    def _use(self, seconds: float | None, *, autocommit: bool) -> Iterator[Cursor]:
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise DatabaseUnavailableError("all connections are busy")
        connection = None
        try:
            connection = self._connect()
            connection.seconds = self._statement_seconds if seconds is None else seconds
            connection.autocommit = autocommit
            with connection.cursor(cursor_factory=Cursor) as cursor:
                yield cursor
            connection.commit()
        except BaseException as error:
            if connection:
                with suppress(psycopg2.Error):  # a lost connection has nothing to roll back
                    connection.rollback()
            # libpq loses a connection in a commit as an error of no kind.
            if isinstance(error, _AWAY) or type(error) is psycopg2.DatabaseError:
                if connection:
                    connection.close()
                raise DatabaseUnavailableError(first_line(str(error))) from error
            if isinstance(error, InsufficientPrivilege):
                raise SettingsError(
                    f"DATABASE_URL: {first_line(str(error))}; the role has to own its database"
                ) from error
            raise
        finally:
            if connection and not connection.closed:
                self._idle.append(connection)
            self._free.release()

    def _connect(self) -> WatchedConnection:
        """Return a live connection, dropping those that died while they were idle."""
        while self._idle:
            connection = self._idle.pop()
            if not _is_dead(connection):
                return connection
            connection.close()
        fresh: WatchedConnection = psycopg2.connect(
            self.conninfo,
            connection_factory=WatchedConnection,
            connect_timeout=CONNECT_SECONDS,
            **KEEPALIVE,
        )
        fresh.seconds = self._statement_seconds
        fresh.autocommit = True
        with fresh.cursor(cursor_factory=Cursor) as cursor, suppress(psycopg2.DataError):
            # Else it went on to the end with its locks. Not every platform of a server has it.
            cursor.execute(_SET_STOPPED, (f"{self._stopped_seconds * 1000:.0f}ms", False))
            cursor.execute("set client_connection_check_interval = %s", (f"{ABANDONED_SECONDS}s",))
        fresh.autocommit = False
        return fresh


def is_alive(cursor: Cursor) -> bool:
    """Tell whether the database answers; it raises where it doesn't."""
    cursor.execute("select 1")
    return cursor.fetchone() is not None


def _is_dead(connection: WatchedConnection) -> bool:
    if connection.closed:
        return True
    # PostgreSQL says nothing to an idle connection but good-bye, so anything to read is the end.
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
