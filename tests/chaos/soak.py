"""The service under load while its PostgreSQL goes away again and again.

    .venv/bin/python -m tests.chaos.soak [--minutes N] [--seed N]

One server with a worker and one worker alone over a PostgreSQL of their own, which is shut down or
killed every few seconds, sometimes for longer than a lease. Meanwhile clients upload the same few
CSVs; what each comes to undisturbed was noted before. At the end `audit` compares. Prints figures;
exits with 1 and the first violations if anything was lost, doubled or different.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import requests

from command_help import HelpFormatter
from database_helper import Database, DatabaseUnavailableError
from embedded_postgres import EmbeddedPostgres
from tests.chaos.audit import Result, find_leftovers, find_violations, read_result
from tests.images import photo, saved
from tests.origin import Origin
from tests.service import Command, Service, Worker, csv_of, resident_mib

LEASE_SECONDS: Final = 6
CLIENTS: Final = 4
OPEN_REQUESTS: Final = 12  # of one client at a time
CSVS: Final = 12
IMAGES: Final = 240
NEW_SHARE: Final = 0.5  # of the uploads: the others reuse what others have made
UP_SECONDS: Final = (5.0, 40.0)
AWAY_SECONDS: Final = (0.2, 6.0)
LONG_AWAY_SECONDS: Final = (1.5 * LEASE_SECONDS, 2.5 * LEASE_SECONDS)
LONG_AWAY_EVERY: Final = 3
FINISH_SECONDS: Final = 120.0  # for what is open when the load ends
PAUSE_SECONDS: Final = (0.1, 0.6)  # of a client between its calls
MOST_GROWTH_MIB: Final = 128.0  # of one process with its decoders; more is taken for a leak
SHOWN: Final = 20  # violations
REFUSALS: Final = {409, 429, 503}  # come again with the same key
WAYS: Final = {  # of PostgreSQL to end
    "fast shutdown": signal.SIGINT,
    "immediate shutdown": signal.SIGQUIT,
    "SIGKILL": signal.SIGKILL,
}
# Exceptions whose traceback may stand in the logs, with the reason.
KNOWN_TRACEBACKS: Final[tuple[str, ...]] = ()


@dataclass
class Figures:
    """What was seen, by all threads."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    refused_seconds: list[float] = field(default_factory=list)  # until a refused upload was taken
    stall_seconds: list[float] = field(default_factory=list)  # until work went on
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str, by: int = 1) -> None:
        """Add to a figure."""
        with self.lock:
            self.counts[name] += by

    def blame(self, violation: str) -> None:
        """Note a violation."""
        with self.lock:
            self.violations.append(violation)


class Unsteady:
    """A PostgreSQL that goes away and comes back under the same address."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = EmbeddedPostgres(directory)
        self.conninfo = self._server.start()

    def go_away(self, number: int) -> None:
        """End the server by a signal; return when its process has ended."""
        lines = (self._directory / "data" / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
        os.kill(pid, number)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    def come_back(self) -> None:
        """Start the server again; return when it takes connections."""
        self._server.ensure_running()

    def stop(self) -> None:
        """End the server for good."""
        self._server.stop()


class Client:
    """A shop's program: uploads, repeats what was refused, looks how its requests come on."""

    def __init__(self, url: str, csvs: list[str], figures: Figures, seed: int) -> None:
        self.accepted: dict[str, str] = {}  # CSV by request id
        self._url = url
        self._csvs = csvs
        self._figures = figures
        self._random = random.Random(seed)  # noqa: S311  # chaos that can be had again
        self._open: dict[str, int] = {}  # images done when last looked, by request id
        self._session = requests.Session()
        self._session.trust_env = False

    def run(self, stop: threading.Event) -> None:
        """Upload and look until told to stop."""
        try:
            while not stop.wait(self._random.uniform(*PAUSE_SECONDS)):
                if len(self._open) < OPEN_REQUESTS:
                    self._upload(self._random.choice(self._csvs))
                if self._open:
                    self._look(self._random.choice(list(self._open)))
        except Exception as error:  # noqa: BLE001  # a thread's end must not go unseen
            self._figures.blame(f"a client ended: {error!r}")

    def _upload(self, csv: str) -> None:
        """Upload until it is taken; a refused or lost one is repeated with the same key."""
        headers = {"Content-Type": "text/csv", "Idempotency-Key": f'"{uuid.uuid4()}"'}
        params = {}
        if self._random.random() < NEW_SHARE:  # what no image shows and no other upload has
            params["background"] = f"#{self._random.getrandbits(24):06x}"
        refused_at = None
        deadline = time.monotonic() + FINISH_SECONDS
        while time.monotonic() < deadline:
            answer = self._ask("POST", "/upload", data=csv.encode(), headers=headers, params=params)
            if answer is not None and answer.status_code == 202:
                request_id = answer.json()["request_id"]
                self.accepted[request_id] = csv
                self._open[request_id] = 0
                if refused_at is not None:
                    self._figures.count("uploads refused or lost, then taken")
                    self._figures.refused_seconds.append(time.monotonic() - refused_at)
                return
            refused_at = refused_at or time.monotonic()
            if answer is not None and answer.status_code not in REFUSALS:
                self._figures.blame(f"upload: {answer.status_code} {answer.text[:200]}")
                return
            time.sleep(self._random.uniform(0.5, 1.5))
        self._figures.blame(f"an upload was not taken within {FINISH_SECONDS:.0f} s")

    def _look(self, request_id: str) -> None:
        answer = self._ask("GET", f"/status/{request_id}")
        if answer is None or answer.status_code in REFUSALS:
            return
        if answer.status_code != 200:
            self._figures.blame(f"{request_id}: status {answer.status_code} {answer.text[:200]}")
            return
        status = answer.json()
        done = status["progress"]["done"]
        if done < self._open[request_id]:
            self._figures.blame(f"{request_id}: {done} done after {self._open[request_id]}")
        self._open[request_id] = done
        if status["finished_at"]:
            del self._open[request_id]

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response | None:
        """Return the answer, counted; None when there was none."""
        try:
            answer = self._session.request(method, self._url + path, timeout=60, **options)
        except (requests.ConnectionError, requests.Timeout):
            self._figures.count(f"{method} without an answer")
            return None
        self._figures.count(f"{method} answered {answer.status_code}")
        return answer


