"""The audit finds what it is there to find: without this, its silence would mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.audit import find_leftovers, find_violations, read_result
from tests.images import photo, saved
from tests.service import csv_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.origin import Origin
    from tests.service import Service


@pytest.fixture
def request_id(service: Service, module_origin: Origin) -> str:
    """Run a request of two images that succeed and one that fails; its id."""
    urls = [
        module_origin.serve(f"/{n}.jpg", saved(photo(60 + n, 40), "JPEG", quality=95))
        for n in (1, 2)
    ]
    csv = csv_of(", ".join(urls), module_origin.url("/missing.jpg"))
    return str(service.run(csv)["request_id"])


def test_nothing_is_wrong(service: Service, request_id: str) -> None:
    """A request that ran undisturbed has no violation and leaves nothing."""
    assert service.database
    expected = read_result(service.database, service.folder, request_id)
    assert find_violations(service.database, service.folder, request_id, expected) == []
    every_id = {row["id"] for row in service.query("select id from requests")}
    database = service.database  # the engine notes the end of a job a moment after it
    service.wait_until(lambda: not find_leftovers(database, every_id))


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("update requests set succeeded = 3 where id = %s", "succeeded says 3, its rows 2"),
        ("update requests set bytes_out = 1 where id = %s", "bytes_out says 1"),
        ("update requests set errors_by_code = '{}' where id = %s", "errors_by_code says {}"),
        ("update requests set status = 'failed' where id = %s", "failed, undisturbed completed"),
        ("update requests set finished_at = null where id = %s", "not finished"),
        ("delete from requests where id = %s", "not in the database"),
        ("delete from images where n = 2 and request_id = %s", "a file too many"),
        ("delete from images where n = 3 and request_id = %s", "2 images, undisturbed 3"),
        ("update images set sha256 = '' where n = 1 and request_id = %s", "is not the file"),
        ("update images set width = 1 where n = 1 and request_id = %s", "image 1 is"),
    ],
)
def test_rows(service: Service, request_id: str, tampering: str, found: str) -> None:
    """Rows that differ from each other, from the files or from the expectation are named."""
    assert service.database
    expected = read_result(service.database, service.folder, request_id)
    _execute(service, tampering, request_id)
    violations = find_violations(service.database, service.folder, request_id, expected)
    assert found in "\n".join(violations)


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        (lambda folder, name: (folder / "uploads" / name / f"{name}-1.jpg").unlink(), "no file"),
        (
            lambda folder, name: (folder / "uploads" / name / f"{name}-3.jpg").write_bytes(b""),
            "a file too many",
        ),
        (
            lambda folder, name: (folder / "uploads" / name / f"{name}-2.jpg").write_bytes(b""),
            "is not the file",
        ),
        (lambda folder, name: (folder / f"static/{name}.csv").unlink(), "without its output CSV"),
        (
            lambda folder, name: (folder / f"static/{name}.csv").write_bytes(b""),
            "the output CSV differs",
        ),
    ],
)
def test_files(
    service: Service, request_id: str, tampering: Callable[[Path, str], Any], found: str
) -> None:
    """Files that are missing, too many or other than their rows say are named."""
    assert service.database
    expected = read_result(service.database, service.folder, request_id)
    tampering(service.folder, request_id)
    violations = find_violations(service.database, service.folder, request_id, expected)
    assert found in "\n".join(violations)


def test_leftovers(service: Service, request_id: str) -> None:
    """A request that nobody was told of and an image that never ended are named."""
    assert service.database
    _execute(
        service, "update images set state = 'running' where n = 1 and request_id = %s", request_id
    )
    found = "\n".join(find_leftovers(service.database, set()))
    assert f"{request_id}: in the database, but nobody was told" in found
    assert f"{request_id}: image 1 is running" in found


def _execute(service: Service, statement: str, request_id: str) -> None:
    assert service.database
    with service.database.transaction() as cursor:
        cursor.execute(statement, (request_id,))
