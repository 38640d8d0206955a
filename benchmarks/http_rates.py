"""Reading over HTTP: idle, while every core compresses, and images beside nginx, in turn.

    setsid .venv/bin/python benchmarks/http_rates.py [--rounds N] [--seconds N]

wrk asks over one kept connection, and over 8, as fast as it is answered; without wrk or nginx
(Debian has both) what needs them is left out. A reader that asks 50 times a second, whether or not
it was answered, tells how long one client waits: idle, and while the service's own worker
compresses photos with a decoder on each core. Its times count from when a question was due. Rates,
by the processor time of server and PostgreSQL together, are those of one core. Five rounds take
five minutes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.photos import draw_photos  # noqa: E402  # the path is set first
from benchmarks.processes import (  # noqa: E402  # likewise
    cpu_seconds,
    own_cpu_seconds,
    postgres_pid,
    running,
    spread,
)
from benchmarks.workers import make_csv  # noqa: E402  # likewise
from command_help import HelpFormatter  # noqa: E402
from embedded_postgres import EmbeddedPostgres  # noqa: E402  # likewise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONNECTIONS: Final = (1, 8)
WATCH_FACTOR: Final = 4  # as long as a load lasts, as p99 needs many questions
READER_RATE: Final = 50  # questions a second
READ_IMAGE: Final = "image of 100 kB"
READ: Final = ("/status", "the page", READ_IMAGE)
READ_OF_NGINX: Final = f"{READ_IMAGE}, nginx"  # what the machine itself lets wait
KILOBYTES: Final = (20, 100, 300)
IMAGES: Final = 100_000  # more than a round compresses; the rest is cancelled
STEADY_IMAGES: Final = 50  # after which all decoders are at work
WAIT_SECONDS: Final = 120
SEARCHED: Final = f"{os.environ['PATH']}:/usr/sbin"  # where Debian puts nginx
_NGINX: Final = """
daemon off; {user} worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;
    client_body_temp_path {folder}/nginx-body; proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi; uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def make_images(folder: Path) -> dict[str, str]:
    """Put files of each size where the store has images; return their paths by name."""
    request_id = uuid.uuid4().hex
    (folder / "uploads" / request_id).mkdir(parents=True)
    paths = {}
    for n, kilobytes in enumerate(KILOBYTES, 1):
        path = f"uploads/{request_id}/{request_id}-{n}.jpg"
        (folder / path).write_bytes(random.Random(n).randbytes(kilobytes * 1000))  # noqa: S311
        paths[f"image of {kilobytes} kB"] = f"/{path}"
    return paths


def found_programs() -> set[str]:
    """Return which of the programs that we need beside ours are installed."""
    return {name for name in ("wrk", "nginx") if shutil.which(name, path=SEARCHED)}


