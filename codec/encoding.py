"""A way to encode a picture at any quality, as the search for the best that fits goes by.

Owns what a quality means to each format, and what is said of the result. Which way is taken is
`image_compressor`'s business, the settings of the encoders are `image_encoder`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from codec import image_encoder, png_palette
from codec.compressed_image import CompressedImage
from codec.image_format import TargetFormat
from codec.picture import Picture

if TYPE_CHECKING:
    from request_options import Effort

HIGHEST_QUALITY: Final = 100


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a picture is encoded, but for the quality.

    Of a GIF, and of a PNG that must get smaller, the quality is the share of 256 colours.
    """

    target: TargetFormat
    effort: Effort
    is_lossless: bool = False  # WebP only

    def has_steps(self, picture: Picture) -> bool:
        """Whether a lower quality makes fewer bytes; an animated PNG has no palette."""
        return self.target is not TargetFormat.PNG or len(picture.frames) == 1

    def encode(self, picture: Picture, quality: int) -> CompressedImage:
        """Encode at a quality from 1 to 100."""
        said = str(quality)
        if self.is_lossless or self.target is TargetFormat.PNG:
            said = "lossless"
        if self.target is TargetFormat.PNG and quality < HIGHEST_QUALITY:
            said = "palette"
            colours = image_encoder.colours_at(quality)
            picture = Picture([png_palette.fit(picture.frames[0], colours)], picture.durations)
        if self.target is TargetFormat.GIF:
            said = "palette"
        data = image_encoder.encode(
            picture, self.target, quality, self.effort, is_lossless=self.is_lossless
        )
        return CompressedImage(data, self.target, *picture.size, said)
