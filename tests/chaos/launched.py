"""The service's commands as chaos starts them: watched, armed, killed, and looked after."""

from __future__ import annotations

import itertools
import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.chaos.points import POINTS
from tests.service import ROOT, Command, Service, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from database_helper import Database

PATIENCE_SECONDS: Final = 60.0  # for anything: what takes longer never comes
LAUNCHER: Final = ROOT / "tests/chaos/launcher.py"
_SERIAL: Final = itertools.count(1)


class HarnessError(Exception):
    """Chaos itself failed: what was to be struck was not."""


class Launched(Command):
    """A command with its points watched."""

    def launch(self) -> None:
        """Have it started by the launcher, with a log, an arm and a journal of its own."""
        script = self._command[1].rpartition("/")[2]
        stem = self.folder / f"{script.removesuffix('.py')}-{next(_SERIAL)}"
        self.log = stem.with_suffix(".log")
        self.arm_file = stem.with_suffix(".arm")
        self.journal = stem.with_suffix(".journal")
        self._command[1:2] = [str(LAUNCHER), script]
        self._environment |= {"CHAOS_ARM": str(self.arm_file), "CHAOS_JOURNAL": str(self.journal)}

    def arm(self, point: str, call: int = 1, number: int = signal.SIGKILL, pid: int = 0) -> None:
        """Have the `call`-th call of a point from now on send a signal, to itself by default."""
        assert point in POINTS
        order = {"point": point, "call": call, "signal": int(number), "pid": pid}
        fresh = self.arm_file.with_suffix(".fresh")
        fresh.write_text(json.dumps(order))
        fresh.rename(self.arm_file)

    @property
    def is_struck(self) -> bool:
        """Whether the call that was meant has come."""
        return self.arm_file.with_suffix(".struck").exists()

    def wait_struck(self) -> None:
        """Wait until the point has struck. Raises HarnessError when it doesn't."""
        wait_until(lambda: self.is_struck, lambda: f"{self.arm_file.name} never struck")
        self.arm_file.with_suffix(".struck").unlink()

    def wait_killed(self) -> None:
        """Wait for the end by SIGKILL. Raises HarnessError when it ended otherwise."""
        code = self.process.wait(PATIENCE_SECONDS)
        if code != -signal.SIGKILL:
            raise HarnessError(f"ended by itself with {code}:\n{self.log.read_text()[-2000:]}")

    def entries(self) -> list[dict[str, Any]]:
        """Return what its journal has."""
        return [json.loads(line) for line in self.journal.read_text().splitlines()]


class LaunchedWorker(Launched, Worker):
    """`image_processor.py`, watched."""

    def __init__(self, folder: Path, database: Database, **settings: str) -> None:
        super().__init__(folder, database, **settings)
        self.launch()


class LaunchedServer(Launched, Service):
    """`server.py`, watched."""

    def __init__(
        self, folder: Path, database: Database | None, *arguments: str, **settings: str
    ) -> None:
        super().__init__(folder, database, *arguments, **settings)
        self.launch()


def wait_until(
    is_met: Callable[[], Any], complaint: Callable[[], str], seconds: float = PATIENCE_SECONDS
) -> None:
    """Wait until a condition is met. Raises HarnessError when it never is."""
    deadline = time.monotonic() + seconds
    while not is_met():
        if time.monotonic() > deadline:
            raise HarnessError(complaint())
        time.sleep(0.03)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def program(pid: int) -> str:
    """Return a process's command line."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes().replace(b"\0", b" ").decode() if path.exists() else ""
