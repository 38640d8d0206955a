"""Scores of pictures against their sources, kept on disk by what was compared.

The judges are `judges`'; here is only the memory, so that a second run is quick: a line of
`scores.txt` for each score. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Final

from PIL import Image

from benchmarks import judges
from benchmarks.quality_photos import seen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Judge = str
SSIMULACRA2: Final[Judge] = "ssimulacra2"
BUTTERAUGLI: Final[Judge] = "butteraugli"
MS_SSIM: Final[Judge] = "ms_ssim_luma"
JUDGES: Final[dict[Judge, Callable[[Image.Image, Image.Image], float]]] = {
    SSIMULACRA2: judges.ssimulacra2,
    BUTTERAUGLI: judges.butteraugli,
    MS_SSIM: judges.ms_ssim_luma,
}
_GROUNDS: Final = ("#ffffff", "#202020")  # what transparency is looked at over; the worse counts


class Scores:
    """Asks the judges, each question once. Safe for several threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "scores.txt"
        self._lock = threading.Lock()
        self._known: dict[str, float] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                key, _, score = line.partition(" ")
                self._known[key] = float(score)

    def of(self, judge: Judge, source: bytes, output: bytes) -> float:
        """Return the score of an output, both given as the bytes of an image file."""
        contents = b"".join(hashlib.sha256(data).digest() for data in (source, output))
        key = hashlib.sha256(f"{judges.describe(judge)} ".encode() + contents).hexdigest()
        if key not in self._known:
            score = _judge(judge, seen(source), seen(output))
            with self._lock, self._path.open("a") as file:
                file.write(f"{key} {score!r}\n")
                self._known[key] = score
        return self._known[key]


def _judge(judge: Judge, source: Image.Image, output: Image.Image) -> float:
    if "RGBA" not in {source.mode, output.mode}:
        return JUDGES[judge](source, output)
    worst = max if judge == BUTTERAUGLI else min  # a distance; the others are likenesses
    return worst(JUDGES[judge](_over(source, ground), _over(output, ground)) for ground in _GROUNDS)


def _over(image: Image.Image, ground: str) -> Image.Image:
    backdrop = Image.new("RGBA", image.size, ground)
    return Image.alpha_composite(backdrop, image.convert("RGBA")).convert("RGB")
