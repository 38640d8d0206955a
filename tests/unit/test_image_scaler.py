"""Images are scaled as Pillow scales every pixel by Lanczos' filter, whichever library does it."""

from __future__ import annotations

import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from codec import image_scaler, ssimulacra2
from codec.picture import Picture
from tests.images import photo

LANCZOS = Image.Resampling.LANCZOS
SIZES = [(319, 239), (200, 150), (107, 80), (100, 240), (320, 80), (40, 30), (1, 1)]
# Of 320 by 240: Pillow does columns first where the height loses more than twice what the width does.
FLAT_SIZES = [(310, 60), (290, 180), (290, 179), (260, 120), (260, 119), (319, 200), (318, 1)]
NEEDS_VECTORS = pytest.mark.skipif(
    image_scaler._resizer is None, reason="there is no wheel for this system; Pillow scales alone"
)
EXTENTS = [(319.5, 239.5), (319.125, 240), (320, 239.875)]


def noise(mode: str) -> Image.Image:
    """Return an image in which no pixel tells of its neighbour."""
    levels = np.random.default_rng(1).integers(0, 256, (4, 240, 320), dtype=np.uint8)
    bands = [Image.fromarray(band) for band in levels]
    return Image.merge(mode, bands[: len(Image.new(mode, (1, 1)).getbands())])


def difference(one: Image.Image, other: Image.Image) -> int:
    """Return the largest difference in any band, in levels."""
    bands = zip(one.split(), other.split(), strict=True)
    return max(int(np.asarray(ImageChops.difference(*pair)).max()) for pair in bands)


@pytest.fixture
def no_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the scaler do without its faster library."""
    monkeypatch.setattr(image_scaler, "_resizer", None)


@NEEDS_VECTORS
@pytest.mark.parametrize("size", SIZES + FLAT_SIZES)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_scales_like_every_pixel_by_pillow(mode: str, size: tuple[int, int]) -> None:
    """Not even of noise is a pixel more than one level of rounding off."""
    image = noise(mode)
    assert difference(image_scaler.scale(image, size), image.resize(size, LANCZOS)) <= 1


@NEEDS_VECTORS
@pytest.mark.parametrize("size", [(200, 150), (100, 75), (40, 30), (260, 119), (319, 200)])
@pytest.mark.parametrize("extent", EXTENTS)
def test_scales_what_ends_within_a_pixel(
    extent: image_scaler.Extent, size: tuple[int, int]
) -> None:
    """A decoder that leaves out pixels rounds up; what it adds isn't of the picture."""
    image = noise("RGB")
    theirs = image.resize(size, LANCZOS, box=(0, 0, *extent))
    assert difference(image_scaler.scale(image, size, extent), theirs) <= 1


def test_scores_as_the_same_picture() -> None:
    """SSIMULACRA 2 sees what rounding does to a photo, but not more than that; 90 is invisible."""
    picture = photo(900, 700)
    size = (600, 467)
    judge = ssimulacra2.Judge(picture.resize(size, LANCZOS))
    assert judge.score(image_scaler.scale(picture, size)) > 96
    assert judge.score(picture.resize(size, Image.Resampling.BICUBIC)) < 95.5


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_colours_do_not_show(mode: str) -> None:
    """A white edge around black would be seen on any background that isn't white."""
    image = Image.new(mode, (90, 90), "white")
    image.putalpha(0)
    image.paste(Image.new(mode, (41, 41), "black"), (23, 23))
    scaled = image_scaler.scale(image, (30, 30))
    assert scaled.getchannel("A").getextrema() == (0, 255)
    flat = Image.new(mode, scaled.size, "black")
    flat.alpha_composite(scaled) if mode == "RGBA" else flat.paste(scaled, mask=scaled)
    assert flat.getchannel(0).getextrema() == (0, 0)


@pytest.mark.parametrize("size", [(200, 150), (100, 75)])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "LAB"])
def test_every_mode_keeps_to_pillow_alone(
    mode: str, size: tuple[int, int], no_vectors: None
) -> None:
    """Where there is no other library, the result is Pillow's own to the bit."""
    image = noise(mode)
    assert difference(image_scaler.scale(image, size), image.resize(size, LANCZOS)) == 0


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "LAB"])
def test_keeps_the_mode(mode: str) -> None:
    """What comes out has the bands that went in, of the size asked for."""
    scaled = image_scaler.scale(noise(mode), (64, 48))
    assert (scaled.mode, scaled.size) == (mode, (64, 48))


def test_pictures_are_scaled_frame_by_frame() -> None:
    """An animation that has to get smaller goes the same way."""
    frames = [noise("RGB"), noise("RGB").transpose(Image.Transpose.ROTATE_180)]
    resized = Picture(frames, [10, 20], 3).resized((100, 75))
    assert (resized.durations, resized.plays) == ([10, 20], 3)
    for frame, scaled in zip(frames, resized.frames, strict=True):
        assert difference(scaled, frame.resize((100, 75), LANCZOS)) <= 1


def test_the_faster_library_is_used_where_it_is_installed() -> None:
    """It reads Pillow's images where they lie, so both are pinned and upgraded together."""
    if find_spec("cykooz_resizer") is None:
        pytest.skip("there is no wheel for this system")
    pins = Path(image_scaler.__file__).parent.parent.joinpath("requirements.txt").read_text()
    for name in ("Pillow", "cykooz-resizer"):
        found = re.search(rf"^{name}==([0-9.]+)", pins, re.MULTILINE)
        assert found
        assert found[1] == version(name)
    assert image_scaler._resizer is not None
