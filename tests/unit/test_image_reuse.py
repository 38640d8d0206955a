"""What two images must share for one to stand in for the other."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

import image_reuse
from image_reuse import Recipe
from request_options import Effort, ImageOptions, OutputFormat
from settings import Settings

URL = "http://shop.example/é.jpg"


def _settings(**values: int) -> Settings:
    rest: dict[str, Any] = {"_env_file": None, **values}
    return Settings(**rest)


def _key(options: ImageOptions, owner: str | None = "me", **limits: int) -> str:
    return Recipe.of(options, owner, _settings(**limits)).key(URL)


def test_the_same_again_has_the_same_key() -> None:
    """In every process and in the database's form; of another URL it is another one."""
    key = _key(ImageOptions(quality=80))
    assert key == _key(ImageOptions(quality=80))
    assert key == str(UUID(key))
    assert key != Recipe.of(ImageOptions(quality=80), "me", _settings()).key(URL + "?")


@pytest.mark.parametrize(
    "other",
    [
        {"format": OutputFormat.WEBP},
        {"quality": 80},
        {"effort": Effort.BEST},
        {"max_width": 100},
        {"max_height": 100},
        {"max_bytes": 100},
        {"background": "#fffffe"},
    ],
)
def test_another_option_makes_another_image(other: dict[str, Any]) -> None:
    """Each of them decides on the bytes that come out."""
    assert _key(ImageOptions(**other)) != _key(ImageOptions())


@pytest.mark.parametrize("owner", [None, "", "you"])
def test_nobody_gets_another_owner_s_image(owner: str | None) -> None:
    """Else one could tell by the clock what another has had fetched."""
    assert _key(ImageOptions(), owner) != _key(ImageOptions())


@pytest.mark.parametrize("limit", ["max_image_bytes", "max_image_pixels", "max_image_frames"])
def test_no_image_beyond_today_s_limits_is_reused(limit: str) -> None:
    """Nor one that was made under others."""
    keys = {_key(ImageOptions(), "me", **{limit: number}) for number in (300, 301)}
    assert len(keys) == 2


def test_another_compressor_makes_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was made before an upgrade is made anew after it."""
    before = _key(ImageOptions())
    monkeypatch.setattr(image_reuse, "codec_version", lambda: "another")
    assert _key(ImageOptions()) != before
