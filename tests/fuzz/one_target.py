"""One target under atheris, that is libFuzzer, or under chance where atheris is not installed.

Started by `fuzz` as a process of its own, with the target's name and libFuzzer's arguments.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FINDING: Final = 77  # libFuzzer's exit code
INPUT_SECONDS: Final = 10  # that one input may take
INSTRUMENTED: Final = [  # ours and what they lean on
    *("address_policy", "csv_problems", "csv_rows", "csv_validator", "serial_numbers"),
    *("upload_parser", "decoder", "httpd", "fetching", "file_response"),
    *("idempotency", "paging", "request_options", "output_csv"),
    *("http_api", "access_control", "site_guard", "client_address", "upload_intake"),
    *("codec", "PIL"),
    *("multipart", "idna", "http.client", "email.feedparser", "ipaddress"),
]


def main(name: str, arguments: Sequence[str]) -> int:
    """Fuzz until the time is over or something is found; return the exit code."""
    logging.disable(logging.CRITICAL)
    if importlib.util.find_spec("atheris"):
        return _guided(name, arguments)
    targets = importlib.import_module("tests.fuzz.targets")
    folders = [Path(argument) for argument in arguments if not argument.startswith("-")]
    options = dict(argument[1:].split("=", 1) for argument in arguments if argument[0] == "-")
    seeds = [
        path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()
    ]
    end = time.monotonic() + float(options["max_total_time"])
    return unguided(_timed(targets.TARGETS[name]), seeds, end, options["artifact_prefix"])


def _guided(name: str, arguments: Sequence[str]) -> int:
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        targets = importlib.import_module("tests.fuzz.targets")
    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[name])
    atheris.Fuzz()
    return 0  # never reached: libFuzzer ends the process


def unguided(
    target: Callable[[bytes], None], seeds: list[bytes], end: float, artifact_prefix: str
) -> int:
    """Try seeds that were cut and glued by chance, up to a moment of the monotonic clock."""
    chance = random.Random(0)  # noqa: S311  # not for secrets
    number = 0
    while time.monotonic() < end:
        data = mutated(chance, seeds) if number >= len(seeds) else seeds[number]
        number += 1
        try:
            target(data)
        except Exception:  # noqa: BLE001  # whatever it is, it is a finding
            path = Path(f"{artifact_prefix}crash-{hashlib.sha256(data).hexdigest()[:40]}")
            path.write_bytes(data)
            traceback.print_exc()
            print(f"#{number}\nkept in {path}")
            return FINDING
    print(f"#{number} DONE")
    return 0


def _timed(target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return the target with a limit on the time that an input may take."""

    def too_slow(*_: object) -> None:
        raise TimeoutError

    def timed(data: bytes) -> None:
        signal.alarm(INPUT_SECONDS)
        target(data)
        signal.alarm(0)

    signal.signal(signal.SIGALRM, too_slow)
    return timed


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Return one seed with a part of another, or anything, in the place of some of its bytes."""
    data, other = chance.choice(seeds), chance.choice(seeds)
    for _ in range(chance.randint(1, 4)):
        start, length = chance.randint(0, len(data)), chance.choice([0, 1, 1, 2, 8, 64])
        origin = chance.randint(0, len(other))
        piece = other[origin : origin + chance.choice([0, 1, 2, 8, 64])]
        if chance.random() < 0.5:
            piece = chance.randbytes(chance.choice([0, 1, 1, 2]))
        data = data[:start] + piece + data[start + length :]
    return data


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
