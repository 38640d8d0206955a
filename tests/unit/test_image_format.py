"""Kinds of images are told by their content."""

from __future__ import annotations

import pytest

from codec.image_format import SourceFormat, identify
from errors import ImageError
from tests.images import photo, saved


@pytest.mark.parametrize("source_format", list(SourceFormat))
def test_knows_every_kind_that_is_taken(source_format: SourceFormat) -> None:
    """Each format is recognised by its first bytes."""
    assert identify(saved(photo(16, 16), source_format)) is source_format


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"", "not_an_image"),
        (b"hello", "not_an_image"),
        (b"BMW builds cars and motor bikes in Bavaria", "not_an_image"),
        (b"<!DOCTYPE html><html><body><svg></svg></body></html>", "not_an_image"),
        (b'{"error": "not found"}', "not_an_image"),
        (b"%PDF-1.7", "not_an_image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "not_an_image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        (b"<?xml version='1.0'?><!-- drawn --><svg width='1'/>", "unsupported_format"),
        (b"\xef\xbb\xbf\n<svg>", "unsupported_format"),
        (b"\0\0\1\0\1\0\x10\x10", "unsupported_format"),
        (b"8BPS\0\1", "unsupported_format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_format"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "unsupported_format"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "unsupported_format"),
        (b"\xff\x4f\xff\x51\0\x29", "unsupported_format"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "unsupported_format"),
        (b"\xff\x0a\0", "unsupported_format"),
        (b"P6\n2 2\n255\n", "unsupported_format"),
        (b"II*\0\x10\0\0\0CR\2\0", "unsupported_format"),
        (b"qoif", "unsupported_format"),
    ],
)
def test_tells_other_images_from_what_is_none(head: bytes, code: str) -> None:
    """An image of a kind that is not taken is not the same as a web page."""
    with pytest.raises(ImageError) as caught:
        identify(head + bytes(40) if head[:1] not in {b"", b"<"} else head)
    assert caught.value.code == code


def test_takes_an_avif_whose_main_brand_is_the_container_s() -> None:
    """The brand may stand among the compatible ones."""
    assert identify(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") is SourceFormat.AVIF
