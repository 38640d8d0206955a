"""The colours of SSIMULACRA 2: 8-bit sRGB to linear light, half its size, and XYB.

All of it is rounded as libjxl rounds it, on a processor that multiplies and adds in one step: see
`ssimulacra2_blur`. Images are worked on in strips of rows, which stay in the processor's cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray
    from PIL import Image

    Floats = NDArray[np.float32]

X, Y, B = COMPONENTS = range(3)

_STRIP_PIXELS = 1 << 16

# libjxl's approximation of the sRGB curve (IEC 61966-2-1) above its linear part: two polynomials,
# the highest power first.
_NUMERATOR = (8.210152774e-01, 7.961564959e-01, 1.624820318e-01, 1.043637593e-02, 2.200248328e-04)
_DENOMINATOR = (
    *(6.521209011e-03, -5.512498495e-02, 4.987528350e-01),
    *(1.076976492e00, 2.631846970e-01),
)
# What long, medium and short cones take of linear red, green and blue, and what they add.
CONES: Final = np.array(
    [
        [0.30, 0.622, 0.078],
        [0.23, 0.692, 0.078],
        [0.24342268924547819, 0.20476744424496821, 0.5518098665095536],
    ],
    np.float32,
)
BIAS = np.float32(0.0037930732552754493)
_THIRD = np.float32(1 / 3)


def strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the first row, an even one, and the one after the last of each strip."""
    rows = max(2, _STRIP_PIXELS // width // 2 * 2)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def linear_strips(image: Image.Image, background: float) -> Iterator[Floats]:
    """Yield linear red, green and blue of an image of mode RGB or RGBA, strip by strip.

    `background` lies under transparency: a grey in sRGB, from 0 to 1.
    """
    for top, bottom in strips(image.height, image.width):
        strip = image.crop((0, top, image.width, bottom))
        bands = np.stack([np.asarray(band) for band in strip.split()])
        if len(bands) == 3:
            yield LINEAR[bands]
        else:
            colours, alpha = np.split(bands * np.float32(1 / 255), [3])
            yield _linear(alpha * colours + (1 - alpha) * np.float32(background))


def halved(linear: Floats) -> Floats:
    """Return half the size: means of four pixels, the last repeated where a side is odd."""
    _, height, width = linear.shape
    even = np.pad(linear, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    total = even[:, ::2, ::2] + even[:, ::2, 1::2]
    total += even[:, 1::2, ::2]
    total += even[:, 1::2, 1::2]
    total /= 4
    return total


def xyb(linear: Floats, wanted: Collection[int]) -> Floats:
    """Return the wanted components in their order, brought near the range 0 to 1; B is less Y."""
    red, green, blue = linear.astype(np.float64)
    long, medium, *short = (
        _cube_root(_fused(red, of_red, _fused(green, of_green, _fused(blue, of_blue, BIAS))))
        for of_red, of_green, of_blue in CONES[: 3 if B in wanted else 2]
    )
    luma = (long + medium) / 2
    planes = []
    if X in wanted:
        planes.append((long - medium) / 2 * 14 + np.float32(0.42))
    if Y in wanted:
        planes.append(luma + np.float32(0.01))
    if B in wanted:
        planes.append(short[0] - luma + np.float32(0.55))
    return np.stack(planes)


def _cube_root(values: Floats) -> Floats:
    """Return the cube roots less that of `BIAS`, by libjxl's iterations for x^(-1/3)."""
    guess = 0x54800000 - (values.view(np.int32) >> 23) * 0x2AAAAA
    root = guess.view(np.float32)
    thirds = values * -_THIRD
    for _ in range(3):
        root = _fused(thirds, _fourth_power(root), root * np.float32(4 / 3))
    root = _fused(_fused(-values, _fourth_power(root), root), _THIRD, root)
    return _fused(root * root, values, -np.cbrt(BIAS))


def _fourth_power(values: Floats) -> Floats:
    squares = values * values
    return squares * squares


def _linear(encoded: Floats) -> Floats:
    numerator, denominator = (
        _polynomial(encoded, coefficients) for coefficients in (_NUMERATOR, _DENOMINATOR)
    )
    low = encoded * np.float32(1 / 12.92)
    return np.where(encoded > np.float32(0.04045), numerator / denominator, low)


def _polynomial(values: Floats, coefficients: tuple[float, ...]) -> Floats:
    total = np.zeros_like(values)
    for coefficient in np.array(coefficients, np.float32):
        total = _fused(total, values, coefficient)
    return total


def _fused(
    values: NDArray[np.floating], factor: Floats | np.float32, addend: Floats | np.float32
) -> Floats:
    """Return values * factor + addend, rounded once."""
    product: NDArray[np.float64] = np.multiply(values, factor, dtype=np.float64)
    product += addend
    return product.astype(np.float32)


LINEAR: Final[Floats] = _linear(np.arange(256, dtype=np.float32) * np.float32(1 / 255))
