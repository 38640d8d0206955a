"""The search for the quality at which a peer's outputs look as good as ours."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from benchmarks.peers_quality import at_equal_score, judge, judge_scaled
from benchmarks.peers_sides import Job, Program, Run
from benchmarks.quality_scores import Scores

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class _Encoder(Program):
    """A peer that encodes with Pillow, without a process."""

    def run(self, job: Job, *, keeps: bool = False) -> Run:
        assert keeps
        outputs = [self._encode(job.folder / name) for name in job.names()]
        return Run(len(outputs), 1, 1, 1, 0, 0, 0, sum(map(len, outputs)), outputs)

    def _encode(self, path: Path) -> bytes:
        sink = io.BytesIO()
        with Image.open(path) as image:
            if box := self.settings.get("box"):
                image.thumbnail((box, box), self.settings["filter"], reducing_gap=None)
                image.save(sink, "PNG")
            else:
                image.save(sink, "JPEG", quality=self.settings["quality"])
        return sink.getvalue()


@pytest.fixture
def sample(tmp_path: Path) -> Job:
    """Return a job of one picture with grain, whose score falls steadily with the quality."""
    bands = [Image.effect_noise((192, 192), sigma) for sigma in (20, 25, 30)]
    picture = Image.blend(Image.merge("RGB", bands), Image.new("RGB", (192, 192), "olive"), 0.6)
    picture.save(tmp_path / "a.png")
    return Job("", 0, tmp_path, ["a.png"], 1)


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    """Return scores that are kept for this test alone."""
    return Scores(tmp_path / "cache")


@pytest.mark.parametrize("begin", [70, 75, 82])
def test_quality_of_equal_score_is_found(sample: Job, scores: Scores, begin: int) -> None:
    """Wherever the search begins, it ends at the quality whose score was asked for."""
    ours = judge(_Encoder("ours", [], {"quality": 76}), sample, scores)
    peer, score = at_equal_score(_Encoder("peer", [], {"quality": begin}), ours, sample, scores)
    assert abs(score - ours) < 0.5
    assert abs(peer.settings["quality"] - 76) <= 1


def test_scaled_is_judged_against_full_lanczos(sample: Job, scores: Scores) -> None:
    """Lanczos over all pixels scores 100, a lazier filter less."""
    settings = {"box": 96, "filter": Image.Resampling.LANCZOS}
    exact = judge_scaled(_Encoder("exact", [], settings), sample, 96, scores)
    lazy = _Encoder("lazy", [], settings | {"filter": Image.Resampling.BOX})
    assert exact == 100
    assert judge_scaled(lazy, sample, 96, scores) < 99
