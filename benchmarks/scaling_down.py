"""Sets scaling photos down by the service beside sharp and Pillow: how alike, and at what cost.

    .venv/bin/python benchmarks/scaling_down.py FOLDER [--box 1024] [--photos 30] [--rounds 5]

Takes those JPEGs in FOLDER that don't fit into a square of `box` pixels. The score is SSIMULACRA 2
of the scaled pixels, before they are encoded, against every pixel scaled by Pillow's Lanczos
filter. It is steep at the top: a single pixel that is a single level off costs 2 to 4 points. The
time is the processor's for decoding, scaling and encoding as JPEG. Each has a process of its own,
all take turns at each photo, and a ratio is of two sums over all photos of the same round. sharp
takes part where `make bench-quality` has installed it.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image

from benchmarks import judges
from benchmarks.processes import spread
from benchmarks.quality_encoders import Encoder, Tools, has_sharp
from benchmarks.quality_photos import find, seen
from command_help import HelpFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

QUALITY: Final = 80  # of all but `auto`: sharp's default
EVERY_PIXEL: Final = "Pillow, every pixel"
DRAFT: Final = {"draft": True}


def encoders(box: int) -> list[Encoder]:
    """Return all that scale and encode as JPEG, sharp only where it is installed."""
    ours = [
        Encoder(
            f"ours, {effort}{', auto' if quality is None else ''}",
            "jpeg",
            "python",
            "compress",
            {"quality": quality, "effort": effort, "box": box},
        )
        for quality, effort in ((QUALITY, "fast"), (QUALITY, "balanced"), (None, "balanced"))
    ]
    settings = {"quality": QUALITY, "box": box}
    sharp = [Encoder("sharp", "jpeg", "sharp", "sharp", settings | {"format": "jpeg"})]
    return [
        *ours,
        *(sharp if has_sharp() else []),
        Encoder("Pillow, draft", "jpeg", "python", "pillow-fit", settings | DRAFT),
        Encoder(EVERY_PIXEL, "jpeg", "python", "pillow-fit", settings),
    ]


def scalers(box: int) -> list[Encoder]:
    """Return those that scale otherwise than every pixel by Pillow, as PNG without a loss."""
    exact = {"target": "png", "quality": 100, "effort": "fast", "box": box}
    sharp = Encoder("sharp", "png", "sharp", "sharp", {"format": "png", "box": box})
    return [
        Encoder("ours", "png", "python", "compress", exact),
        *([sharp] if has_sharp() else []),
        Encoder(
            "Pillow, draft", "png", "python", "pillow-fit", {"format": "PNG", "box": box} | DRAFT
        ),
    ]


def print_scores(box: int, photos: Sequence[bytes]) -> None:
    """Print how alike each way of scaling is to scaling every pixel."""
    found: dict[str, list[float]] = {scaler.label: [] for scaler in scalers(box)}
    with Tools() as tools:
        for photo in photos:
            whole = seen(photo).convert("RGB")
            for scaler in scalers(box):
                with Image.open(io.BytesIO(tools.encode(scaler, photo).data)) as image:
                    scaled = image.convert("RGB")
                every_pixel = whole.resize(scaled.size, Image.Resampling.LANCZOS)
                found[scaler.label].append(judges.ssimulacra2(every_pixel, scaled))
    print(f"Score, by {judges.describe('ssimulacra2')}: mean (lowest)")
    for label, scores in found.items():
        print(f"  {label:22}{statistics.mean(scores):.1f} ({min(scores):.1f})")


def print_times(box: int, photos: Sequence[bytes], rounds: int) -> None:
    """Print what each takes, in milliseconds an image and as a ratio."""
    found: dict[str, list[float]] = {encoder.label: [] for encoder in encoders(box)}
    with ExitStack() as stack:
        pairs = [(encoder, stack.enter_context(Tools())) for encoder in encoders(box)]
        for number in range(-1, rounds):  # one before the first warms up
            sums = dict.fromkeys(found, 0.0)
            for photo in photos:
                for encoder, tools in pairs:
                    sums[encoder.label] += tools.encode(encoder, photo).cpu_seconds
            if number >= 0:
                for label, seconds in sums.items():
                    found[label].append(1000 * seconds / len(photos))
    peer = "sharp" if has_sharp() else EVERY_PIXEL
    print(f"Processor time of an image in ms, and where {peer} takes 1: median (range)")
    for label, times in found.items():
        ratios = [time / other for time, other in zip(times, found[peer], strict=True)]
        print(f"  {label:22}{spread(times, 1):24}{spread(ratios, 2)}")


def main() -> None:
    """Read the arguments, score, and take the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=Path, help="of JPEGs")
    parser.add_argument("--box", type=int, default=1024, help="pixels of its side")
    parser.add_argument("--photos", type=int, default=30, help="at most so many; 0: all")
    parser.add_argument("--rounds", type=int, default=5, help="over all photos")
    arguments = parser.parse_args()
    photos, pixels = [], 0
    for path in find(arguments.folder, (".jpg", ".jpeg"), arguments.photos):
        photo = path.read_bytes()
        size = Image.open(io.BytesIO(photo)).size
        if max(size) > arguments.box:
            photos.append(photo)
            pixels += size[0] * size[1]
    assert photos, "no JPEG there is larger than that"
    print(
        f"{len(photos)} photos of {pixels / len(photos) / 1e6:.1f} megapixels on average, "
        f"scaled into a square of {arguments.box}"
    )
    print_scores(arguments.box, photos)
    print_times(arguments.box, photos, arguments.rounds)


if __name__ == "__main__":
    main()
