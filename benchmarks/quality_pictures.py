"""Makes the pictures of docs/quality.md again.

    make bench-quality QUALITY="--photos 1"      # installs what this needs too
    .venv/bin/python benchmarks/quality_pictures.py [--output docs/pictures]

The photos are free ones that lie in the wheels of scikit-image (astronaut: NASA, public domain;
chelsea, coffee: CC0) and scikit-learn (china: CC BY 2.0, danielbuechele), which are fetched once
with pip and not installed. Photos that come as PNG are made JPEGs of quality 95 first, which is
what a shop would have. Scores are SSIMULACRA2 against that.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageCms, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.quality_encoders import EFFORTS, Encoder, Tools, peers_and_ours  # noqa: E402  # path
from benchmarks.quality_photos import seen  # noqa: E402  # likewise
from benchmarks.quality_report import largest_difference  # noqa: E402
from benchmarks.quality_scores import SSIMULACRA2, Scores  # noqa: E402
from codec import colour_profile  # noqa: E402
from command_help import HelpFormatter  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

_CACHE: Final = ROOT / "benchmarks" / "quality-cache"
_WHEELS: Final = ("scikit-image==0.26.0", "scikit-learn==1.9.1")
_PHOTOS: Final = {
    "astronaut": "skimage/data/astronaut.png",
    "chelsea": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "china": "sklearn/datasets/images/china.jpg",
}
_SOURCE_QUALITY: Final = 95
_STRIP_QUALITY: Final = 86  # of the pictures for the page, as WebP: magnified, it adds nothing
_PAPER: Final = "#ffffff"
_INK: Final = "#202020"
_CHECKS: Final = ("#ffffff", "#c8c8c8")  # under transparency
_TEXT: Final = 13  # pixels high
_GAP: Final = 10
_OTHERS: Final = ("Pillow default", "sharp", "sharp mozjpeg")
_OURS: Final = "ours jpeg balanced"
_TOO_FEW: Final = 0.35  # of the bytes that are right: there the encoders differ for every eye
_ROOM: Final = 2 * _TEXT + 14  # for two lines of caption


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of a strip with two lines below."""

    picture: Image.Image
    name: str
    figures: str = ""

    def cut(self, box: tuple[int, int, int, int], zoom: int) -> Tile:
        """Keep a part, each pixel as a square of `zoom` pixels."""
        size = ((box[2] - box[0]) * zoom, (box[3] - box[1]) * zoom)
        part = self.picture.crop(box).resize(size, Image.Resampling.NEAREST)
        return replace(self, picture=part)

    def shrunk(self, height: int) -> Tile:
        """Show the whole picture, so many pixels high."""
        width = round(self.picture.width * height / self.picture.height)
        return replace(self, picture=self.picture.resize((width, height), Image.Resampling.LANCZOS))


class Studio:
    """Encodes, scores and arranges."""

    def __init__(self, tools: Tools, output: Path) -> None:
        self._tools = tools
        self._output = output
        self._scores = Scores(_CACHE)
        self._encoders = {encoder.label: encoder for encoder in peers_and_ours()}

    def ours(self, source: bytes, name: str, **settings: str) -> Tile:
        """Do what the service does with `quality=auto`."""
        return self._tile(source, self._auto(source, settings), name)

    def _auto(self, source: bytes, settings: dict[str, str]) -> bytes:
        encoder = Encoder("ours", "", "python", "compress", settings)
        return self._tools.encode(encoder, source, quality=None).data

    def source(self, source: bytes) -> Tile:
        """Show the source itself."""
        return Tile(seen(source), "source", _kilobytes(source))

    def _alike(self, source: bytes, size: int, labels: Sequence[str]) -> list[Tile]:
        """Encode with each encoder that is there at so many bytes, as nearly as it can."""
        return [
            self._tile(source, self._at_bytes(self._encoders[label], source, size), label)
            for label in labels
            if label in self._encoders
        ]

    def _at_bytes(self, encoder: Encoder, source: bytes, size: int) -> bytes:
        """Return the output of the quality whose bytes are nearest."""
        low, high = 1, 100
        tried = {}
        while low <= high:
            middle = (low + high) // 2
            tried[middle] = self._tools.encode(encoder, source, quality=middle).data
            low, high = (middle + 1, high) if len(tried[middle]) < size else (low, middle - 1)
        return min(tried.values(), key=lambda data: abs(len(data) - size))

    def _tile(self, source: bytes, output: bytes, name: str) -> Tile:
        score = self._scores.of(SSIMULACRA2, source, output)
        return Tile(seen(output), name, f"{_kilobytes(output)}, score {score:.0f}")

    def same_bytes(self, source: bytes, name: str, side: int, zoom: int) -> None:
        """Show ours beside others at the same bytes, where ours differs most from the source."""
        ours = self._auto(source, {})
        right = [self._tile(source, ours, "ours"), *self._alike(source, len(ours), _OTHERS)]
        small = self._alike(source, round(len(ours) * _TOO_FEW), (_OURS, *_OTHERS))
        left, top = largest_difference(seen(source), seen(ours), side)
        box = (left, top, left + side, top + side)
        rows = [[self.source(source), *tiles] for tiles in (right, small)]
        self.write(name, [[tile.cut(box, zoom) for tile in row] for row in rows])

    def colours(self, name: str, sources: Sequence[bytes]) -> None:
        """Show what becomes of pixels that are not sRGB, with and without their profile."""
        rows = [
            (self.source(source), _without_profile(source), self.ours(source, "ours"))
            for source in sources
        ]
        self.write(name, [[tile.shrunk(264) for tile in row] for row in rows])

    def write(self, name: str, rows: Sequence[Sequence[Tile]]) -> None:
        """Write a strip."""
        strips = [_row(tiles) for tiles in rows]
        height = sum(strip.height for strip in strips)
        sheet = Image.new("RGB", (max(strip.width for strip in strips), height), _PAPER)
        top = 0
        for strip in strips:
            sheet.paste(strip, (0, top))
            top += strip.height
        path = self._output / f"{name}.webp"
        sheet.save(path, quality=_STRIP_QUALITY, method=6)
        print(f"{path.name}: {sheet.width} by {sheet.height}, {path.stat().st_size:,} bytes")
        for row in rows:
            print(*(f"  {tile.name}: {tile.figures}" for tile in row), sep="\n")


