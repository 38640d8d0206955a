"""SECURITY.md against the tests: each threat's line names one that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = [
    line
    for line in (ROOT / "SECURITY.md").read_text("utf-8").splitlines()
    if line.count("|") == 4 and not re.match(r"\|(-+\|| threat )", line)
]


def test_every_part_has_threats() -> None:
    """So that the tables are read at all."""
    assert len(LINES) > 40


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip()[:60])
def test_a_threat_is_shown_by_a_test_that_exists(line: str) -> None:
    """Files are there, and functions in them; a whole file only where it is one trial."""
    named = re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)(?:::(\w+))?`", line.split("|")[3])
    assert named
    for path, function in named:
        text = (ROOT / path).read_text("utf-8")
        assert function or path.startswith(("benchmarks/", "tests/fuzz/")), f"{path} has many"
        assert not function or re.search(rf"^def {function}\(", text, re.MULTILINE), function
