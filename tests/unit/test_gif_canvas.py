"""What is seen of a GIF is what browsers show, frame after frame."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from codec import gif_canvas
from codec.container_gif import CLEAR, LEAVE, RESTORE
from request_options import OutputFormat
from tests.images import opened, squeezed

if TYPE_CHECKING:
    from collections.abc import Iterable

RED, GREEN, BLUE, WHITE = range(4)  # places in the colour table
TABLE = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255])
SEEN = {"R": (255, 0, 0, 255), "G": (0, 255, 0, 255), "B": (0, 0, 255, 255), ".": (0, 0, 0, 0)}
WHOLE, RIGHT, CORNER = (0, 0, 8, 8), (4, 0, 4, 8), (0, 0, 2, 2)


def frame(
    box: tuple[int, int, int, int], colour: int, disposal: int, unseen: int | None = None
) -> bytes:
    """Return a control block and a frame of one colour, shown for 70 ms."""
    pixels = Image.new("L", box[2:], colour).tobytes("gif", ("L", 2, 0))
    flags = disposal << 2 | (unseen is not None)
    control = struct.pack("<3sBHBx", b"!\xf9\4", flags, 7, unseen or 0)
    return control + struct.pack("<c4HBB", b",", *box, 0, 2) + pixels + b"\0"


def gif(*frames: bytes) -> bytes:
    """Return a GIF of 8 by 8 pixels whose background is blue."""
    return struct.pack("<6s2H3B", b"GIF89a", 8, 8, 0xF1, BLUE, 0) + TABLE + b"".join(frames) + b";"


def told(images: Iterable[Image.Image]) -> list[str]:
    """Return the colours at the top left, and at the bottom right, of each image."""
    names = {pixel: name for name, pixel in SEEN.items()}
    return [
        "".join(names[image.convert("RGBA").getpixel(at)] for at in ((0, 0), (7, 7)))  # type: ignore[index]
        for image in images
    ]


ANIMATIONS = [
    ("left", [frame(WHOLE, RED, LEAVE), frame(RIGHT, GREEN, LEAVE)], ["RR", "RG"]),
    (
        "cleared",
        [frame(WHOLE, RED, LEAVE), frame(RIGHT, GREEN, CLEAR), frame(CORNER, BLUE, LEAVE)],
        ["RR", "RG", "B."],
    ),
    (
        "cleared, with a colour that isn't seen",
        [frame(WHOLE, RED, LEAVE), frame(RIGHT, GREEN, CLEAR, BLUE), frame(CORNER, BLUE, 0)],
        ["RR", "RG", "B."],
    ),
    (
        "restored",
        [frame(WHOLE, RED, LEAVE), frame(RIGHT, GREEN, RESTORE), frame(CORNER, BLUE, LEAVE)],
        ["RR", "RG", "BR"],
    ),
    ("begins with a part", [frame(RIGHT, GREEN, LEAVE), frame(CORNER, RED, 0)], [".G", "RG"]),
    ("nothing to see", [frame(WHOLE, RED, LEAVE), frame(RIGHT, GREEN, 0, GREEN)], ["RR", "RR"]),
    ("all cleared", [frame(WHOLE, RED, CLEAR), frame(RIGHT, GREEN, CLEAR)], ["RR", ".G"]),
]


@pytest.mark.parametrize(
    ("frames", "expected"), [case[1:] for case in ANIMATIONS], ids=[case[0] for case in ANIMATIONS]
)
def test_frames_are_drawn_as_browsers_do(frames: list[bytes], expected: list[str]) -> None:
    """Where nothing is drawn, or all was cleared, nothing is seen; the background never is."""
    drawn = list(gif_canvas.draw(gif(*frames), (8, 8)))
    assert told(image for image, _ in drawn) == expected
    assert [duration for _, duration in drawn] == [70] * len(frames)


@pytest.mark.parametrize("target", ["keep", "webp", "png"])
@pytest.mark.parametrize(
    ("frames", "expected"), [case[1:] for case in ANIMATIONS], ids=[case[0] for case in ANIMATIONS]
)
def test_the_same_is_seen_of_outputs(target: str, frames: list[bytes], expected: list[str]) -> None:
    """Packed tighter, or in another format."""
    image = squeezed(gif(*frames), format=OutputFormat(target))
    if target == "keep":
        assert told(image for image, _ in gif_canvas.draw(image.data, (8, 8))) == expected
        return
    output = opened(image.data)
    seen = []
    for index in range(getattr(output, "n_frames", 1)):
        output.seek(index)
        seen += told([output])
    assert seen == [
        now for now, before in zip(expected, ["", *expected], strict=False) if now != before
    ]


def test_a_frame_has_its_own_colours() -> None:
    """A table of its own counts for it alone."""
    own = frame(RIGHT, RED, LEAVE)
    at = own.index(b",") + 9
    own = own[:at] + b"\x81" + TABLE[3:] + TABLE[:3] + own[at + 1 :]
    drawn = gif_canvas.draw(gif(own, frame(CORNER, RED, LEAVE)), (8, 8))
    assert told(image for image, _ in drawn) == [".G", "RG"]
