"""What an encoder can't do is done another way, or said in a sentence; hard work has an end."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from codec import image_encoder
from codec.image_encoder import encode
from codec.image_format import TargetFormat
from codec.picture import Picture
from errors import ImageError
from request_options import Effort
from tests.images import opened, photo

STILL = Picture([photo()], [0])
MOVING = Picture([photo(80, 60).rotate(angle) for angle in (0, 5, 10)], [40] * 3)


def webp(picture: Picture, effort: Effort, quality: int = 80) -> bytes:
    """Encode a lossy WebP."""
    return encode(picture, TargetFormat.WEBP, quality, effort, is_lossless=False)


def refuse_below(method: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fail where the method is lower, as libwebp does for large images; return what was tried."""
    tried: list[int] = []
    save = Image.Image.save

    def fail_or_save(image: Image.Image, *arguments: Any, **settings: Any) -> None:
        tried.append(settings.get("method", 0))
        if tried[-1] < method:
            raise ValueError("encoding error 6")
        save(image, *arguments, **settings)

    monkeypatch.setattr(Image.Image, "save", fail_or_save)
    return tried


@pytest.mark.parametrize("picture", [STILL, MOVING], ids=["still", "moving"])
def test_a_webp_that_overflows_is_encoded_with_more_care(
    picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fastest method can't say some large images."""
    tried = refuse_below(2, monkeypatch)
    assert opened(webp(picture, Effort.FAST)).size == picture.size
    assert tried == [0, 2]


@pytest.mark.parametrize("target", [TargetFormat.JPEG, TargetFormat.WEBP, TargetFormat.AVIF])
@pytest.mark.parametrize("effort", Effort)
def test_what_can_not_be_encoded_is_said_in_a_sentence(
    target: TargetFormat, effort: Effort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder's failure is the image's, and no bug."""
    tried = refuse_below(9, monkeypatch)
    with pytest.raises(ImageError, match=r"too large to be stored as \w+\.$") as caught:
        encode(STILL, target, 80, effort, is_lossless=False)
    assert caught.value.code == "too_many_pixels"
    assert tried == ([0, 2] if (target, effort) == ("webp", Effort.FAST) else tried[:1])


def test_a_large_webp_is_encoded_with_care_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that is likely to fail would take as long as the right one."""
    fast, balanced = webp(STILL, Effort.FAST), webp(STILL, Effort.BALANCED)
    assert fast != balanced
    monkeypatch.setattr(image_encoder, "_MOST_HEEDLESS_PIXELS", 160 * 120 - 1)
    assert webp(STILL, Effort.FAST) == balanced
    monkeypatch.setattr(image_encoder, "_MOST_HEEDLESS_PIXELS", 160 * 120)
    assert webp(STILL, Effort.FAST) == fast


def test_best_ends_where_an_animation_has_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """All frames count."""
    best, balanced = webp(MOVING, Effort.BEST), webp(MOVING, Effort.BALANCED)
    assert best != balanced
    monkeypatch.setattr(image_encoder, "_MOST_PIXELS_OF_BEST_ANIMATION", 80 * 60 * 3)
    assert webp(MOVING, Effort.BEST) == best
    monkeypatch.setattr(image_encoder, "_MOST_PIXELS_OF_BEST_ANIMATION", 80 * 60 * 3 - 1)
    assert webp(MOVING, Effort.BEST) == balanced


@pytest.mark.parametrize(("quality", "method"), [(94, 6), (95, 4), (100, 4)])
def test_the_hardest_method_is_not_for_hardly_any_loss(
    quality: int, method: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an animation it would take a hundred times as long."""
    tried = refuse_below(0, monkeypatch)
    webp(MOVING, Effort.BEST, quality)
    webp(STILL, Effort.BEST, quality)
    assert tried == [method, 6]
