"""Judges of how alike two pictures look, for benchmarks: each takes the original first.

Pictures are upright, in sRGB, of one size and of mode L, LA, RGB or RGBA. Where libjxl's programs
are at hand, on PATH or named by the environment variables SSIMULACRA2 and BUTTERAUGLI, they are
asked; `describe` says so. Transparency is `ssimulacra2`'s business alone: give the others what is
seen over some background.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from codec import ssimulacra2 as metric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Luma = NDArray[np.float64]

_SMALLEST_SIDE = 8  # that the programs take

# Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", 2003.
_SCALE_WEIGHTS: Final = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
_LUMINANCE_STABILISER: Final = (0.01 * 255) ** 2
_CONTRAST_STABILISER: Final = (0.03 * 255) ** 2
_WINDOW: Final = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)


def describe(judge: str) -> str:
    """Return who answers for a judge, a function of this module, here and now."""
    if judge == "ms_ssim_luma":
        return "numpy"
    if _program(judge):
        return "the program of libjxl"
    return "codec.ssimulacra2" if judge == "ssimulacra2" else "nobody"


def ssimulacra2(original: Image.Image, other: Image.Image) -> float:
    """Return the SSIMULACRA 2.1 score: 100 the same, 90 no visible difference, no lower bound."""
    program = _program("ssimulacra2")
    if program is None or min(original.size) < _SMALLEST_SIDE:
        return metric.score(original, other)
    return float(_answer(program, original, other))


def butteraugli(original: Image.Image, other: Image.Image) -> float:
    """Return the 3-norm of the butteraugli distance: 0 the same, 1 hardly visible, no upper bound.

    It is not a number when the program is not at hand.
    """
    program = _program("butteraugli")
    if program is None:
        return math.nan
    answer = _answer(program, original, other)
    found = re.search(r"^3-norm: (\S+)$", answer, re.MULTILINE)
    if found is None:
        raise ValueError(f"no 3-norm in butteraugli's answer: {answer!r}")
    return float(found[1])


def ms_ssim_luma(original: Image.Image, other: Image.Image) -> float:
    """Return the MS-SSIM of the luma (BT.601): 1 the same, 0 nothing in common.

    Pictures with a side below 176 pixels have fewer scales than five, below 11 none: ValueError.
    """
    lumas = _luma(original), _luma(other)
    total, weights = 1.0, _SCALE_WEIGHTS[: _count_scales(min(original.size))]
    if not len(weights):
        raise ValueError("a side is shorter than the window of MS-SSIM")
    for index, weight in enumerate(weights / weights.sum(), 1):
        luminance, contrast = _similarity(*lumas)
        part = luminance * contrast if index == len(weights) else contrast
        total *= max(0.0, float(part.mean())) ** weight
        lumas = _halved(lumas[0]), _halved(lumas[1])
    return total


def _program(judge: str) -> str | None:
    names = {"ssimulacra2": "ssimulacra2", "butteraugli": "butteraugli_main"}
    return os.environ.get(judge.upper()) or shutil.which(names[judge])


def _answer(program: str, *pictures: Image.Image) -> str:
    """Return what a program prints about pictures."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{index}.png") for index in range(len(pictures))]
        for picture, path in zip(pictures, paths, strict=True):
            bare = picture.copy()
            bare.info = {}  # no profile: the pixels are sRGB already
            bare.save(path, compress_level=0)
        return subprocess.run([program, *paths], check=True, capture_output=True, text=True).stdout


def _luma(picture: Image.Image) -> Luma:
    luma: Luma = np.asarray(picture.convert("RGB")) @ np.array([0.299, 0.587, 0.114])
    return luma


def _count_scales(side: int) -> int:
    return sum(side >> scale >= len(_WINDOW) for scale in range(len(_SCALE_WEIGHTS)))


def _similarity(original: Luma, other: Luma) -> tuple[Luma, Luma]:
    """Return the maps of luminance, and of contrast and structure."""
    mean, other_mean = _windowed(original), _windowed(other)
    variances = _windowed(original**2 + other**2) - mean**2 - other_mean**2
    covariance = _windowed(original * other) - mean * other_mean
    luminance = (2 * mean * other_mean + _LUMINANCE_STABILISER) / (
        mean**2 + other_mean**2 + _LUMINANCE_STABILISER
    )
    contrast = (2 * covariance + _CONTRAST_STABILISER) / (variances + _CONTRAST_STABILISER)
    return luminance, contrast


def _windowed(luma: Luma) -> Luma:
    """Return Gaussian means where the window is wholly inside."""
    for _ in range(2):
        rows = len(luma) - len(_WINDOW) + 1
        luma = sum(
            (tap * luma[first : first + rows] for first, tap in enumerate(_WINDOW / _WINDOW.sum())),
            np.zeros((rows, luma.shape[1])),
        ).T
    return luma


def _halved(luma: Luma) -> Luma:
    """Return means of four pixels, without the last of an odd side."""
    height, width = (side // 2 for side in luma.shape)
    blocks = luma[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
    means: Luma = blocks.mean(axis=(1, 3))
    return means
