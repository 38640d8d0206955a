"""The sides of `peers.py`: the whole service and the programs beside it, each does a job.

A program is given its job as a JSON file, says `Done` and stays until its input ends, so that its
processor time can be read. It is measured from the first image that it asks for: its start
and its imports don't count. The service is measured from the first byte of the upload.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import requests

from benchmarks.processes import (
    ROOT,
    MemoryWatch,
    cpu_seconds,
    memory_bytes,
    own_cpu_seconds,
    postgres_pid,
    running,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE: Final = ROOT / "benchmarks"
IMG2DATASET_PYTHON: Final = ROOT / ".venv" / "img2dataset" / "bin" / "python"
_POLL_SECONDS: Final = 0.5  # of a status, which costs the service something
_LOOK_SECONDS: Final = 0.005
_LONGEST_SECONDS: Final = 600.0
_WARM_UP_IMAGES: Final = 16


@dataclass(frozen=True, slots=True)
class Job:
    """Images to fetch from an origin, each under a URL of its own."""

    authority: str
    origin: int  # its process
    folder: Path  # that it serves
    photos: Sequence[str]  # names in it
    images: int

    def names(self) -> list[str]:
        """Return the photo of each image."""
        return [self.photos[number % len(self.photos)] for number in range(self.images)]

    def urls(self, job: str) -> list[str]:
        """Return where the images are, for a job of that name, which no URL had before."""
        return [
            f"http://{self.authority}/{job}/{number}/{name}"
            for number, name in enumerate(self.names())
        ]

    def files(self) -> list[str]:
        """Return the same images as files."""
        return [str(self.folder / name) for name in self.names()]


@dataclass(frozen=True, slots=True)
class Run:
    """What a side took for a job. `outputs` are in the order of the images, if they were kept."""

    images: int
    seconds: float
    started_seconds: float  # the same with the start of the side's program
    cpu_seconds: float  # of the side without PostgreSQL
    postgres_seconds: float
    peak_bytes: int  # likewise without
    postgres_peak_bytes: int
    output_bytes: int
    outputs: Sequence[bytes] = ()
    server_seconds: float = 0.0  # of `cpu_seconds`, those of the server's own process


class Side(Protocol):
    """Who does jobs."""

    label: str

    def run(self, job: Job, *, keeps: bool = False) -> Run:
        """Do a job and return what it took; `keeps` the outputs."""


@dataclass(slots=True)
class Program:
    """A peer or the floor: a command that takes a job as JSON."""

    label: str
    command: Sequence[str]
    settings: dict[str, Any] = field(default_factory=dict)  # of its job, on top of what is common
    share: int = 1  # it does one in so many images: whoever is that slow

    def run(self, job: Job, *, keeps: bool = False) -> Run:
        """Do a job; raises AssertionError if the program fails."""
        if not keeps:
            job = replace(job, images=max(1, job.images // self.share))
        with tempfile.TemporaryDirectory(prefix="peers-") as name:
            output = Path(name, "output")
            output.mkdir()
            began = job.folder / f"{secrets.token_hex(4)}.began"
            file = Path(name, "job.json")
            file.write_text(json.dumps(self._terms(job, began, output)))
            run = self._measured(file, began, job.images)
            paths = sorted(
                output.rglob(f"*.{self.settings.get('format', 'jpg')}"),
                key=lambda path: int(path.stem),
            )
            assert len(paths) == job.images, f"{self.label} made {len(paths)} of {job.images}"
            outputs = [path.read_bytes() for path in paths] if keeps else []
            return Run(*run, sum(path.stat().st_size for path in paths), outputs)

    def _terms(self, job: Job, began: Path, output: Path) -> dict[str, Any]:
        common: dict[str, Any] = {
            "urls": job.urls(began.stem),
            "files": job.files(),
            "began": str(began),
            "output": str(output),
            "format": "jpg",
            "max_side": None,
            "settings": {},
        }
        return common | self.settings

    def _measured(
        self, file: Path, began: Path, images: int
    ) -> tuple[int, float, float, float, float, int, int]:
        started = time.monotonic()
        with _started([*self.command, str(file)], file.with_suffix(".log")) as process:
            _wait_for(began, process)
            start, spent = time.monotonic(), cpu_seconds(process.pid)
            with MemoryWatch({"all": partial(memory_bytes, process.pid)}) as memory:
                _wait_for_word(process)
            end, spent = time.monotonic(), cpu_seconds(process.pid) - spent
            return images, end - start, end - started, spent, 0.0, memory.peak("all"), 0


@contextmanager
def _started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a session of its own until the block ends."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=HERE,
            start_new_session=True,  # a share of the processors like any other's
        ) as process,
    ):
        try:
            yield process
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # with all that it started
            sys.stderr.write(log.read_text()[-4000:])
            raise


def _wait_for(began: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not began.exists():
        assert process.poll() is None, "it ended before it began"
        assert time.monotonic() < deadline, "it did not begin"
        time.sleep(_LOOK_SECONDS)


def _wait_for_word(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    for line in process.stdout:
        if line == "Done\n":
            return
    raise AssertionError("it ended without being done")


@dataclass(slots=True)
class Service:
    """The whole service: server, worker, decoders and its embedded PostgreSQL."""

    label: str
    options: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, job: Job, *, keeps: bool = False) -> Run:
        """Upload a CSV of the images, and wait for the output CSV."""
        with tempfile.TemporaryDirectory(prefix="peers-") as name:
            folder = Path(name)
            with running(
                ["server.py"],
                folder,
                r"Listening on (\S+)",
                cores=None,
                ALLOWED_SOURCES=job.authority,
                **self.environment,
            ) as (pid, found):
                client = Client(found[1], self.options)
                warm = replace(job, images=_WARM_UP_IMAGES)
                client.finish(client.upload(warm))
                return self._measured(client, job, pid, folder, keeps=keeps)

    def _measured(self, client: Client, job: Job, pid: int, folder: Path, *, keeps: bool) -> Run:
        postgres = postgres_pid(folder / "postgres-data")
        before, postgres_before = cpu_seconds(pid), cpu_seconds(postgres)
        server_before = own_cpu_seconds(pid)
        looks = {
            "all": partial(memory_bytes, pid),
            "PostgreSQL": partial(memory_bytes, postgres),
        }
        with MemoryWatch(looks) as memory:
            start = time.time()
            status = client.finish(client.upload(job))
        postgres_spent = cpu_seconds(postgres) - postgres_before
        own = cpu_seconds(pid) - before - postgres_spent
        server_spent = own_cpu_seconds(pid) - server_before
        finished = datetime.fromisoformat(status["finished_at"]).timestamp()
        outputs = sorted(
            (folder / "uploads" / status["request_id"]).iterdir(),
            key=lambda path: int(path.stem.rpartition("-")[2]),
        )
        assert len(outputs) == job.images
        return Run(
            job.images,
            finished - start,
            finished - start,  # it is there already, whoever comes with a job
            own,
            postgres_spent,
            memory.peak("all", without="PostgreSQL"),
            memory.peak("PostgreSQL"),
            status["bytes_out"],
            [path.read_bytes() for path in outputs] if keeps else [],
            server_spent,
        )


class Client:
    """Uploads jobs to a service and waits for their output CSVs."""

    def __init__(self, url: str, options: dict[str, str]) -> None:
        self._url = url
        self._options = options
        self._session = requests.Session()
        self._session.trust_env = False

    def upload(self, job: Job) -> str:
        """Upload the CSV of a job and return the request's id."""
        lines = ["Serial Number,Product Name,Input Image Urls"]
        lines += [f"{n},P{n},{url}" for n, url in enumerate(job.urls(secrets.token_hex(4)), 1)]
        answer = self._session.post(
            f"{self._url}/upload",
            data="\r\n".join([*lines, ""]).encode(),
            headers={"Content-Type": "text/csv"},
            # What no photo shows and no run before had, so that nothing is reused.
            params=self._options | {"background": f"#{secrets.token_hex(3)}"},
            timeout=60,
        )
        assert answer.status_code == 202, answer.text
        request_id: str = answer.json()["request_id"]
        return request_id

    def finish(self, request_id: str) -> dict[str, Any]:
        """Return the last status, once the output CSV is there and every image in it."""
        deadline = time.monotonic() + _LONGEST_SECONDS
        while True:
            status: dict[str, Any] = self._get(f"/status/{request_id}").json()
            if status["finished_at"]:
                break
            assert time.monotonic() < deadline, status
            time.sleep(_POLL_SECONDS)
        assert status["status"] == "completed", status
        output = self._get(f"/static/{request_id}.csv").content
        assert output.count(b"/uploads/") == status["progress"]["total"]
        return status

    def _get(self, path: str) -> requests.Response:
        answer = self._session.get(self._url + path, timeout=60)
        answer.raise_for_status()
        return answer
