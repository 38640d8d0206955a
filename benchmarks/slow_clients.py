"""`/status` of the whole service, idle and then beside slow connections, in one run.

    .venv/bin/python benchmarks/slow_clients.py [--connections N] [--seconds N]

A fifth of the slow connections each: say nothing; send headers, or an upload's body, a byte a
second; read an image a byte a second; ask for an image, read nothing and are gone, and back, before
long. Whichever is closed comes back at once. Meanwhile a small CSV is uploaded each second; every
one has to be accepted, and all its images to succeed. Reported: how long a status takes over a kept
connection and over a fresh one, and the server's memory.
"""

from __future__ import annotations

import argparse
import functools
import http.client
import http.server
import multiprocessing
import select
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import requests
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.processes import Companion, resident_mib, running  # noqa: E402  # the path is first
from command_help import HelpFormatter  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.synchronize import Event

TICK_SECONDS: Final = 1.0  # between two bytes of a slow connection
LEAVER_TICKS: Final = 4  # until one that reads nothing comes anew
FINISH_SECONDS: Final = 60.0
FRESH_TO_KEPT: Final = 2  # statuses over the kept connection for each over a fresh one
_HOST: Final = "Host: {host}\r\n"
KINDS: Final = {
    "silent": "",
    "headers": f"GET / HTTP/1.1\r\n{_HOST}X-Padding: ",
    "body": f"POST /upload HTTP/1.1\r\n{_HOST}Content-Type: text/csv\r\n"
    "Content-Length: 1000000\r\n\r\n",
    "reader": f"GET {{image}} HTTP/1.1\r\n{_HOST}\r\n",
    "leaver": f"GET {{image}} HTTP/1.1\r\n{_HOST}\r\n",
}


class Target(NamedTuple):
    """The service, and what of it is asked for."""

    url: str
    status: str
    image: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)


class SlowConnection:
    """One slow client of a kind."""

    def __init__(self, kind: str, target: Target) -> None:
        self.kind = kind
        self._target = target
        self.connect()

    def connect(self) -> None:
        """Connect, and send at once what the kind begins with."""
        host = "{}:{}".format(*self._target.address)
        self.ticks = 0
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(self._target.address)
        self.socket.sendall(KINDS[self.kind].format(host=host, image=self._target.image).encode())
        self.socket.settimeout(0)

    def tick(self) -> bool:
        """Send or read a byte; tell whether the connection is still there."""
        self.ticks += 1
        try:
            if self.kind in {"headers", "body"}:
                self.socket.send(b"x")
            elif self.kind == "reader":
                return bool(self.socket.recv(1))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return not self.has_left

    @property
    def has_left(self) -> bool:
        """Whether the client itself has had enough."""
        return self.kind == "leaver" and self.ticks >= LEAVER_TICKS


class SlowConnections:
    """So many slow connections, kinds in turn; `came_back` counts how often they were closed."""

    def __init__(self, count: int, target: Target) -> None:
        self.came_back: Counter[str] = Counter()
        self._poll = select.poll()
        self._by_number: dict[int, SlowConnection] = {}
        for n in range(count):
            self._watch(SlowConnection(list(KINDS)[n % len(KINDS)], target))

    def _watch(self, connection: SlowConnection) -> None:
        self._by_number[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, select.POLLRDHUP)

    def _come_back(self, number: int) -> None:
        connection = self._by_number.pop(number)
        self._poll.unregister(number)
        connection.socket.close()
        if not connection.has_left:
            self.came_back[connection.kind] += 1
        connection.connect()
        self._watch(connection)

    def go_on(self, until: float) -> None:
        """Do a tick, then see to those that are closed until it is time for the next."""
        for number, connection in list(self._by_number.items()):
            if not connection.tick():
                self._come_back(number)
        while (left := until - time.monotonic()) > 0:
            for number, _ in self._poll.poll(left * 1000):
                self._come_back(number)


def be_slow(count: int, target: Target, begun: Event, stop: Event, results: Any) -> None:
    """Hold slow connections until told to stop; put how many came back into `results`."""
    connections = SlowConnections(count, target)
    begun.set()
    while not stop.is_set():
        connections.go_on(time.monotonic() + TICK_SECONDS)
    results.put(connections.came_back)


@contextmanager
def slow_connections(count: int, target: Target) -> Iterator[Counter[str]]:
    """Hold slow connections in a process of their own; yield their counts, full at the end."""
    context = multiprocessing.get_context("spawn")
    begun, stop, results = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=be_slow, args=(count, target, begun, stop, results))
    came_back: Counter[str] = Counter()
    process.start()
    try:
        assert begun.wait(FINISH_SECONDS)
        yield came_back
    finally:
        stop.set()
        came_back.update(results.get(timeout=FINISH_SECONDS))
        process.join()


