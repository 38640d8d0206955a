"""What is stored holds the picture alone, and never more bytes than came in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from codec.image_format import SourceFormat
from request_options import OutputFormat
from tests.images import SECRET, laid, opened, photo, saved, squeezed, with_metadata
from tests.odd_images import jpeg, others, png
from tests.odd_images.profiles import ADOBE_RGB

if TYPE_CHECKING:
    from codec.compressed_image import CompressedImage
    from tests.odd_images.odd import Odd

KEPT = ["JPEG", "PNG", "WEBP", "GIF", "AVIF"]
ODD = jpeg.ODD | png.ODD | others.ODD
# What an opened image may tell besides its pixels: of the file itself, of movement, of a hole.
_OF_THE_FILE = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression"}
_OF_THE_FILE |= {
    "adobe",
    "adobe_transform",
    "default_image",
    "version",
    "extension",
    "background",
    "interlace",
}
_OF_THE_PICTURE = {"loop", "duration", "timestamp", "disposal", "blend", "bbox", "transparency"}


def assert_bare(image: CompressedImage) -> None:
    """Look for words, places and profiles in an output."""
    assert SECRET not in image.data
    output = opened(image.data)
    assert not dict(output.getexif())
    assert set(output.info) <= _OF_THE_FILE | _OF_THE_PICTURE
    assert not output.info.get("icc_profile")


@pytest.mark.parametrize("target", OutputFormat)
@pytest.mark.parametrize("source_format", SourceFormat)
@pytest.mark.parametrize("quality", [100, None])
def test_no_output_tells_more_than_the_picture(
    source_format: SourceFormat, target: OutputFormat, quality: int | None
) -> None:
    """EXIF, place, thumbnail, XMP, IPTC, comments and what trails are gone, whatever the format."""
    data = with_metadata(source_format)
    assert SECRET in data
    assert_bare(squeezed(data, format=target, quality=quality))


@pytest.mark.parametrize("name", KEPT)
def test_an_original_that_stays_is_bare_too(name: str) -> None:
    """Its pixels stay, and nothing else."""
    settings: dict[str, Any] = {"quality": 5} if name in {"JPEG", "WEBP", "AVIF"} else {}
    data = with_metadata(SourceFormat(name), **settings)
    if name in {"PNG", "GIF"}:  # packed as tightly as we can, so that nothing is gained again
        packed = squeezed(data, quality=100).data
        end = packed.rindex(b"IEND") - 4 if name == "PNG" else len(packed) - 1
        said = (
            png.text(SECRET) if name == "PNG" else b"!\xfe" + bytes([len(SECRET)]) + SECRET + b"\0"
        )
        data = packed[:end] + said + packed[end:]
        assert SECRET in data
    image = squeezed(data, quality=100)
    assert image.quality == "original"
    assert opened(image.data).convert("RGBA").tobytes() == opened(data).convert("RGBA").tobytes()
    assert_bare(image)


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF"])
def test_an_original_keeps_the_profile_that_its_colours_need(name: str) -> None:
    """Without it the very same pixels would be other colours."""
    data = with_metadata(SourceFormat(name), quality=3, icc_profile=ADOBE_RGB)
    image = squeezed(data, quality=100)
    assert image.quality == "original"
    assert SECRET not in image.data
    assert opened(image.data).info["icc_profile"] == ADOBE_RGB


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("quality", [100, None])
def test_no_odd_kind_grows(odd: Odd, quality: int | None) -> None:
    """Compressed for its bytes alone, an image has as many as before at the most."""
    for data in odd.files():
        assert len(squeezed(data, quality=quality).data) <= len(data)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 7), (8, 8), (17, 9)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("name", KEPT)
def test_no_tiny_image_grows(name: str, mode: str, size: tuple[int, int]) -> None:
    """Where headers are all there is, the original stays, or something smaller still."""
    if name == "JPEG" and mode == "RGBA":
        mode = "CMYK"
    picture = photo(32, 32).resize(size).convert(mode)
    if mode == "RGBA":
        picture.putpixel((0, 0), (9, 9, 9, 0))
    settings: list[dict[str, Any]] = [{}]
    settings += [{"quality": at} for at in (1, 60, 100)] if name in {"JPEG", "WEBP", "AVIF"} else []
    settings += [{"lossless": True}] if name == "WEBP" else []
    for setting in settings:
        data = saved(picture, name, **setting)
        for quality in (100, None):
            image = squeezed(data, quality=quality)
            assert len(image.data) <= len(data)
            assert opened(image.data).size == size


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("name", ["JPEG", "WEBP"])
def test_no_turned_image_grows(name: str, orientation: int) -> None:
    """An image that can't be turned without growing says how it lies, and only that."""
    block = Image.Exif()
    block[0x0112] = orientation
    data = saved(laid(photo(64, 48), orientation), name, quality=8, exif=block)
    image = squeezed(data, quality=100)
    assert len(image.data) <= len(data)
    assert set(opened(image.data).getexif()) <= {0x0112}


def test_an_empty_picture_stays_whole() -> None:
    """One colour all over is the least that a picture can be."""
    for name in KEPT:
        data = saved(Image.new("RGB", (300, 200), "white"), name)
        assert len(squeezed(data).data) <= len(data)
