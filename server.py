"""The whole service in one process: HTTP and, beside it, the worker's loop; their start and end."""

from __future__ import annotations

import argparse
import math
import time
from contextlib import ExitStack
from typing import Final

from command_help import SETTINGS_AND_STATUS, HelpFormatter
from http_api import Api
from image_processor import background_worker
from service_process import listen, service_process

EXAMPLE: Final = """\
examples:
  python server.py
  PORT=8080 STORAGE_URL=file:/srv/images python server.py --no-worker"""


def main() -> None:
    """Serve HTTP, with the worker's loop beside it unless --no-worker, until a signal."""
    parser = argparse.ArgumentParser(
        description="Takes CSVs over HTTP and compresses every image that they name, until Ctrl-C.",
        epilog=f"{EXAMPLE}\n\n{SETTINGS_AND_STATUS}",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--no-worker", action="store_true", help="HTTP alone: workers run apart")
    arguments = parser.parse_args()
    with service_process() as process, ExitStack() as stack:
        server = listen(process.settings.host, process.settings.port)
        settings = process.settings.with_port(server.server_port)
        api = Api(settings, process.database, process.store)
        stop_by = math.inf
        stack.callback(lambda: server.drain(_seconds_until(stop_by, settings.shutdown_seconds)))
        line = f"Listening on {settings.own_url}"
        if not arguments.no_worker:
            # Connections of its own: clients that keep all of ours busy don't stop the work.
            database = stack.enter_context(process.open_database())
            worker = stack.enter_context(background_worker(settings, database, process.store))
            line += f" ({worker.describe()})"
        server.start(api.answer)
        print(line, flush=True)  # noqa: T201  # a command speaks
        process.wait_for_signal()
        stop_by = time.monotonic() + settings.shutdown_seconds  # for the worker and for answers
        api.drain()  # while the worker does so, too, status goes on and uploads don't


def _seconds_until(moment: float, at_most: float) -> float:
    return min(max(0.0, moment - time.monotonic()), at_most)


if __name__ == "__main__":
    main()
