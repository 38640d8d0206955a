"""What compressing a photo takes beside bare Pillow, by size: processor time, in turn.

    .venv/bin/python benchmarks/codec.py FOLDER [--photos N] [--rounds N]

FOLDER has photos of about 2 megapixels or more; without one, photos are drawn. Each is scaled to
every size and stored as a JPEG of quality 90. `Pillow` decodes it and encodes it with the very
settings that ours takes: tables, resolution of colours, Huffman codes made for the picture. `fixed`
is all that a decoder does with it at that quality, `auto` with `quality=auto`. The process has a
decoder's environment. Pillow's own time goes with what else the machine does, and small pieces of
Python between long runs of C go with it more: look at ratios, on an idle machine.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.photos import draw_photos  # noqa: E402  # the path is set first
from benchmarks.processes import spread  # noqa: E402  # likewise
from codec.compressed_image import ImageLimits  # noqa: E402  # likewise
from codec.image_compressor import compress  # noqa: E402  # likewise
from codec.jpeg_encoder import tables  # noqa: E402  # likewise
from command_help import HelpFormatter  # noqa: E402
from decoder import decoder_handle  # noqa: E402  # likewise
from request_options import ImageOptions  # noqa: E402  # likewise

if TYPE_CHECKING:
    from collections.abc import Callable

MEGAPIXELS: Final = (0.1, 0.3, 1.0, 2.6, 8.0)
QUALITY: Final = 75
_ENVIRONMENT: Final = decoder_handle._ENVIRONMENT  # noqa: SLF001  nobody else needs it
_LIMITS: Final = ImageLimits(max_pixels=100_000_000, max_frames=1)
_SECONDS: Final = 0.3  # of processor that a turn takes, at the least


def _by_pillow(data: bytes) -> None:
    image = Image.open(io.BytesIO(data))
    image.load()  # else `save` makes a copy
    settings = {"qtables": tables(QUALITY, is_colour_halved=True), "subsampling": "4:2:0"}
    image.save(io.BytesIO(), "JPEG", optimize=True, **settings)


def _fixed(data: bytes) -> None:
    compress(data, ImageOptions(quality=QUALITY), _LIMITS)


def _auto(data: bytes) -> None:
    compress(data, ImageOptions(), _LIMITS)


SIDES: Final[dict[str, Callable[[bytes], None]]] = {
    "Pillow": _by_pillow,
    "fixed": _fixed,
    "auto": _auto,
}


def scaled(path: Path, megapixels: float) -> bytes:
    """Return a photo as a JPEG of a size."""
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
    size = (round(photo.width * scale), round(photo.height * scale))
    jpeg = io.BytesIO()
    photo.resize(size, Image.Resampling.LANCZOS).save(jpeg, "JPEG", quality=90)
    return jpeg.getvalue()


def measure(photos: list[bytes], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds a photo, round by round; the sides take turns photo by photo."""
    milliseconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds + 1):
        spent = dict.fromkeys(SIDES, 0.0)
        turns = 0
        while spent["Pillow"] < _SECONDS:
            turns += 1
            for photo in photos:
                for side, make in SIDES.items():
                    before = time.process_time()
                    make(photo)
                    spent[side] += time.process_time() - before
        if number:  # the first one warms up
            for side in SIDES:
                milliseconds[side].append(1000 * spent[side] / turns / len(photos))
    return milliseconds


def main() -> None:
    """Measure every size and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of photos")
    parser.add_argument("--photos", type=int, default=5, help="of the folder")
    parser.add_argument("--rounds", type=int, default=5, help="of each size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        if not arguments.folder:
            draw_photos(folder)
        paths = sorted(folder.glob("*.jpg"))
        paths = paths[:: -(-len(paths) // arguments.photos)]
        print("megapixels  Pillow, ms   fixed / Pillow        auto / Pillow         auto / fixed")
        for megapixels in MEGAPIXELS:
            times = measure([scaled(path, megapixels) for path in paths], arguments.rounds)
            columns = [spread(times["Pillow"], 2)]
            for side, base in (("fixed", "Pillow"), ("auto", "Pillow"), ("auto", "fixed")):
                pairs = zip(times[side], times[base], strict=True)
                columns.append(spread([one / other for one, other in pairs], 2))
            print(f"{megapixels:<10}  {'   '.join(columns)}", flush=True)


if __name__ == "__main__":
    if not _ENVIRONMENT.items() <= os.environ.items():  # read by libraries as they start
        environment = os.environ | _ENVIRONMENT
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)  # noqa: S606  itself
    main()
