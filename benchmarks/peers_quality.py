"""Equal score for `peers.py`: the quality at which a peer's outputs look as good as ours.

Each side does a job of crops, just as it does the large ones; SSIMULACRA 2 judges what came out.
"""

from __future__ import annotations

import io
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from PIL import Image

from benchmarks.quality_photos import read_photos, seen
from benchmarks.quality_scores import SSIMULACRA2, Scores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.peers_sides import Job, Program, Side

SAMPLE_PHOTOS: Final = 24
SAMPLE_MEGAPIXELS: Final = 0.3
_QUALITIES_A_POINT: Final = 1.5  # of score, around 75
_TRIALS: Final = 4
_NEAR: Final = 0.3


def write_sample(paths: Sequence[Path], folder: Path) -> list[str]:
    """Write the middles of some photos into a folder; return their names."""
    step = max(1, len(paths) // SAMPLE_PHOTOS)
    photos = read_photos(paths[::step][:SAMPLE_PHOTOS], SAMPLE_MEGAPIXELS)
    for number, photo in enumerate(photos):
        (folder / f"crop{number}.jpg").write_bytes(photo.plain)
    return [f"crop{number}.jpg" for number in range(len(photos))]


def judge(side: Side, sample: Job, scores: Scores) -> float:
    """Have a side do the sample; return the mean score of what it makes."""
    run = side.run(sample, keeps=True)
    sources = [(sample.folder / name).read_bytes() for name in sample.names()]
    pairs = zip(sources, run.outputs, strict=True)
    return statistics.fmean(scores.of(SSIMULACRA2, source, output) for source, output in pairs)


def judge_scaled(side: Side, job: Job, side_pixels: int, scores: Scores) -> float:
    """Have a side fit photos into a square, losslessly; score them against full Lanczos."""
    run = side.run(job, keeps=True)
    found = []
    for name, output in zip(job.names(), run.outputs, strict=True):
        with Image.open(io.BytesIO(output)) as made:
            size = made.size
        assert max(size) <= side_pixels
        reference = io.BytesIO()
        whole = seen((job.folder / name).read_bytes())
        whole.resize(size, Image.Resampling.LANCZOS).save(reference, "PNG", compress_level=1)
        found.append(scores.of(SSIMULACRA2, reference.getvalue(), output))
    return statistics.fmean(found)


def at_equal_score(
    peer: Program, ours: float, sample: Job, scores: Scores
) -> tuple[Program, float]:
    """Return the peer with the quality that comes nearest to our score, and its own score."""
    tried: dict[int, float] = {}
    quality = peer.settings["quality"]
    while quality not in tried and len(tried) < _TRIALS:
        candidate = replace(peer, settings=peer.settings | {"quality": quality})
        tried[quality] = judge(candidate, sample, scores)
        missing = ours - tried[quality]
        if abs(missing) <= _NEAR:
            break
        step = round(missing * _QUALITIES_A_POINT) or (1 if missing > 0 else -1)
        quality = min(100, max(1, quality + step))
    best = min(tried, key=lambda quality: abs(tried[quality] - ours))
    return replace(peer, settings=peer.settings | {"quality": best}), tried[best]
