"""A bucket for tests: moto's S3 server, on loopback, in a process of its own that may go away.

    with Bucket() as bucket:
        with Service(folder, database, **bucket.settings): ...
        assert bucket.keys() == [...]
        bucket.stop()   # and start(): empty, on the same port

`calls` counts the requests that it was sent, as method and what they are about.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import obstore
import requests
from obstore.store import S3Store

from tests.waiting import wait_until

if TYPE_CHECKING:
    from obstore import ObjectMeta

NAME: Final = "shop"
_PLACE: Final = (
    "<CreateBucketConfiguration><LocationConstraint>eu-central-1</LocationConstraint>"
    "</CreateBucketConfiguration>"
)
_READABLE: Final = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": "*",
            "Action": ["s3:GetObject", "s3:HeadObject"],  # the latter is moto's own
            "Resource": f"arn:aws:s3:::{NAME}/*",
        }
    ],
}
_LISTENS: Final = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")
_CALL: Final = re.compile(r'"\S*?(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1')


class Bucket:
    """An S3 server with one bucket; `settings` are what the service needs of the environment."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory()
        self.log = Path(self._folder.name, "log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    @property
    def endpoint(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """What a client finds in the environment."""
        return {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a service whose files are here, below a prefix."""
        return self.variables | {"STORAGE_URL": f"s3://{NAME}/of/ours"}

    def start(self) -> None:
        """Start the server with an empty bucket; again, on the port that it had."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers)

    def stop(self) -> None:
        """Kill the server; what it had is gone."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.forget_calls()

    def send(self, number: int) -> None:
        """Send the server a signal: SIGSTOP makes it hang, SIGCONT go on."""
        assert self._process
        self._process.send_signal(number)

    def open_to_all(self) -> None:
        """Let everybody read objects, without a signature."""
        answer = requests.put(f"{self.endpoint}/{NAME}?policy", json=_READABLE, timeout=10)
        assert answer.ok, answer.text

    def forget_calls(self) -> None:
        """Count anew."""
        os.truncate(self.log, 0)

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log.read_text()
        if listens := _LISTENS.search(self.log.read_text()):
            self.port = int(listens[1])
            with suppress(requests.ConnectionError):
                return requests.put(f"{self.endpoint}/{NAME}", data=_PLACE, timeout=10).ok
        return False

    def objects(self, prefix: str = "of/ours/") -> dict[str, ObjectMeta]:
        """Return what lies below a prefix, by the keys after it, without the mark of the store."""
        pages = obstore.list(self.client(), prefix or None)
        found = {meta["path"].removeprefix(prefix): meta for page in pages for meta in page}
        found.pop("static/.ready", None)
        return found

    def client(self) -> S3Store:
        """Return a client of the whole bucket."""
        return S3Store(
            NAME,
            config={
                "access_key_id": "key",
                "secret_access_key": "secret",
                "region": "eu-central-1",
                "endpoint": self.endpoint,
            },
            client_options={"allow_http": True},
        )

    @property
    def calls(self) -> Counter[str]:
        """How many requests there were since the start, by method and what they are for."""
        return Counter(f"{m} {_about(path)}" for m, path in _CALL.findall(self.log.read_text()))


def _about(path: str) -> str:
    if "?delete" in path:
        return "delete"
    if "list-type" in path:
        return "list"
    key = path.partition("?")[0].partition(f"/{NAME}/of/ours/")[2]
    return "staged" if ".staged" in key else key.partition("/")[0]
