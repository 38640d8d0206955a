"""Scales an image by Lanczos' filter, by way of vector instructions where they are to be had.

Owns which library does it. fast_image_resize takes an eighth of Pillow's time for the same filter,
and differs from it by a level of rounding here and there. Where it has no wheel (ARM under Linux),
and for the few modes that it doesn't know, Pillow does it. How many pixels a decoder may leave out
beforehand is `image_loader`'s business.
"""

from __future__ import annotations

from typing import Final

from PIL import Image

try:
    from cykooz_resizer import (  # type: ignore[import-untyped]  # it doesn't say that it is typed
        CropBox,
        FilterType,
        ResizeAlg,
        ResizeOptions,
        Resizer,
    )
except ImportError:  # requirements.txt says where there is one
    _resizer = None
else:
    _resizer = Resizer()
    _LANCZOS: Final = ResizeAlg.convolution(FilterType.lanczos3)

Extent = tuple[float, float]

_VECTOR_MODES: Final = frozenset(["L", "RGB", "RGBa", "CMYK"])
_REDUCING_GAP: Final = 3.0  # how much larger Pillow may leave an image when it averages beforehand
# What is transparent has no say in its neighbours' colours: they are weighed by their alpha.
_PREMULTIPLIED: Final = {"LA": "La", "RGBA": "RGBa"}


def scale(image: Image.Image, size: tuple[int, int], extent: Extent | None = None) -> Image.Image:
    """Return the image in a smaller size, and in its mode, one of `image_colour.to_plain`'s.

    `extent` is how wide and high the picture is where it ends within the last column and row.
    """
    if premultiplied := _PREMULTIPLIED.get(image.mode):
        return scale(image.convert(premultiplied), size, extent).convert(image.mode)
    width, height = extent or image.size
    if _resizer is None or image.mode not in _VECTOR_MODES:
        lanczos, box = Image.Resampling.LANCZOS, (0, 0, width, height)
        return image.resize(size, lanczos, box, _REDUCING_GAP)
    # One way before the other as Pillow does, for what is clipped in between differs by that.
    if image.height - size[1] > 2 * (image.width - size[0]):
        columns = _convolve(image, (image.width, size[1]), (image.width, height))
        return _convolve(columns, size, (width, size[1]))
    rows = _convolve(image, (size[0], image.height), (width, image.height))
    return _convolve(rows, size, (size[0], height))


def _convolve(image: Image.Image, size: tuple[int, int], extent: Extent) -> Image.Image:
    """Scale one way only: the other side of `size` is that of `extent`."""
    assert _resizer is not None  # noqa: S101  the caller looked
    scaled = Image.new(image.mode, size)
    _resizer.resize_pil(image, scaled, ResizeOptions(_LANCZOS, crop_box=CropBox(0, 0, *extent)))
    return scaled
