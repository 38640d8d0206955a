"""Sends every file of a folder through the whole service, as a stranger would.

    .venv/bin/python -m tests.hostile.hostile FOLDER [--ways NAME …] [--options NAME … | all]

Each file is served to the service as an image, once for each option, and comes to it as a CSV (in a
form, as the body, as a dry run), as the body of a form and as the bytes of a connection. Whatever
URLs the files name, nothing is fetched but from the origin on loopback: the server that takes
CSVs and requests has no worker. Prints what came of each folder's files; exits with 1 if an image
ended otherwise than judged or its output is not what it says, if anything was answered 5xx or not
at all, or if a server ended, grew, logged a traceback or kept an ordinary client waiting.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import requests

from command_help import HelpFormatter
from tests.hostile.watch import Watch
from tests.hostile.ways import OPTIONS, End, send_csv, send_http, send_images, send_multipart
from tests.images import photo, saved
from tests.origin import Origin
from tests.service import Service, csv_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SETTINGS: Final = {"RATE_LIMIT": "1000000", "DOWNLOAD_ATTEMPTS": "1"}
UPLOADS: Final = {"csv": send_csv, "multipart": send_multipart, "http": send_http}
WAYS: Final = ["images", *UPLOADS]
ORDINARY: Final = saved(photo(), "JPEG")
SHOWN: Final = 40  # broken promises
SLOWEST: Final = 5


@dataclass
class Report:
    """What came of everything."""

    ends: list[End] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # of the servers
    summaries: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        """Every broken promise."""
        of_files = [f"{e.way}: {e.path}: {e.answer}: {e.fault}" for e in self.ends if e.fault]
        return self.faults + of_files

    @contextmanager
    def watching(self, name: str, service: Service, request_id: str) -> Iterator[None]:
        """Watch a service; an answer that it owes to our own questions is its fault too."""
        watch = Watch(service, request_id)
        try:
            with watch:
                yield
        except requests.RequestException as error:
            watch.faults.append(f"it didn't answer: {error!r}")
        self.faults += [f"{name}: {fault}" for fault in watch.faults]
        self.summaries.append(f"{name}: {watch.summary}")

    def note(self, ends: Iterable[End]) -> None:
        """Take in the ends as they come."""
        for end in ends:
            self.ends.append(end)
            if end.fault:
                print(f"{end.way}: {end.path.name}: {end.fault}", flush=True)


def send_all(
    work: Path, paths: Sequence[Path], ways: Sequence[str], options: Sequence[str]
) -> Report:
    """Send every file in each way to a server of its own, at home in `work`."""
    report = Report()
    if "images" in ways:
        (work / "images").mkdir()
        with (
            Origin() as origin,
            Service(work / "images", None, ALLOWED_SOURCES=origin.authority, **SETTINGS) as service,
        ):
            ordinary = service.run(csv_of(origin.serve("/ordinary", ORDINARY)))["request_id"]
            with report.watching("images", service, ordinary):
                for option in options:
                    report.note(send_images(service, origin, paths, option))
    uploads = [UPLOADS[way] for way in ways if way in UPLOADS]
    if uploads:
        (work / "uploads").mkdir()
        with Service(work / "uploads", None, "--no-worker", **SETTINGS) as service:
            ordinary = service.upload(csv_of("http://127.0.0.1/")).json()["request_id"]
            with report.watching("uploads", service, ordinary):
                for send in uploads:
                    report.note(send(service.url, paths))
    return report


def show(report: Report, folder: Path) -> None:
    """Print what came of each folder's files, the slowest, and the promises broken."""
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for end in report.ends:
        answers[end.way, str(end.path.parent.relative_to(folder))][end.answer] += 1
    print(f"\n{'way':18} {'folder':20} answers")
    for (way, name), counts in answers.items():
        shown = ", ".join(f"{count} {answer}" for answer, count in sorted(counts.items()))
        print(f"{way:18} {name:20} {shown}")
    print("\nslowest:")
    for end in sorted(report.ends, key=lambda end: -end.seconds)[:SLOWEST]:
        print(f"{end.seconds:8.2f} s  {end.way:18} {end.path.relative_to(folder)}: {end.answer}")
    print("", *report.summaries, sep="\n")
    violations = report.violations
    print(f"{len(report.ends)} sent, {len(violations)} promises broken")
    for violation in violations[:SHOWN]:
        print(f"  {violation}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code. The servers' folders are kept over a fault."""
    options = _parser().parse_args(arguments)
    paths = sorted(path for path in options.folder.rglob("*") if path.is_file())
    chosen = [*OPTIONS] if "all" in options.options else options.options
    print(f"{len(paths)} files", flush=True)
    work = Path(tempfile.mkdtemp(prefix="hostile-"))
    started = time.monotonic()
    report = send_all(work, paths, options.ways, chosen)
    show(report, options.folder)
    print(f"{time.monotonic() - started:.0f} seconds")
    if report.violations:
        print(f"logs and files are in {work}")
        return 1
    shutil.rmtree(work)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=_folder, help="of files to send")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=WAYS, help="as what they are sent"
    )
    parser.add_argument(
        "--options", nargs="+", choices=[*OPTIONS, "all"], default=["keep"], help="of the uploads"
    )
    return parser


def _folder(text: str) -> Path:
    """Return the folder; an empty name is a forgotten one, not this folder."""
    if not text or not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
