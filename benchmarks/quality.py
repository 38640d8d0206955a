"""Encoders side by side: bytes at equal score, processor time, and what `quality=auto` makes.

    make bench-quality FOLDER=path QUALITY="--photos 30"
    .venv/bin/python benchmarks/quality.py [FOLDER] [--photos N] [--max-megapixels M] [--parts …]

Measures on the JPEGs and PNGs of a folder, the project's own samples by default (drawn ones: good
for trying it out, not for judging by). Prints tables, and writes a page with the same tables and
the worst pictures of `auto` beside their sources. Scores are SSIMULACRA2, butteraugli (3-norm) and
MS-SSIM of the brightness; `judges.py` says whose. Scores are kept, so that a second run is quick.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import judges, quality_auto, quality_png  # noqa: E402  # the path is set first
from benchmarks.quality_curves import EqualScore  # noqa: E402  # likewise
from benchmarks.quality_encoders import FORMATS, has_sharp, peers_and_ours  # noqa: E402
from benchmarks.quality_photos import find, read_photos  # noqa: E402
from benchmarks.quality_report import Table, write_page  # noqa: E402
from benchmarks.quality_scores import BUTTERAUGLI, JUDGES, Scores  # noqa: E402
from command_help import HelpFormatter  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.quality_report import Figure

PARTS: Final = ("equal", "auto", "png")


def main() -> None:
    """Measure the parts that are asked for."""
    arguments = _arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    scores = Scores(ROOT / "benchmarks" / "quality-cache")
    started = time.perf_counter()
    print("Judges:", ", ".join(f"{judge} by {judges.describe(judge)}" for judge in JUDGES))
    if not has_sharp():
        print("sharp is left out: node and npm are not there, or `npm ci` failed")
    if BUTTERAUGLI not in JUDGES:
        print("butteraugli is left out: libjxl's butteraugli_main is not on PATH")
    parts: list[Table | Figure] = []
    for name in arguments.parts:
        found = _measure(name, arguments, scores)
        for part in found:
            if isinstance(part, Table):
                print(part.text(), flush=True)
        parts += found
    page = write_page(arguments.output, f"Encoders over {arguments.folder.name}", parts)
    print(f"\n{time.perf_counter() - started:.0f} s; {page} shows the worst of auto.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=ROOT / "samples", help="of JPEGs and PNGs"
    )
    parser.add_argument(
        "--photos", type=int, default=30, help="of each kind, evenly spaced; 0: all"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=0.3, help="only the middle of larger ones; 0: whole"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which tables")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=FORMATS, help="that are measured"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of processor time")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "quality-report", help="of the page"
    )
    return parser.parse_args()


def _measure(
    part: str, arguments: argparse.Namespace, scores: Scores
) -> list[Table] | list[Table | Figure]:
    if part == "png":
        pngs = find(arguments.folder, (".png",), arguments.photos)
        return [quality_png.measure(pngs, scores)] if pngs else []
    paths = find(arguments.folder, (".jpg", ".jpeg"), arguments.photos)
    photos = read_photos(paths, arguments.max_megapixels)
    if not photos:
        return []
    megapixels = sum(photo.megapixels for photo in photos)
    print(f"\n{len(photos)} photos, {megapixels:.1f} megapixels", flush=True)
    if part == "auto":
        auto = quality_auto.Auto(photos, scores, arguments.rounds, arguments.output)
        return auto.measure(arguments.formats)
    formats = {"jpeg", *arguments.formats}  # what all is compared with is a JPEG
    equal = EqualScore([each for each in peers_and_ours() if each.format in formats], photos)
    equal.trace_all(scores, lanes=os.cpu_count() or 1)
    equal.time_all(arguments.rounds)
    return equal.tables()


if __name__ == "__main__":
    main()
