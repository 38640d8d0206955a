"""The schema: brings a database, new or old, to the shape that this version works on.

Owns `schema_migrations` and the order of things; the shape itself stands in `schema.sql` and
`migrations/`, the engine's in its package.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from procrastinate.schema import SchemaManager, migrations_path

from database_helper import LONG_SECONDS

if TYPE_CHECKING:
    from database_helper import Cursor, Database

ROOT: Final = Path(__file__).parent
ENGINE_PREFIX: Final = "procrastinate:"
_LOCK: Final = 0x696D6167  # any number that no one else locks


def apply_schema(database: Database, directory: Path = ROOT) -> None:
    """Create what a new database lacks, or migrate an old one, in one transaction.

    `directory` has `schema.sql` and `migrations/NNNN_name.sql`. Processes that start together
    wait for each other. Applying it again changes nothing.
    """
    with database.transaction(LONG_SECONDS) as cursor:
        cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        applied = _applied_migrations(cursor)
        ours = {path.name: path for path in sorted((directory / "migrations").glob("*.sql"))}
        engine = {ENGINE_PREFIX + path.name: path for path in sorted(migrations_path.glob("*.sql"))}
        if applied is None:
            cursor.execute((directory / "schema.sql").read_text("utf-8"))
            cursor.execute(SchemaManager.get_schema())
            _mark_applied(cursor, [*ours, *engine])
            return
        for name, path in (engine | ours).items():
            if name not in applied:
                cursor.execute(path.read_text("utf-8"))
                _mark_applied(cursor, [name])


def _applied_migrations(cursor: Cursor) -> set[str] | None:
    """Return the names of migrations that the database has had; None if it is new."""
    cursor.execute("select to_regclass('schema_migrations') as found")
    row = cursor.fetchone()
    if not row or row["found"] is None:
        return None
    cursor.execute("select name from schema_migrations")
    return {row["name"] for row in cursor.fetchall()}


def _mark_applied(cursor: Cursor, names: list[str]) -> None:
    cursor.execute("insert into schema_migrations (name) select unnest(%s)", (names,))
