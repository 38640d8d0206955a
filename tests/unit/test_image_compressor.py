"""Images come out smaller, upright, in the right colours, and with nothing but the picture."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat
from PIL.JpegImagePlugin import get_sampling

from codec import encoding, image_compressor, image_encoder, quality_predictor
from codec.compressed_image import ImageLimits
from codec.image_format import SourceFormat, TargetFormat
from codec.image_loader import open_source
from codec.image_metadata import survey
from errors import ImageError
from request_options import Effort, OutputFormat
from tests.images import (
    CORNERS,
    LIMITS,
    SECRET,
    animation,
    corners,
    exif,
    jpeg_of_planes,
    laid,
    opened,
    photo,
    png,
    png_chunk,
    saved,
    squeezed,
)
from tests.odd_images.profiles import ADOBE_RGB

KEPT = ["JPEG", "PNG", "WEBP", "GIF", "AVIF"]


def colour(data: bytes, x: float, y: float) -> tuple[int, ...]:
    """Return the RGBA pixel at a place from 0, 0 to 1, 1."""
    image = opened(data).convert("RGBA")
    pixel = image.getpixel((int(x * (image.width - 1)), int(y * (image.height - 1))))
    assert isinstance(pixel, tuple)
    return pixel


def assert_close(pixel: tuple[int, ...], expected: tuple[int, ...], tolerance: int = 12) -> None:
    """Compare two pixels as far as a lossy format allows."""
    assert all(abs(a - b) <= tolerance for a, b in zip(pixel, expected, strict=False)), pixel


def difference(first: bytes, second: bytes) -> float:
    """Return how much two images differ, as the root mean square of all levels."""
    images = [opened(data).convert("RGB") for data in (first, second)]
    return max(ImageStat.Stat(ImageChops.difference(*images)).rms)


def error_code(data: bytes, limits: ImageLimits = LIMITS, **options: Any) -> str:
    """Return the code that compressing fails with."""
    with pytest.raises(ImageError) as caught:
        squeezed(data, limits, **options)
    assert caught.value.detail.endswith(".")
    return caught.value.code


# Formats


@pytest.mark.parametrize("name", KEPT)
def test_keeps_the_format_and_gets_smaller(name: str) -> None:
    """A wasteful image comes back in its own format, with fewer bytes and the same picture."""
    wasteful: dict[str, Any] = {"GIF": {"comment": SECRET * 9}, "PNG": {"compress_level": 0}}
    data = saved(photo(), name, **wasteful.get(name, {"quality": 97}))
    image = squeezed(data)
    assert opened(image.data).format == name
    assert (image.format, image.width, image.height) == (name.lower(), 160, 120)
    assert len(image.data) < len(data)
    assert difference(image.data, data) < 8


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [("BMP", "RGB", "jpeg"), ("TIFF", "RGB", "jpeg"), ("TIFF", "RGBA", "png")],
)
def test_replaces_formats_that_browsers_do_not_show(name: str, mode: str, expected: str) -> None:
    """BMP and TIFF become JPEG, or PNG when something is transparent."""
    picture = photo(mode=mode)
    if mode == "RGBA":
        picture.putpixel((3, 3), (0, 0, 0, 0))
    assert squeezed(saved(picture, name)).format == expected


def test_alpha_that_hides_nothing_is_no_transparency() -> None:
    """A TIFF with an alpha band that is opaque all over becomes JPEG."""
    assert squeezed(saved(photo(mode="RGBA"), "TIFF")).format == "jpeg"


@pytest.mark.parametrize("target", ["jpeg", "png", "webp", "avif"])
@pytest.mark.parametrize("name", [*KEPT, "BMP", "TIFF"])
def test_converts_every_format_to_every_other(name: str, target: str) -> None:
    """An explicit format is what comes out, and the picture is the same."""
    data = saved(photo(), name)
    image = squeezed(data, format=OutputFormat(target), quality=90)
    assert opened(image.data).format == target.upper()
    assert difference(image.data, data) < 14


def test_only_the_first_page_of_a_tiff_counts() -> None:
    """The other pages of a document are left out."""
    pages = saved(corners(), "TIFF", save_all=True, append_images=[photo(300, 300)])
    image = squeezed(pages)
    assert (image.width, image.height) == (60, 40)
    assert squeezed(pages, format=OutputFormat.AVIF).width == 60


def test_an_mpo_is_a_jpeg_with_its_first_picture() -> None:
    """Cameras store a second picture behind the first."""
    data = saved(corners(), "MPO", save_all=True, append_images=[photo(300, 300)])
    image = squeezed(data, format=OutputFormat.AVIF)
    assert (image.width, image.height) == (60, 40)
    assert getattr(opened(image.data), "n_frames", 1) == 1
    assert squeezed(data).format == "jpeg"


# Quality, effort, size


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF"])
def test_quality_is_taken_as_it_is(name: str) -> None:
    """A number says how good; `auto` gives one that is told."""
    data = saved(photo(320, 240), name, quality=100)
    sizes = [len(squeezed(data, quality=quality).data) for quality in (20, 50, 85)]
    assert sizes == sorted(sizes)
    assert squeezed(data, quality=50).quality == "50"
    assert 50 <= int(squeezed(data).quality) <= 95


def test_fine_colours_of_an_avif_stay_from_quality_80_on() -> None:
    """There they take no more bytes for what they show."""
    for quality, is_halved in ((79, True), (80, False)):
        assert is_colour_halved(pale(), quality) is is_halved


def test_edges_between_strong_colours_stay_in_an_avif() -> None:
    """Coloured letters blur in half the resolution, at any quality; a photo has none."""
    page = Image.new("RGB", (160, 120), "blue")
    for x in range(2, 160, 5):
        page.paste("red", (x, 0, x + 2, 120))
    for mode in ("RGB", "RGBA"):
        page = page.convert(mode)
        page.putpixel((0, 0), (9, 9, 9, 99)[: len(mode)])
        assert not is_colour_halved(page, 40)
    grey = pale().convert("LA")
    grey.putalpha(grey.getchannel("L").point(lambda level: level % 2 * 255))
    assert is_colour_halved(grey, 40)


def is_colour_halved(image: Image.Image, quality: int) -> bool:
    """Tell how an AVIF says what resolution its colours have."""
    data = squeezed(saved(image, "PNG"), format=OutputFormat.AVIF, quality=quality).data
    return bool(data[data.index(b"av1C") + 6] & 0b1000)


def pale() -> Image.Image:
    """Return an image like a photo, without an edge between strong colours."""
    return Image.blend(photo().convert("L").convert("RGB"), photo(), 0.3)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "AVIF"])
def test_effort_ends_where_an_image_is_huge(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is done in time."""
    data, target = saved(photo(), "BMP"), name.lower()
    best, balanced, fast = Effort.BEST, Effort.BALANCED, Effort.FAST
    all_pixels = 160 * 120
    for most, effort, expected in (
        ((all_pixels, all_pixels), best, best),
        ((all_pixels - 1, all_pixels), best, balanced),
        ((all_pixels - 1, all_pixels), balanced, balanced),
        ((all_pixels - 1, all_pixels - 1), balanced, fast),
    ):
        monkeypatch.undo()
        wanted = squeezed(data, format=OutputFormat(target), effort=expected, quality=90)
        monkeypatch.setitem(image_encoder._MOST_PIXELS, TargetFormat(target), most)
        got = squeezed(data, format=OutputFormat(target), effort=effort, quality=90)
        assert got == wanted


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_effort_buys_bytes(name: str) -> None:
    """`best` is smaller than `fast`, at the same quality."""
    data = saved(
        photo(320, 240), name, **({"compress_level": 0} if name == "PNG" else {"quality": 98})
    )
    fast, best = (squeezed(data, effort=effort).data for effort in (Effort.FAST, Effort.BEST))
    assert len(best) < len(fast)


