"""Samples stand for their pictures, and are judged as the whole metric judges them."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image, ImageDraw

from codec import ssimulacra2
from codec.tile_judge import Sample, TileJudge
from tests.images import opened, photo, saved


def places(width: int, height: int) -> Image.Image:
    """Return an image whose red and green tell each square of 16 pixels' column and row."""
    columns, rows = -(-width // 16), -(-height // 16)
    squares = Image.new("RGB", (columns, rows))
    squares.putdata([(column, row, 0) for row in range(rows) for column in range(columns)])
    return squares.resize((columns * 16, rows * 16), Image.Resampling.NEAREST).crop(
        (0, 0, width, height)
    )


def whole(image: Image.Image) -> Sample:
    """Return a sample that is the image."""
    return Sample(image, 1, 1)


@pytest.mark.parametrize(
    ("size", "grid", "tile"),
    [
        ((2000, 1500), (3, 4), (64, 64)),
        ((1500, 2000), (4, 3), (64, 64)),
        ((400, 300), (2, 3), (64, 64)),
        ((100, 100), (1, 1), (64, 64)),
        ((130, 70), (1, 2), (64, 64)),
        ((50, 4000), (6, 1), (48, 64)),
        ((16, 16), (1, 1), (16, 16)),
        ((4000, 20), (1, 6), (64, 16)),
    ],
)
def test_tiles_stand_evenly(
    size: tuple[int, int], grid: tuple[int, int], tile: tuple[int, int]
) -> None:
    """Tiles come from everywhere, whole, in order, and from where blocks of 16 pixels begin."""
    sample = Sample.take(places(*size), 1 << 16 if size != (50, 4000) else 1 << 15, 12)
    rows, columns = grid
    assert (sample.rows, sample.columns) == grid
    assert sample.image.size == (tile[0], tile[1] * rows * columns)
    pixels: Any = sample.image.load()
    corners = [pixels[0, index * tile[1]] for index in range(rows * columns)]
    lefts = sorted({corner[0] for corner in corners})
    tops = sorted({corner[1] for corner in corners})
    assert corners == [(left, top, 0) for top in tops for left in lefts]
    assert (len(lefts), len(tops)) == (columns, rows)
    for index, (left, top, _) in enumerate(corners):
        box = (left * 16, top * 16, left * 16 + tile[0], top * 16 + tile[1])
        cut = sample.image.crop((0, index * tile[1], tile[0], (index + 1) * tile[1]))
        assert cut.tobytes() == places(*size).crop(box).tobytes()
    for starts, side, length in ((lefts, tile[0], size[0]), (tops, tile[1], size[1])):
        before, after = starts[0] * 16, length - starts[-1] * 16 - side
        assert abs(before - after) <= 32


def test_nothing_is_lost_of_the_same() -> None:
    """An encoder that changes nothing makes no error."""
    sample = whole(photo(128, 128))
    assert max(TileJudge(sample).errors(sample.image)) < 1e-4


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("quality", [50, 70, 85])
def test_errors_lead_to_nearly_the_score(mode: str, quality: int) -> None:
    """Their sum gives about what the whole metric says of the same pixels."""
    image = photo(256, 256, mode)
    other = opened(saved(image, "JPEG", quality=quality))
    errors = TileJudge(whole(image)).errors(other)
    assert ssimulacra2.score_of(sum(errors)) == pytest.approx(
        ssimulacra2.score(image, other), abs=4
    )


def test_each_error_tells_of_its_own() -> None:
    """Blur of fine detail, of brightness at large and of either colour stand apart."""
    image = photo(256, 256)
    judge = TileJudge(whole(image))
    red, green, blue = image.split()
    noise = Image.effect_noise((256, 256), 40)
    checks = Image.new("L", (256, 256))
    checks.putdata([(x + y) % 2 * 255 for y in range(256) for x in range(256)])
    fine = Image.merge("RGB", [Image.blend(band, checks, 0.05) for band in image.split()])
    finely = judge.errors(fine)
    assert max(range(5), key=lambda index: finely[index]) == 0
    coarse = noise.resize((16, 16)).resize((256, 256))
    lit = judge.errors(
        Image.merge("RGB", [Image.blend(band, coarse, 0.1) for band in image.split()])
    )
    assert max(range(7), key=lambda index: lit[index]) in {2, 3, 4}
    blued = judge.errors(Image.merge("RGB", (red, green, Image.blend(blue, coarse, 0.3))))
    assert max(range(7), key=lambda index: blued[index]) == 6
    turned = Image.merge(
        "RGB",
        (
            Image.blend(red, coarse, 0.2),
            Image.blend(green, coarse.point(lambda v: 255 - v), 0.1),
            blue,
        ),
    )
    assert judge.errors(turned)[5] > 2 * finely[5]


def test_tiles_side_by_side_are_a_picture_at_coarse_scales() -> None:
    """What the grid is changes nothing at fine scales, and something at coarse ones."""
    image = photo(64, 256)
    other = opened(saved(image, "JPEG", quality=20))
    stacked = TileJudge(Sample(image, 4, 1)).errors(other)
    square = TileJudge(Sample(image, 2, 2)).errors(other)
    assert stacked[:2] == square[:2]
    assert stacked[4] != square[4]
    put_together = [Image.new("RGB", (128, 128)) for _ in range(2)]
    for picture, tiles in zip(put_together, (image, other), strict=True):
        for index in range(4):
            tile = tiles.crop((0, 64 * index, 64, 64 * (index + 1)))
            picture.paste(tile, (index % 2 * 64, index // 2 * 64))
    before, after = put_together
    assert square[2:] == pytest.approx(TileJudge(whole(before)).errors(after)[2:], rel=1e-3)


def test_what_is_not_seen_is_no_error() -> None:
    """Under full transparency any colour looks the same."""
    image = photo(64, 64).convert("RGBA")
    ImageDraw.Draw(image).rectangle((0, 0, 31, 63), fill=(255, 0, 0, 0))
    other = image.copy()
    ImageDraw.Draw(other).rectangle((0, 0, 31, 63), fill=(0, 0, 255, 0))
    judge = TileJudge(whole(image))
    assert max(judge.errors(other)) < 1e-4
    ImageDraw.Draw(other).rectangle((0, 0, 31, 63), fill=(0, 0, 255, 255))
    assert max(judge.errors(other)) > 1
