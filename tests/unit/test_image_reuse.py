"""What two images must share for one to stand in for the other."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

import image_reuse
from image_reuse import CODEC, LIBRARIES, Recipe, codec_version
from request_options import Effort, ImageOptions, OutputFormat
from settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

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


def test_every_file_of_the_compressor_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name and its bytes, and the libraries under it; not what Python keeps beside."""
    (tmp_path / "a.py").write_bytes(b"1")
    versions = []

    def note() -> None:
        codec_version.cache_clear()
        versions.append(codec_version(tmp_path))

    note()
    (tmp_path / "b.json").write_bytes(b"1")
    note()
    (tmp_path / "b.json").write_bytes(b"2")
    note()
    (tmp_path / "b.json").rename(tmp_path / "c.json")
    note()
    monkeypatch.setattr(image_reuse, "version", lambda _: "99")
    note()
    assert len(set(versions)) == len(versions)
    (tmp_path / "__pycache__").mkdir()
    note()
    assert versions[-1] == versions[-2]
    codec_version.cache_clear()


def test_every_library_of_the_compressor_counts() -> None:
    """What its modules import is theirs, ours or the standard library's, or in the list."""
    trees = [ast.parse(path.read_bytes()) for path in CODEC.glob("*.py")]
    nodes = list(chain.from_iterable(map(ast.walk, trees)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    installed = packages_distributions()
    used = {name.lower() for top in tops for name in installed.get(top, ())}
    assert "pillow" in used
    assert used <= set(LIBRARIES)
