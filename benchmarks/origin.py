"""The origin of benchmarks: a program that serves files, each answer after a wait.

    benchmarks/origin.py [--latency MILLISECONDS]

`/JOB/ANYTHING/NAME` is the file `NAME` of the working directory, so that one photo has any number
of URLs. The first request of a job writes the empty file `JOB.began` there: the start of it for
those who measure. One thread and `sendfile` from the page cache, so that it takes a small share
of the processor whatever is measured. Handshakes are not delayed, only answers: that is kind
to clients that connect anew for each image.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

_RECEIVED_BYTES: Final = 64 * 1024
_BACKLOG: Final = 1024
_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
_NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class _Client:
    """A connection with at most one request under way."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = b""
        self._head = b""
        self._file = -1
        self._sent = self._length = 0

    def receive(self) -> str | None:
        """Take in what came; return the path of a request once its head is whole.

        Raises EOFError at the end of the connection, OSError if it broke.
        """
        data = self.connection.recv(_RECEIVED_BYTES)
        if not data:
            raise EOFError
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        self._received = rest
        return head.split()[1].decode()

    def answer(self, files: dict[str, tuple[int, int]], path: str) -> None:
        """Get an answer ready for `send`."""
        found = files.get(path.rpartition("/")[2])
        self._file, self._length = found or (-1, 0)
        self._sent = 0
        self._head = _OK % self._length if found else _NOT_FOUND

    def send(self) -> bool:
        """Send as much as the connection takes; tell whether that was all. Raises OSError."""
        with suppress(BlockingIOError):
            if self._head:  # MSG_MORE: in one packet with what follows
                more = socket.MSG_MORE if self._length else 0
                self._head = self._head[self.connection.send(self._head, more) :]
            while not self._head and self._sent < self._length:
                left = self._length - self._sent
                self._sent += os.sendfile(self.connection.fileno(), self._file, self._sent, left)
        return not self._head and self._sent == self._length


class Origin:
    """Serves the files that are in a folder now, until killed."""

    def __init__(self, folder: Path, latency_seconds: float) -> None:
        self._folder = folder
        self._latency = latency_seconds
        self._files = {
            path.name: (os.open(path, os.O_RDONLY), path.stat().st_size)
            for path in folder.iterdir()
            if path.is_file()
        }
        self._jobs: set[str] = set()
        self._selector = selectors.DefaultSelector()
        # Since all wait equally long, who comes first is answered first.
        self._waiting: deque[tuple[float, _Client, str]] = deque()

    def serve(self, listener: socket.socket) -> None:
        """Accept connections and answer."""
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, events in self._selector.select(self._pause()):
                if key.data is None:
                    self._accept(listener)
                elif events & selectors.EVENT_READ:
                    self._read(key.data)
                else:
                    self._write(key.data)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, client, path = self._waiting.popleft()
                client.answer(self._files, path)
                self._write(client)

    def _pause(self) -> float | None:
        if not self._waiting:
            return None
        return max(0.0, self._waiting[0][0] - time.monotonic())

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client = _Client(connection)
                self._selector.register(connection, selectors.EVENT_READ, client)

    def _read(self, client: _Client) -> None:
        try:
            path = client.receive()
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._drop(client)
            return
        if path is not None:
            self._note_job(path)
            self._waiting.append((time.monotonic() + self._latency, client, path))

    def _note_job(self, path: str) -> None:
        job = path.split("/")[1]
        if job not in self._jobs:
            self._jobs.add(job)
            (self._folder / f"{job}.began").touch()

    def _write(self, client: _Client) -> None:
        try:
            is_sent = client.send()
            events = selectors.EVENT_READ if is_sent else selectors.EVENT_WRITE
            self._selector.modify(client.connection, events, client)
        except (OSError, KeyError, ValueError):  # the client is gone, perhaps since long
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(client.connection)
        client.connection.close()


def main() -> None:
    """Serve the working directory and say where."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds")
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener:
        host, port = listener.getsockname()
        print(f"Serving on {host}:{port}", flush=True)
        Origin(Path.cwd(), arguments.latency / 1000).serve(listener)


if __name__ == "__main__":
    main()
