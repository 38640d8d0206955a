"""A database that goes away and comes back, as its operator brings it about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

if TYPE_CHECKING:
    from database_helper import Database


def cut_connections(database: Database) -> None:
    """End every connection to the database, the engine's too."""
    _as_operator(
        database, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s"
    )


def allow_connections(database: Database, *, allow: bool) -> None:
    """Let the database take connections, or no more."""
    _as_operator(
        database,
        f"update pg_database set datallowconn = {allow} where datname = %s",  # noqa: S608
    )


def _as_operator(database: Database, statement: str) -> None:
    connection = psycopg2.connect(make_dsn(database.conninfo, dbname="postgres"))
    with connection, connection.cursor() as cursor:
        cursor.execute(statement, (parse_dsn(database.conninfo)["dbname"],))
    connection.close()
