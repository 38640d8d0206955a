"""A decoded picture, as it goes from the loader to the encoders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from codec import image_colour, image_scaler

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Picture:
    """Frames of one size and one mode (L, LA, RGB or RGBA), each shown for milliseconds.

    `plays` is how often the animation runs, 0 for ever. `is_colour_halved`: it was a JPEG that has
    one colour for two by two pixels, so that a JPEG may have no more.
    """

    frames: list[Image.Image]
    durations: list[int]
    plays: int = 0
    is_colour_halved: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height."""
        return self.frames[0].size

    @property
    def has_alpha(self) -> bool:
        """Whether something of it is transparent."""
        return self.frames[0].mode in {"LA", "RGBA"}

    def flattened(self, background: str) -> Picture:
        """Lay every frame over a colour."""
        frames = [image_colour.flatten(frame, background) for frame in self.frames]
        return replace(self, frames=frames)

    def resized(self, size: tuple[int, int]) -> Picture:
        """Scale every frame."""
        frames = [image_scaler.scale(frame, size) for frame in self.frames]
        return Picture(frames, self.durations, self.plays)