@pytest.mark.parametrize("quality", [75, 94, 100])
def test_noise_can_be_encoded(quality: int) -> None:
    """A picture that hardly packs is no reason to fail."""
    noise = Image.frombytes(
        "RGB", (300, 300), bytes(i * i * 7919 >> 7 & 255 for i in range(270_000))
    )
    image = squeezed(saved(noise, "PNG"), format=OutputFormat.JPEG, quality=quality)
    assert opened(image.data).size == (300, 300)


@pytest.mark.parametrize(
    ("bounds", "size"),
    [
        ({"max_width": 80}, (80, 60)),
        ({"max_height": 30}, (40, 30)),
        ({"max_width": 50, "max_height": 50}, (50, 38)),
        ({"max_width": 5000}, (160, 120)),
        ({"max_height": 1}, (1, 1)),
    ],
)
@pytest.mark.parametrize("name", [*KEPT, "BMP", "TIFF"])
def test_fits_inside_and_never_enlarges(
    name: str, bounds: dict[str, Any], size: tuple[int, int]
) -> None:
    """The shape stays, and no side gets longer or vanishes."""
    image = squeezed(saved(photo(), name), **bounds)
    assert (image.width, image.height) == size == opened(image.data).size


def test_a_long_thin_image_keeps_a_pixel() -> None:
    """A side that would round to nothing is one pixel."""
    assert squeezed(saved(photo(400, 2), "PNG"), max_width=20).height == 1


def test_scaling_is_sharp_and_averages() -> None:
    """A fine pattern becomes grey, an edge stays an edge."""
    checks = Image.frombytes("L", (256, 256), (b"\0\xff" * 128 + b"\xff\0" * 128) * 128)
    assert_close(colour(squeezed(saved(checks, "PNG"), max_width=64).data, 0.5, 0.5), (127,) * 3)
    data = squeezed(saved(corners(1200, 800), "JPEG", quality=95), max_width=60, quality=95).data
    assert_close(colour(data, 0.46, 0.1), (255, 0, 0), 25)
    assert_close(colour(data, 0.54, 0.1), (0, 128, 0), 25)


# Never larger


@pytest.mark.parametrize("name", KEPT)
def test_never_larger_when_only_compression_is_asked(name: str) -> None:
    """The original pixels stay where encoding anew would not save anything."""
    settings = {"quality": 5} if name in {"JPEG", "WEBP", "AVIF"} else {}
    data = saved(photo(), name, **settings)
    if name in {"PNG", "GIF"}:
        data = squeezed(data).data
    image = squeezed(data, quality=100)
    assert len(image.data) <= len(data)
    assert image.quality == "original"
    assert opened(image.data).tobytes() == opened(data).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.new("RGB", (3, 3), "red"), "BMP"),
        saved(photo(300, 200, "1"), "TIFF", compression="group4"),
        saved(corners(300, 200, "P"), "TIFF", compression="tiff_adobe_deflate"),
    ],
    ids=["tiny", "bilevel", "palette"],
)
def test_a_bmp_or_tiff_that_jpeg_would_enlarge_becomes_png(data: bytes) -> None:
    """Few pixels or few colours pack better without a loss."""
    image = squeezed(data)
    assert (image.format, image.quality) == ("png", "lossless")
    assert len(image.data) < len(squeezed(data, format=OutputFormat.JPEG).data)
    assert opened(image.data).convert("RGB").tobytes() == opened(data).convert("RGB").tobytes()
    assert squeezed(data, max_bytes=10**6).format == "jpeg"


def test_a_tiff_that_no_format_makes_smaller_becomes_the_smaller_one() -> None:
    """A JPEG larger than the input stays where PNG is larger still."""
    data = saved(photo(300, 200), "TIFF", compression="jpeg", quality=30)
    image = squeezed(data, quality=90)
    assert len(data) < len(image.data)
    assert (image.format, image.quality) == ("jpeg", "90")


