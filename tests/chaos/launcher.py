"""Starts a command of the service whose calls are watched, to be struck at a named point.

    launcher.py server.py [--no-worker]
    launcher.py image_processor.py

`CHAOS_ARM` is a path. Once a file lies there, the call of a point that it names sends a signal to
this very process, or to the one that it names. The product knows nothing of it.

    {"point": "staged", "call": 2, "signal": 9, "pid": 0}

Before the signal the file is renamed to `….struck`. `CHAOS_JOURNAL` gets a line for each image
that ended here and each finish that was made or lost.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # where the modules lie

from database_helper import Database  # noqa: E402  # found by the line above
from decoder.decoder_handle import Decoder  # noqa: E402
from tests.chaos.points import POINTS, Moment, Point  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from database_helper import Cursor

DECODER: Final = -1  # as a pid: that of the decoder whose call it is


class Striker:
    """Counts the calls of the point that is armed, and strikes at the one that is meant."""

    def __init__(self, arm: Path) -> None:
        self._arm = arm
        self._struck = arm.with_suffix(".struck")
        self._calls = 0
        self._lock = threading.Lock()

    def pass_by(self, name: str, args: tuple[Any, ...]) -> None:
        """Tell of a point that is reached; the process may not survive it."""
        with self._lock, suppress(FileNotFoundError):
            order = json.loads(self._arm.read_text())
            if order["point"] != name or not POINTS[name].counts(*args):
                return
            self._calls += 1
            if self._calls == order["call"]:
                self._calls = 0
                self._arm.rename(self._struck)
                self._strike(order["pid"], order["signal"], args)

    def _strike(self, pid: int, number: int, args: tuple[Any, ...]) -> None:
        if not pid:  # this very thread, or it could go on until another one has taken the signal
            signal.pthread_kill(threading.get_ident(), number)
        elif pid == DECODER:
            decoder = args[0]
            assert isinstance(decoder, Decoder)
            os.kill(decoder._process.pid, number)
        else:
            os.kill(pid, number)


class Commits(threading.local):
    """The points whose calls this thread's transaction has made."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []


def watch(striker: Striker) -> None:
    """Wrap every point. Raises AttributeError where one is gone."""
    commits = Commits()
    for name, point in POINTS.items():
        if point.moment in {Moment.ENTRY, Moment.EXIT}:
            hook = functools.partial(striker.pass_by, name)
        else:
            hook = functools.partial(_note_call, commits, name)
        _wrap(point, hook)
    _watch_commits(striker, commits)


def _note_call(commits: Commits, name: str, args: tuple[Any, ...]) -> None:
    commits.calls.append((name, args))


def _wrap(point: Point, hook: Callable[[tuple[Any, ...]], None]) -> None:
    function = look_up(point.place)

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if point.moment is not Moment.EXIT:
            hook(args)
        result = function(*args, **kwargs)
        if point.moment is Moment.EXIT:
            hook(args)
        return result

    assert not inspect.iscoroutinefunction(function), point.place
    _put(point.place, watched)


def _watch_commits(striker: Striker, commits: Commits) -> None:
    original = Database.transaction

    @contextmanager
    def transaction(self: Database, *args: Any, **kwargs: Any) -> Iterator[Cursor]:
        commits.calls = []
        with original(self, *args, **kwargs) as cursor:
            yield cursor
            _strike(striker, commits, Moment.BEFORE_COMMIT)
        _strike(striker, commits, Moment.AFTER_COMMIT)

    _put("database_helper:Database.transaction", transaction)


def _strike(striker: Striker, commits: Commits, moment: Moment) -> None:
    for name, args in commits.calls:
        if POINTS[name].moment is moment:
            striker.pass_by(name, args)


def keep_journal(path: Path) -> None:
    """Write down which outcomes were accepted, and which finishes were lost."""
    journal = path.open("a", buffering=1)
    publish = look_up("image_pipeline:ImagePipeline.publish")
    finish = look_up("request_finisher:RequestFinisher._finish")
    finish_row = look_up("request_finisher:finish_request")
    made = threading.local()

    async def published(self: Any, outcome: Any, *, is_accepted: bool) -> None:
        await publish(self, outcome, is_accepted=is_accepted)
        image = {"n": outcome.n, "fence": outcome.fence, "is_accepted": is_accepted}
        journal.write(json.dumps({"request_id": outcome.request_id} | image) + "\n")

    def finished_row(*args: Any) -> Any:
        row = finish_row(*args)
        made.is_made = row is not None
        return row

    def finished(self: Any, request: dict[str, Any]) -> None:
        made.is_made = False
        try:
            finish(self, request)
        finally:
            line = {"request_id": request["id"], "n": 0, "fence": request["fence"]}
            journal.write(json.dumps(line | {"is_accepted": made.is_made}) + "\n")

    _put("image_pipeline:ImagePipeline.publish", published)
    _put("request_finisher:RequestFinisher._finish", finished)
    _put("request_finisher:finish_request", finished_row)


def look_up(place: str) -> Any:
    """Return what a name of the product stands for. Raises AttributeError when it is gone."""
    module, _, path = place.partition(":")
    return functools.reduce(getattr, path.split("."), importlib.import_module(module))


def _put(place: str, value: Any) -> None:
    holder, _, name = place.rpartition("." if "." in place else ":")
    setattr(look_up(holder) if ":" in holder else importlib.import_module(holder), name, value)


def main() -> None:
    """Wrap the points and run the command."""
    script = sys.argv[1]
    watch(Striker(Path(os.environ["CHAOS_ARM"])))
    keep_journal(Path(os.environ["CHAOS_JOURNAL"]))
    # Its own is longer than two tries at sending, which is not what is measured.
    place = "webhook_courier:WEBHOOK_LEASE_SECONDS"
    assert look_up(place)
    _put(place, float(os.environ["LEASE_SECONDS"]))
    sys.argv = sys.argv[1:]
    importlib.import_module(script.removesuffix(".py")).main()


if __name__ == "__main__":
    main()
