"""Every command explains itself: its arguments, what it ends with, and an example."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
from pathlib import Path

import pytest

from command_help import HelpFormatter

ROOT = Path(__file__).parents[2]
# Started by others of ours, with a job that no person writes.
CHILDREN = {
    "decoder/decoder_process.py",
    "benchmarks/peer_floor.py",
    "benchmarks/peer_img2dataset.py",
    "benchmarks/peer_threads.py",
    "benchmarks/quality_child.py",
    "tests/chaos/launcher.py",
    "tests/chaos/slow_origin.py",
    "tests/fuzz/one_target.py",
}
FOLDERS = (".", "benchmarks", "decoder", "samples", "tests/browser", "tests/chaos", "tests/fuzz")
COMMANDS = [
    name
    for folder in (*FOLDERS, "tests/clients", "tests/hostile")
    for path in sorted((ROOT / folder).glob("*.py"))
    if 'if __name__ == "__main__"' in path.read_text()
    and (name := path.relative_to(ROOT).as_posix()) not in CHILDREN
]


def _calls(name: str, function: str) -> list[ast.Call]:
    tree = ast.parse((ROOT / name).read_text())
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == function
    ]


def _names(call: ast.Call) -> set[str]:
    return {keyword.arg or "" for keyword in call.keywords}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_its_arguments(name: str) -> None:
    """There is help, it says what the command is for, and something of each argument."""
    parsers = _calls(name, "ArgumentParser")
    assert parsers
    assert all("description" in _names(parser) for parser in parsers)
    silent = [call for call in _calls(name, "add_argument") if "help" not in _names(call)]
    assert [ast.unparse(call) for call in silent] == []


@pytest.mark.parametrize("name", ["server.py", "image_processor.py", "submit.py", "demo.py"])
def test_a_command_of_users_tells_its_ends(name: str) -> None:
    """What people run says what its exit status means and, but for the demonstration, an example."""
    text = (ROOT / name).read_text()
    assert "exit status" in text or "SETTINGS_AND_STATUS" in text
    assert name == "demo.py" or "example" in text


@pytest.mark.parametrize(
    ("default", "shown"),
    [
        (5, "of it (default: 5)"),
        ([1, 2], "of it (default: 1 2)"),
        (None, "of it"),
        (False, "of it"),
    ],
)
def test_defaults_are_told(default: object, shown: str) -> None:
    """A default is told as it would be typed, and none where there is none."""
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter)
    parser.add_argument("--number", default=default, help="of it")
    assert parser.format_help().rstrip().endswith(f" {shown}")


def test_make_tells_its_commands() -> None:
    """Plain `make` says what each command of the Makefile does."""
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    ended = subprocess.run(
        ["make", "--no-print-directory"],  # noqa: S607  # whichever there is
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told = re.findall(r"^make (\S+) +\S", ended.stdout, re.MULTILINE)
    assert sorted(told) == sorted(phony.split())
