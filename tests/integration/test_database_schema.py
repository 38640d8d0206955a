"""The schema: new, old and concurrent starts all end at the same shape."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from procrastinate.schema import SchemaManager, migrations_path

import database_schema
from database_schema import ENGINE_PREFIX, ROOT, apply_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from database_helper import Database

FIRST_SCHEMA = Path(__file__).parent / "data/schema-0000.sql"
Snapshot = list[tuple[object, ...]]


def _shape(database: Database) -> Snapshot:
    """Return every column, constraint, index, storage option and function of the database."""
    with database.transaction() as cursor:
        cursor.execute(
            """select table_name, column_name, data_type || ' null: ' || is_nullable, column_default
                 from information_schema.columns where table_schema = 'public'
               union all select relname, array_to_string(reloptions, ', '), '', ''
                 from pg_class c join pg_namespace s on s.oid = c.relnamespace
                where nspname = 'public'
               union all select conname, pg_get_constraintdef(c.oid), '', ''
                 from pg_constraint c join pg_namespace s on s.oid = c.connamespace
                where nspname = 'public'
               union all select indexname, indexdef, '', ''
                 from pg_indexes where schemaname = 'public'
               union all select proname, prosrc, '', ''
                 from pg_proc p join pg_namespace s on s.oid = p.pronamespace
                where nspname = 'public'
               order by 1, 2, 3"""
        )
        return [tuple(row.values()) for row in cursor.fetchall()]


def _migrations(database: Database) -> list[str]:
    """Return the recorded names, in the order of their application."""
    with database.transaction() as cursor:
        cursor.execute("select name from schema_migrations order by applied_at, name")
        return [row["name"] for row in cursor.fetchall()]


@pytest.fixture
def older(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that makes a project directory with the migrations given."""

    def make(**migrations: str) -> Path:
        (tmp_path / "schema.sql").write_text((ROOT / "schema.sql").read_text())
        folder = tmp_path / "migrations"
        folder.mkdir(exist_ok=True)
        for name, sql in migrations.items():
            (folder / f"{name.removeprefix('m')}.sql").write_text(sql)
        return tmp_path

    return make


def test_a_new_database_gets_everything(empty_database: Database) -> None:
    """Our tables and the engine's are there, and its migrations count as applied."""
    apply_schema(empty_database)
    names = {row[0] for row in _shape(empty_database)}
    assert {"requests", "image_links", "images", "procrastinate_jobs"} <= names
    engine = {ENGINE_PREFIX + path.name for path in migrations_path.glob("*.sql")}
    ours = {path.name for path in (ROOT / "migrations").glob("*.sql")}
    assert engine
    assert set(_migrations(empty_database)) == engine | ours


def test_applying_again_changes_nothing(database: Database) -> None:
    """Every start applies the schema; rows and shape stay."""
    with database.transaction() as cursor:
        cursor.execute(
            "insert into requests (id, options, columns, base_url) values ('a', '{}', '{}', 'b')"
        )
    before, names = _shape(database), _migrations(database)
    apply_schema(database)
    assert (_shape(database), _migrations(database)) == (before, names)
    with database.transaction() as cursor:
        cursor.execute("select id from requests")
        assert len(cursor.fetchall()) == 1


def test_the_file_alone_may_be_applied_again(database: Database) -> None:
    """As `schema.sql` says of itself."""
    before = _shape(database)
    with database.transaction() as cursor:
        cursor.execute((ROOT / "schema.sql").read_text())
    assert _shape(database) == before


def test_processes_that_start_together_wait_for_each_other(empty_database: Database) -> None:
    """A server and workers may all find the database empty."""
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: apply_schema(empty_database), range(3)))
    names = _migrations(empty_database)
    assert len(names) == len(set(names)) > 0


def test_an_older_database_gets_what_it_lacks_in_order_and_once(
    database: Database, older: Callable[..., Path]
) -> None:
    """Numbered files run in the order of their numbers, later ones on top of earlier ones."""
    first = older(
        m0002_fill="insert into shops (name) values ('b')",
        m0001_shops="create table shops (n serial, name text); insert into shops values (0, 'a')",
    )
    apply_schema(database, first)
    apply_schema(database, first)
    apply_schema(database, older(m0010_more="update shops set name = name || '%s'"))
    with database.transaction() as cursor:
        cursor.execute("select name from shops order by n")
        assert [row["name"] for row in cursor.fetchall()] == ["a%s", "b%s"]
    names = _migrations(database)
    assert [name for name in names if name.startswith("00")][-3:] == [
        "0001_shops.sql",
        "0002_fill.sql",
        "0010_more.sql",
    ]


