"""What benchmarks share: the service's commands as processes, their CPU time, median and range."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
START_SECONDS: Final = 60
MEMORY_SECONDS: Final = 0.5  # between two looks at memory
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
            start_new_session=True,  # a share of the processors of its own, like any other command
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


def children(pid: int) -> list[int]:
    """Return the processes that a process started and that still run."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its children, those that ended included."""
    total = sum(cpu_seconds(child) for child in children(pid))
    with suppress(FileNotFoundError, ProcessLookupError):  # it ended: its parent has its time
        total += sum(stat_seconds(Path(f"/proc/{pid}")))
    return total


def own_cpu_seconds(pid: int) -> float:
    """Return the processor time of a process alone."""
    return sum(stat_seconds(Path(f"/proc/{pid}"))[:2])


def stat_seconds(task: Path) -> list[float]:
    """Return the processor time of a process or thread by its folder in /proc.

    In its own code, in the kernel, and both of its children that ended.
    """
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return [int(ticks) / _TICKS for ticks in fields[11:15]]


def memory_bytes(pid: int) -> int:
    """Return the memory of a process and its children."""
    return own_memory_bytes(pid) + sum(memory_bytes(child) for child in children(pid))


def own_memory_bytes(pid: int) -> int:
    """Return the memory of a process; what several share is divided among them (PSS).

    Where the system doesn't let us see that, all that it has (RSS).
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            shared = re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)
            return int(shared[1]) * 1024 if shared else 0
        except PermissionError:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    return _status_mib(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """Return the peak resident memory of a process since `reset_peak`, in MiB."""
    return _status_mib(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Start the peak anew at what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_mib(pid: int, name: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s+([0-9]+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1024


class Companion:
    """Does something in a thread while the block lasts."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        """Do it until `_ended` is set."""
        raise NotImplementedError


class MemoryWatch(Companion):
    """Looks at what functions return, as `memory_bytes`, twice a second while the block lasts."""

    def __init__(self, looks: Mapping[str, Callable[[], int]]) -> None:
        super().__init__()
        self._looks = looks
        self.samples: list[dict[str, int]] = []  # bytes by name, at least one sample

    def peak(self, name: str, *, without: str = "") -> int:
        """Return the most bytes, without those of another group of processes inside."""
        return max(sample[name] - sample.get(without, 0) for sample in self.samples)

    def _run(self) -> None:
        while True:
            self.samples.append({name: look() for name, look in self._looks.items()})
            if self._ended.wait(MEMORY_SECONDS):
                return


def spread(values: list[float], digits: int = 0) -> str:
    """Return median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
