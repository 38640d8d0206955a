"""GIFs keep every frame, its pixels and its time, and are packed tightly."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image, ImageStat

from codec import gif_encoder
from codec.picture import Picture
from tests.images import photo


def decoded(data: bytes) -> tuple[list[bytes], list[int], int | None]:
    """Return the pixels of each frame, their times, and what is said of repetition."""
    frames, durations = [], []
    with Image.open(io.BytesIO(data)) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(seen(image))
            durations.append(image.info.get("duration", 0))
        return frames, durations, image.info.get("loop")


def seen(image: Image.Image) -> bytes:
    """Return the pixels, those that aren't seen without a colour."""
    whole = image.convert("RGBA")
    shown = Image.new("RGBA", whole.size)
    shown.paste(whole, mask=whole.getchannel("A").point([0] * 128 + [255] * 128))
    return shown.tobytes()


def drawn(seed: int) -> Picture:
    """Return an animation of boxes, some of them holes, that come and go."""
    chance = random.Random(seed)  # noqa: S311  the same pictures every time
    width, height = chance.randint(1, 30), chance.randint(1, 30)
    colours = [
        (*(chance.randrange(256) for _ in range(3)), 255) for _ in range(chance.choice([1, 2, 9]))
    ]
    has_holes = chance.random() < 0.6
    colours += [(0, 0, 0, 0)] * has_holes
    frames: list[Image.Image] = []
    for _ in range(chance.randint(1, 6)):
        is_new = not frames or chance.random() < 0.3
        frame = Image.new("RGBA", (width, height), colours[0]) if is_new else frames[-1].copy()
        for _ in range(chance.choice([0, 1, 5, 40])):
            x, y = chance.randrange(width), chance.randrange(height)
            box = (x, y, chance.randint(x, width), chance.randint(y, height))
            frame.paste(chance.choice(colours), box)
        frames.append(frame)
    plain = frames if has_holes else [frame.convert("RGB") for frame in frames]
    return Picture(plain, [chance.choice([0, 10, 20, 60_000]) for _ in plain], chance.randrange(4))


@pytest.mark.parametrize("seed", range(60))
def test_every_frame_comes_out_as_it_went_in(seed: int) -> None:
    """Pixels, holes and times, also of frames that show nothing new."""
    picture = drawn(seed)
    data = gif_encoder.encode(picture)
    assert data is not None
    frames, durations, loop = decoded(data)
    assert frames == [seen(frame) for frame in picture.frames]
    assert durations == picture.durations
    if len(frames) > 1:
        assert loop == {0: 0, 1: None, 2: 1, 3: 2}[picture.plays]


def test_a_frame_with_too_many_colours_can_not_be_written() -> None:
    """257 colours are one too many; 256 fill a table that has no place for a hole."""
    pixels = bytes(range(256)) * 3
    grey = Image.frombytes("L", (16, 16), pixels[:256])
    corners_swapped = grey.copy()
    corners_swapped.putpixel((0, 0), 255)
    corners_swapped.putpixel((15, 15), 0)
    for frames in ([grey], [grey, grey], [grey, corners_swapped]):
        data = gif_encoder.encode(Picture(frames, [10] * len(frames)))
        assert data is not None
        assert decoded(data)[0] == [seen(frame) for frame in frames]
    more = Image.new("RGB", (17, 16), "red")
    more.paste(grey)
    assert gif_encoder.encode(Picture([more], [0])) is None


def test_each_frame_may_have_256_colours_of_its_own() -> None:
    """Where they don't fit into one table together, frames have their own."""
    ramp, none = Image.linear_gradient("L"), Image.new("L", (256, 256))
    frames = [
        Image.merge("RGB", bands)
        for bands in ((ramp, none, none), (none, ramp, none), (none, none, ramp))
    ]
    data = gif_encoder.encode(Picture(frames, [10] * 3))
    assert data is not None
    assert decoded(data)[0] == [seen(frame) for frame in frames]


def test_only_what_changes_is_written() -> None:
    """Two points that move over a photo, far apart, take few bytes more."""
    still = gif_encoder.reduced(Picture([photo()], [0]), 200).frames[0]
    frames = []
    for at in range(10):
        frame = still.copy()
        frame.paste("red", (at * 4, 5, at * 4 + 4, 9))
        frame.paste("red", (150 - at * 4, 110, 154 - at * 4, 114))
        frames.append(frame)
    one = gif_encoder.encode(Picture(frames[:1], [0]))
    all_frames = gif_encoder.encode(Picture(frames, [10] * 10))
    assert one is not None
    assert all_frames is not None
    assert len(all_frames) < len(one) + 10 * 400


def test_few_colours_take_few_bits() -> None:
    """Two colours are packed by bits, not by bytes."""
    frame = Image.effect_noise((64, 64), 90).point([0] * 128 + [255] * 128)
    data = gif_encoder.encode(Picture([frame], [0]))
    assert data is not None
    assert len(data) < 64 * 64 / 8 * 1.4


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("colours", [256, 60, 8])
def test_colours_are_reduced_to_so_many(mode: str, colours: int) -> None:
    """A hole is one of them; what is left looks like the picture."""
    whole = photo().convert(mode)
    if mode in {"LA", "RGBA"}:
        whole.putalpha(Image.linear_gradient("L").resize(whole.size))
    few = gif_encoder.reduced(Picture([whole, whole.rotate(180)], [20, 30], 3), colours)
    assert (few.durations, few.plays) == ([20, 30], 3)
    for frame, original in zip(few.frames, (whole, whole.rotate(180)), strict=True):
        levels = {frame.getpixel((x, y)) for x in range(160) for y in range(120)}
        visible = {level for level in levels if not isinstance(level, tuple) or level[3:] != (0,)}
        assert len(visible) + (mode in {"LA", "RGBA"}) <= colours
        assert max(ImageStat.Stat(original.convert("L")).mean) == pytest.approx(
            max(ImageStat.Stat(frame.convert("L")).mean), abs=6
        )


def test_scenes_of_other_colours_have_tables_of_their_own() -> None:
    """One table for all of them would be coarse."""
    ramp = Image.linear_gradient("L").resize((96, 96))
    none = Image.new("L", ramp.size)
    scenes = [
        Image.merge(
            "RGB",
            [
                ramp if band == n % 3 else ramp.rotate(90 * (n // 3)) if n > 2 else none
                for band in range(3)
            ],
        )
        for n in range(6)
    ]
    few = gif_encoder.reduced(Picture(scenes, [10] * 6), 64)
    colours = [{frame.getpixel((x, x)) for x in range(96)} for frame in few.frames]
    assert len(set().union(*colours)) > 64
