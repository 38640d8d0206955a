"""A lossy copy may stand for a picture only where it looks like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from codec import likeness, ssimulacra2
from tests.images import corners, photo, saved

if TYPE_CHECKING:
    from PIL import Image


@pytest.mark.parametrize(("quality", "is_right"), [(97, True), (10, False)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_tells_a_good_copy_from_a_bad_one(
    quality: int,
    is_right: bool,  # noqa: FBT001  a table's column
    mode: str,
) -> None:
    """Quality is what it looks like, whatever the mode."""
    picture = photo(320, 240, "L").convert(mode)
    assert likeness.looks_right(picture, saved(picture, "WEBP", quality=quality)) is is_right


def test_of_a_huge_picture_bands_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the top to the bottom, and never more pixels than a judgement may take."""
    picture = corners(64, 2000)
    sizes = []
    real = ssimulacra2.score

    def score(original: Image.Image, other: Image.Image) -> float:
        sizes.append(original.size)
        assert original.size == other.size
        return real(original, other)

    monkeypatch.setattr(ssimulacra2, "score", score)
    monkeypatch.setattr(likeness, "_MOST_PIXELS", 64 * 400)
    assert likeness.looks_right(picture, saved(picture, "WEBP", lossless=True))
    for top in (0, 1900):
        damaged = picture.copy()
        damaged.paste("black", (0, top, 64, top + 100))
        assert not likeness.looks_right(picture, saved(damaged, "WEBP", lossless=True))
    assert sizes == [(64, 384)] * 3
