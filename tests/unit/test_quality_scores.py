"""The memory of scores: each judge asked once about each pair, and never mistaken for another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks import judges, quality_scores
from benchmarks.quality_scores import BUTTERAUGLI, SSIMULACRA2, Scores
from tests.images import photo, saved

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image


@pytest.fixture(name="asked")
def _asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have two judges that say how often anybody was asked; both of the same make."""
    asked: list[str] = []

    def judge(name: str, one: Image.Image, other: Image.Image) -> float:
        asked.append(f"{name} {one.mode} {other.mode}")
        return np.float64(len(asked))  # whose text is none of a float

    monkeypatch.setattr(judges, "describe", lambda _: "a program")
    monkeypatch.setattr(
        quality_scores,
        "_JUDGES",
        {name: lambda a, b, name=name: judge(name, a, b) for name in (SSIMULACRA2, BUTTERAUGLI)},
    )
    return asked


def test_each_question_once(tmp_path: Path, asked: list[str]) -> None:
    """The same pair is judged once by each judge, also by another process later."""
    source, output = (saved(photo(), "JPEG", quality=quality) for quality in (90, 50))
    for _ in range(2):
        scores = Scores(tmp_path)
        assert scores.of(SSIMULACRA2, source, output) == 1
        assert scores.of(BUTTERAUGLI, source, output) == 2
        assert scores.of(SSIMULACRA2, output, source) == 3
    assert len(asked) == 3


def test_transparency_is_shown_to_the_judge(tmp_path: Path, asked: list[str]) -> None:
    """When one of the two has transparency, both are given with it; else neither."""
    veiled = photo()
    veiled.putalpha(128)
    clear, solid = saved(veiled, "PNG"), saved(photo(), "PNG")
    Scores(tmp_path).of(SSIMULACRA2, clear, solid)
    Scores(tmp_path).of(SSIMULACRA2, solid, solid)
    assert asked == ["ssimulacra2 RGBA RGBA", "ssimulacra2 RGB RGB"]
