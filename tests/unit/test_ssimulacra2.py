"""The scores of the metric, against those of its reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from codec import ssimulacra2_blur, ssimulacra2_colour
from codec.ssimulacra2 import Judge, score

if TYPE_CHECKING:
    from collections.abc import Callable

Pixels = NDArray[np.int64]  # row by column by band


def grain(width: int, height: int, bands: int = 3) -> Pixels:
    """Return noise from 0 to 255 that is the same everywhere: a hash of the place."""
    value = np.arange(width * height * bands, dtype=np.uint32) + np.uint32(1)
    for shift in (15, 12, 14):
        value = (value ^ (value >> np.uint32(shift))) * np.uint32(0x2C1B3C6D)
    return (value >> np.uint32(24)).astype(np.int64).reshape(height, width, bands)


def ramps(width: int, height: int) -> Pixels:
    """Return a gradient across, one down and one along the diagonal."""
    down, across = np.indices((height, width))
    bands = (across * 255 // width, down * 255 // height, (across + down) * 255 // (width + height))
    return np.stack(bands, axis=-1)


def text(width: int, height: int) -> Pixels:
    """Return dark strokes on light paper, sharp as a screenshot's."""
    down, across = np.indices((height, width))
    strokes = (across * 7 // 5 & down | across >> 2 ^ down) % 11 < 3
    return np.where(strokes[:, :, np.newaxis], [30, 20, 60], [255, 252, 240])


def photo(width: int, height: int) -> Pixels:
    """Return waves of several lengths with a little grain."""
    down, across = np.indices((height, width))
    light = np.zeros_like(down)
    for a, b, c in ((3, 1, 20), (11, 17, 12), (1, 5, 25), (37, 29, 4)):
        light += abs((across * a + down * b) % 512 - 256) * c // 64
    bands = np.stack([light, light + 9, light // 2 + 40], axis=-1)
    return (bands + grain(width, height) // 16).clip(0, 255)


def coarse(pixels: Pixels) -> Pixels:
    """Round to multiples of 16."""
    return (pixels + 8) // 16 * 16


def noisy(pixels: Pixels) -> Pixels:
    """Add noise of up to 10 levels."""
    height, width, bands = pixels.shape
    return pixels + grain(width, height, bands)[::-1] % 21 - 10


def smooth(pixels: Pixels) -> Pixels:
    """Average nine neighbours, round a corner."""
    shifts = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
    around: Pixels = np.sum([np.roll(pixels, shift, (0, 1)) for shift in shifts], axis=0)
    return around // 9


def blocky(pixels: Pixels) -> Pixels:
    """Mix every pixel with the first of its block of eight by eight."""
    height, width, _ = pixels.shape
    firsts = pixels[::8, ::8].repeat(8, axis=0).repeat(8, axis=1)
    return (3 * pixels + firsts[:height, :width]) // 4


def tinted(pixels: Pixels) -> Pixels:
    """Make it a little redder and less blue."""
    return np.add(pixels, [5, 0, -7])


def barely(pixels: Pixels) -> Pixels:
    """Change one value in sixteen by one level."""
    height, width, bands = pixels.shape
    return pixels + (grain(width, height, bands) < 16)


def image(pixels: Pixels, mode: str) -> Image.Image:
    """Return an image of a mode; its transparency, where it has some, comes in waves."""
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if mode in {"L", "LA"}:
        picture = picture.getchannel("G")
    if mode in {"LA", "RGBA"}:
        down, across = np.indices(pixels.shape[:2])
        waves = np.minimum((across * 9 + down * 5) % 400, 255)
        picture.putalpha(Image.fromarray(waves.astype(np.uint8)))
    return picture


CASES: list[
    tuple[Callable[[int, int], Pixels], Callable[[Pixels], Pixels], tuple[int, int], str, float]
] = [
    (ramps, coarse, (300, 260), "RGB RGB", 18.123),
    (ramps, tinted, (33, 40), "RGB RGB", 94.037),
    (photo, coarse, (131, 140), "RGB RGB", 80.425),
    (photo, noisy, (131, 140), "RGB RGB", 74.798),
    (photo, smooth, (131, 140), "RGB RGB", 67.967),
    (photo, blocky, (131, 140), "RGB RGB", 31.194),
    (photo, tinted, (131, 140), "RGB RGB", 94.518),
    (photo, barely, (300, 260), "RGB RGB", 97.526),
    (text, noisy, (96, 81), "RGB RGB", 70.526),
    (text, smooth, (97, 80), "RGB RGB", -6.433),
    (text, coarse, (260, 129), "RGB RGB", 91.192),
    (text, barely, (64, 64), "RGB RGB", 97.577),
    (grain, smooth, (50, 70), "RGB RGB", -103.587),
    (grain, coarse, (50, 70), "RGB RGB", 83.861),
    (photo, blocky, (8, 8), "RGB RGB", 92.307),
    (photo, noisy, (9, 17), "RGB RGB", 91.857),
    (text, smooth, (17, 9), "RGB RGB", 67.976),
    (photo, noisy, (33, 40), "RGB RGB", 1.772),
    (photo, smooth, (8, 200), "RGB RGB", 90.425),
    (photo, blocky, (200, 8), "RGB RGB", 93.061),
    (photo, noisy, (131, 140), "L L", 70.936),
    (text, blocky, (33, 40), "L L", 75.400),
    (photo, coarse, (131, 140), "L RGB", 42.245),
    (photo, noisy, (131, 140), "RGBA RGBA", 79.518),
    (text, smooth, (33, 40), "RGBA RGBA", -51.565),
    (photo, tinted, (131, 140), "RGBA RGB", -131.013),
    (photo, coarse, (131, 140), "RGB RGBA", -58.610),
    (photo, blocky, (97, 80), "LA LA", 77.189),
    (photo, coarse, (33, 40), "LA L", 64.594),
]


@pytest.mark.parametrize(("kind", "distorted", "size", "modes", "expected"), CASES)
def test_scores_as_the_reference_does(
    kind: Callable[[int, int], Pixels],
    distorted: Callable[[Pixels], Pixels],
    size: tuple[int, int],
    modes: str,
    expected: float,
) -> None:
    """Scores are those of the program `ssimulacra2` (2.1) of libjxl 0.11.2, within rounding."""
    pixels = kind(*size)
    original, other = modes.split()
    result = score(image(pixels, original), image(distorted(pixels), other))
    assert result == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(64, 40), (8, 9), (3, 5), (1, 1), (200, 2)])
def test_an_image_looks_just_like_itself(mode: str, size: tuple[int, int]) -> None:
    """Identical images have 100, whatever the mode and however small."""
    picture = image(photo(*size), mode)
    assert score(picture, picture.copy()) == 100


@pytest.mark.parametrize("size", [(3, 5), (1, 1), (200, 2)])
def test_images_too_small_for_the_reference_are_stretched(size: tuple[int, int]) -> None:
    """A side below 8 becomes 8, and a worse image scores less."""
    original, better, worse = (image(photo(*size) + step, "RGB") for step in (0, 2, 30))
    assert 100 > score(original, better) > score(original, worse)
    width, height = (max(side, 8) for side in size)
    large = [each.resize((width, height), Image.Resampling.NEAREST) for each in (original, worse)]
    assert score(original, worse) == score(*large)


def test_a_judge_remembers_only_the_original() -> None:
    """Scores of one judge are those of judges that score once, in any order."""
    pixels = photo(70, 50)
    original, *others = (image(made, "RGBA") for made in (pixels, noisy(pixels), coarse(pixels)))
    judge = Judge(original)
    scores = [judge.score(other) for other in (*others, *others)]
    assert scores == [score(original, other) for other in others] * 2


def test_scores_do_not_depend_on_how_the_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips and batches of other sizes, with borders in other places, give the same score."""
    pixels = photo(90, 70)
    original, other = image(pixels, "RGB"), image(noisy(pixels), "RGB")
    expected = score(original, other)
    monkeypatch.setattr(ssimulacra2_colour, "_STRIP_PIXELS", 90 * 12)
    monkeypatch.setattr(ssimulacra2_blur, "_SIGNALS", 7)
    assert score(original, other) == pytest.approx(expected, abs=1e-4)


def test_sizes_must_be_the_same() -> None:
    """There is no score for images of different sizes, even of the same number of pixels."""
    with pytest.raises(ValueError, match="different sizes"):
        score(Image.new("RGB", (8, 9)), Image.new("RGB", (9, 8)))
