"""The pictures of the quality benchmark: crops that are what the photo is."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image, JpegImagePlugin

from benchmarks.quality_photos import find, read_photos
from tests.images import exif, photo, saved

if TYPE_CHECKING:
    from pathlib import Path


def opened(data: bytes) -> JpegImagePlugin.JpegImageFile:
    """Open a JPEG."""
    image = Image.open(io.BytesIO(data))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    return image


@pytest.mark.parametrize(("mode", "subsampling"), [("RGB", "4:2:2"), ("RGB", "4:4:4"), ("L", "")])
def test_crop_keeps_tables(tmp_path: Path, mode: str, subsampling: str) -> None:
    """A crop has the photo's quantisation tables and subsampling, and no more than its pixels."""
    settings = {"subsampling": subsampling} if subsampling else {}
    data = saved(photo(320, 240, mode), "JPEG", quality=83, **settings)
    (tmp_path / "a.jpg").write_bytes(data)
    [cut] = read_photos([tmp_path / "a.jpg"], max_megapixels=0.02)
    assert opened(cut.data).size == (160, 128)
    assert cut.megapixels == pytest.approx(160 * 128 / 1e6)
    assert opened(cut.data).quantization == opened(data).quantization
    assert JpegImagePlugin.get_sampling(opened(cut.data)) == JpegImagePlugin.get_sampling(
        opened(data)
    )


def test_whole_photo_is_left_alone(tmp_path: Path) -> None:
    """A photo that is small enough stays byte for byte; only one that lies is laid upright."""
    (tmp_path / "a.jpg").write_bytes(saved(photo(320, 240), "JPEG"))
    (tmp_path / "b.jpg").write_bytes(saved(photo(320, 240), "JPEG", exif=exif(6)))
    upright, lying = read_photos([tmp_path / "a.jpg", tmp_path / "b.jpg"], max_megapixels=1)
    assert upright.plain == upright.data == (tmp_path / "a.jpg").read_bytes()
    assert lying.data == (tmp_path / "b.jpg").read_bytes()
    assert opened(lying.plain).size == (240, 320)


@pytest.mark.parametrize(("count", "names"), [(0, "abcdef"), (9, "abcdef"), (3, "ace"), (1, "a")])
def test_photos_are_spread(tmp_path: Path, count: int, names: str) -> None:
    """So many photos stand evenly over the folder's names; other files are passed over."""
    for name in ["a.jpg", "b.JPG", "c.jpg", "d.jpg", "e.jpeg", "f.jpg", "ab.png"]:
        (tmp_path / name).touch()
    found = find(tmp_path, (".jpg", ".jpeg"), count)
    assert "".join(path.stem for path in found) == names
