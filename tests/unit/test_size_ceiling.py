"""Quality goes down before sides do, and both as little as it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from PIL import Image

from codec import size_ceiling
from codec.compressed_image import CompressedImage
from codec.encoding import Encoding
from codec.image_format import TargetFormat
from codec.picture import Picture
from errors import ImageError
from request_options import Effort

PICTURE = Picture([Image.new("L", (301, 201))], [0])


@dataclass(frozen=True)
class FakeEncoding(Encoding):
    """Takes bytes by pixels and quality, at least a few; remembers what was asked."""

    asked: list[tuple[int, int]] = field(default_factory=list)

    def packed(self, trial: CompressedImage) -> CompressedImage:
        """Leave it as it is: these bytes are no image."""
        return trial

    def encode(self, picture: Picture, quality: int) -> CompressedImage:
        """Encode without looking at a pixel."""
        self.asked.append((picture.size[0], quality))
        size = math.prod(picture.size) * (10 + quality) // 100
        return CompressedImage(bytes(size), self.target, *picture.size, str(quality))


def encoding(target: TargetFormat = TargetFormat.JPEG) -> FakeEncoding:
    """Return an encoding that nothing was asked of yet."""
    return FakeEncoding(target, Effort.FAST)


def fitted(ceiling: int, using: FakeEncoding, quality: int = 80) -> CompressedImage:
    """Bring the picture under a ceiling."""
    size_bytes = len(using.encode(PICTURE, quality).data)
    return size_ceiling.fit(PICTURE, using, quality, size_bytes, ceiling)


@pytest.mark.parametrize("quality", [79, 50, 12, 1])
def test_quality_goes_down_first(quality: int) -> None:
    """No pixel is lost as long as any quality fits."""
    ceiling = len(encoding().encode(PICTURE, quality).data)
    image = fitted(ceiling, encoding())
    assert (image.width, image.height) == PICTURE.size
    assert 0.97 * ceiling <= len(image.data) <= ceiling


@pytest.mark.parametrize("share", [0.95, 0.75, 0.45])
def test_sides_shrink_as_little_as_it_takes(share: float) -> None:
    """Quality 30 is low enough then."""
    floor = encoding()
    ceiling = int(len(floor.encode(PICTURE, 1).data) * share)
    using = encoding(TargetFormat.WEBP)
    image = fitted(ceiling, using)
    assert image.quality == "30" or image.width == 151
    assert len(image.data) <= ceiling
    if image.width > 151:
        assert len(image.data) > 0.93 * ceiling
    assert all(quality >= 30 for width, quality in using.asked if 151 < width < 301)


def test_at_half_the_size_any_quality_is_right() -> None:
    """Before giving up, the quality goes down once more."""
    half = Picture([Image.new("L", (151, 101))], [0])
    for quality in (29, 10, 1):
        ceiling = len(encoding().encode(half, quality).data)
        image = fitted(ceiling, encoding())
        assert (image.width, image.height) == half.size
        assert 0.97 * ceiling <= len(image.data) <= ceiling


@pytest.mark.parametrize("target", list(TargetFormat))
@pytest.mark.parametrize("quality", [100, 60, 1])
def test_never_below_half(target: TargetFormat, quality: int) -> None:
    """What doesn't fit then is refused, in a sentence."""
    half = Picture([Image.new("L", (151, 101))], [0])
    too_few = len(encoding().encode(half, 1).data) - 1
    using = encoding(target)
    with pytest.raises(ImageError) as caught:
        fitted(too_few, using, quality)
    assert caught.value.code == "max_bytes_unreachable"
    assert str(too_few) in caught.value.detail
    assert min(width for width, _ in using.asked) == 151
    assert len(using.asked) <= 1 + 5 + 3 + 5


def test_an_animated_png_has_only_pixels_to_give() -> None:
    """Frames have one palette in that format, so it stays in full colours."""
    using = encoding(TargetFormat.PNG)
    moving = Picture(PICTURE.frames * 2, [1, 1])
    whole = len(using.encode(moving, 100).data)
    image = size_ceiling.fit(moving, using, 100, whole, whole // 2)
    assert {quality for _, quality in using.asked} == {100}
    assert 151 < image.width < 301


@pytest.mark.parametrize(("qualities", "expected"), [((30, 80), 50), ((60, 80), 60), ((80, 80), 0)])
def test_quality_alone_goes_no_lower_than_asked(qualities: tuple[int, int], expected: int) -> None:
    """It is for images that should fit, and need not."""
    using = encoding()
    ceiling = len(using.encode(PICTURE, 50).data)
    size_bytes = len(using.encode(PICTURE, 80).data)
    image = size_ceiling.lower(PICTURE, using, qualities, size_bytes, ceiling)
    assert (int(image.quality) if image else 0) in {expected, expected - (expected == 50)}
