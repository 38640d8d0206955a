"""The door to PostgreSQL: transactions through connections that may die at any moment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INTRANS,
    make_dsn,
    parse_dsn,
)

from csv_validator import ProductRow
from database_helper import Database, DatabaseUnavailableError, is_alive
from errors import SettingsError
from upload_rows import copy_products
from watched_connection import WatchedConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from database_helper import Cursor

ID = "ab" * 16
PRODUCT = ProductRow(2, "1", "Lamp", "u", None, ["u"])


def _rows(database: Database, statement: str, *values: Any) -> list[dict[str, Any]]:
    with database.transaction() as cursor:
        cursor.execute(statement, values)
        return [dict(row) for row in cursor.fetchall()]


def _cut_connections(database: Database) -> None:
    """End every connection to the database, as a restart of the server does."""
    connection = psycopg2.connect(make_dsn(database.conninfo, dbname="postgres"))
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s",
            (parse_dsn(database.conninfo)["dbname"],),
        )
    connection.close()


@pytest.fixture
def small(database: Database) -> Iterator[Database]:
    """Give a door of two connections to the test's database."""
    small = Database(database.conninfo, max_connections=2)
    yield small
    small.close()


@pytest.fixture
def database(clean_database: Database) -> Database:
    """Give a database with the schema and no rows."""
    return clean_database


def test_a_transaction_commits_or_rolls_back(database: Database) -> None:
    """What a block did is there after it, and nothing of it after an exception."""

    def copy(*request_ids: str) -> None:
        with database.transaction() as cursor:
            for request_id in request_ids:
                copy_products(cursor, request_id, [PRODUCT])

    copy("kept")
    with pytest.raises(psycopg2.IntegrityError):
        copy("lost", "kept")
    assert _rows(database, "select request_id from images") == [{"request_id": "kept"}]


def test_reading_takes_one_turn_with_the_server(database: Database) -> None:
    """No transaction is begun for it, and the next one is one all the same."""
    with database.reading() as cursor:
        cursor.execute("select pg_backend_pid() as pid")
        first = cursor.fetchone()
        assert cursor.connection.info.transaction_status == TRANSACTION_STATUS_IDLE
    with database.transaction() as cursor:
        cursor.execute("select pg_backend_pid() as pid")
        assert cursor.fetchone() == {"pid": first and first["pid"]}
        assert cursor.connection.info.transaction_status == TRANSACTION_STATUS_INTRANS


def test_a_connection_is_used_again(small: Database) -> None:
    """One after the other, transactions share a connection, also after a failed one."""

    def pid() -> int:
        number: int = _rows(small, "select pg_backend_pid() as pid")[0]["pid"]
        return number

    first = pid()
    with pytest.raises(psycopg2.errors.UndefinedTable):
        _rows(small, "select * from nowhere")
    assert pid() == first


def test_connections_that_died_while_idle_are_replaced(database: Database) -> None:
    """After a restart of the server nobody is handed a dead connection."""
    with database.transaction() as one, database.transaction() as two:
        assert is_alive(one)
        assert is_alive(two)
    _cut_connections(database)
    with database.transaction() as one, database.transaction() as two:
        assert is_alive(one)
        assert is_alive(two)


@pytest.mark.parametrize("moment", ["statement", "copy", "commit"])
def test_a_connection_that_dies_under_way_is_told(database: Database, moment: str) -> None:
    """The caller hears that the database is away, nothing is kept, and the next one goes well."""

    def products() -> Iterator[ProductRow]:
        yield PRODUCT
        _cut_connections(database)
        yield PRODUCT

    def use(cursor: Cursor) -> None:
        if moment == "copy":
            copy_products(cursor, ID, products())
        else:
            copy_products(cursor, ID, [PRODUCT])
            _cut_connections(database)
        if moment == "statement":
            is_alive(cursor)

    with pytest.raises(DatabaseUnavailableError), database.transaction() as cursor:
        use(cursor)
    assert _rows(database, "select * from images") == []


def test_a_transaction_that_stands_still_lets_go_of_its_locks(database: Database) -> None:
    """A process that was stopped holds up nobody, and hears of it when it goes on."""
    standing = Database(database.conninfo, stopped_seconds=0.1)
    overtaken = False

    def stand_still(cursor: Cursor) -> None:
        nonlocal overtaken
        copy_products(cursor, ID, [PRODUCT])
        with database.transaction() as other:
            other.execute("lock table images in access exclusive mode")
        overtaken = True
        is_alive(cursor)

    with pytest.raises(DatabaseUnavailableError), standing.transaction() as cursor:
        stand_still(cursor)
    standing.close()
    assert overtaken
    assert _rows(database, "select * from images") == []


