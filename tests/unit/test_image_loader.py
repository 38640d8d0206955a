"""Scaled pictures are as sharp as those scaled from every pixel, and no pattern appears in them."""

from __future__ import annotations

import io
import math
from functools import cache

import pytest
from PIL import Image, ImageChops, ImageStat

from codec import image_loader, image_metadata
from codec.image_format import identify
from tests.images import opened, saved

# Of 255, over rings down to the finest that a picture can have. Photos, whose finest detail is
# faint, differ by a tenth of that.
SHARP = 3
NOT_SHARP = 9


@cache
def rings(mode: str = "RGB") -> Image.Image:
    """Return rings that get finer outward, from another corner in each channel."""
    width, height = 1200, 900
    waves = [round(127.5 + 127.5 * math.cos(math.pi * at / (2 * width))) for at in range(4 * width)]
    levels = bytes(
        waves[(x * x + y * y) % (4 * width)] for y in range(height) for x in range(width)
    )
    plane = Image.frombytes("L", (width, height), levels)
    flips = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)
    return Image.merge("RGB", (plane, *(plane.transpose(flip) for flip in flips))).convert(mode)


@cache
def encoded(name: str, mode: str) -> bytes:
    """Return the rings in a format, with all detail."""
    if name == "PNG":
        return saved(rings(mode), name, compress_level=1)
    return saved(rings(mode), name, quality=95, subsampling="4:4:4")


def scaled(data: bytes, size: tuple[int, int]) -> Image.Image:
    """Return a picture as the service scales it."""
    source_format = identify(data)
    structure = image_metadata.survey(source_format, data, max_frames=1)
    source = image_loader.open_source(data, source_format, structure)
    return image_loader.load(source, size, is_animated=False).frames[0]


def error(data: bytes, image: Image.Image) -> float:
    """Return how far an image is from every pixel scaled by Lanczos' filter, as a mean square."""
    full = opened(data).resize(image.size, Image.Resampling.LANCZOS)
    return max(ImageStat.Stat(ImageChops.difference(image, full)).rms)


@pytest.mark.parametrize("width", [1100, 900, 700, 601, 600, 450, 400, 300, 299, 200, 150, 75])
@pytest.mark.parametrize(("name", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB")])
def test_scales_as_sharply_as_from_every_pixel(name: str, mode: str, width: int) -> None:
    """What the decoder leaves out beforehand can hardly be seen afterwards."""
    data = encoded(name, mode)
    assert error(data, scaled(data, (width, width * 3 // 4))) <= SHARP


@pytest.mark.parametrize("width", [600, 500, 400, 300])
def test_a_cheaper_way_would_be_noticed(width: int) -> None:
    """Leaving it to the decoder alone, or to neighbouring pixels, is blurred or has patterns."""
    size = (width, width * 3 // 4)
    data = encoded("JPEG", "RGB")
    drafted = Image.open(io.BytesIO(data))
    drafted.draft(None, size)
    whole = opened(data)
    cheap = {
        "draft": drafted.resize(size, Image.Resampling.LANCZOS),
        "box": whole.resize(size, Image.Resampling.BOX),
        "nearest": whole.resize(size, Image.Resampling.NEAREST),
    }
    errors = {way: error(data, image) for way, image in cheap.items()}
    assert min(errors.values()) > NOT_SHARP > SHARP, errors
