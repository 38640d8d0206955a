"""The report of the quality benchmark: where pictures differ, and that text stays text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from benchmarks.quality_report import Table, largest_difference, side_by_side, write_page

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("spot", "corner"), [((100, 60), (68, 28)), ((2, 2), (0, 0)), ((299, 199), (236, 136))]
)
def test_largest_difference(spot: tuple[int, int], corner: tuple[int, int]) -> None:
    """The square lies around what differs, and within the picture."""
    one, other = Image.new("RGB", (300, 200)), Image.new("RGB", (300, 200))
    other.paste("white", (spot[0] - 1, spot[1] - 1, spot[0] + 2, spot[1] + 2))
    left, top = largest_difference(one, other, 64)
    assert abs(left - corner[0]) <= 17
    assert abs(top - corner[1]) <= 17
    assert 0 <= left <= 300 - 64
    assert 0 <= top <= 200 - 64


def test_side_by_side() -> None:
    """Each pixel becomes a square of two by two, one picture beside the other."""
    strip = side_by_side([Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")], (0, 0))
    assert strip.size == (2 * 80 + 8, 60)
    assert strip.getpixel((79, 59)) == (255, 0, 0)
    assert strip.getpixel((80, 0)) == strip.getpixel((87, 59)) == (255, 255, 255)
    assert strip.getpixel((88, 0)) == strip.getpixel((167, 59)) == (0, 0, 255)


def test_page_escapes(tmp_path: Path) -> None:
    """Names of files are text on the page, whatever they are."""
    page = write_page(tmp_path, "<b>", [Table("<i>", ["name"], [["<script>"]])])
    text = page.read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "&lt;b&gt;" in text