def test_the_original_is_stored_without_metadata_but_in_its_colours() -> None:
    """A kept original loses everything but the profile that its colours need."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile, kept in ((ADOBE_RGB, ADOBE_RGB), (srgb, None)):
        data = saved(photo(), "JPEG", quality=3, exif=exif(), icc_profile=profile)
        image = squeezed(data, quality=95)
        assert image.quality == "original"
        assert SECRET not in image.data
        assert opened(image.data).info.get("icc_profile") == kept


def test_heavy_metadata_is_no_reason_to_encode_anew() -> None:
    """What counts is the size of the original once it is bare."""
    data = saved(photo(), "JPEG", quality=10, comment=SECRET * 2000)
    assert len(squeezed(data, quality=90, format=OutputFormat.WEBP).data) < len(data)
    assert squeezed(data, quality=90).quality == "original"


def test_a_turned_image_is_rather_encoded_worse_than_left_lying() -> None:
    """Quality goes down until the upright image is smaller than the input."""
    data = saved(laid(photo(), 6), "JPEG", quality=60, exif=exif(6))
    image = squeezed(data, quality=95)
    assert (image.width, image.height) == (160, 120) == opened(image.data).size
    assert len(image.data) <= len(data)
    assert 35 <= int(image.quality) < 95
    assert difference(image.data, saved(photo(), "JPEG", quality=60)) < 10


def test_an_image_that_can_not_be_turned_says_so() -> None:
    """As the last resort the original stays, and the orientation is all that it says."""
    orientation = Image.Exif()
    orientation[0x0112] = 6
    data = saved(laid(photo(), 6), "JPEG", quality=10, optimize=True, exif=orientation)
    image = squeezed(data)
    assert (image.width, image.height, image.quality) == (160, 120, "original")
    assert len(image.data) <= len(data)
    assert dict(opened(image.data).getexif()) == {0x0112: 6}


# Ceilings


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF"])
def test_max_bytes_takes_the_best_quality_that_fits(name: str) -> None:
    """One step more of quality would not fit, and no pixel is given up for it."""
    data = saved(photo(320, 240), name, quality=95)
    ceiling = len(squeezed(data, quality=90).data) * 2 // 3
    image = squeezed(data, quality=90, max_bytes=ceiling)
    assert len(image.data) <= ceiling
    assert (image.width, image.height) == (320, 240)
    better = squeezed(data, quality=int(image.quality) + 1)
    assert len(better.data) > ceiling
    assert int(image.quality) > 20


def test_max_bytes_is_no_target() -> None:
    """An image that fits anyway is as good as without a ceiling."""
    data = saved(photo(), "JPEG", quality=95)
    assert squeezed(data, max_bytes=10**6) == squeezed(data)


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF"])
def test_max_bytes_shrinks_at_most_to_half(name: str) -> None:
    """Where quality alone can't, sides go down, to half at the least."""
    data = saved(photo(201, 151), name)
    smallest = squeezed(data, max_width=101, quality=1)
    ceiling = len(smallest.data) * 21 // 20
    image = squeezed(data, max_bytes=ceiling)
    assert len(image.data) <= ceiling
    assert 101 <= image.width < 201
    assert 76 <= image.height < 151
    assert error_code(data, max_bytes=len(smallest.data) // 2) == "max_bytes_unreachable"


@pytest.mark.parametrize("name", ["PNG", "GIF"])
def test_colours_go_before_pixels(name: str) -> None:
    """What has no quality has fewer colours under a ceiling, and only then fewer pixels."""
    data = saved(photo(201, 151), name)
    whole = len(squeezed(data).data)
    image = squeezed(data, max_bytes=whole * 7 // 10)
    assert (image.width, image.height, image.quality) == (201, 151, "palette")
    assert whole * 0.5 < len(image.data) <= whole * 7 // 10
    assert squeezed(data, max_bytes=whole // 14).width < 201
    assert error_code(data, max_bytes=99) == "max_bytes_unreachable"


def test_a_png_of_many_pixels_is_packed_well_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are packed fast, and the one that is taken as tight as was asked for."""
    data = saved(photo(201, 151), "PNG")
    ceiling = len(squeezed(data).data) * 7 // 10
    tight = squeezed(data, max_bytes=ceiling, effort=Effort.BEST)
    efforts = []
    encode = image_encoder.encode

    def encode_and_tell(*arguments: Any, **options: Any) -> bytes:
        efforts.append(arguments[3])
        return encode(*arguments, **options)

    monkeypatch.setattr(image_encoder, "encode", encode_and_tell)
    monkeypatch.setattr(encoding, "_MOST_PIXELS_OF_PACKED_TRIALS", 201 * 151 - 1)
    image = squeezed(data, max_bytes=ceiling, effort=Effort.BEST)
    assert efforts.count(Effort.BEST) <= 2
    assert efforts.count(Effort.FAST) >= 1
    pixels = opened(image.data).convert("RGB").tobytes()
    repacked = image_encoder.pack_png(image.data, Effort.BEST, 1)
    assert len(repacked) == len(image.data)
    assert pixels != photo(201, 151).tobytes()
    assert len(image.data) <= ceiling
    assert len(image.data) > len(tight.data) / 2


def test_an_animation_fits_as_a_whole() -> None:
    """All its frames count, and all of them are kept."""
    for name in ("GIF", "WEBP", "AVIF", "PNG"):
        frames = [photo().rotate(angle) for angle in (0, 10, 20)]
        data = saved(frames[0], name, save_all=True, append_images=frames[1:], duration=40)
        ceiling = len(squeezed(data).data) * 6 // 10
        image = squeezed(data, max_bytes=ceiling)
        assert ceiling * 0.8 < len(image.data) <= ceiling
        assert [ms for _, ms in shown(image.data)] == [40, 40, 40]


def test_a_ceiling_takes_the_loss_before_the_pixels() -> None:
    """A lossless WebP that doesn't fit has a quality."""
    data = saved(photo(), "WEBP", lossless=True)
    image = squeezed(data, max_bytes=len(data) // 5, quality=97)
    assert (image.width, image.height) == (160, 120)
    assert 10 < int(image.quality) < 97
    assert squeezed(data, max_bytes=len(data), quality=100).quality == "lossless"
    whole = len(squeezed(data, quality=40).data)
    assert squeezed(data, max_bytes=whole, quality=40).quality == "lossless"
    assert squeezed(data, max_bytes=whole - 1, quality=40).quality == "40"


def test_many_pixels_and_a_ceiling_take_less_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search encodes several times, and has to end."""
    data = saved(photo(), "WEBP", quality=99)
    options: dict[str, Any] = {"quality": 90, "max_bytes": 10**6}
    fast, best = (squeezed(data, effort=effort, **options) for effort in (Effort.FAST, Effort.BEST))
    assert fast != best
    monkeypatch.setattr(image_compressor, "_MOST_PIXELS_OF_TRIALS", 160 * 120 - 1)
    assert squeezed(data, effort=Effort.BEST, **options) == fast
    without = squeezed(data, effort=Effort.BEST, quality=90)
    assert len(without.data) == len(best.data)


def test_large_pngs_and_a_ceiling_take_less_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are packed first, for each trial, and at the end."""
    limits = ((160 * 120 - 1, 160 * 120), (160 * 120 - 1,) * 2)
    data = saved(photo(), "PNG")
    for most, effort in zip(limits, (Effort.BALANCED, Effort.FAST), strict=True):
        monkeypatch.undo()
        for ceiling in (10**6, len(squeezed(data).data) // 2):
            expected = squeezed(data, effort=effort, max_bytes=ceiling)
            with monkeypatch.context() as patch:
                patch.setattr(image_compressor, "_MOST_PIXELS_OF_PNG_TRIALS", most)
                assert squeezed(data, effort=Effort.BEST, max_bytes=ceiling) == expected


# Upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_stands_upright(name: str, orientation: int) -> None:
    """All eight orientations come out the same, and no field says so twice."""
    block = exif(orientation)
    data = saved(laid(corners(120, 80), orientation), name, exif=block)
    for options in ({}, {"max_width": 60}, {"format": OutputFormat.WEBP}):
        image = squeezed(data, quality=90, **options)
        assert (image.width, image.height) == opened(image.data).size
        assert image.width * 2 == image.height * 3
        assert 0x0112 not in opened(image.data).getexif()
        for corner, (x, y) in zip(
            CORNERS, [(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)], strict=True
        ):
            expected = Image.new("RGB", (1, 1), corner).getpixel((0, 0))
            assert isinstance(expected, tuple)
            assert_close(colour(image.data, x, y), expected, 40)


@pytest.mark.parametrize("options", [{}, {"max_width": 60}, {"format": OutputFormat.WEBP}])
@pytest.mark.parametrize("is_animated", [False, True])
def test_a_png_may_say_behind_its_pixels_how_it_lies(
    options: dict[str, Any],
    is_animated: bool,  # noqa: FBT001  a table's column
) -> None:
    """The EXIF chunk of a PNG may stand anywhere before its end."""
    lying = laid(corners(120, 80), 6)
    frames = {"save_all": True, "append_images": [laid(photo(120, 80), 6)]} if is_animated else {}
    data = saved(lying, "PNG", **frames)
    end = data.rindex(b"IEND") - 4
    block = png_chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    image = squeezed(data[:end] + block + data[end:], quality=90, **options)
    assert opened(image.data).size == (image.width, image.height)
    assert image.width * 2 == image.height * 3
    assert getattr(opened(image.data), "n_frames", 1) == 1 + is_animated
    assert 0x0112 not in opened(image.data).getexif()
    assert_close(colour(image.data, 0.1, 0.1), (255, 0, 0), 20)
    assert_close(colour(image.data, 0.1, 0.9), (255, 255, 255), 20)


def test_bounds_mean_the_upright_image() -> None:
    """A portrait that lies on its side is a portrait."""
    data = saved(laid(photo(120, 160), 6), "JPEG", exif=exif(6))
    image = squeezed(data, max_height=80)
    assert (image.width, image.height) == (60, 80)


@pytest.mark.parametrize(
    "block",
    [b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"],
)
def test_broken_exif_is_none(block: bytes) -> None:
    """A picture is not its metadata."""
    data = saved(corners(), "JPEG", quality=100)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block
    assert squeezed(data[:2] + segment + data[2:]).width == 60


# Colours


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("bounds", [{}, {"max_width": 50}])
def test_wide_gamut_becomes_srgb(name: str, bounds: dict[str, Any]) -> None:
    """Levels of another colour space are translated, not relabelled."""
    flat = Image.new("RGB", (100, 100), (180, 90, 90))
    data = saved(flat, name, icc_profile=ADOBE_RGB, **({} if name == "PNG" else {"quality": 100}))
    image = squeezed(data, quality=90, **bounds)
    assert_close(colour(image.data, 0.5, 0.5), (205, 90, 90), 5)
    assert "icc_profile" not in opened(image.data).info


def test_wide_gamut_of_a_palette_and_of_transparent_pixels() -> None:
    """The profile counts for every mode, and the alpha stays."""
    flat = Image.new("RGBA", (100, 100), (180, 90, 90, 77))
    image = squeezed(saved(flat, "PNG", icc_profile=ADOBE_RGB))
    assert_close(colour(image.data, 0.5, 0.5), (205, 90, 90, 77), 3)
    palette = Image.new("RGB", (100, 100), (180, 90, 90)).quantize(4)
    image = squeezed(saved(palette, "PNG", icc_profile=ADOBE_RGB), format=OutputFormat.JPEG)
    assert_close(colour(image.data, 0.5, 0.5), (205, 90, 90), 5)


@pytest.mark.parametrize(
    "profile",
    [
        b"nonsense",
        ADOBE_RGB[:200],
        ADOBE_RGB.replace(b"RGB XYZ ", b"GRAYXYZ "),
        ADOBE_RGB.replace(b"RGB XYZ ", b"CMYKXYZ "),
    ],
)
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_an_absurd_profile_is_none(profile: bytes, name: str) -> None:
    """A profile that says nothing about these pixels leaves them as they are."""
    data = saved(Image.new("RGB", (100, 100), (180, 90, 90)), name, icc_profile=profile)
    image = squeezed(data, max_width=90)
    assert_close(colour(image.data, 0.5, 0.5), (180, 90, 90), 4)
    assert "icc_profile" not in opened(squeezed(data).data).info


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(name: str) -> None:
    """Inks are turned into light, whichever way round the format stores them."""
    image = squeezed(saved(corners(mode="CMYK"), name), format=OutputFormat.JPEG, quality=95)
    assert opened(image.data).mode == "RGB"
    assert_close(colour(image.data, 0.1, 0.1), (255, 0, 0), 20)
    assert_close(colour(image.data, 0.1, 0.9), (255, 255, 255), 20)


def test_grey_stays_grey() -> None:
    """A grey JPEG needs no colours."""
    image = squeezed(saved(photo(mode="L"), "JPEG", quality=97))
    assert opened(image.data).mode == "L"


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(name: str) -> None:
    """Half the light of 16 bits is half the light of 8."""
    deep = Image.new("I;16", (64, 64), 0x8000)
    image = squeezed(saved(deep, name), format=OutputFormat.JPEG)
    assert_close(colour(image.data, 0.5, 0.5), (128, 128, 128), 2)


def test_a_png_keeps_its_sixteen_bits() -> None:
    """Packing tighter changes no pixel."""
    rows = [
        struct.pack(">64H", *(row * 1021 + column for column in range(64))) for row in range(64)
    ]
    data = png(16, 0, rows, png_chunk(b"tEXt", b"Author\0" + SECRET))
    image = squeezed(data, quality=100)
    assert opened(image.data).tobytes() == opened(data).tobytes()
    assert (opened(image.data).mode, image.quality) == ("I;16", "lossless")
    assert SECRET not in image.data


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [("F", 0.5, 128), ("F", 200.0, 200), ("I", 200, 200), ("I", 32896, 128)],
)
def test_wide_tiff_samples_are_brought_to_eight_bits(
    mode: str, value: float, expected: int
) -> None:
    """Floats from 0 to 1, and whole numbers of 8 or 16 bits in 32."""
    image = squeezed(saved(Image.new(mode, (64, 64), value), "TIFF"))
    assert_close(colour(image.data, 0.5, 0.5), (expected,) * 3, 2)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F"]
)
@pytest.mark.parametrize("target", ["jpeg", "png", "webp", "avif"])
def test_every_mode_of_pixels_is_understood(mode: str, target: str) -> None:
    """Whatever Pillow decodes to comes out as a sane picture."""
    source = photo(mode="L").convert(mode) if mode in {"I;16", "F", "LA"} else photo()
    if mode == "LAB":
        transform: Any = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        source = ImageCms.applyTransform(source, transform) or source
    data = saved(source if mode in {"LAB", "I;16", "F"} else source.convert(mode), "TIFF")
    image = squeezed(data, format=OutputFormat(target), quality=90)
    assert opened(image.data).size == (160, 120)
    if mode in {"RGB", "RGBA", "YCbCr", "LAB"}:
        assert difference(image.data, saved(photo(), "PNG")) < 14


def test_a_linear_png_is_brightened() -> None:
    """Without a profile a PNG's gamma says how its levels are meant."""
    linear = png(8, 0, [bytes([55]) * 64] * 64, png_chunk(b"gAMA", struct.pack(">I", 100_000)))
    image = squeezed(linear, format=OutputFormat.JPEG)
    assert_close(colour(image.data, 0.5, 0.5), (128, 128, 128), 3)
    image = squeezed(linear)
    assert_close(colour(image.data, 0.5, 0.5), (128, 128, 128), 3)
    assert "gamma" not in opened(image.data).info


# Transparency


@pytest.mark.parametrize("target", ["png", "webp", "avif"])
@pytest.mark.parametrize("name", ["PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_transparency_is_kept(name: str, target: str) -> None:
    """A hole stays a hole in every format that has them."""
    picture = corners(mode="RGBA")
    picture.paste((0, 0, 0, 0), (30, 0, 60, 20))
    image = squeezed(saved(picture, name), format=OutputFormat(target))
    assert colour(image.data, 0.9, 0.1)[3] < 20
    assert_close(colour(image.data, 0.1, 0.1), (255, 0, 0, 255), 20)


def test_transparency_is_laid_over_the_background() -> None:
    """JPEG has none, so the colour asked for shows."""
    picture = corners(mode="RGBA")
    picture.paste((0, 0, 0, 0), (30, 0, 60, 20))
    for name in ("PNG", "WEBP", "GIF"):
        data = saved(picture, name)
        image = squeezed(data, format=OutputFormat.JPEG, background="#336699", quality=95)
        assert_close(colour(image.data, 0.8, 0.2), (0x33, 0x66, 0x99), 15)
        assert_close(
            colour(squeezed(data, format=OutputFormat.JPEG).data, 0.8, 0.2), (255,) * 3, 15
        )


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "key"),
    [
        (1, 0, b"\x0f" * 8, b"\0\0"),
        (2, 0, b"\x0f" * 8, b"\0\0"),
        (4, 0, b"\x0f" * 8, b"\0\x0f"),
        (8, 0, b"\0\xff" * 8, b"\0\xff"),
        (16, 0, b"\0\x01\xff\xff" * 8, b"\0\x01"),
        (8, 2, b"\x01\x02\x03\xff\xff\xff" * 8, b"\0\1\0\2\0\3"),
        (16, 2, b"\x01\0\x02\0\x03\0\xff\xff\xff\xff\xff\xff" * 8, b"\1\0\2\0\3\0"),
        (8, 3, b"\0\1" * 8, b"\0"),
    ],
)
def test_a_transparent_colour_of_any_depth(
    depth: int, colour_type: int, row: bytes, key: bytes
) -> None:
    """Half of the pixels have the colour that a PNG calls transparent."""
    palette = [png_chunk(b"PLTE", b"\xff\0\0\0\xff\0")] if colour_type == 3 else []
    data = png(depth, colour_type, [row] * 8, *palette, png_chunk(b"tRNS", key))
    for target in ("webp", "avif"):
        image = squeezed(data, format=OutputFormat(target), quality=100)
        levels = opened(image.data).convert("RGBA").getchannel("A").histogram()
        assert levels[0] == levels[255] == sum(levels) // 2


# Animation


def shown(data: bytes) -> list[tuple[tuple[int, ...], int]]:
    """Return a pixel of each frame, and how many milliseconds it is shown."""
    image = Image.open(io.BytesIO(data))
    frames: list[tuple[tuple[int, ...], int]] = []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        image.load()
        pixel = image.convert("RGB").getpixel((image.width - 2, image.height - 2))
        assert isinstance(pixel, tuple)
        frames.append((pixel, round(image.info["duration"])))
    return frames


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize(
    "options",
    [{}, {"max_width": 16}, *({"format": OutputFormat(name)} for name in ("webp", "png", "avif"))],
)
def test_animation_is_kept(name: str, options: dict[str, Any]) -> None:
    """Frames, durations and endless repetition survive, also smaller and in other formats."""
    data = animation(name)
    image = squeezed(data, quality=80, **options)
    after = shown(image.data)
    assert [ms for _, ms in after] == [100, 200, 300]
    for (pixel, _), (expected, _) in zip(after, shown(data), strict=True):
        assert_close(pixel, expected, 30)
    assert opened(image.data).info.get("loop", 0) == 0
    assert opened(image.data).size == (image.width, image.height)


@pytest.mark.parametrize(
    ("name", "loop", "target", "expected"),
    [
        ("GIF", 2, "webp", 3),
        ("GIF", None, "webp", 1),
        ("GIF", 0, "png", 0),
        ("WEBP", 3, "png", 3),
        ("PNG", 2, "webp", 2),
    ],
)
def test_runs_as_often_as_before(name: str, loop: int | None, target: str, expected: int) -> None:
    """GIF counts the repetitions, the others the runs."""
    image = squeezed(animation(name, loop=loop), format=OutputFormat(target))
    assert opened(image.data).info["loop"] == expected


@pytest.mark.parametrize("loop", [0, 1, 3, 65_535])
@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_an_avif_runs_as_often(name: str, loop: int) -> None:
    """Through another AVIF, and back."""
    first = squeezed(animation(name, loop=loop), format=OutputFormat.AVIF)
    second = squeezed(first.data, max_width=20)
    assert second.format == "avif"
    back = squeezed(second.data, format=OutputFormat(name.lower()))
    assert opened(back.data).info["loop"] == loop


@pytest.mark.parametrize(("loop", "expected"), [(0, 0), (4, 4), (None, None)])
def test_a_smaller_gif_runs_as_often(loop: int | None, expected: int | None) -> None:
    """Also where the frames are new."""
    image = squeezed(animation("GIF", loop=loop), max_width=20)
    assert opened(image.data).info.get("loop") == expected


@pytest.mark.parametrize("options", [{}, {"max_width": 20}])
@pytest.mark.parametrize("target", ["keep", "webp", "avif", "png"])
@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "AVIF"])
def test_odd_times_are_kept(name: str, target: str, options: dict[str, Any]) -> None:
    """No time at all, the shortest, and more than a minute; AVIF has no frame without a time."""
    times = [10, 70_000, 0 if name != "AVIF" else 100, 50]
    data = animation(name, frames=4, duration=times)
    image = squeezed(data, format=OutputFormat(target), **options)
    expected = [ms or 100 for ms in times] if image.format == "avif" else times
    assert [ms for _, ms in shown(image.data)] == expected


@pytest.mark.parametrize("target", ["keep", "webp", "avif", "png"])
@pytest.mark.parametrize("name", ["GIF", "AVIF"])
def test_frames_that_show_nothing_new_lose_no_time(name: str, target: str) -> None:
    """Equal frames that follow each other may become one, shown for as long as both."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "red", "blue", "red")]
    data = saved(
        frames[0], name, save_all=True, append_images=frames[1:], duration=[50, 60, 70, 80]
    )
    after = shown(squeezed(data, format=OutputFormat(target)).data)
    assert sum(ms for _, ms in after) == 260
    reds = [ms for (red, _, _), ms in after if red > 128]
    assert sum(reds) == 190
    assert reds[-1] == 80


def test_frames_of_a_drawing_are_mixed_in_a_webp() -> None:
    """Each frame is lossless where that is smaller, and with time none is whole without need."""
    frames = []
    for index in range(12):
        frame = photo(120, 90).quantize(12).convert("RGB")
        frame.paste("red", (index * 8, 10, index * 8 + 20, 30))
        frames.append(frame)
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    fast, balanced = (
        squeezed(data, format=OutputFormat.WEBP, effort=effort, quality=80).data
        for effort in (Effort.FAST, Effort.BALANCED)
    )
    assert b"VP8L" in fast
    assert len(balanced) < len(fast) * 0.6


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "AVIF"])
def test_a_still_format_shows_the_first_frame(name: str) -> None:
    """JPEG has no animation."""
    image = squeezed(animation(name), format=OutputFormat.JPEG)
    assert_close(colour(image.data, 0.9, 0.9), (0, 255, 90), 20)


def test_the_still_picture_before_an_animation_is_no_frame() -> None:
    """A PNG may carry a picture for programs that show no animation."""
    data = animation("PNG", frames=4, default_image=True)
    frames = shown(squeezed(data, format=OutputFormat.WEBP).data)
    for (pixel, _), index in zip(frames, (1, 2, 3), strict=True):
        assert_close(pixel, (index * 40, 255 - index * 40, 90), 20)


def test_a_hole_in_a_smaller_gif_stays() -> None:
    """Frames with transparency don't show the frame before through it."""
    frames = []
    for index in range(3):
        frame = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
        frame.paste((255, 0, 0, 255), (index * 10, 0, index * 10 + 10, 40))
        frames.append(frame)
    data = saved(
        frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100, disposal=2
    )
    image = opened(squeezed(data, max_width=20).data)
    for index in range(3):
        image.seek(index)
        alpha = image.convert("RGBA").getchannel("A").resize((4, 1), Image.Resampling.BOX)
        assert [value > 128 for value in alpha.tobytes()] == [at == index for at in range(4)]


def test_lossless_webp_stays_lossless() -> None:
    """Someone wanted every pixel; a lossless image kept is one packed tighter."""
    data = saved(photo(), "WEBP", lossless=True, method=0, quality=0)
    image = squeezed(data, quality=40)
    assert image.quality in {"lossless", "original"}
    assert opened(image.data).tobytes() == opened(data).tobytes()
    assert squeezed(data, max_width=80, quality=40).quality == "lossless"
    assert squeezed(data, format=OutputFormat.WEBP).quality.isdigit()


def test_a_lossless_webp_becomes_a_lossy_one_that_looks_like_it() -> None:
    """Smaller and right, or every pixel; quality 100 asks for every pixel."""
    data = saved(photo(mode="L").convert("RGB"), "WEBP", lossless=True)
    right = squeezed(data, quality=97)
    assert right.quality == "97"
    assert len(right.data) < len(data)
    for quality in (20, 100):
        image = squeezed(data, quality=quality)
        assert image.quality in {"lossless", "original"}
        assert opened(image.data).tobytes() == opened(data).tobytes()


def test_an_animated_lossless_webp_keeps_every_pixel() -> None:
    """One frame that looks right says nothing about the others."""
    data = animation("WEBP", lossless=True, method=0, quality=0)
    image = squeezed(data, max_width=24, quality=90)
    assert image.quality == "lossless"


def test_what_keeps_every_pixel_is_not_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What auto would take is asked where it is used alone: here if it must get smaller."""
    asked = []

    def predict(*_: object) -> int:
        asked.append(1)
        return 50

    monkeypatch.setattr(quality_predictor, "predict", predict)
    data = animation("WEBP", lossless=True, method=0, quality=0)
    assert squeezed(data).quality == "lossless"
    assert not asked
    squeezed(data, max_bytes=len(data))
    assert asked


@pytest.mark.parametrize("name", ["PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_drawing_becomes_a_lossless_webp(name: str) -> None:
    """Few colours pack better without a loss."""
    drawing = corners(200, 150)
    data = saved(drawing, name, **({"lossless": True} if name == "WEBP" else {}))
    image = squeezed(data, format=OutputFormat.WEBP, quality=90)
    assert image.quality in {"lossless", "original"}
    assert opened(image.data).convert("RGB").tobytes() == drawing.tobytes()


@pytest.mark.parametrize(
    "data",
    [saved(photo(), "PNG"), saved(corners(200, 150), "JPEG"), saved(corners(200, 150), "AVIF")],
    ids=["photo", "jpeg", "avif"],
)
def test_what_is_no_drawing_becomes_a_lossy_webp(data: bytes) -> None:
    """Nor what has lost something already: its colours are many."""
    assert squeezed(data, format=OutputFormat.WEBP, quality=90).quality == "90"


@pytest.mark.parametrize("name", ["PNG", "GIF", "BMP", "TIFF"])
def test_quality_100_keeps_every_pixel_in_a_webp(name: str) -> None:
    """Of what has lost nothing yet, even where a lossy one would be smaller; and of each frame."""
    noise = Image.frombytes("RGB", (64, 48), random.Random(3).randbytes(64 * 48 * 3))  # noqa: S311
    data = saved(noise, name)
    image = squeezed(data, format=OutputFormat.WEBP, quality=100)
    assert image.quality == "lossless"
    assert opened(image.data).tobytes() == opened(data).convert("RGB").tobytes()
    moving = squeezed(animation("GIF"), format=OutputFormat.WEBP, quality=100)
    assert moving.quality == "lossless"


def test_quality_100_of_a_webp_is_lossless() -> None:
    """No loss is better than hardly any."""
    down = Image.linear_gradient("L")
    data = saved(Image.merge("RGB", (down, down.rotate(90), down)), "PNG")
    lossy = squeezed(data, format=OutputFormat.WEBP, quality=99)
    best = squeezed(data, format=OutputFormat.WEBP, quality=100)
    assert (lossy.quality, best.quality) == ("99", "lossless")
    assert opened(best.data).tobytes() == opened(data).tobytes()


def test_a_smaller_gif_has_a_palette_for_its_quality() -> None:
    """A GIF made anew has a palette of its own, which no number tells the quality of."""
    data = saved(photo(64, 48), "GIF")
    assert squeezed(data, max_width=32).quality == "palette"


def test_a_still_gif_is_packed_anew_without_losing_a_colour() -> None:
    """Pillow's packing is better than many, and every pixel is compared."""
    picture = Image.new("P", (40, 40), 7)
    picture.putpalette([*range(256)] * 3)
    picture.paste(200, (10, 10, 30, 30))
    for settings in ({}, {"transparency": 200}):
        data = saved(picture, "GIF", optimize=False, palette=picture.getpalette(), **settings)
        image = squeezed(data)
        assert image.quality == "lossless"
        assert len(image.data) < len(data) - 700
        assert colour(image.data, 0.1, 0.1) == colour(data, 0.1, 0.1)
        hole = colour(data, 0.5, 0.5)
        assert colour(image.data, 0.5, 0.5) == (hole if hole[3] else (0, 0, 0, 0))


# Everything goes, and always the same way


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize(
    "options", [{}, {"format": OutputFormat.WEBP}, {"max_width": 30}, {"quality": 100}]
)
def test_nothing_but_the_picture_is_left(name: str, options: dict[str, Any]) -> None:
    """Maker, place and trailing bytes are gone from every output."""
    data = saved(photo(), name, exif=exif()) + SECRET
    assert SECRET not in squeezed(data, **options).data


@pytest.mark.parametrize("name", KEPT)
def test_the_same_input_gives_the_same_bytes(name: str) -> None:
    """Nothing depends on the time, on chance, or on the image before."""
    data = animation(name) if name != "JPEG" else saved(photo(), name)
    both: list[dict[str, Any]] = [{}, {"max_width": 20}]
    for options in both:
        first = squeezed(data, **options)
        squeezed(saved(corners(mode="CMYK"), "JPEG"))
        assert squeezed(data, **options) == first


def test_an_animation_does_not_tell_when_it_was_made() -> None:
    """A date in the file would make each run's bytes others."""
    data = squeezed(animation("GIF"), format=OutputFormat.AVIF).data
    at = data.index(b"mvhd") + 8
    assert not any(data[at : at + 16])


# Failures


@pytest.mark.parametrize("name", [*KEPT, "BMP", "TIFF"])
def test_half_an_image_is_a_failure(name: str) -> None:
    """Cut anywhere, no format passes, and the code is `truncated`."""
    data = saved(photo(), name)
    for share in (0.3, 0.5, 0.9, 0.99):
        assert error_code(data[: int(len(data) * share)]) == "truncated"


def test_half_a_jpeg_with_an_end_is_still_half_a_jpeg() -> None:
    """A decoder would fill the missing pixels up with grey."""
    data = saved(photo(), "JPEG")
    assert error_code(data[: len(data) // 2] + b"\xff\xd9") == "truncated"
    assert error_code(data[: len(data) // 2] + b"\xff\xd9", max_width=40) == "truncated"
    assert squeezed(saved(photo(4, 4), "JPEG")).width == 4


@pytest.mark.parametrize(
    "data",
    [
        *(saved(photo(mode=mode), "JPEG", progressive=True) for mode in ("L", "RGB")),
        saved(photo(16, 400, "L"), "JPEG", progressive=True, restart_marker_rows=1),
        jpeg_of_planes(*photo().split()),
    ],
)
@pytest.mark.parametrize("size", [{}, {"max_width": 40}])
def test_the_last_scan_of_a_jpeg_has_to_be_whole(data: bytes, size: dict[str, Any]) -> None:
    """A decoder would only leave out detail, or a colour."""
    start = data.rindex(b"\xff\xda") + 14
    for share in (0.1, 0.5, 0.8):
        cut = data[: start + int(share * (len(data) - start))].rstrip(b"\xff")
        assert opened(cut + b"\xff\xd9").size == opened(data).size
        assert error_code(cut + b"\xff\xd9", **size) == "truncated"
    assert difference(squeezed(data, format=OutputFormat.PNG).data, data) < 3


@pytest.mark.parametrize(
    "data", [saved(Image.new("L", (n, n)), "JPEG", progressive=True) for n in (1, 9, 70)]
)
def test_a_scan_without_detail_is_a_whole_one(data: bytes) -> None:
    """A single code may end the last scan of an even picture."""
    assert squeezed(data, format=OutputFormat.PNG).data


def test_a_png_or_gif_with_too_few_pixels_is_cut_short() -> None:
    """The end is there, but the pixels before it are not."""
    rows = [bytes(range(64))] * 64
    data = png(8, 0, rows).replace(struct.pack(">II", 64, 64), struct.pack(">II", 64, 80))
    header = data.index(b"IHDR")
    data = (
        data[: header - 4]
        + png_chunk(b"IHDR", data[header + 4 : header + 17])
        + data[header + 21 :]
    )
    for options in ({}, {"max_width": 30}, {"format": OutputFormat.JPEG}):
        assert error_code(data, **options) == "truncated"
    gif = saved(photo(16, 16, "L"), "GIF")
    assert error_code(gif.replace(b"\x10\0\x10\0", b"\x10\0\x40\0")) == "truncated"


def test_every_frame_of_an_animated_png_has_to_be_whole() -> None:
    """Packing the file tighter doesn't pass over what only players would look at."""
    data = animation("PNG")
    at = data.rindex(b"fdAT")
    (size,) = struct.unpack(">I", data[at - 4 : at])
    short = png_chunk(b"fdAT", data[at + 4 : at + 8] + zlib.compress(bytes(20)))
    assert error_code(data[: at - 4] + short + data[at + size + 8 :]) == "truncated"
    unordered = png_chunk(b"fdAT", b"\0\0\0\x63" + data[at + 8 : at + size + 4])
    assert error_code(data[: at - 4] + unordered + data[at + size + 8 :]) == "decode_error"


def test_damage_is_not_truncation() -> None:
    """A file that ends well but can't be decoded is `decode_error`."""
    data = bytearray(saved(photo(), "PNG"))
    middle = data.index(b"IDAT") + 100
    data[middle : middle + 50] = b"\xff" * 50
    assert error_code(bytes(data), format=OutputFormat.JPEG) == "decode_error"
    assert error_code(bytes(data)) == "decode_error"
    webp = bytearray(saved(photo(), "WEBP"))
    webp[20:60] = bytes(40)
    assert error_code(bytes(webp)) == "decode_error"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not_an_image"),
        (b"<html><body>404</body></html>", "not_an_image"),
        (b"<svg/>", "unsupported_format"),
        (
            b"BM" + bytes(12) + struct.pack("<IiiHHII", 40, 4, 4, 1, 24, 9, 0) + bytes(64),
            "unsupported_format",
        ),
    ],
)
def test_refuses_what_is_no_image_or_of_another_kind(data: bytes, code: str) -> None:
    """The codes tell a shop owner what to mend."""
    assert error_code(data) == code


@pytest.mark.parametrize("name", [*KEPT, "BMP", "TIFF"])
def test_too_many_pixels_are_refused_before_decoding(name: str) -> None:
    """The limit itself is allowed, one pixel more is not."""
    data = saved(photo(100, 100), name)
    assert squeezed(data, ImageLimits(10_000, 1)).width == 100
    assert error_code(data, ImageLimits(9_999, 1)) == "too_many_pixels"


def test_a_bomb_costs_nothing() -> None:
    """A header that promises the moon is judged by itself."""
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", b""), png_chunk(b"IEND", b"")]
    assert error_code(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)) == "too_many_pixels"
    webp = b"WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xffVP8L\0\0\0\0"
    assert error_code(b"RIFF" + struct.pack("<I", len(webp)) + webp) == "too_many_pixels"


def test_metadata_can_not_cost_more_than_the_picture() -> None:
    """What would unpack to megabytes is left packed, and a picture stays one."""
    bomb = b"Comment\0\0" + zlib.compress(bytes(8_000_000), 9)
    data = png(8, 0, [bytes(range(16))] * 16, png_chunk(b"zTXt", bomb))
    assert squeezed(data).width == 16
    with pytest.raises(ValueError, match="too large"):
        opened(data)


@pytest.mark.parametrize(
    ("subsampling", "width", "stored"),
    [("4:2:0", None, "4:2:0"), ("4:4:4", None, "4:4:4"), ("4:2:0", 200, "4:4:4")],
)
def test_a_jpeg_s_halved_colours_stay_so(subsampling: str, width: int | None, stored: str) -> None:
    """Red print has whole colours, but where the source, of the same size, has half of them."""
    fence = Image.new("RGB", (256, 96), "cyan")
    for x in range(1, 256, 8):
        fence.paste("red", (x, 0, x + 4, 96))
    data = saved(fence, "JPEG", quality=97, subsampling=subsampling)
    image = opened(squeezed(data, quality=60, max_width=width).data)
    assert get_sampling(image) == {"4:4:4": 0, "4:2:0": 2}[stored]


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF"])
def test_decoders_are_shown_the_picture_alone(name: str) -> None:
    """A million comments cost nothing where they are never read."""
    settings: dict[str, Any] = {} if name == "GIF" else {"exif": exif(), "xmp": SECRET}
    data = saved(photo(64, 48), name, comment=SECRET, **settings)
    source_format = SourceFormat(name)
    source = open_source(data, source_format, survey(source_format, data, 1))
    assert not source.image.info.keys() & {"exif", "xmp", "comment"}


def test_a_tile_can_not_be_larger_than_any_image() -> None:
    """A tile is decoded whole, whatever the image takes of it."""

    def tiff(side: int) -> bytes:
        pixels = zlib.compress(bytes(side * side), 9)
        fields = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 322: side, 323: side, 324: 122}
        fields[325] = len(pixels)
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, fields[tag]) for tag in fields)
        return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4) + pixels

    assert squeezed(tiff(512)).width == 8
    assert error_code(tiff(4112)) == "decode_error"


