"""The judges that benchmarks ask how alike two pictures look."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from benchmarks import judges
from codec import ssimulacra2
from tests.images import photo

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """#!/bin/sh
PATH=/usr/bin:/bin
head -c 8 "$1" | grep -q PNG && head -c 8 "$2" | grep -q PNG || exit 1
grep -q iCCP "$1" && exit 1
cmp -s "$1" "$2" && printf '{same}' || printf '{other}'
"""


def program(folder: Path, name: str, same: str, other: str) -> Path:
    """Write a program that says one of two things about two PNG files without profiles."""
    path = folder / name
    path.write_text(SCRIPT.format(same=same, other=other))
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the programs that this machine may have."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SSIMULACRA2", raising=False)
    monkeypatch.delenv("BUTTERAUGLI", raising=False)


def coarser(picture: Image.Image, step: int = 16) -> Image.Image:
    """Return the picture in fewer levels."""
    return picture.point(lambda level: level // step * step)


def test_programs_named_by_the_environment_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their answers come back, about bare PNG files in the order original, other."""
    score = program(tmp_path, "score", "100.0\\n", "12.5\\n")
    distance = program(tmp_path, "distance", "0\\n3-norm: 0\\n", "1.5\\n3-norm: 0.75\\n")
    monkeypatch.setenv("SSIMULACRA2", str(score))
    monkeypatch.setenv("BUTTERAUGLI", str(distance))
    original, other = photo(), coarser(photo())
    original.info["icc_profile"] = b"profile"
    assert judges.ssimulacra2(original, other) == 12.5
    assert judges.ssimulacra2(original, original) == 100
    assert judges.butteraugli(original, other) == 0.75
    assert {judges.describe(name) for name in ("ssimulacra2", "butteraugli")} == {
        "the program of libjxl"
    }


def test_programs_on_the_path_are_asked(tmp_path: Path) -> None:
    """They are looked for by the names that libjxl gives them."""
    program(tmp_path, "ssimulacra2", "100\\n", "12.5\\n")
    program(tmp_path, "butteraugli_main", "0\\n3-norm: 0\\n", "1.5\\n3-norm: 0.75\\n")
    assert judges.ssimulacra2(photo(), coarser(photo())) == 12.5
    assert judges.butteraugli(photo(), coarser(photo())) == 0.75


def test_without_programs_our_metric_answers() -> None:
    """There is always a SSIMULACRA 2 score; a butteraugli distance is not a number then."""
    original, other = photo(), coarser(photo())
    assert judges.ssimulacra2(original, other) == ssimulacra2.score(original, other)
    assert math.isnan(judges.butteraugli(original, other))
    assert judges.describe("ssimulacra2") == "codec.ssimulacra2"
    assert judges.describe("butteraugli") == "nobody"


def test_an_answer_without_a_3_norm_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of another version is not taken at its first number."""
    monkeypatch.setenv("BUTTERAUGLI", str(program(tmp_path, "other", "0\\n", "1.5\\n")))
    with pytest.raises(ValueError, match=re.escape("no 3-norm")):
        judges.butteraugli(photo(), coarser(photo()))


@pytest.mark.parametrize("size", [(200, 180), (64, 50), (11, 30)])
def test_ms_ssim_falls_from_1(size: tuple[int, int]) -> None:
    """The same picture has 1, and each coarser one less."""
    picture = photo(*size)
    scores = [judges.ms_ssim_luma(picture, coarser(picture, step)) for step in (1, 16, 64)]
    assert scores[0] == pytest.approx(1)
    assert scores == sorted(scores, reverse=True)
    assert scores[1] < 0.999


def test_ms_ssim_of_flat_pictures_is_their_luminance() -> None:
    """Only the last of five scales looks at luminance, by its weight of 0.1333."""
    dark, light = (Image.new("RGB", (192, 180), (level,) * 3) for level in (100, 150))
    stabiliser = (0.01 * 255) ** 2
    luminance = (2 * 100 * 150 + stabiliser) / (100**2 + 150**2 + stabiliser)
    assert judges.ms_ssim_luma(dark, light) == pytest.approx(luminance**0.1333, abs=1e-5)


def test_ms_ssim_weighs_luma_by_bt_601() -> None:
    """Colours of the same luma look the same to it."""
    reddish, grey = (
        Image.new("RGB", (192, 180), (200, 0, 0)),
        Image.new("RGB", (192, 180), (60,) * 3),
    )
    assert judges.ms_ssim_luma(reddish, grey) == pytest.approx(1, abs=1e-4)


def test_ms_ssim_needs_a_window() -> None:
    """A side below 11 pixels has no MS-SSIM."""
    with pytest.raises(ValueError, match="shorter than the window"):
        judges.ms_ssim_luma(photo(10, 40), photo(10, 40))
