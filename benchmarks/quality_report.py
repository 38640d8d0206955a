"""How `quality.py` tells what it found: tables as text and as a page, crops side by side."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageChops, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CROP: Final = 256  # pixels of a side, shown twice as large
_ZOOM: Final = 2
_GAP: Final = 8  # between the pictures, in pixels as shown
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ccc; padding: .2rem .7rem; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; image-rendering: pixelated; }
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Figures with a title, and a note on how to read them. The first column is the label."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def text(self) -> str:
        """Return the table for a terminal."""
        lines = [list(self.columns), *(list(row) for row in self.rows)]
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        aligned = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join(["", self.title, *([self.note] if self.note else []), *aligned])

    def html(self) -> str:
        """Return the table for a page."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n"
            for row in self.rows
        )
        return (
            f"<h2>{html.escape(self.title)}</h2>\n<p>{html.escape(self.note)}</p>\n"
            f"<table>\n<tr>{head}</tr>\n{body}</table>\n"
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture beside the page, and what it shows."""

    file: str
    caption: str

    def html(self) -> str:
        """Return the picture for a page."""
        return (
            f'<figure><img src="{html.escape(self.file)}" alt="">'
            f"<figcaption>{html.escape(self.caption)}</figcaption></figure>\n"
        )


def write_page(folder: Path, title: str, parts: Sequence[Table | Figure]) -> Path:
    """Write everything as one page; the pictures lie in the same folder."""
    page = folder / "index.html"
    page.write_text(
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8">\n<title>{html.escape(title)}'
        f"</title>\n<style>{_STYLE}</style>\n<h1>{html.escape(title)}</h1>\n"
        + "".join(part.html() for part in parts)
    )
    return page


def largest_difference(one: Image.Image, other: Image.Image, side: int) -> tuple[int, int]:
    """Return the left top corner of the square in which two pictures differ most."""
    difference = ImageChops.difference(one, other).convert("L")
    blurred = np.asarray(difference.filter(ImageFilter.BoxBlur(side / 4)))
    row, column = np.unravel_index(int(blurred.argmax()), blurred.shape)
    left = min(max(int(column) - side // 2, 0), max(one.width - side, 0))
    top = min(max(int(row) - side // 2, 0), max(one.height - side, 0))
    return left, top


def side_by_side(pictures: Sequence[Image.Image], corner: tuple[int, int]) -> Image.Image:
    """Return the same square of each picture, magnified without smoothing, in a row."""
    left, top = corner
    box = (left, top, min(left + _CROP, pictures[0].width), min(top + _CROP, pictures[0].height))
    width, height = (box[2] - left) * _ZOOM, (box[3] - top) * _ZOOM
    strip = Image.new("RGB", ((width + _GAP) * len(pictures) - _GAP, height), "#ffffff")
    for place, picture in enumerate(pictures):
        crop = picture.crop(box).resize((width, height), Image.Resampling.NEAREST)
        strip.paste(crop, ((width + _GAP) * place, 0))
    return strip


def worst_crop(source: Image.Image, output: Image.Image) -> Image.Image:
    """Return source and output side by side where they differ most."""
    return side_by_side([source, output], largest_difference(source, output, _CROP))