@pytest.mark.parametrize("tag", [273, 279, 322, 323, 324, 325])
@pytest.mark.parametrize("kind", [2, 5, 7, 11])
def test_a_tiff_may_have_a_text_for_a_number(tag: int, kind: int) -> None:
    """Where its pixels lie can't be told then, and that is no bug of ours."""
    fields = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64, tag: 99}
    entries = [
        struct.pack("<HHII", key, kind if key == tag else 4, 1, fields[key])
        for key in sorted(fields)
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries)
    assert error_code(head.ljust(300, b"\0")) == "decode_error"


def test_a_picture_that_calls_itself_metadata_is_none() -> None:
    """What is blanked in an AVIF must not have been its pixels."""
    data = saved(photo(), "AVIF", xmp=SECRET, quality=5)
    assert squeezed(data).quality == "original"
    first = data.index(b"iloc") + 12
    at, size = first + 6, 14  # of an entry: number, file, extents, then where and how long
    liar = data[: at + size] + data[at : at + 8] + data[at + size + 8 :]
    assert error_code(liar) == "decode_error"


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "AVIF"])
def test_frames_are_limited_and_all_their_pixels_count(name: str) -> None:
    """An animation is as large as its frames together."""
    data = animation(name, frames=4, size=20)
    assert squeezed(data, ImageLimits(1600, 4)).width == 20
    assert error_code(data, ImageLimits(1599, 4)) == "too_many_pixels"
    assert error_code(data, ImageLimits(10**6, 3)) == "too_many_frames"


def test_a_side_too_long_for_the_format_is_refused() -> None:
    """WebP ends at 16,383 pixels."""
    assert error_code(saved(photo(16_384, 2), "PNG"), format=OutputFormat.WEBP) == "too_many_pixels"


def test_running_out_of_memory_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder with little memory says so instead of falling over."""

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("codec.image_loader.load", no_memory)
    assert error_code(saved(photo(), "JPEG")) == "too_many_pixels"


@pytest.mark.parametrize("name", [*KEPT, "BMP", "TIFF"])
def test_random_damage_never_escapes(name: str) -> None:
    """Whatever is wrong with an image, it fails with a code or gives a picture."""
    whole = saved(photo(48, 36), name)
    chance = random.Random(name)  # noqa: S311  the same damage every time
    codes = set()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            squeezed(bytes(data), max_width=24)
        except ImageError as error:
            codes.add(error.code)
    assert codes <= {
        *("truncated", "decode_error", "not_an_image", "unsupported_format"),
        *("too_many_pixels", "too_many_frames"),
    }