def test_a_new_database_is_not_migrated(
    empty_database: Database, older: Callable[..., Path]
) -> None:
    """`schema.sql` has every migration in it already."""
    apply_schema(empty_database, older(m0001_bad="this is not SQL"))
    assert "0001_bad.sql" in _migrations(empty_database)


def test_a_migration_that_fails_leaves_nothing(
    database: Database, older: Callable[..., Path]
) -> None:
    """The start fails with the database as it was, also after a first good file."""
    before, names = _shape(database), _migrations(database)
    bad = older(m0001_good="create table shops (n integer)", m0002_bad="this is not SQL")
    with pytest.raises(psycopg2.errors.SyntaxError):
        apply_schema(database, bad)
    assert (_shape(database), _migrations(database)) == (before, names)


def test_a_newer_engine_s_migrations_are_applied_before_ours(
    database: Database,
    older: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A newer engine brings files that an older database has not had; ours may build on them."""
    (tmp_path / "99.00.00_01_pre_more.sql").write_text("create table procrastinate_more ()")
    monkeypatch.setattr(database_schema, "migrations_path", tmp_path)
    apply_schema(database, older(m0001_ours="alter table procrastinate_more add n integer"))
    assert ("procrastinate_more", "n", "integer null: YES", None) in _shape(database)
    assert f"{ENGINE_PREFIX}99.00.00_01_pre_more.sql" in _migrations(database)


def test_a_database_of_the_first_version_gets_the_shape_of_a_new_one(
    empty_database: Database, database: Database
) -> None:
    """Migrated by all the files there are, with every row as it was."""
    rows = {
        "requests": """(id, status, owner, options, columns, base_url, images, succeeded, failed,
                        errors_by_code, started_at, finished_at)
               values ('a', 'failed', 'me', '{"quality": 80}', '{Name,URLs}', 'http://a', 2, 0, 2,
                       '{"timeout": 2}', now(), now()),
                      ('b', 'processing', null, '{}', '{}', 'http://b', 1, 0, 0, '{}', now(), null)""",
        "image_links": """(request_id, row, line, serial_number, product_name, input_image_urls,
                           output_image_urls, other_cells)
               values ('a', 1, 2, '007', 'Lamp', 'http://a/1,http://a/1', ',', '{x,"y z"}')""",
        "images": """(request_id, n, row, position, input_url, state, fence, attempts, repeats,
                      error_code, due_at, lease_until)
               values ('a', 1, 1, 1, 'http://a/1', 'failed', 4, 4, null, 'timeout', now(), null),
                      ('a', 2, 1, 2, 'http://a/1', 'failed', 1, 1, 1, 'timeout', 'infinity', null),
                      ('b', 1, 1, 1, 'http://b/1', 'running', 1, 0, null, null, now(), now())""",
    }
    with empty_database.transaction() as cursor:
        cursor.execute(FIRST_SCHEMA.read_text())
        cursor.execute(SchemaManager.get_schema())
        database_schema._mark_applied(
            cursor, [ENGINE_PREFIX + path.name for path in migrations_path.glob("*.sql")]
        )
        for table, values in rows.items():
            cursor.execute(f"insert into {table} {values}")
    before = {table: _rows(empty_database, table) for table in rows}
    apply_schema(empty_database)
    assert _shape(empty_database) == _shape(database)
    assert set(_migrations(empty_database)) == set(_migrations(database))
    for table, old in before.items():
        new = _rows(empty_database, table)
        assert [{name: row[name] for name in old[0]} for row in new] == old
    added = {"done_before": 0, "fence": 0, "lease_until": None}
    assert _rows(empty_database, "requests")[0].items() >= added.items()
    added = {"losses": 0, "is_decoding": False}
    assert _rows(empty_database, "images")[0].items() >= added.items()


def _rows(database: Database, table: str) -> list[dict[str, Any]]:
    with database.transaction() as cursor:
        cursor.execute(f"select * from {table} order by 1, 2")  # noqa: S608  # our own names
        return [dict(row) for row in cursor.fetchall()]
