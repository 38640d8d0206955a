"""What must hold for a request after everything that was done to the service.

A request is compared with an undisturbed run of the same CSV, and its rows with its counters and
files. Reads database and store directly: the service's own word is what is in question.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from storage.storage_keys import image_key

if TYPE_CHECKING:
    from pathlib import Path

    from database_helper import Database

# What an image came to. How often it was tried and whether its file was a copy may differ.
IMAGE_RESULT: Final = (
    *("n", "state", "error_code", "http_status", "bytes_in", "bytes_out", "width", "height"),
    *("format", "quality", "sha256"),
)
SHOWN: Final = 10  # violations of one kind


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished request came to, its id replaced: equal for equal inputs and sources."""

    status: str
    output_csv: bytes
    images: tuple[tuple[Any, ...], ...]


def read_result(database: Database, folder: Path, request_id: str) -> Result:
    """Return what a finished request came to."""
    request = _request(database, request_id)
    csv = (folder / f"static/{request_id}.csv").read_bytes()
    return Result(
        status=request["status"],
        output_csv=csv.replace(request_id.encode(), b"ID"),
        images=tuple(
            tuple(image[name] for name in IMAGE_RESULT) for image in _images(database, request_id)
        ),
    )


def find_violations(
    database: Database, folder: Path, request_id: str, expected: Result
) -> list[str]:
    """Return what is wrong with a request, a line each; nothing if all holds."""
    request = _request(database, request_id)
    if not request:
        return [f"{request_id}: accepted, but not in the database"]
    images = _images(database, request_id)
    if request["finished_at"] is None:
        states = dict(Counter(image["state"] for image in images))
        return [f"{request_id}: not finished: {request['status']}, images {states}"]
    found = [*_counter_violations(request, images), *_file_violations(folder, request_id, images)]
    try:
        found += _differences(read_result(database, folder, request_id), expected)
    except FileNotFoundError:
        found.append("finished without its output CSV")
    return [f"{request_id}: {line}" for line in found]


def find_leftovers(database: Database, accepted: set[str]) -> list[str]:
    """Return what is in the database beside the accepted requests and their finished images."""
    ids = {row["id"] for row in _query(database, "select id from requests")}
    found = [f"{request_id}: in the database, but nobody was told" for request_id in ids - accepted]
    unfinished = "select request_id, n, state from images where state in ('pending', 'running')"
    found += [
        f"{row['request_id']}: image {row['n']} is {row['state']}"
        for row in _query(database, unfinished)
    ]
    jobs = """select status, task_name, args->>'request_id' as request_id from procrastinate_jobs
               where args ? 'request_id'"""
    found += [
        f"{row['request_id']}: a job is left: {row['task_name']}, {row['status']}"
        for row in _query(database, jobs)
    ]
    return found


def _counter_violations(request: dict[str, Any], images: list[dict[str, Any]]) -> list[str]:
    """Compare the request's counters with its rows."""
    states = Counter(image["state"] for image in images)
    codes = Counter(image["error_code"] for image in images if image["error_code"])
    good = [image for image in images if image["state"] == "succeeded"]
    counted = {
        "images": len(images),
        **{state: states[state] for state in ("succeeded", "failed", "cancelled")},
        "bytes_in": sum(image["bytes_in"] for image in good),
        "bytes_out": sum(image["bytes_out"] for image in good),
        "errors_by_code": dict(codes),
    }
    return [
        f"{name} says {request[name]}, its rows {value}"
        for name, value in counted.items()
        if request[name] != value
    ]


def _file_violations(folder: Path, request_id: str, images: list[dict[str, Any]]) -> list[str]:
    """Compare the request's output files with its rows."""
    expected = {
        image_key(request_id, image["n"], image["format"]).rpartition("/")[2]: image["sha256"]
        for image in images
        if image["state"] == "succeeded"
    }
    home = folder / "uploads" / request_id
    files = {path.name: path for path in home.iterdir()} if home.exists() else {}
    found = [f"no file {name}" for name in sorted(expected.keys() - files.keys())]
    found += [f"a file too many: {name}" for name in sorted(files.keys() - expected.keys())]
    for name in sorted(expected.keys() & files.keys()):
        if hashlib.sha256(files[name].read_bytes()).hexdigest() != expected[name]:
            found.append(f"{name} is not the file whose sha256 its row has")
    return found[:SHOWN]


def _differences(result: Result, expected: Result) -> list[str]:
    found = []
    if result.status != expected.status:
        found.append(f"{result.status}, undisturbed {expected.status}")
    if result.output_csv != expected.output_csv:
        found.append("the output CSV differs from the undisturbed run's")
    if len(result.images) != len(expected.images):
        found.append(f"{len(result.images)} images, undisturbed {len(expected.images)}")
    found += [
        f"image {ours[0]} is {ours[1:]}, undisturbed {theirs[1:]}"
        for ours, theirs in zip(result.images, expected.images, strict=False)
        if ours != theirs
    ][:SHOWN]
    return found


def _request(database: Database, request_id: str) -> dict[str, Any]:
    found = _query(database, "select * from requests where id = %s", request_id)
    return found[0] if found else {}


def _images(database: Database, request_id: str) -> list[dict[str, Any]]:
    return _query(database, "select * from images where request_id = %s order by n", request_id)


def _query(database: Database, statement: str, *values: Any) -> list[dict[str, Any]]:
    with database.transaction() as cursor:
        cursor.execute(statement, values)
        return [dict(row) for row in cursor.fetchall()]
