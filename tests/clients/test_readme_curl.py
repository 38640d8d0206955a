"""The examples for curl, run byte for byte as the documents have them, in one shell each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.outside_tools import program
from tests.service import ROOT, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from database_helper import Database

RUN_SECONDS = 60
KEY = "a key"
DOCUMENTS = ["README.md", "docs/clients.md"]
NEEDS_KEY = "Bearer $KEY"


def examples(document: str) -> list[str]:
    """Return every command of the blocks that have curl in them, in their order."""
    text = (ROOT / document).read_text("utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks if "curl " in block for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines), "an example is one line, without output"
    return [line.removeprefix("$ ") for line in lines]


class Shell:
    """A folder of somebody who tries the examples; port 8000 leads to the service."""

    def __init__(self, folder: Path, service: Service) -> None:
        self.folder = folder
        port = urlsplit(service.url).port
        csv = (ROOT / "test.csv").read_text("utf-8")
        (folder / "test.csv").write_text(csv.replace(":8000/", f":{port}/"), "utf-8")
        (folder / ".curlrc").write_text(f'connect-to = "localhost:8000:127.0.0.1:{port}"\n')

    def run(self, commands: list[str]) -> list[str]:
        """Run commands in one shell; return what each printed. None may fail."""
        mark = "\x1e"  # between two
        script = "".join(f"{command}\nprintf '{mark}%d{mark}' $?\n" for command in commands)
        run = subprocess.run(
            [program("bash"), "-c", script],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "CURL_HOME": str(self.folder),
                "KEY": KEY,
            },
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        *parts, rest = run.stdout.split(mark)
        assert parts[1::2] == ["0"] * len(commands), run.stdout + run.stderr
        assert not rest
        return parts[::2]


class Expected(NamedTuple):
    """What an example with these words in it prints: no text, or JSON with these members."""

    words: str
    members: dict[str, Any] | None = None


# The first that fits a command is its; an example that none fits has to get one here.
EXPECTED = [
    Expected(r"^(id|key|next)=\$\("),
    Expected("^until curl "),
    Expected(r" -O .*localhost:8000/(static|uploads)/"),
    Expected(" -o first-kibibyte "),
    Expected("dry_run=true", {"dry_run": True, "products": 8, "images": 13, "warnings_total": 0}),
    Expected("/upload", {"status": "pending", "products": 8, "images": 13}),
    Expected("/images", {"images": list, "next_cursor": (str, type(None))}),
    Expected("/retry$", {"images": 0}),
    Expected("-X DELETE", {"status": re.compile("cancelling|deleted")}),
    Expected("/requests", {"requests": list, "next_cursor": None}),
    Expected(r"/status/\$id$", {"status": str, "progress": dict}),
]


def check(command: str, output: str) -> None:
    """Compare what a command printed with what is expected of it."""
    bare = re.sub(r" +# .*$", "", command).rstrip("'\"")
    expected = next((each for each in EXPECTED if re.search(each.words, bare)), None)
    assert expected, f"nothing is known of what this prints: {command}"
    if expected.members is None:
        assert not output, command
        return
    document = json.loads(output)
    for name, value in expected.members.items():
        found = document[name]
        if isinstance(value, re.Pattern):
            assert value.fullmatch(found), command
        elif isinstance(value, (type, tuple)):
            assert isinstance(found, value), command
        else:
            assert found == value, command


@pytest.fixture(scope="module")
def service(
    new_database: Callable[[], Database], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run the service as `make run` does."""
    with Service(tmp_path_factory.mktemp("service"), new_database()) as running:
        yield running


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples(document: str, service: Service, tmp_path: Path) -> None:
    """Each works as it stands, and what it brings is what it is about."""
    commands = [command for command in examples(document) if NEEDS_KEY not in command]
    assert len(commands) > 7
    outputs = Shell(tmp_path, service).run(commands)
    for command, output in zip(commands, outputs, strict=True):
        check(command, output)
    (csv,) = (path for path in tmp_path.glob("*.csv") if re.fullmatch("[0-9a-f]{32}", path.stem))
    header, *rows = csv.read_bytes().removesuffix(b"\r\n").split(b"\r\n")
    assert header.endswith(b",Output Image Urls")
    assert len(rows) == 8
    assert b"".join(rows).count(b"/uploads/") == 13


def test_files_that_are_fetched(service: Service, tmp_path: Path) -> None:
    """The report has a line for each image, an image is one, and its first part is its first part."""
    commands = [command for command in examples("docs/clients.md") if NEEDS_KEY not in command]
    fetching = [command for command in commands if " -X " not in command]
    Shell(tmp_path, service).run(fetching)
    (report,) = tmp_path.glob("*-report.csv")
    assert len(report.read_text("utf-8").splitlines()) == 14
    (image,) = tmp_path.glob("*-1.jpg")
    assert image.read_bytes().startswith(b"\xff\xd8\xff")
    assert (tmp_path / "first-kibibyte").read_bytes() == image.read_bytes()[:1024]


def test_pages_and_replays(service: Service, tmp_path: Path) -> None:
    """The second upload under a key is the first one, and the second page goes on behind the first."""
    commands = [command for command in examples("docs/clients.md") if NEEDS_KEY not in command]
    outputs = dict[str, list[str]]()
    for command, output in zip(commands, Shell(tmp_path, service).run(commands), strict=True):
        outputs.setdefault(command, []).append(output)
    (replayed,) = (each for command, each in outputs.items() if "$key" in command)
    assert replayed[0] == replayed[1]
    pages = [each[0] for command, each in outputs.items() if "limit=5" in command]
    first, second = (json.loads(page)["images"] for page in pages if page)
    assert [image["row"] for image in first + second] == [1, 2, 2, 3, 4, 5, 5, 6, 6, 7]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples_with_a_key(
    document: str, new_database: Callable[[], Database], tmp_path: Path
) -> None:
    """Where keys are asked for these work, and the same without the key don't."""
    commands = [command for command in examples(document) if NEEDS_KEY in command]
    assert commands
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    with Service(tmp_path, new_database(), API_KEYS=digest) as keyed:
        shell = Shell(tmp_path, keyed)
        for command, output in zip(commands, shell.run(commands), strict=True):
            check(command, output)
        bare = [command.replace(f'-H "Authorization: {NEEDS_KEY}"', "") for command in commands]
        for output in shell.run(bare):
            assert json.loads(output)["status"] == 401
