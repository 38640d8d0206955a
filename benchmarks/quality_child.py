"""Encodes images with Pillow, jpegli, oxipng, pngquant and ours, one after the other.

    .venv/bin/python benchmarks/quality_child.py

A process of its own, so that its processor time is the encoder's: `quality_encoders` starts it.
A job comes on standard input as a line of JSON and `length` bytes of an image; the answer goes to
standard output likewise: what the encoder gave, and `cpu`, the processor seconds (user and system,
those of a program it runs included) from the arrival of the bytes to the end of the encoder.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in a decoder process
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import oxipng  # noqa: E402  # the path is set first
from PIL import Image, ImageFile, ImageOps  # noqa: E402

from codec import image_encoder, image_loader, image_metadata  # noqa: E402
from codec.compressed_image import ImageLimits  # noqa: E402
from codec.image_compressor import compress  # noqa: E402
from codec.image_format import TargetFormat, identify  # noqa: E402
from errors import ImageError  # noqa: E402
from request_options import Effort, ImageOptions, OutputFormat  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from codec.picture import Picture

LIMITS: Final = ImageLimits(max_pixels=1 << 30, max_frames=500)
PNGQUANT: Final = Path(sys.executable).with_name("pngquant")


def load(data: bytes) -> Picture:
    """Decode the first frame as it shall be seen: upright and in sRGB."""
    source_format = identify(data)
    structure = image_metadata.survey(source_format, data, LIMITS.max_frames)
    source = image_loader.open_source(data, source_format, structure)
    return image_loader.load(source, source.size, is_animated=False)


def _ours(data: bytes, quality: int, target: str, effort: str) -> tuple[bytes, str]:
    """Encode at a quality, without the choice of the original that `compress` has."""
    encoded = image_encoder.encode(
        load(data), TargetFormat(target), quality, Effort(effort), is_lossless=False
    )
    return encoded, str(quality)


def _compress(
    data: bytes,
    quality: int | None,
    target: str = "keep",
    effort: str = "balanced",
    box: int | None = None,
) -> tuple[bytes, str]:
    """Do what the service does. `quality` None is `auto`; `box` is a side that it has to fit."""
    options = ImageOptions(
        format=OutputFormat(target),
        quality=quality,
        effort=Effort(effort),
        max_width=box,
        max_height=box,
    )
    compressed = compress(data, options, LIMITS)
    return compressed.data, compressed.quality


def _pillow(data: bytes, quality: int, **settings: Any) -> tuple[bytes, str]:
    with Image.open(io.BytesIO(data)) as image:
        ImageFile.MAXBLOCK = max(65536, 6 * image.width * image.height)
        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=quality, **settings)
    return sink.getvalue(), str(quality)


def _pillow_fit(
    data: bytes, box: int, *, draft: bool = False, **settings: Any
) -> tuple[bytes, str]:
    """Scale as a script would, by every pixel or by what the decoder leaves of them."""
    with Image.open(io.BytesIO(data)) as image:
        if draft:
            image.draft(None, (box, box))
        upright = ImageOps.exif_transpose(image).convert("RGB")
        upright.thumbnail((box, box), Image.Resampling.LANCZOS, reducing_gap=None)
        sink = io.BytesIO()
        upright.save(sink, **{"format": "JPEG"} | settings)
    return sink.getvalue(), ""


def _jpegli(data: bytes, quality: int) -> tuple[bytes, str]:
    with Image.open(io.BytesIO(data)) as image:
        pixels = image.convert("RGB")
    jpegli = importlib.import_module("pyjpegli")
    return jpegli.encode(pixels.tobytes(), *pixels.size, quality), str(quality)


def _pillow_png(data: bytes) -> tuple[bytes, str]:
    with Image.open(io.BytesIO(data)) as image:
        sink = io.BytesIO()
        image.save(sink, "PNG", optimize=True)
    return sink.getvalue(), "lossless"


def _oxipng(data: bytes, level: int) -> tuple[bytes, str]:
    return oxipng.optimize_from_memory(
        data, level=level, strip=oxipng.StripChunks.safe()
    ), "lossless"


def _pngquant(data: bytes) -> tuple[bytes, str]:
    command = [str(PNGQUANT), "--strip", "-"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout, "palette"


_ENCODERS: Final[dict[str, Callable[..., tuple[bytes, str]]]] = {
    "ours": _ours,
    "compress": _compress,
    "pillow": _pillow,
    "pillow-fit": _pillow_fit,
    "jpegli": _jpegli,
    "pillow-png": _pillow_png,
    "oxipng": _oxipng,
    "pngquant": _pngquant,
}


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> None:
    """Answer jobs until standard input ends."""
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := jobs.readline():
        job = json.loads(line)
        data = jobs.read(job["length"])
        before = _cpu_seconds()
        try:
            encoded, said = _ENCODERS[job["encoder"]](data, **job["settings"])
        except ImageError as error:
            encoded, said = b"", f"error: {error.detail}"
        head = {"length": len(encoded), "cpu": _cpu_seconds() - before, "said": said}
        answers.write(json.dumps(head).encode() + b"\n" + encoded)
        answers.flush()


if __name__ == "__main__":
    main()
