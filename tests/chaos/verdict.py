"""What must hold for a request after a round: beside `audit`, its report, events, jobs and files."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.chaos.audit import Result, find_leftovers, find_violations

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.slot import Slot

TRACE_SECONDS: Final = 30.0  # until the jobs of a dead worker are gone


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What the slot's CSV comes to; `retried` when the missing image is there at a retry."""

    plain: Result
    retried: Result
    report: list[dict[str, str]]


def find_all_violations(
    slot: Slot,
    fields: dict[str, str],
    request_id: str,
    *,
    is_retried: bool = False,
    events: int = 1,
) -> list[str]:
    """Return what is wrong with a request that has ended; `events` were to be sent."""
    expected = slot.undisturbed.retried if is_retried else slot.undisturbed.plain
    if slot.request_row(request_id).get("status") == "cancelled":
        expected = _cancelled(slot, request_id)
    found = find_violations(slot.database, slot.folder, request_id, expected)
    if (
        expected is slot.undisturbed.plain
        and read_report(slot.folder, request_id) != slot.undisturbed.report
    ):
        found.append("the report differs from the undisturbed run's")
    found += _event_violations(slot, fields, request_id, events)
    return found + find_traces(slot, request_id)


def find_traces(slot: Slot, request_id: str) -> list[str]:
    """Return what is left of a request's work, or of requests that nobody knows."""
    found: list[str] = []
    deadline = time.monotonic() + TRACE_SECONDS
    while True:  # jobs of a dead worker go with the next sweep
        found = find_leftovers(slot.database, slot.accepted)
        for folder in ("uploads", "static"):
            staged = (slot.folder / folder / ".staged").iterdir()
            found += [f"staged: {p.name}" for p in staged if request_id in p.name]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def find_remains(slot: Slot, request_id: str) -> list[str]:
    """Return what is wrong with a deleted request whose purge has ended."""
    paths = [f"/status/{request_id}", f"/static/{request_id}.csv"]
    answers = [(path, slot.server.get(path).status_code) for path in paths]
    found = [f"{path} is {status}" for path, status in answers if status != 410]
    for table in ("images", "image_links", "webhooks"):
        count = "select count(*) as rows from {} where request_id = %s".format(table)  # noqa: S608, UP032
        rows = slot.query(count, request_id)[0]["rows"]
        found += [f"{rows} rows left in {table}"] if rows else []
    if slot.request_row(request_id):
        found.append("its row is left")
    files = [
        *slot.folder.glob(f"*/{request_id}*"),
        *slot.folder.glob(f"*/.staged/*{request_id}*"),
    ]
    found += [f"a file is left: {path.name}" for path in files]
    return found + find_traces(slot, request_id)


def _event_violations(
    slot: Slot, fields: dict[str, str], request_id: str, events: int
) -> list[str]:
    path = fields["webhook_url"].removeprefix(slot.origin.url(""))
    with slot.origin.lock:
        got = [r for r in slot.origin.requests if r.path == path]
    ids = {post.headers["webhook-id"] for post in got}
    rows = slot.query("select id, state from webhooks where request_id = %s", request_id)
    if len(ids) != events or {row["id"] for row in rows} != ids:
        return [f"{len(ids)} events came, {rows} are written, of {events}"]
    return []


def read_report(folder: Path, request_id: str) -> list[dict[str, str]]:
    """Return the lines of a request's report that are the same for equal inputs and sources."""
    path = folder / f"static/{request_id}-report.csv"
    text = path.read_text("utf-8").replace(request_id, "ID")
    lines = list(csv.DictReader(text.splitlines()))
    assert all(line.pop("attempts") for line in lines)
    return lines


def _cancelled(slot: Slot, request_id: str) -> Result:
    """Return what a cancelled request must come to, its own choice of images granted."""
    rows = slot.query(
        "select n, row, position, state from images where request_id = %s order by n",
        request_id,
    )
    cancelled = {row["n"] for row in rows if row["state"] == "cancelled"}
    lost = ("cancelled", "cancelled", *[None] * 8)
    images = tuple(
        (image[0], *lost) if image[0] in cancelled else image
        for image in slot.undisturbed.plain.images
    )
    lines = list(csv.reader(slot.undisturbed.plain.output_csv.decode().splitlines()))
    for row in rows:
        if row["n"] in cancelled:
            slots = lines[row["row"]][-1].split(",")
            slots[row["position"] - 1] = ""
            lines[row["row"]][-1] = ",".join(slots)
    return Result("cancelled", _written(lines), images)


def snapshot(slot: Slot, request_id: str) -> dict[str, Any]:
    """Return everything that a late finisher could change."""
    tables = {"requests": "id", "images": "request_id", "image_links": "request_id"}
    state: dict[str, Any] = {
        table: slot.query(f"select * from {table} where {key} = %s order by 1, 2", request_id)  # noqa: S608
        for table, key in tables.items()
    }
    state["webhooks"] = slot.query(
        "select id, body, state, attempts from webhooks where request_id = %s", request_id
    )
    files = [p for p in slot.folder.glob(f"*/{request_id}*") if p.is_file()]
    files += slot.folder.glob(f"uploads/{request_id}/*")
    state |= {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    return state


def _written(lines: list[list[str]]) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\r\n").writerows(lines)
    return sink.getvalue().encode()
