"""The fit of what auto knows finds what is there, and judges itself by photos it hasn't seen."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from benchmarks import fit_auto
from benchmarks.fit_auto import Observation
from codec.image_format import TargetFormat
from codec.quality_model import to_quality
from request_options import Effort
from tests.images import photo, saved

if TYPE_CHECKING:
    from pathlib import Path


def observations(
    target: TargetFormat, *, photos: int = 60, chance: float = 0.0
) -> list[Observation]:
    """Return what would be seen if levels hung on two features in a simple way."""
    luck = random.Random(1)  # noqa: S311  # not a secret
    seen = []
    for index in range(photos):
        features = (luck.uniform(-5, 5), luck.uniform(16, 21))
        level = 40 + 3 * features[0] + features[1] + luck.gauss(0, chance)
        quality = level * 1.5 if target is TargetFormat.WEBP and level < 50 else level
        quality = (level + 100) / 2 if target is TargetFormat.WEBP and level >= 50 else quality
        seen.append(Observation(f"{index}.jpg", index % 2 == 0, target, quality, 0.5, features))
    return seen


@pytest.mark.parametrize("target", [TargetFormat.JPEG, TargetFormat.WEBP])
def test_a_fit_finds_the_weights(target: TargetFormat) -> None:
    """Also on libwebp's scale of two slopes, which levels make straight."""
    formula = fit_auto.fit(observations(target), 55)
    assert formula.trial == 55
    assert formula.weights == pytest.approx((3, 1), rel=0.05)
    assert formula.constant == pytest.approx(40, abs=2)
    assert formula.lowest < 45 < formula.usual < 70 < formula.highest


def test_misses_are_points_of_score() -> None:
    """One that is two qualities off at half a point each misses by one."""
    seen = Observation("a", True, TargetFormat.JPEG, 60, 0.5, ())
    assert seen.miss(62) == 1
    assert Observation("a", True, TargetFormat.WEBP, 90, 0.5, ()).miss(60) == pytest.approx(-5)


def test_no_formula_judges_a_photo_it_has_seen() -> None:
    """A relation by pure chance helps on the photos of the fit, and on no other."""
    seen = observations(TargetFormat.JPEG, photos=40, chance=8)
    misses = [miss for miss, _ in fit_auto.cross_validate(seen, 55)]
    assert len(misses) == 40
    inside = [one.miss(fit_auto.fit(seen, 55).level(one.features)) for one in seen]
    assert sum(miss**2 for miss in misses) > sum(miss**2 for miss in inside)


def test_a_picture_s_quality_is_searched_and_its_sizes_are_tried(tmp_path: Path) -> None:
    """The score goes through 75 there; a photo is taken whole and made smaller, a huge one cut."""
    (tmp_path / "a.jpg").write_bytes(saved(photo(1300, 300), "JPEG", quality=97))
    sizes = {name: image.size for name, image in fit_auto.pictures(tmp_path / "a.jpg")}
    assert sizes == {"whole": (1300, 300), "1000": (1000, 231), "480": (480, 111)}
    (tmp_path / "b.png").write_bytes(saved(Image.new("RGB", (2000, 2000)), "PNG"))
    cut = dict(fit_auto.pictures(tmp_path / "b.png"))["whole"]
    assert cut.width * cut.height == pytest.approx(2_000_000, rel=0.01)
    picture = photo(300, 200)
    found = fit_auto.search(picture, TargetFormat.JPEG, Effort.FAST)
    assert found
    quality, slope = found
    assert 20 < quality < 96
    assert slope > 0
    assert to_quality(TargetFormat.JPEG, quality) == round(quality)


def test_what_was_searched_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run asks nothing again, and prints the same formula."""
    for index in range(12):
        (tmp_path / f"{index}.jpg").write_bytes(
            saved(photo(200 + 9 * index, 150), "JPEG", quality=98)
        )
    arguments = [str(tmp_path), "--only", "jpeg", "--memory", str(tmp_path / "memory.json")]
    fit_auto.main(arguments)
    first = capsys.readouterr().out
    assert "(TargetFormat.JPEG, Effort.BALANCED): Formula(" in first
    assert "whole photos, auto" in first
    monkeypatch.setattr(fit_auto, "search", lambda *_: pytest.fail("searched again"))
    fit_auto.main(arguments)
    assert capsys.readouterr().out == first
