"""Another compressor has another version, whatever of it is another."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions
from itertools import chain
from typing import TYPE_CHECKING

from codec.codec_version import CODEC, LIBRARIES, codec_version

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def missing(name: str) -> str:
    """Look for a library that this system doesn't have."""
    raise PackageNotFoundError(name)


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
    (tmp_path / "folder").mkdir()
    (tmp_path / "c.json").rename(tmp_path / "folder" / "c.json")
    note()
    (tmp_path / "folder" / "c.json").write_bytes(b"3")
    note()
    monkeypatch.setattr("codec.codec_version.version", lambda _: "99")
    note()
    monkeypatch.setattr("codec.codec_version.version", missing)
    note()
    assert len(set(versions)) == len(versions)
    for kept_beside in (tmp_path / "__pycache__", tmp_path / "folder" / "__pycache__"):
        kept_beside.mkdir()
        (kept_beside / "c.pyc").write_bytes(b"1")
    note()
    assert versions[-1] == versions[-2]
    codec_version.cache_clear()


def test_every_library_of_the_compressor_counts() -> None:
    """What its modules import is theirs, ours or the standard library's, or in the list."""
    trees = [ast.parse(path.read_bytes()) for path in CODEC.rglob("*.py")]
    nodes = list(chain.from_iterable(map(ast.walk, trees)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    installed = packages_distributions()
    used = {name.lower() for top in tops for name in installed.get(top, ())}
    assert "pillow" in used
    assert used <= set(LIBRARIES)
