"""What becomes of PNGs, with and without loss, beside programs that do the one or the other."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING

from tqdm import tqdm

from benchmarks.quality_child import PNGQUANT
from benchmarks.quality_encoders import EFFORTS, Encoded, Encoder, Tools
from benchmarks.quality_report import Table
from benchmarks.quality_scores import SSIMULACRA2, Scores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def measure(paths: Sequence[Path], scores: Scores) -> Table:
    """Run everything over the PNGs, as they are."""
    rows = []
    with Tools() as tools:
        for encoder, settings in _encoders():
            results = []
            for path in tqdm(paths, encoder.label, unit=" images", disable=None):
                source = path.read_bytes()
                encoded = tools.encode(encoder, source, **settings)
                score = scores.of(SSIMULACRA2, source, encoded.data)
                results.append((source, encoded, score))
            rows.append([encoder.label, *_row(results)])
    return Table(
        "PNG",
        ["encoder", "bytes", "mean score", "lowest", "seconds", "what"],
        rows,
        f"{len(paths)} images; bytes to the input's, geometric mean.",
    )


def _encoders() -> list[tuple[Encoder, dict[str, int | None]]]:
    def python(label: str, name: str, **settings: object) -> Encoder:
        return Encoder(label, "png", "python", name, settings)

    ours = [
        (python(f"ours {effort}, {said}", "compress", effort=effort), {"quality": quality})
        for said, quality in (("auto", None), ("quality 100", 100))
        for effort in EFFORTS
    ]
    peers = [
        python("Pillow optimize", "pillow-png"),
        *(python(f"oxipng {level}", "oxipng", level=level) for level in (0, 2, 4)),
        *([python("pngquant", "pngquant")] if PNGQUANT.exists() else []),
    ]
    return [*ours, *((peer, {}) for peer in peers)]


def _row(results: Sequence[tuple[bytes, Encoded, float]]) -> list[str]:
    sizes = [len(encoded.data) / len(source) for source, encoded, _ in results]
    found = [score for _, _, score in results]
    kinds = Counter(encoded.said for _, encoded, _ in results)
    return [
        f"{statistics.geometric_mean(sizes):.3f}",
        f"{statistics.fmean(found):.1f}",
        f"{min(found):.1f}",
        f"{sum(encoded.cpu_seconds for _, encoded, _ in results):.1f}",
        ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()),
    ]
