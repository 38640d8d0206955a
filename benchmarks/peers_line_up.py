"""Who takes part in `peers.py`, each with the settings that serve it best.

All may have the same number of connections. Tried and no quicker: 8 images at a time with sharp, or
libvips' own number of threads; one process or twice the threads with img2dataset.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from PIL import Image, JpegImagePlugin

from benchmarks.peers_report import BARE_IMG2DATASET, FLOOR, IMG2DATASET, THREADS, TUNED_THREADS
from benchmarks.peers_sides import HERE, IMG2DATASET_PYTHON, Program, Service
from benchmarks.quality_encoders import has_sharp
from codec import jpeg_encoder
from request_options import ImageOptions

if TYPE_CHECKING:
    from benchmarks.peers_sides import Job

# Others are only compared once.
EVERYWHERE: Final = (THREADS, TUNED_THREADS, IMG2DATASET, BARE_IMG2DATASET, "sharp")
_CORES: Final = len(os.sched_getaffinity(0))
_MOZJPEG_SHARE: Final = 4
_HALVED: Final = 2  # 4:2:0, in Pillow's words
# Fewer threads take less of the processor, but where answers take long they are not enough.
_THREADS, _LONG_LATENCY_MS = 16, 100


def service(label: str, connections: int, **options: str) -> Service:
    """Return the service with the settings of an operator whose own origin it is."""
    return Service(label, options, {"HOST_CONCURRENCY": str(connections)})


def floor(job: Job, quality: int) -> Program:
    """Return bare Pillow with the very settings of our encoder."""
    settings = {
        "with": "pillow",
        "encodings": [_encoding(job, name, quality) for name in job.photos],
    }
    return _floor(FLOOR, settings)


def codec(label: str, **options: Any) -> Program:
    """Return our compressor without its cage, with options of an upload."""
    wanted = ImageOptions().to_json() | options
    return _floor(label, {"with": "codec", "options": wanted})


def peers(connections: int) -> list[Program]:
    """Return the peers that are installed, each at the quality where the search begins."""
    common: dict[str, Any] = {"quality": 75, "concurrency": connections}
    threads = [sys.executable, str(HERE / "peer_threads.py")]
    found = [
        Program(THREADS, threads, common | {"is_tuned": False}),
        Program(TUNED_THREADS, threads, common | {"is_tuned": True}),
    ]
    if IMG2DATASET_PYTHON.exists():
        command = [str(IMG2DATASET_PYTHON), str(HERE / "peer_img2dataset.py")]
        img2dataset = common | {"settings": {"processes_count": _CORES}}
        found.append(Program(IMG2DATASET, command, img2dataset | {"is_bare": False}))
        found.append(Program(BARE_IMG2DATASET, command, img2dataset | {"is_bare": True}))
    else:
        print("img2dataset is left out: it is not installed")
    if has_sharp():
        command = ["node", str(HERE / "peer_sharp.mjs")]
        sharp = common | {"threads_an_image": 1}
        mozjpeg = sharp | {"settings": {"mozjpeg": True}}
        plain = sharp | {"settings": {"optimiseCoding": False}}
        found.append(Program("sharp", command, sharp))
        found.append(Program("sharp, optimiseCoding off", command, plain))
        found.append(Program("sharp mozjpeg", command, mozjpeg, _MOZJPEG_SHARE))
    else:
        print("sharp is left out: node and npm are not there, or `npm ci` failed")
    return found


def at_latency(peer: Program, milliseconds: int) -> Program:
    """Return a peer with what suits it at a latency of the origin."""
    if peer.label not in {THREADS, TUNED_THREADS} or milliseconds >= _LONG_LATENCY_MS:
        return peer
    return replace(peer, settings=peer.settings | {"concurrency": _THREADS})


def _floor(label: str, settings: dict[str, Any]) -> Program:
    return Program(label, [sys.executable, str(HERE / "peer_floor.py")], settings)


def _encoding(job: Job, name: str, quality: int) -> dict[str, Any]:
    """Return what our encoder would tell Pillow about a photo."""
    with Image.open(job.folder / name) as image:
        is_halved = quality < jpeg_encoder.FULL_COLOUR_QUALITY and (
            JpegImagePlugin.get_sampling(image) == _HALVED
            or not jpeg_encoder.has_colour_edges(image.convert("RGB"))
        )
    return {
        "qtables": jpeg_encoder.tables(quality, is_colour_halved=is_halved),
        "subsampling": "4:2:0" if is_halved else "4:4:4",
    }
