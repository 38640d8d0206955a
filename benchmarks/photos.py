"""Photos for benchmarks: those of a folder, or where none is given, gradients and grain."""

from __future__ import annotations

import random
import shutil
from math import inf
from typing import TYPE_CHECKING, Final

from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

PHOTOS: Final = 24  # different ones; each is asked for under many URLs
MEGAPIXELS: Final = (2.0, 3.0)  # about 25 ms of decoding and encoding each


def take_photos(source: Path | None, folder: Path, *, most_megapixels: float = inf) -> list[str]:
    """Copy JPEGs from where they are, else draw some; return their names in `folder`."""
    if source is None:
        return draw_photos(folder)
    names: list[str] = []
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() not in {".jpg", ".jpeg"}:
            continue
        with Image.open(path) as image:
            is_small = image.width * image.height <= most_megapixels * 1e6
        if is_small:
            names.append(f"photo{len(names)}.jpg")
            shutil.copyfile(path, folder / names[-1])
    assert names, f"{source} has no JPEGs"
    return names


def draw_photos(
    folder: Path, photos: int = PHOTOS, megapixels: tuple[float, float] = MEGAPIXELS
) -> list[str]:
    """Write photos that a JPEG takes as long for as for real ones; return their names."""
    chance = random.Random(1)  # noqa: S311  # the same photos each time
    names = []
    low, high = megapixels
    for number in range(photos):
        pixels = 1e6 * (low + (high - low) * number / max(1, photos - 1))
        size = (round((pixels * 1.5) ** 0.5), round((pixels / 1.5) ** 0.5))
        ramp = Image.linear_gradient("L").resize(size).rotate(chance.choice((0, 180)))
        glow = Image.radial_gradient("L").resize(size)
        bands = [
            Image.blend(band, Image.effect_noise(size, chance.uniform(20, 40)), 0.3)
            for band in (ramp, glow, ramp)
        ]
        names.append(f"{number}.jpg")
        Image.merge("RGB", bands).save(folder / names[-1], quality=92)
    return names
