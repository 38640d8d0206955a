"""The pictures that `quality.py` measures on: found in a folder, cropped, read as they are seen.

A crop is written with the photo's own quantisation tables and subsampling, on the grid of its
blocks, so that it is what the photo is: a JPEG of the same quality and bytes per pixel.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from PIL import Image, JpegImagePlugin

from benchmarks.quality_child import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_BLOCK: Final = 16  # pixels: what one block of subsampled colours covers
_UNKNOWN_QUALITY: Final = 95  # of a crop from CMYK, whose tables are for other colours


@dataclass(frozen=True, slots=True)
class Photo:
    """A JPEG. `plain` is the same upright and in sRGB, for encoders that leave both to others."""

    name: str
    data: bytes
    plain: bytes
    megapixels: float


def seen(data: bytes) -> Image.Image:
    """Decode as a viewer shows it: upright, in sRGB, RGB or RGBA."""
    frame = load(data).frames[0]
    return frame.convert("RGBA" if frame.mode in {"LA", "RGBA"} else "RGB")


def find(folder: Path, suffixes: tuple[str, ...], count: int) -> list[Path]:
    """Return at most `count` files (0: all), evenly spaced over the sorted names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not count or len(paths) <= count:
        return paths
    return [paths[index * len(paths) // count] for index in range(count)]


def read_photos(paths: Sequence[Path], max_megapixels: float) -> list[Photo]:
    """Read JPEGs; what has more pixels is cut down to its middle (0: nothing is)."""
    return [_read_photo(path, max_megapixels * 1e6) for path in paths]


def _read_photo(path: Path, max_pixels: float) -> Photo:
    data = path.read_bytes()
    image = seen(data)
    pixels = image.width * image.height
    if max_pixels and pixels > max_pixels:
        image = _middle(image, (max_pixels / pixels) ** 0.5)
        data = plain = _save_alike(image, data)
    else:
        plain = data if _is_plain(data, image) else _save_alike(image, data)
    return Photo(path.name, data, plain, image.width * image.height / 1e6)


def _is_plain(data: bytes, image: Image.Image) -> bool:
    """Tell whether a viewer without orientation and profiles would see the same."""
    with Image.open(io.BytesIO(data)) as bare:
        return bare.size == image.size and bare.convert("RGB").tobytes() == image.tobytes()


def _middle(image: Image.Image, scale: float) -> Image.Image:
    width, height = (max(_BLOCK, round(side * scale / _BLOCK) * _BLOCK) for side in image.size)
    left = (image.width - width) // 2 // _BLOCK * _BLOCK
    top = (image.height - height) // 2 // _BLOCK * _BLOCK
    return image.crop((left, top, left + width, top + height))


def _save_alike(image: Image.Image, data: bytes) -> bytes:
    sink = io.BytesIO()
    with Image.open(io.BytesIO(data)) as source:
        assert isinstance(source, JpegImagePlugin.JpegImageFile)
        if source.mode in {"L", "RGB"}:
            image.convert(source.mode).save(
                sink,
                "JPEG",
                qtables=list(source.quantization.values()),
                subsampling=JpegImagePlugin.get_sampling(source),
                optimize=True,
                progressive="progressive" in source.info,
            )
        else:
            image.save(sink, "JPEG", quality=_UNKNOWN_QUALITY)
    return sink.getvalue()
