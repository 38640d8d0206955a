"""Scores of pictures against their sources, kept on disk by what was compared.

The judges are `judges`'; here is only the memory, so that a second run is quick: a line of
`scores.txt` for each score. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Final

from benchmarks import judges
from benchmarks.quality_photos import seen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL import Image

Judge = str
SSIMULACRA2: Final[Judge] = "ssimulacra2"
BUTTERAUGLI: Final[Judge] = "butteraugli"
MS_SSIM: Final[Judge] = "ms_ssim_luma"
_JUDGES: Final[dict[Judge, Callable[[Image.Image, Image.Image], float]]] = {
    SSIMULACRA2: judges.ssimulacra2,
    BUTTERAUGLI: judges.butteraugli,
    MS_SSIM: judges.ms_ssim_luma,
}
JUDGES: Final = [judge for judge in _JUDGES if judges.describe(judge) != "nobody"]


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
        key = hashlib.sha256(f"{judge} {judges.describe(judge)}".encode() + contents).hexdigest()
        if key not in self._known:
            score = float(_judge(judge, seen(source), seen(output)))
            with self._lock, self._path.open("a") as file:
                file.write(f"{key} {score!r}\n")
                self._known[key] = score
        return self._known[key]


def _judge(judge: Judge, source: Image.Image, output: Image.Image) -> float:
    mode = "RGBA" if "RGBA" in {source.mode, output.mode} else "RGB"
    return _JUDGES[judge](source.convert(mode), output.convert(mode))
