"""Shows the main job end to end: starts the service, submits `test.csv`, prints what became of it.

Needs no internet: the images are the project's own samples, served by the service itself. The
outputs stay in `uploads/` and `static/`; the database is a fresh one that goes away at the end.
Owns the child process; everything said over HTTP is `submit`'s.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from settings import Settings
from submit import Json, ServiceClient, SubmitError, format_bytes, show_progress, summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parent
CSV = ROOT / "test.csv"
CSV_ORIGIN = "http://localhost:8000"  # what test.csv names: the service where `make run` has it
LISTENING = re.compile(r"http://127\.0\.0\.1:[0-9]+")
START_SECONDS = 120  # the first start of all unpacks and initialises PostgreSQL
STOP_SECONDS = 60  # longer than SHUTDOWN_SECONDS
LOG_LINES = 40
EXIT_STATUS = """\
exit status:
  0    every image succeeded
  1    some failed, or the service did not start: the end of its log follows
  130  interrupted"""


class DemoError(Exception):
    """The demonstration can't go on; the text says why."""


def service_environment(folder: Path) -> dict[str, str]:
    """Return our environment with no setting of the service but those of a demonstration."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in Settings.model_fields
    }
    return environment | {
        "HOST": "127.0.0.1",
        "PORT": "0",
        "POSTGRES_DIR": str(folder / "postgres"),
        "STORAGE_URL": f"file:{ROOT}",
    }


@contextmanager
def running_service(folder: Path, log: Path) -> Iterator[str]:
    """Run the service in the block and yield its origin; it has ended when the block has."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "server.py")],
            cwd=folder,  # a .env of the project would bring its settings back
            env=service_environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we end the service in order
        )
    try:
        yield wait_for_origin(process, log)
    finally:
        stop(process)


def wait_for_origin(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the origin that the service says it listens on. Raises DemoError."""
    gives_up_at = time.monotonic() + START_SECONDS
    while time.monotonic() < gives_up_at:
        has_ended = process.poll() is not None
        if found := LISTENING.search(log.read_text(errors="replace")):
            return found.group()
        if has_ended:
            raise DemoError(f"The service ended with status {process.returncode} at its start.")
        time.sleep(0.05)
    raise DemoError(f"The service did not start within {START_SECONDS} seconds.")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the service: drained if it can, killed if it must."""
    try:
        process.terminate()
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"The service did not stop within {STOP_SECONDS} seconds.", file=sys.stderr)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def saving(image: Json) -> str:
    """Return how much smaller an image became, in percent."""
    before, after = image["bytes_in"], image["bytes_out"]
    return f"{100 * (before - after) / before:.1f} %" if before and after is not None else "-"


def image_row(image: Json) -> tuple[str, ...]:
    """Return one image's cells of the table; a failure shows its code for the format."""
    error = image.get("error")
    has_size = image["width"] and image["height"]
    return (
        image["input_url"].rpartition("/")[2],
        error["code"] if error else image["format"] or "-",
        f"{image['width']} x {image['height']}" if has_size else "-",
        format_bytes(image["bytes_in"]),
        format_bytes(image["bytes_out"]),
        saving(image),
    )


def table(images: Iterable[Json]) -> str:
    """Return the images as a table: names to the left, numbers to the right."""
    rows = [("image", "format", "pixels", "before", "after", "saved"), *map(image_row, images)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def demonstrate(client: ServiceClient, folder: Path) -> bool:
    """Submit `test.csv`, print what became of it, and tell whether every image succeeded."""
    source, output = folder / CSV.name, folder / "output.csv"
    source.write_text(CSV.read_text("utf-8").replace(CSV_ORIGIN, client.server), "utf-8")
    print(f"Uploading {CSV.name}, its {CSV_ORIGIN} replaced by {client.server}", flush=True)
    answer = client.upload(source, {})
    request_id = answer["request_id"]
    status = show_progress(client.watch(request_id), answer["images"])
    client.save_output(request_id, output)
    print(f"\nThe output CSV:\n\n{output.read_text('utf-8')}")
    print(f"{table(client.images(request_id))}\n\n{summary(status)}\n")
    print(f"Output CSV  {ROOT / 'static' / request_id}.csv")
    print(f"Report      {ROOT / 'static' / request_id}-report.csv")
    print(f"Images      {ROOT / 'uploads' / request_id}{os.sep}", flush=True)
    return bool(status["status"] == "completed")


def main() -> int:
    """Run the demonstration; the exit status is 0 only when every image succeeded."""
    argparse.ArgumentParser(
        description=__doc__,
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        log = folder / "server.log"
        try:
            print("Starting the service on a free port ...", flush=True)
            with running_service(folder, log) as origin, ServiceClient(origin) as client:
                if demonstrate(client, folder):
                    return 0
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            return 130
        except (DemoError, SubmitError) as error:
            print(error, file=sys.stderr)
        tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        print("\nThe end of the service's log:", *tail, sep="\n", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
