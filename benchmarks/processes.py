"""What benchmarks share: the service's commands as processes, their CPU time, median and range."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
START_SECONDS: Final = 60
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    says: str,
    *,
    cores: set[int] | None = None,
    **settings: str,
) -> Iterator[tuple[int, re.Match[str]]]:
    """Run a Python command of the project's until the block ends; yield its pid and its first word.

    It has begun once it prints what matches `says`. `cores` are those that it may use.
    """
    log = folder / f"{Path(command[0]).stem}-{time.monotonic_ns()}.log"
    environment = {"PATH": os.environ["PATH"], "STORAGE_URL": f"file:{folder}", "PORT": "0"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / command[0]), *command[1:]],
            cwd=folder,
            env=environment | settings,
            stdout=output,
            stderr=output,
        )
    try:
        if cores:  # at once, while it has one thread: all others inherit it
            os.sched_setaffinity(process.pid, cores)
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(says, log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield process.pid, found
    finally:
        process.terminate()
        process.wait()


def postgres_pid(directory: Path) -> int:
    """Return the process of the embedded PostgreSQL over a directory."""
    return int((directory / "data" / "postmaster.pid").read_text().split("\n")[0])


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its children, those that ended included."""
    total = 0.0
    with suppress(FileNotFoundError, ProcessLookupError):  # it ended: its parent has its time
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += cpu_seconds(int(child))
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(ticks) for ticks in stat[11:15]) / _TICKS
    return total


def spread(values: list[float], digits: int = 0) -> str:
    """Return median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
