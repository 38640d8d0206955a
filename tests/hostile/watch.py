"""Watches a service while strangers are at it: it answers, lives, stays small and logs no bug."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import requests

from tests.chaos.soak import find_tracebacks
from tests.service import resident_mib

if TYPE_CHECKING:
    from tests.service import Service

MOST_GROWTH_MIB: Final = 128.0  # of the server's process, without its decoders
STATUS_SECONDS: Final = 10.0  # the longest that an ordinary status may take, on a busy machine
PAUSE_SECONDS: Final = 0.05


@dataclass
class Watch:
    """Asks for the status of an ordinary request while the block runs; then `faults` is whole.

    with Watch(service, request_id) as watch: …
    print(watch.summary, watch.faults)
    """

    service: Service
    request_id: str
    seconds: list[float] = field(default_factory=list)  # of each answer
    faults: list[str] = field(default_factory=list)
    summary: str = ""

    def __enter__(self) -> Self:
        self._before = resident_mib(self.service.process.pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look_at_status()
        self._look_at_process()
        tracebacks = find_tracebacks(self.service.log)
        self.faults += [f"logged {times} times: {what}" for what, times in tracebacks.items()]

    def _ask(self) -> None:
        url = f"{self.service.url}/status/{self.request_id}"
        with requests.Session() as session:
            session.trust_env = False
            while True:
                started = time.monotonic()
                try:
                    status = session.get(url, timeout=STATUS_SECONDS).status_code
                except requests.RequestException as error:
                    self.faults.append(f"an ordinary status had no answer: {error!r}")
                    return
                self.seconds.append(time.monotonic() - started)
                if status != 200:
                    self.faults.append(f"an ordinary status was answered {status}")
                    return
                if self._stop.wait(PAUSE_SECONDS):
                    return

    def _look_at_status(self) -> None:
        times = sorted(self.seconds) or [0.0]
        median, p99, most = times[len(times) // 2], times[len(times) * 99 // 100], times[-1]
        self.summary = (
            f"{len(self.seconds)} ordinary statuses: median {1000 * median:.0f} ms, "
            f"p99 {1000 * p99:.0f} ms, {1000 * most:.0f} ms at most"
        )

    def _look_at_process(self) -> None:
        if self.service.process.poll() is not None:
            self.faults.append(f"the server ended with {self.service.process.returncode}")
            return
        after = resident_mib(self.service.process.pid)
        self.summary += f"; {self._before:.0f} MiB before, {after:.0f} MiB after"
        if after - self._before > MOST_GROWTH_MIB:
            self.faults.append(f"the server grew by {after - self._before:.0f} MiB")