def make_csvs(origin: Origin, chance: random.Random) -> list[str]:
    """Serve images, and return CSVs that name them: some slow, some missing, some twice."""
    base = photo(320, 240)
    urls = []
    for n in range(IMAGES):
        width, height = chance.randrange(60, 320), chance.randrange(60, 240)
        tile = base.crop((320 - width, 240 - height, 320, 240)).rotate(90 * (n % 4), expand=True)
        body = saved(tile, "PNG") if n % 10 == 9 else saved(tile, "JPEG", quality=95)
        delay = chance.uniform(0.5, 4.0) if n % 12 == 0 else 0.0
        urls.append(origin.serve(f"/{n}.jpg", body, delay=delay))
    urls += [origin.url(f"/missing-{n}.jpg") for n in range(IMAGES // 20)]
    urls += ["nowhere", "ftp://127.0.0.1/a.jpg"]
    csvs = []
    for _ in range(CSVS):
        cells = [
            chance.sample(urls, chance.randrange(1, 5)) for _ in range(chance.randrange(1, 16))
        ]
        cells.append([cells[0][0], cells[0][0], chance.choice(urls)])
        csvs.append(csv_of(*(", ".join(cell) for cell in cells)))
    return csvs


def note_expectations(service: Service, csvs: list[str]) -> dict[str, Result]:
    """Run each CSV once, undisturbed; return what it came to."""
    assert service.database
    expected = {}
    for csv in csvs:
        request_id = service.run(csv)["request_id"]
        expected[csv] = read_result(service.database, service.folder, request_id)
    return expected


def disturb(
    postgres: Unsteady, database: Database, figures: Figures, chance: random.Random, seconds: float
) -> None:
    """Take PostgreSQL away and give it back, until the time is over and it is there."""
    deadline = time.monotonic() + seconds
    stalled_since = None
    for number in range(1, 1_000_000):
        next_end = min(deadline, time.monotonic() + chance.uniform(*UP_SECONDS))
        if _wait_for_progress(database, next_end) and stalled_since:
            figures.stall_seconds.append(time.monotonic() - stalled_since)
            stalled_since = None
        time.sleep(max(0.0, next_end - time.monotonic()))
        if time.monotonic() >= deadline:
            return
        way = chance.choice(list(WAYS))
        is_long = number % LONG_AWAY_EVERY == 0
        away = chance.uniform(*(LONG_AWAY_SECONDS if is_long else AWAY_SECONDS))
        figures.count(f"ends of PostgreSQL by {way}")
        figures.count("of these, away for longer than a lease", int(away > LEASE_SECONDS))
        print(
            f"{deadline - time.monotonic():4.0f} s left: {way}, away for {away:.1f} s", flush=True
        )
        postgres.go_away(WAYS[way])
        time.sleep(away)
        postgres.come_back()
        stalled_since = stalled_since or time.monotonic()


def _wait_for_progress(database: Database, deadline: float) -> bool:
    """Return True as soon as images have ended since the call; False at the deadline."""
    done = _count_done(database)
    while time.monotonic() < deadline:
        if _count_done(database) > done:
            return True
        time.sleep(0.1)
    return False


def _count_done(database: Database) -> int:
    with database.transaction() as cursor:
        cursor.execute("select sum(succeeded + failed + cancelled) as done from requests")
        row = cursor.fetchone()
        return int(row["done"] or 0) if row else 0


def wait_until_finished(database: Database) -> float:
    """Wait until no request is open, or the patience is over; return the seconds."""
    started = time.monotonic()
    while time.monotonic() < started + FINISH_SECONDS:
        try:
            with database.transaction() as cursor:
                cursor.execute("select 1 from requests where finished_at is null limit 1")
                if not cursor.fetchall():
                    break
        except DatabaseUnavailableError:  # a connection that died while it was idle
            continue
        time.sleep(0.2)
    return time.monotonic() - started


def family_mib(pid: int) -> float:
    """Return the resident memory of a process and its children, in MiB."""
    family = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        family += [int(child) for child in (task / "children").read_text().split()]
    return sum(map(resident_mib, family))


def find_tracebacks(log: Path) -> Counter[str]:
    """Return the exceptions whose tracebacks stand in a log, but for the known ones."""
    text = log.read_text().replace("\n  | ", "\n")  # service_log puts it before each further line
    blocks = re.findall(r"(?m)^Traceback .*\n(?:[ \t].*\n|\n)*(\S.*)", text)
    return Counter(
        block[:160]
        for block in blocks
        if not any(re.search(known, block) for known in KNOWN_TRACEBACKS)
    )


def soak(folder: Path, minutes: float, seed: int) -> Figures:
    """Run it all in `folder`; return the figures, violations included."""
    chance = random.Random(seed)  # noqa: S311  # chaos that can be had again
    figures = Figures()
    with ExitStack() as stack:
        postgres = Unsteady(folder / "postgres")
        stack.callback(postgres.stop)
        database = Database(postgres.conninfo)
        stack.callback(database.close)
        origin = stack.enter_context(Origin())
        settings = {
            "ALLOWED_SOURCES": origin.authority,
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "COMPRESS_PROCESSES": "1",
            "HOST_CONCURRENCY": "32",
        }
        service = stack.enter_context(Service(folder, database, **settings))
        worker = stack.enter_context(Worker(folder, database, **settings))
        csvs = make_csvs(origin, chance)
        expected = note_expectations(service, csvs)
        undisturbed = {row["id"] for row in service.query("select id from requests")}
        commands = {"server.py": service, "image_processor.py": worker}
        before = {name: family_mib(command.process.pid) for name, command in commands.items()}

        clients = [Client(service.url, csvs, figures, seed + n) for n in range(CLIENTS)]
        stop = threading.Event()
        threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
        for thread in threads:
            thread.start()
        disturb(postgres, database, figures, chance, minutes * 60)
        stop.set()
        for thread in threads:
            thread.join()

        last = wait_until_finished(database)
        for name, command in commands.items():
            _judge_process(name, command, before[name], figures)
        accepted = {id_: csv for client in clients for id_, csv in client.accepted.items()}
        for request_id, csv in accepted.items():
            figures.violations += find_violations(database, folder, request_id, expected[csv])
        figures.violations += find_leftovers(database, accepted.keys() | undisturbed)
        figures.count("requests", len(accepted))
        figures.count("images", sum(len(expected[csv].images) for csv in accepted.values()))
        figures.counts["seconds until the last was finished"] = round(last)
        staged = [path for path in folder.glob("uploads/.staged/*") if path.is_file()]
        figures.counts["files left in uploads/.staged"] = len(staged)
        complaints = re.findall(r"ERROR:  [^(\n]*", (folder / "postgres/postgres.log").read_text())
        for complaint, times in Counter(complaints).items():
            figures.counts[f"times PostgreSQL said {complaint[:120]}"] = times
    return figures


def _judge_process(name: str, command: Command, before: float, figures: Figures) -> None:
    """Look at a process's end, memory and log."""
    if command.process.poll() is not None:
        figures.blame(f"{name} ended with {command.process.returncode}")
        return
    after = family_mib(command.process.pid)
    print(f"{name}: {before:.0f} MiB at the start, {after:.0f} MiB at the end")
    if after - before > MOST_GROWTH_MIB:
        figures.blame(f"{name} grew by {after - before:.0f} MiB")
    for exception, times in find_tracebacks(command.log).items():
        figures.blame(f"{name} logged a traceback, {times} times: {exception}")


def report(figures: Figures) -> None:
    """Print the figures, and the first violations."""
    longest = max(figures.stall_seconds, default=0.0)
    if longest > 2 * LEASE_SECONDS:
        figures.blame(f"for {longest:.1f} s no image ended although PostgreSQL was back")
    for name, value in sorted(figures.counts.items()):
        print(f"{value:8,d} {name}")
    print(f"{longest:8.1f} s at most from PostgreSQL's return until an image ended")
    refused = max(figures.refused_seconds, default=0.0)
    print(f"{refused:8.1f} s at most until a refused upload was taken")
    print(f"{len(figures.violations):8d} violations")
    for violation in figures.violations[:SHOWN]:
        print(f"  {violation}")


def main() -> None:
    """Soak for the time asked for; keep the folder when something was violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of load")
    parser.add_argument(
        "--seed", type=int, default=time.time_ns() % 1_000_000, help="of what is left to chance"
    )
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.minutes:g} minutes", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    figures = soak(folder, arguments.minutes, arguments.seed)
    report(figures)
    if figures.violations:
        print(f"logs and files are in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