def test_a_transaction_may_ask_for_longer_pauses(database: Database) -> None:
    """Only this one may stand still so long."""
    standing = Database(database.conninfo, stopped_seconds=0.1)
    show = "select current_setting('idle_in_transaction_session_timeout') as pause"
    with standing.transaction() as cursor:
        cursor.allow_pauses(60)
        cursor.execute(show)
        assert cursor.fetchall() == [{"pause": "1min"}]
    assert _rows(standing, show) == [{"pause": "100ms"}]
    standing.close()


def test_a_server_that_became_read_only_is_left(small: Database) -> None:
    """After a failover the old primary still answers: the next transaction connects anew."""

    def write(*, read_only: bool) -> int:
        with small.transaction() as cursor:
            if read_only:
                cursor.execute("set transaction read only")
            copy_products(cursor, ID, [PRODUCT])
            cursor.execute("select pg_backend_pid() as pid")
            row = cursor.fetchone()
        assert row
        return int(row["pid"])

    first: int = _rows(small, "select pg_backend_pid() as pid")[0]["pid"]
    with pytest.raises(DatabaseUnavailableError):
        write(read_only=True)
    assert write(read_only=False) != first


def test_more_threads_than_connections_wait_for_their_turn(small: Database) -> None:
    """A small pool serves many threads, never with more connections than it may have."""
    highest = 0
    lock = threading.Lock()
    inside = 0

    def work(_: int) -> None:
        nonlocal highest, inside
        with small.transaction() as cursor:
            with lock:
                inside += 1
                highest = max(highest, inside)
            cursor.execute("select pg_sleep(0.001)")
            with lock:
                inside -= 1

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(work, range(60)))
    assert highest == 2


def _is_alive(database: Database) -> bool:
    with database.transaction() as cursor:
        return is_alive(cursor)


def test_a_process_with_many_open_files_can_still_look_at_its_connections(
    small: Database,
) -> None:
    """A busy server has more than 1024 descriptors, which select() can't take."""
    pipes = [open("/dev/null", "rb") for _ in range(1100)]  # noqa: SIM115, PTH123
    try:
        assert _is_alive(small)
        assert _is_alive(small)
    finally:
        for pipe in pipes:
            pipe.close()


def test_a_server_that_is_away_is_told(database: Database) -> None:
    """No server, no database of that name: both may pass, and both are told the same way."""
    away = [
        Database(make_dsn(database.conninfo, host="/nowhere")),
        Database(make_dsn(database.conninfo, dbname="nothing")),
    ]
    for one in away:
        for _ in range(3):  # the place in the queue is given back
            with pytest.raises(DatabaseUnavailableError), one.transaction():
                pytest.fail("there is no connection")


@pytest.mark.parametrize(
    "conninfo",
    [
        "hunter2",
        "mysql://shop:hunter2@db/images",
        "postgresql://shop:hunter2%zz@db/images",
        "password=hunter2 hast=db",
    ],
)
def test_an_address_that_says_nothing_is_refused_without_being_shown(conninfo: str) -> None:
    """A bad DATABASE_URL is named with what it takes; the password in it stays a secret."""
    with pytest.raises(SettingsError, match="DATABASE_URL: takes ") as caught:
        Database(conninfo)
    assert "hunter2" not in caught.value.detail


def test_closing_keeps_what_is_under_way(small: Database) -> None:
    """A transaction that is open when the service stops goes on to its end."""
    with small.transaction() as cursor:
        _is_alive(small)
        small.close()
        copy_products(cursor, ID, [PRODUCT])
    assert len(_rows(small, "select * from images")) == 1


def test_connection_lost_in_the_commit(
    clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of no kind, which is how libpq loses a connection in a commit, means that the
    database is away; the next transaction has a connection of its own.
    """

    def lose(connection: WatchedConnection) -> None:
        connection.close()
        raise psycopg2.DatabaseError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(WatchedConnection, "commit", lose)
        with pytest.raises(DatabaseUnavailableError), clean_database.transaction() as cursor:
            is_alive(cursor)
    with clean_database.transaction() as cursor:
        assert is_alive(cursor)
