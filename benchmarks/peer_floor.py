"""The floor: decoding and encoding alone, one process a core, from the page cache into files.

    benchmarks/peer_floor.py JOB.json

`pillow` is bare Pillow with the settings that the service's own output of the photo has:
tables, resolution of colours, optimised codes. `codec` is all that a decoder of the service does
with the bytes, without its cage: sound or not, upright, colours right, metadata gone.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image, ImageFile

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from codec.compressed_image import ImageLimits  # noqa: E402  # the path is set first
from codec.image_compressor import compress  # noqa: E402  # likewise
from request_options import ImageOptions  # noqa: E402  # likewise

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

_LIMITS: Final = ImageLimits(max_pixels=100_000_000, max_frames=500)


def _by_pillow(job: dict[str, Any], number: int) -> bytes:
    image: Image.Image = Image.open(io.BytesIO(Path(job["files"][number]).read_bytes()))
    if image.mode not in {"L", "RGB"}:
        image = image.convert("RGB")
    ImageFile.MAXBLOCK = 3 * image.width * image.height
    sink = io.BytesIO()
    image.save(sink, "JPEG", optimize=True, **job["encodings"][number % len(job["encodings"])])
    return sink.getvalue()


def _by_codec(job: dict[str, Any], number: int) -> bytes:
    options = ImageOptions.from_json(job["options"])
    return compress(Path(job["files"][number]).read_bytes(), options, _LIMITS).data


def _work(job: dict[str, Any], taken: Synchronized[int]) -> None:
    """Take the next image until there is none."""
    make = {"pillow": _by_pillow, "codec": _by_codec}[job["with"]]
    while True:
        with taken.get_lock():
            number = taken.value
            taken.value += 1
        if number >= len(job["files"]):
            return
        Path(job["output"], f"{number}.jpg").write_bytes(make(job, number))


def main() -> None:
    """Do the job, saying when it begins and ends, and stay until the input ends."""
    job = json.loads(Path(sys.argv[1]).read_text())
    context = multiprocessing.get_context("fork")
    taken = context.Value("i", 0)
    processes = [context.Process(target=_work, args=(job, taken)) for _ in os.sched_getaffinity(0)]
    Path(job["began"]).touch()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert not process.exitcode
    print("Done", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
