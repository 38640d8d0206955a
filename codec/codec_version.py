"""Tells one compressor from another, by its files and the libraries under it. Loads no codec."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

CODEC: Final = Path(__file__).parent
# Those that decide on an output's bytes.
LIBRARIES: Final = (
    "cykooz-resizer",
    "mozjpeg-lossless-optimization",
    "numpy",
    "pillow",
    "pyoxipng",
)


@cache
def codec_version(folder: Path = CODEC) -> str:
    """Return a digest of the compressor: another one may make other bytes of the same image.

    Taken from its files themselves, so that nobody has to remember to raise a number.
    """
    digest = sha256(" ".join(f"{name} {_version(name)}" for name in LIBRARIES).encode())
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and "__pycache__" not in name.parts:
            digest.update(f"\n{name.as_posix()} {sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # not every system has a wheel of each
        return "missing"
