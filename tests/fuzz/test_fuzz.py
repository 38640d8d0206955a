"""The fuzzing command: targets get their time, findings are kept, and the exit code tells."""

from __future__ import annotations

import random
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.fuzz import fuzz
from tests.fuzz.one_target import FINDING, mutated, unguided
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from pathlib import Path

# Stands in for a target's process: keeps an input as libFuzzer does, and ends as it does.
FINDER = """#!/bin/sh
for argument; do
    case $argument in -artifact_prefix=*) echo found > "${argument#*=}crash-1" ;; esac
done
echo "#7 DONE"
exit 77
"""


def dislikes_digits(data: bytes) -> None:
    """Fail over a digit."""
    assert not any(byte in b"0123456789" for byte in data)


def test_chance_finds_what_is_there(tmp_path: Path) -> None:
    """Without atheris a broken promise is found by chance, and its input kept."""
    end = time.monotonic() + 60
    assert unguided(dislikes_digits, [b"abc"], end, f"{tmp_path}/some-") == FINDING
    (kept,) = tmp_path.iterdir()
    with pytest.raises(AssertionError):
        dislikes_digits(kept.read_bytes())


def test_chance_ends_in_time(tmp_path: Path) -> None:
    """Where nothing is to be found the search ends with its time."""
    assert unguided(lambda _: None, [b"abc"], time.monotonic() + 0.05, f"{tmp_path}/some-") == 0
    assert not list(tmp_path.iterdir())


def test_inputs_made_by_chance_differ() -> None:
    """They are made of all seeds, and hardly ever twice the same."""
    chance = random.Random(1)  # noqa: S311  # not for secrets
    made = {mutated(chance, [b"abcdef" * 5, b"012345" * 5]) for _ in range(200)}
    assert len(made) > 150
    assert any(b"ab" in data and b"01" in data for data in made)


def test_targets_share_the_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each target is run in a process of its own, on its seeds, and nothing is found."""
    names = ["decoder_reply", "query_fields"]
    folder = ["--folder", str(tmp_path)]
    assert fuzz.main(["--minutes", "0.03", "--targets", *names, *folder]) == 0
    said = capfd.readouterr().out
    for name in names:
        assert f"{name} " in said
        assert (tmp_path / "corpus" / name / "seed-0").exists()
    assert not list((tmp_path / "findings").iterdir())


def test_finding_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finding ends the command with 1, after saying how to see it again."""
    finder = tmp_path / "finder"
    finder.write_text(FINDER)
    finder.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(finder))
    arguments = ["--minutes", "0.01", "--targets", "csv_file", "--folder", str(tmp_path / "kept")]
    assert fuzz.main(arguments) == 1
    kept = tmp_path / "kept" / "findings" / "csv_file-crash-1"
    said = capfd.readouterr().out
    assert f"--targets csv_file --repeat {kept}" in said
    assert "7 inputs" in said


def test_a_target_that_hangs_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that doesn't end with its time is killed, and called neither fine nor broken."""
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    monkeypatch.setattr(fuzz, "MARGIN_SECONDS", -0.9)
    arguments = ["--minutes", "0.01", "--targets", "csv_file", "--folder", str(tmp_path / "kept")]
    assert fuzz.main(arguments) == 1
    said = capfd.readouterr().out
    assert "csv_file: it hung" in said
    assert "broken" not in said


@pytest.mark.parametrize("targets", [[], ["--targets", "csv_file", "url_cell"]])
def test_an_input_is_repeated_with_one_target(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], targets: list[str]
) -> None:
    """Whose input it is has to be said."""
    with pytest.raises(SystemExit):
        fuzz.main(["--repeat", str(tmp_path / "input"), *targets])
    assert "--repeat takes one target" in capfd.readouterr().err


def test_an_input_is_repeated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--repeat` tries one input in this very process."""
    (tmp_path / "input").write_bytes(b"a1")
    monkeypatch.setitem(TARGETS, "csv_file", dislikes_digits)
    with pytest.raises(AssertionError):
        fuzz.main(["--targets", "csv_file", "--repeat", str(tmp_path / "input")])
    (tmp_path / "input").write_bytes(b"a")
    assert fuzz.main(["--targets", "csv_file", "--repeat", str(tmp_path / "input")]) == 0
    assert "no promise was broken" in capfd.readouterr().out
