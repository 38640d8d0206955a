"""Workers that are stopped past their lease, and what becomes of their late finish: nothing.

The points at which they are stopped are those of `points`.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

from tests.chaos.audit import find_violations, read_result
from tests.chaos.launched import HarnessError, wait_until
from tests.chaos.points import POINTS
from tests.chaos.verdict import find_traces, snapshot
from tests.images import photo, saved

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from tests.chaos.launched import LaunchedWorker
    from tests.chaos.slot import Slot

LATE: Final = "a late finish changed something"
OF_IMAGES: Final = ("download", "decode", "staged", "record before commit")
STOPS: Final = (*OF_IMAGES, "finish taken", "CSVs staged", "CSVs moved")


def stop_worker(slot: Slot, chance: random.Random, point: str) -> list[str]:
    """Stop a worker at a point, let another finish its work, and let it go on.

    The origin serves other bytes at the second time, so that whatever the late one changes is
    seen. Raises HarnessError unless everything that it held was refused.
    """
    slot.serve_twice(_photos(0), _photos(180))
    late = slot.worker
    late.arm(point, chance.randint(1, POINTS[point].calls), signal.SIGSTOP)
    fields = slot.new_fields()
    request_id = slot.upload(fields)
    late.wait_struck()
    held = _held(slot, request_id)
    if point not in OF_IMAGES and chance.random() < 0.5:
        answer = slot.server.request("POST", f"/status/{request_id}/retry")
        assert answer.status_code == 202, answer.text
    slot.start_worker()
    try:
        slot.recover(request_id)
        before = snapshot(slot, request_id)
        os.kill(late.process.pid, signal.SIGCONT)
        _wait_refused(late, request_id, held)
        code = late.stop()
    finally:
        late.process.kill()
        late.process.wait()
    found = [] if code == 0 else [f"the late worker ended with {code}"]
    after = snapshot(slot, request_id)
    found += [
        f"{LATE}: {name}" for name in after.keys() | before if after.get(name) != before.get(name)
    ]
    slot.serve_images()
    as_it_is = read_result(slot.database, slot.folder, request_id)
    found += find_violations(slot.database, slot.folder, request_id, as_it_is)  # counters and files
    return found + find_traces(slot, request_id)


def _held(slot: Slot, request_id: str) -> set[tuple[int, int]]:
    """Return n and fence of what the only worker has taken: images, or with n 0 the finish."""
    running = "select n, fence from images where request_id = %s and state = 'running'"
    images = {(row["n"], row["fence"]) for row in slot.query(running, request_id)}
    request = slot.request_row(request_id)
    return images or {(0, request["fence"])}


def _wait_refused(late: LaunchedWorker, request_id: str, held: set[tuple[int, int]]) -> None:
    def said() -> dict[tuple[int, int], bool]:
        return {
            (entry["n"], entry["fence"]): entry["is_accepted"]
            for entry in late.entries()
            if entry["request_id"] == request_id
        }

    wait_until(lambda: said().keys() >= held, lambda: f"{late.log}: {held} but {said()}")
    accepted = [image for image in held if said()[image]]
    if accepted:
        raise HarnessError(f"accepted although late: {accepted}")


def _photos(angle: int) -> Iterator[bytes]:
    n = 0
    while True:
        n += 1
        yield saved(
            photo(320, 240).rotate(angle).crop((0, 0, 150 + 9 * n, 140)), "JPEG", quality=95
        )
