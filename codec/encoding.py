"""A way to encode a picture at any quality, as the search for the best that fits goes by.

Owns what a quality means to each format, and what is said of the result. Which way is taken is
`image_compressor`'s business, the settings of the encoders are `image_encoder`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from codec import image_encoder, png_palette
from codec.compressed_image import CompressedImage
from codec.image_format import TargetFormat
from codec.picture import Picture
from request_options import Effort

HIGHEST_QUALITY: Final = 100
# Of a PNG. With more each trial is packed fast, and ends a tenth below the ceiling.
_MOST_PIXELS_OF_PACKED_TRIALS = 1_000_000


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

    def for_trials(self, picture: Picture) -> Encoding:
        """Return how the search encodes: packing a PNG well takes most of its time."""
        if self.target is not TargetFormat.PNG or self.effort is Effort.FAST:
            return self
        pixels = math.prod(picture.size) * len(picture.frames)
        is_small = pixels <= _MOST_PIXELS_OF_PACKED_TRIALS
        return replace(self, effort=Effort.BALANCED if is_small else Effort.FAST)

    def packed(self, trial: CompressedImage) -> CompressedImage:
        """Pack the trial that was taken as tight as was asked for."""
        if self.target is not TargetFormat.PNG or self.effort is Effort.FAST:
            return trial
        packed = image_encoder.pack_png(trial.data, self.effort, trial.width * trial.height)
        return replace(trial, data=min(packed, trial.data, key=len))

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
