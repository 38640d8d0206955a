"""Every odd kind of image is read in its right colours: as another library, or a formula, has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from codec import image_loader, image_metadata
from codec.image_format import identify
from request_options import OutputFormat
from tests.images import opened, photo, saved, squeezed
from tests.odd_images import analytic, bmp, jpeg, others, png, tiff
from tests.odd_images.odd import chart, veiled
from tests.odd_images.profiles import ADOBE_RGB, DISPLAY_P3, PRINTED, PROPHOTO
from tests.odd_images.reading import managed, worst

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.odd_images.odd import Odd

ODD = jpeg.ODD | png.ODD | others.ODD | tiff.ODD | bmp.ODD
BY_A_FORMULA = "the formula"
BY_LIBVIPS = "libvips"


def read(data: bytes) -> Image.Image:
    """Return the picture that every encoder is given."""
    source_format = identify(data)
    structure = image_metadata.survey(source_format, data, max_frames=1)
    source = image_loader.open_source(data, source_format, structure)
    return image_loader.load(source, source.size, is_animated=False).frames[0]


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_every_odd_kind_is_read_in_its_colours(odd: Odd) -> None:
    """No channel of a pixel is further from the truth than docs/colours.md says."""
    errors = []
    for data in odd.files():
        truth = odd.truth() if odd.truth else managed(data)
        output = squeezed(data, format=OutputFormat.PNG, quality=100)
        assert (output.width, output.height) == truth.size
        errors += [worst(read(data), truth), worst(managed(output.data), truth)]
    assert max(errors) <= odd.levels


def test_the_table_tells_the_largest_error_of_each_kind() -> None:
    """What is promised in docs/colours.md is what is tested."""
    lines = Path("docs/colours.md").read_text(encoding="utf-8").splitlines()
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    assert table == [
        [kind, str(odd.levels), BY_A_FORMULA if odd.truth else BY_LIBVIPS]
        for kind, odd in ODD.items()
    ]


@pytest.mark.parametrize(
    ("profile", "light", "matrix"),
    [
        (DISPLAY_P3, analytic.srgb_light, analytic.DISPLAY_P3),
        (ADOBE_RGB, lambda signal: signal ** (563 / 256), analytic.ADOBE_RGB),
        (PROPHOTO, lambda signal: signal**1.8, analytic.PROPHOTO),
    ],
    ids=["Display P3", "Adobe RGB", "ProPhoto"],
)
def test_profiles_mean_what_their_standards_say(
    profile: bytes, light: Callable[[float], float], matrix: analytic.Matrix
) -> None:
    """The engine for profiles is the same in libvips, so the formulas are asked too."""
    data = saved(chart(), "PNG", icc_profile=profile)
    assert worst(read(data), analytic.in_srgb(chart(), light, matrix)) <= 2


def test_the_red_of_display_p3_is_cut_off() -> None:
    """It lies outside of sRGB: no more red than there is, no green and no blue."""
    reds = Image.new("RGB", (8, 8), (255, 0, 0))
    assert worst(read(saved(reds, "PNG", icc_profile=DISPLAY_P3)), reds) == 0
    dim = Image.new("RGB", (8, 8), (128, 96, 64))
    expected = analytic.in_srgb(dim, analytic.srgb_light, analytic.DISPLAY_P3)
    assert worst(read(saved(dim, "PNG", icc_profile=DISPLAY_P3)), expected) <= 1
    assert expected.getpixel((0, 0)) != (128, 96, 64)


@pytest.mark.parametrize("background", ["#ffffff", "#000000", "#336699"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_over_a_background_is_as_libvips_lays_it(mode: str, background: str) -> None:
    """Half transparent pixels are mixed, channel by channel."""
    data = saved(veiled(mode), "PNG")
    structure = image_metadata.survey(identify(data), data, max_frames=1)
    source = image_loader.open_source(data, identify(data), structure)
    flat = image_loader.load(source, source.size, is_animated=False).flattened(background)
    assert worst(flat.frames[0], managed(data, background)) <= 1


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_profile_and_transparency_go_together_into_a_jpeg(name: str) -> None:
    """The colours are translated first, then laid over the background, which is sRGB."""
    flat = Image.new("RGBA", (64, 64), (128, 96, 64, 128))
    settings: dict[str, Any] = {"lossless": True} if name == "WEBP" else {}
    data = saved(flat, name, icc_profile=DISPLAY_P3, **settings)
    image = squeezed(data, format=OutputFormat.JPEG, quality=100, background="#336699")
    assert worst(opened(image.data), managed(data, "#336699")) <= 3
    assert "icc_profile" not in opened(image.data).info


@pytest.mark.parametrize("target", ["jpeg", "webp", "avif"])
def test_every_output_shows_the_colours_without_a_profile(target: str) -> None:
    """What a browser shows that knows of no profile is what the input looks like."""
    flat = Image.new("RGB", (64, 64), (128, 96, 64))
    for profile in (ADOBE_RGB, DISPLAY_P3, PROPHOTO):
        data = saved(flat, "TIFF", icc_profile=profile)
        image = squeezed(data, format=OutputFormat(target), quality=100)
        assert worst(opened(image.data), managed(data)) <= 3
        assert not opened(image.data).info.get("icc_profile")


@pytest.mark.parametrize(
    ("transfer", "white"),
    [(16, 148), (18, 191)],  # 58 % and 75 % of the signal (BT.2408)
    ids=["PQ", "HLG"],
)
def test_high_dynamic_range_keeps_white_white(transfer: int, white: int) -> None:
    """The white of a page lies at 203 cd/m² in both systems; what is brighter is cut off."""
    row = bytes(level for level in (0, white // 2, white, 255) for _ in range(3))
    dark, middle, page, brightest = read(png.with_code_points([row], 9, transfer)).tobytes()[::3]
    assert dark == 0
    assert 20 < middle < 200
    assert 245 <= page <= 255
    assert brightest == 255


def test_a_picture_that_is_scaled_keeps_its_colours() -> None:
    """The order of scaling and translating shows in no even surface."""
    flat = Image.new("CMYK", (640, 480), (200, 30, 90, 20))
    data = saved(flat, "TIFF", icc_profile=PRINTED)
    image = opened(squeezed(data, format=OutputFormat.PNG, max_width=100).data)
    assert worst(image, managed(data).resize((100, 75))) <= 1


def test_an_original_that_stays_keeps_what_tells_its_colours() -> None:
    """Where new pixels would be larger, the code points of an AVIF stay with the old ones."""
    data = others.coded(photo(), 12, 13, quality=5)
    image = squeezed(data, quality=100)
    assert image.quality == "original"
    assert image.data == data
