"""What tests with a real PostgreSQL share beside the fixtures of all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from database_helper import Database

TABLES = (
    *("requests", "image_links", "images", "idempotency_keys"),
    *("deleted_requests", "host_shares", "origins"),
    *("procrastinate_jobs", "procrastinate_periodic_defers", "procrastinate_workers"),
)


@pytest.fixture
def clean_database(module_database: Database) -> Database:
    """Give the module's database without any row: quicker than a database for each test."""
    with module_database.transaction() as cursor:
        for table in TABLES:
            cursor.execute(f"delete from {table}")  # noqa: S608  # our own names
    return module_database
