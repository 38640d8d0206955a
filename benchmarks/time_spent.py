"""Where the processor's time of an image goes: by process, and by thread of the server's.

    .venv/bin/python benchmarks/time_spent.py [FOLDER] [--images N] [--rounds N]

The whole service works photos of a folder off, else drawn ones; after it has warmed up, the
kernel tells the time of each thread and py-spy its name. One more run, which isn't counted, has
py-spy look at the server 500 times a second: in which modules a thread was found that held
Python's lock, by its innermost function.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.peers_sides import Client, Job  # noqa: E402  # the path is set first
from benchmarks.photos import take_photos  # noqa: E402  # likewise
from benchmarks.processes import (  # noqa: E402  # likewise
    children,
    cpu_seconds,
    postgres_pid,
    running,
    spread,
    stat_seconds,
)
from command_help import HelpFormatter  # noqa: E402

_PY_SPY: Final = str(Path(sys.executable).with_name("py-spy"))
_SAMPLES_A_SECOND: Final = 500
_MOST_MODULES: Final = 15
_Spent = dict[str, tuple[float, float]]  # milliseconds by part, and of them those in the kernel


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of JPEGs")
    parser.add_argument("--max-megapixels", type=float, default=6.0, help="leave out larger photos")
    parser.add_argument("--images", type=int, default=800, help="of a job")
    parser.add_argument("--rounds", type=int, default=5, help="of the job")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="time-") as name:
        folder = Path(name)
        photos = take_photos(arguments.folder, folder, most_megapixels=arguments.max_megapixels)
        with running(["benchmarks/origin.py"], folder, r"Serving on (\S+)") as (origin_pid, serves):
            job = Job(serves[1], origin_pid, folder, photos, arguments.images)
            server = running(
                ["server.py"],
                folder,
                r"Listening on (\S+)",
                ALLOWED_SOURCES=job.authority,
                HOST_CONCURRENCY="32",
            )
            with server as (pid, found):
                _measure(pid, Client(found[1], {"quality": "75"}), job, arguments.rounds)


def _measure(server: int, client: Client, job: Job, rounds: int) -> None:
    client.finish(client.upload(job))
    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(rounds):
        before = _spent(server, job.folder)
        client.finish(client.upload(job))
        for part, (total, kernel) in _spent(server, job.folder).items():
            earlier = before.get(part, (0.0, 0.0))
            figures = (total - earlier[0]) / job.images, (kernel - earlier[1]) / job.images
            spent[part].append(figures)
    print("| part | ms an image | of it in the kernel |\n| --- | ---: | ---: |")
    for part, rows in sorted(
        spent.items(), key=lambda row: -statistics.median(total for total, _ in row[1])
    ):
        totals, kernels = zip(*rows, strict=True)
        print(f"| {part} | {spread(list(totals), 2)} | {spread(list(kernels), 2)} |")
    print(_modules(server, client, job), flush=True)


def _spent(server: int, folder: Path) -> _Spent:
    """Return what each part has taken so far."""
    threads = json.loads(subprocess.check_output([_PY_SPY, "dump", "--json", "--pid", str(server)]))
    names = {thread["os_thread_id"]: thread["thread_name"] or "" for thread in threads}
    spent: dict[str, float] = defaultdict(float)
    kernel: dict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{server}/task").iterdir():
        name = re.sub(r"[-_ ]?\d+$", "", names.get(int(task.name), "")) or "others"
        spent[f"server: {name}"] += float((task / "schedstat").read_text().split()[0]) / 1e6
        kernel[f"server: {name}"] += 1000 * stat_seconds(task)[1]
    postgres = postgres_pid(folder / "postgres-data")
    for part, pids in (
        ("PostgreSQL", [postgres]),
        ("decoders", [child for child in children(server) if child != postgres]),
    ):
        spent[part] = 1000 * sum(map(cpu_seconds, pids))
    return {part: (spent[part], kernel[part]) for part in spent}


def _modules(server: int, client: Client, job: Job) -> str:
    """Return the modules in which threads of the server had Python's lock, as Markdown."""
    output = job.folder / "stacks"
    record = [_PY_SPY, "record", "--format", "raw", "--rate", str(_SAMPLES_A_SECOND)]
    with subprocess.Popen(
        [*record, "--gil", "--duration", "600", "--output", output, "--pid", str(server)],
        stdout=subprocess.DEVNULL,
    ) as spy:
        client.finish(client.upload(job))
        spy.send_signal(signal.SIGINT)
    found: Counter[str] = Counter()
    for line in output.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        innermost = stack.rpartition(";")[2]
        found[innermost.rpartition("(")[2].rpartition(":")[0]] += int(count)
    lines = ["\n| module that has the lock | of the samples |", "| --- | ---: |"]
    for module, samples in found.most_common(_MOST_MODULES):
        lines.append(f"| `{module}` | {samples / found.total():.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