def _row(tiles: Sequence[Tile]) -> Image.Image:
    width = sum(tile.picture.width + _GAP for tile in tiles) - _GAP
    height = max(tile.picture.height for tile in tiles) + _ROOM
    strip = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(_TEXT)
    left = 0
    for tile in tiles:
        strip.paste(_on_checks(tile.picture), (left, 0))
        for line, text in enumerate((tile.name, tile.figures)):
            draw.text((left, tile.picture.height + 2 + line * (_TEXT + 3)), text, _INK, font)
        left += tile.picture.width + _GAP
    return strip


def _on_checks(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    tile = Image.new("RGB", (16, 16), _CHECKS[0])
    for corner in ((0, 0), (8, 8)):
        tile.paste(_CHECKS[1], (*corner, corner[0] + 8, corner[1] + 8))
    backdrop = Image.new("RGB", picture.size)
    for left in range(0, picture.width, 16):
        for top in range(0, picture.height, 16):
            backdrop.paste(tile, (left, top))
    backdrop.paste(picture, mask=picture.getchannel("A"))
    return backdrop


def _kilobytes(data: bytes) -> str:
    return f"{len(data) / 1000:.1f} kB"


def _read_photos() -> dict[str, bytes]:
    """Return the free photos as JPEGs."""
    wheels = _CACHE / "wheels"
    if not wheels.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        options = ["--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(wheels)]
        subprocess.run([*command, *options, *_WHEELS], check=True)
    photos: dict[str, bytes] = {}
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as files:
            names = set(files.namelist())
            photos |= {
                name: _as_jpeg(files.read(path)) for name, path in _PHOTOS.items() if path in names
            }
    return photos


def _sample(name: str) -> bytes:
    return (ROOT / "samples" / name).read_bytes()


def _as_jpeg(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "JPEG":
            return data
        return _save(image)


def _save(image: Image.Image, profile: bytes | None = None) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_SOURCE_QUALITY, subsampling="4:4:4", icc_profile=profile)
    return sink.getvalue()


def _in_p3(photo: bytes) -> bytes:
    """Return the photo as a telephone stores it: in Display P3."""
    profile = colour_profile.from_code_points(12, 13, is_grey=False)
    assert profile
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(seen(photo), ImageCms.createProfile("sRGB"), target)
    assert converted
    return _save(converted, profile)


def _without_profile(data: bytes) -> Tile:
    """Show what a program makes of the pixels that doesn't look at their profile."""
    with Image.open(io.BytesIO(data)) as image:
        return Tile(image.convert("RGB"), "profile ignored")


def _middle(tile: Tile, width: int, height: int) -> Tile:
    left, top = (tile.picture.width - width) // 2, (tile.picture.height - height) // 2
    return tile.cut((left, top, left + width, top + height), 1)


def draw_all(studio: Studio) -> None:
    """Make every strip."""
    photos = _read_photos()
    studio.write(
        "before-after",
        [
            [
                _middle(tile, 420, 280)
                for tile in (studio.source(source), studio.ours(source, "ours"))
            ]
            for source in (photos["coffee"], photos["china"])
        ],
    )
    studio.same_bytes(photos["astronaut"], "same-bytes-astronaut", 88, 3)
    studio.same_bytes(photos["chelsea"], "same-bytes-chelsea", 88, 3)
    coffee = photos["coffee"]
    efforts = [studio.ours(coffee, f"effort={effort}", effort=effort) for effort in EFFORTS]
    box = (300, 130, 432, 262)
    studio.write("efforts", [[tile.cut(box, 2) for tile in (studio.source(coffee), *efforts)]])
    formats = [
        studio.ours(coffee, f"format={format_}", target=format_)
        for format_ in ("jpeg", "webp", "avif")
    ]
    studio.write("formats", [[tile.cut(box, 2) for tile in (studio.source(coffee), *formats)]])
    studio.colours("colours", [_in_p3(photos["astronaut"]), _sample("poster-cmyk.jpg")])
    cutouts = [
        (studio.source(source), studio.ours(source, "ours"))
        for source in (_sample("badge-palette.png"), _sample("bottle-cutout.png"))
    ]
    whole = [tile.shrunk(264) for tiles in cutouts for tile in tiles]
    edge = (170, 150, 258, 238)
    studio.write("transparency", [whole, [tile.cut(edge, 3) for tile in cutouts[1]]])


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "pictures", help="folder of the pictures"
    )
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    with Tools() as tools:
        draw_all(Studio(tools, output))


if __name__ == "__main__":
    main()
