"""What tests share: one PostgreSQL, a fresh database each, an origin, a running service.

No packet leaves loopback: sockets are pytest-socket's (pyproject.toml), names are refused here.
"""

from __future__ import annotations

import socket
import uuid
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from psycopg2.extensions import make_dsn
from psycopg2.sql import SQL, Identifier

from database_helper import Database
from database_schema import apply_schema
from embedded_postgres import EmbeddedPostgres
from tests.origin import Origin
from tests.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOOPBACK = {"127.0.0.1", "::1", "localhost", "", None}
_resolve = socket.getaddrinfo


def _resolve_loopback(host: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    if name not in _LOOPBACK:
        raise AssertionError(f"a test asked the resolver for {host!r}")
    return _resolve(host, *args, **kwargs)


socket.getaddrinfo = _resolve_loopback

# Other tests may run beside: how long an example takes says nothing.
hypothesis_settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("any machine")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the embedded PostgreSQL for the whole session; its conninfo."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def _template(postgres: str) -> str:
    """Apply the schema once; databases of tests are copies of this one."""
    _create_database(postgres, "service_template", "template0")
    database = Database(make_dsn(postgres, dbname="service_template"))
    apply_schema(database)
    database.close()
    return "service_template"


@pytest.fixture
def empty_database(postgres: str) -> Iterator[Database]:
    """Give a database without any table."""
    yield from _fresh_database(postgres, "template0")


@pytest.fixture
def database(postgres: str, _template: str) -> Iterator[Database]:
    """Give a database with the schema and no rows."""
    yield from _fresh_database(postgres, _template)


@pytest.fixture(scope="module")
def module_database(postgres: str, _template: str) -> Iterator[Database]:
    """Give a database with the schema that the tests of a module share."""
    yield from _fresh_database(postgres, _template)


@pytest.fixture(scope="module")
def new_database(postgres: str, _template: str) -> Iterator[Callable[[], Database]]:
    """Give a function that makes a database with the schema; they go with the module."""
    with ExitStack() as stack:
        make = contextmanager(_fresh_database)
        yield lambda: stack.enter_context(make(postgres, _template))


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Run an origin that serves what the test tells it to."""
    with Origin() as server:
        yield server


@pytest.fixture(scope="module")
def module_origin() -> Iterator[Origin]:
    """Run an origin that the tests of a module share."""
    with Origin() as server:
        yield server


@pytest.fixture(scope="module")
def service_arguments() -> tuple[str, ...]:
    """Return what `service` is started with; a module may say more."""
    return ()


@pytest.fixture(scope="module")
def service_settings() -> dict[str, str]:
    """Return the settings of `service`, beside where images come from; a module may say more."""
    return {}


@pytest.fixture(scope="module")
def service(
    module_database: Database,
    module_origin: Origin,
    tmp_path_factory: pytest.TempPathFactory,
    service_arguments: tuple[str, ...],
    service_settings: dict[str, str],
) -> Iterator[Service]:
    """Run the service as a process that the tests of a module share."""
    folder = tmp_path_factory.mktemp("service")
    settings = {"ALLOWED_SOURCES": module_origin.authority, **service_settings}
    with Service(folder, module_database, *service_arguments, **settings) as running:
        yield running


def _fresh_database(postgres: str, template: str) -> Iterator[Database]:
    name = f"test_{uuid.uuid4().hex}"
    _create_database(postgres, name, template)
    database = Database(make_dsn(postgres, dbname=name))
    yield database
    database.close()
    _execute(postgres, SQL("drop database {} with (force)").format(Identifier(name)))


def _create_database(postgres: str, name: str, template: str) -> None:
    statement = SQL("create database {} template {}")
    _execute(postgres, statement.format(Identifier(name), Identifier(template)))


def _execute(postgres: str, statement: Any) -> None:
    connection = psycopg2.connect(postgres)
    connection.autocommit = True  # a database can't be created in a transaction
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()