@contextmanager
def nginx(folder: Path) -> Iterator[str | None]:
    """Serve the folder by nginx with one process; yield its URL, None when there is no nginx."""
    if "nginx" not in found_programs():
        yield None
        return
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""  # else it may not read the folder
    configuration = folder / "nginx.conf"
    configuration.write_text(_NGINX.format(user=user, folder=folder, port=port))
    process = subprocess.Popen(
        [
            shutil.which("nginx", path=SEARCHED) or "nginx",
            "-e",
            folder / "nginx.log",
            "-p",
            folder,
            "-c",
            configuration,
        ],
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def ask_all(url: str, seconds: float, connections: int) -> tuple[float, int]:
    """Have wrk ask as fast as it is answered; return the rate and how many answers there were."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", url]
    output = subprocess.run(
        command, check=True, capture_output=True, text=True, start_new_session=True
    ).stdout
    assert "Non-2xx" not in output, output
    assert "Socket errors" not in output, output
    rate = re.search(r"Requests/sec: +([0-9.]+)", output)
    count = re.search(r"([0-9]+) requests in", output)
    assert rate
    assert count
    return float(rate[1]), int(count[1])


def read(url: str, seconds: float) -> list[float]:
    """Ask READER_RATE times a second over one connection; return for how long each wait was."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=WAIT_SECONDS)
    waits = []
    begun = time.perf_counter()
    for n in range(round(seconds * READER_RATE)):
        due = begun + n / READER_RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        connection.request("GET", urlsplit(url).path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        waits.append(time.perf_counter() - due)
    connection.close()
    return waits


def read_apart(url: str, seconds: int) -> list[float]:
    """Do so in a process and session of its own, as a client on another machine would."""
    command = [sys.executable, __file__, "--read", url, "--seconds", str(seconds)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, start_new_session=True)
    return list(json.loads(output.stdout))


def quantile(values: list[float], part: float) -> float:
    """Return what a part of the values is not above."""
    return sorted(values)[int(part * (len(values) - 1))]


class Service:
    """The running service; `paths` are what is asked for, by name."""

    def __init__(
        self, url: str, pids: tuple[int, int], origin: str, images: dict[str, str]
    ) -> None:
        self.url = url
        self._pids = pids
        self._origin = origin
        self._session = requests.Session()
        self._session.trust_env = False
        self.paths = {"/status": "", "the page": "/"} | images
        self._upload(1)
        self._wait_until(lambda status: bool(status["finished_at"]))

    @contextmanager
    def compressing(self) -> Iterator[None]:
        """Have every decoder at work in the block, on the request whose status is asked for."""
        self._upload(IMAGES)
        self._wait_until(lambda status: status["progress"]["done"] >= STEADY_IMAGES)
        yield
        assert self._session.delete(self.url + self.paths["/status"]).status_code == 202
        self._wait_until(lambda status: bool(status["finished_at"]))

    def spent(self) -> tuple[float, float]:
        """Return the processor seconds of the server, without decoders, and of PostgreSQL."""
        server, postgres = self._pids
        return own_cpu_seconds(server), cpu_seconds(postgres)

    def status(self) -> dict[str, Any]:
        """Return the status of the newest request."""
        return dict(self._session.get(self.url + self.paths["/status"]).json())

    def _upload(self, images: int) -> None:
        answer = self._session.post(
            f"{self.url}/upload",
            data=make_csv(self._origin, images),
            headers={"Content-Type": "text/csv"},
            params={"background": f"#{secrets.token_hex(3)}"},  # so that nothing is reused
        )
        assert answer.status_code == 202, answer.text
        self.paths["/status"] = f"/status/{answer.json()['request_id']}"

    def _wait_until(self, is_so: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_so(self.status()):
            assert time.monotonic() < deadline
            time.sleep(0.2)


class Bench:
    """Measures, and keeps what was measured by what was asked for."""

    def __init__(self, service: Service, nginx_url: str | None, seconds: int) -> None:
        self._service = service
        self._nginx_url = nginx_url
        self._seconds = seconds
        self._figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def measure(self) -> None:
        """Ask for everything once, idle and then while all cores compress."""
        if "wrk" in found_programs():
            for name, connections in product(self._service.paths, CONNECTIONS):
                self._measure_rate(name, connections)
        idle = self._read()
        with self._service.compressing():
            done, begun = self._service.status()["progress"]["done"], time.monotonic()
            busy = self._read()
            rate = self._service.status()["progress"]["done"] - done
            self._figures["compressed meanwhile"]["images/s"].append(
                rate / (time.monotonic() - begun)
            )
            if "wrk" in found_programs():
                url = self._service.url + self._service.paths["/status"]
                rate, _ = ask_all(url, self._seconds, CONNECTIONS[-1])
                self._figures["/status"]["requests/s while compressing"].append(rate)
        for name in busy:
            figures = self._figures[name]
            for part, title in ((0.5, "p50"), (0.99, "p99")):
                times = [1000 * quantile(waits[name], part) for waits in (idle, busy)]
                figures[f"{title} idle, ms"].append(times[0])
                figures[f"{title} while compressing, ms"].append(times[1])
                figures[f"{title} while compressing / idle"].append(times[1] / times[0])

    def _measure_rate(self, name: str, connections: int) -> None:
        path = self._service.paths[name]
        figures = self._figures[f"{name}, connections: {connections}"]
        before = self._service.spent()
        rate, count = ask_all(self._service.url + path, self._seconds, connections)
        spent = [now - at for now, at in zip(self._service.spent(), before, strict=True)]
        figures["requests/s"].append(rate)
        figures["requests/s on one core"].append(count / sum(spent))
        figures["processor µs, server"].append(1e6 * spent[0] / count)
        figures["processor µs, PostgreSQL"].append(1e6 * spent[1] / count)
        if self._nginx_url and path.startswith("/uploads"):
            beside, _ = ask_all(self._nginx_url + path, self._seconds, connections)
            figures["nginx requests/s"].append(beside)
            figures["/ nginx"].append(rate / beside)

    def _read(self) -> dict[str, list[float]]:
        urls = {name: self._service.url + self._service.paths[name] for name in READ}
        if self._nginx_url:
            urls[READ_OF_NGINX] = self._nginx_url + self._service.paths[READ_IMAGE]
        seconds = WATCH_FACTOR * self._seconds
        return {name: read_apart(url, seconds) for name, url in urls.items()}

    def report(self) -> None:
        """Print medians and ranges."""
        for name, figures in self._figures.items():
            print(name)
            for title, values in figures.items():
                print(f"    {title:38}{spread(values, 0 if min(values) > 100 else 2)}")


def main() -> None:
    """Measure round by round and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of all loads")
    parser.add_argument("--seconds", type=int, default=1, help="of each load")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(arguments.read, arguments.seconds)))
        return
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        draw_photos(folder)
        images = make_images(folder)
        postgres = EmbeddedPostgres(folder / "postgres")
        conninfo = postgres.start()
        stack.callback(postgres.stop)
        _, origin = stack.enter_context(
            running(["benchmarks/origin.py"], folder, r"Serving on (\S+)")
        )
        server, found = stack.enter_context(
            running(
                ["server.py"],
                folder,
                r"Listening on (\S+)",
                DATABASE_URL=conninfo,
                ALLOWED_SOURCES=origin[1],
            )
        )
        pids = (server, postgres_pid(folder / "postgres"))
        service = Service(found[1], pids, origin[1], images)
        bench = Bench(service, stack.enter_context(nginx(folder)), arguments.seconds)
        for program in {"wrk", "nginx"} - found_programs():
            print(f"{program} is not installed: what needs it is left out")
        for _ in range(arguments.rounds):
            bench.measure()
        print(f"{arguments.rounds} rounds: median (range)")
        bench.report()


if __name__ == "__main__":
    main()
