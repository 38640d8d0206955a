"""Photos for benchmarks, where no folder of real ones is given: gradients and grain."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

PHOTOS: Final = 24  # different ones; each is asked for under many URLs
MEGAPIXELS: Final = (2.0, 3.0)  # about 25 ms of decoding and encoding each


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