class Uploads(Companion):
    """Uploads a small CSV each second while the block runs, then waits for the end of each."""

    def __init__(self, url: str, csv: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.problems: Counter[str] = Counter()
        self._url = url
        self._csv = csv

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for url in self.urls:
            status = finish(url)
            if status != "completed":
                self.problems[status] += 1

    def _run(self) -> None:
        while not self._ended.wait(1):
            try:
                self.urls.append(upload(self._url, self._csv))
            except (AssertionError, requests.RequestException) as error:
                self.problems[str(error)] += 1


def upload(url: str, csv: str) -> str:
    """Upload a CSV over a connection of its own; return the URL of its status."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Content-Type": "text/csv"}
        answer = session.post(f"{url}/upload", data=csv, headers=headers, timeout=FINISH_SECONDS)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["status_url"])


def finish(status_url: str) -> str:
    """Wait until a request is finished, or for so long; return its status."""
    deadline = time.monotonic() + FINISH_SECONDS
    with requests.Session() as session:
        session.trust_env = False
        while True:
            status = session.get(status_url, timeout=FINISH_SECONDS).json()
            if status["finished_at"] or time.monotonic() > deadline:
                return str(status["status"])
            time.sleep(0.1)


def ask(target: Target, seconds: float) -> tuple[list[float], list[float]]:
    """Ask for a status again and again; return the seconds of each: kept connection, fresh one."""
    kept_times: list[float] = []
    fresh_times: list[float] = []
    kept = http.client.HTTPConnection(*target.address, timeout=FINISH_SECONDS)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        kept_times += [_time_of_one(kept, target) for _ in range(FRESH_TO_KEPT)]
        fresh = http.client.HTTPConnection(*target.address, timeout=FINISH_SECONDS)
        fresh_times.append(_time_of_one(fresh, target))
        fresh.close()
    kept.close()
    return kept_times, fresh_times


def _time_of_one(connection: http.client.HTTPConnection, target: Target) -> float:
    started = time.perf_counter()
    while True:
        try:
            connection.request("GET", target.status)
            answer = connection.getresponse()
            break
        except ConnectionError:  # as every client has to when a kept connection was closed
            connection.close()
    answer.read()
    assert answer.status == 200, answer.status
    return time.perf_counter() - started


@contextmanager
def origin(folder: Path) -> Iterator[str]:
    """Serve a large image and a small one; yield host and port."""
    Image.effect_noise((2400, 2400), 100).convert("RGB").save(folder / "large.jpg", quality=95)
    Image.effect_noise((64, 64), 100).convert("RGB").save(folder / "small.jpg", quality=95)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def csv_of(url: str) -> str:
    """Return a CSV with one image."""
    return f"Serial Number,Product Name,Input Image Urls\n1,Lamp,{url}\n"


def main() -> None:
    """Measure the idle service, then the same beside slow connections, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--connections", type=int, default=500, help="that are slow")
    parser.add_argument("--seconds", type=float, default=60, help="that they are held")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, origin(Path(name)) as source:
        says = r"Listening on (http://\S+)"
        with running(["server.py"], Path(name), says, ALLOWED_SOURCES=source) as (pid, found):
            measure(arguments, pid, found[1], f"http://{source}")


def measure(arguments: argparse.Namespace, pid: int, url: str, source: str) -> None:
    """Measure and print."""
    status_url = upload(url, csv_of(f"{source}/large.jpg"))
    assert finish(status_url) == "completed"
    request_id = status_url.rpartition("/")[2]
    image = f"/uploads/{request_id}/{request_id}-1.jpg"
    target = Target(url, urlsplit(status_url).path, image)
    ask(target, 2)  # to be warm
    idle, idle_memory = ask(target, arguments.seconds / 2), resident_mib(pid)
    with (
        slow_connections(arguments.connections, target) as came_back,
        Uploads(url, csv_of(f"{source}/small.jpg")) as uploads,
    ):
        slow, slow_memory = ask(target, arguments.seconds), resident_mib(pid)
    print(f"{arguments.connections} slow connections held for {arguments.seconds:.0f} s\n")
    print(f"{'status over':18} {'idle p50, p99':>18} {'slow p50, p99':>18} {'ratio p50, p99':>16}")
    for way, before, beside in zip(("a kept connection", "a fresh one"), idle, slow, strict=True):
        print_row(way, before, beside)
    print(f"\nuploads           {len(uploads.urls)} accepted; problems: {dict(uploads.problems)}")
    print(f"closed by us      {dict(came_back)}, all came back at once")
    print(f"server's memory   {idle_memory:.0f} MiB idle, {slow_memory:.0f} beside the slow ones")
    assert uploads.urls
    assert not uploads.problems


def print_row(way: str, idle: list[float], slow: list[float]) -> None:
    """Print medians and 99th percentiles of both in ms, and their ratios."""
    before, beside = percentiles(idle), percentiles(slow)
    ratios = [after / first for first, after in zip(before, beside, strict=True)]
    cells = [f"{1000 * a:.1f}, {1000 * b:.1f} ms" for a, b in (before, beside)]
    print(f"{way:18} {cells[0]:>18} {cells[1]:>18} {f'{ratios[0]:.1f}, {ratios[1]:.1f}':>16}")


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile."""
    return statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]


if __name__ == "__main__":
    main()
