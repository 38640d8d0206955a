"""A JPEG takes the fewest bytes for its quality, and is one that every decoder reads."""

from __future__ import annotations

import io
import random
from itertools import pairwise, product

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from codec.jpeg_encoder import encode, has_colour_edges, tables
from request_options import Effort
from tests.images import opened, photo, saved

HALVED, WHOLE = 2, 0  # what Pillow calls 4:2:0 and 4:4:4


def jpeg(data: bytes) -> JpegImageFile:
    """Open a JPEG, and check that it is one."""
    image = Image.open(io.BytesIO(data))
    assert isinstance(image, JpegImageFile)
    return image


def pale(width: int = 160, height: int = 120) -> Image.Image:
    """Return an image like a photo, without an edge between strong colours."""
    frame = photo(width, height)
    return Image.blend(frame.convert("L").convert("RGB"), frame, 0.3)


def letters(colour: str, ground: str) -> Image.Image:
    """Return a page with lines of a colour, two pixels wide, close together."""
    image = Image.new("RGB", (160, 120), ground)
    draw = ImageDraw.Draw(image)
    for x in range(3, 160, 7):
        draw.line((x, 0, x + 20, 120), fill=colour, width=2)
    return image


def noise(width: int, height: int) -> Image.Image:
    """Return an image that nothing can be packed of."""
    levels = random.Random(1).randbytes(3 * width * height)  # noqa: S311  a picture, no secret
    return Image.frombytes("RGB", (width, height), levels)


def difference(first: Image.Image, second: Image.Image) -> float:
    """Return the root mean square of what two images differ by."""
    return max(ImageStat.Stat(ImageChops.difference(first, second)).rms)


@pytest.mark.parametrize("is_colour_halved", [True, False])
def test_a_higher_quality_has_no_larger_entry(is_colour_halved: bool) -> None:  # noqa: FBT001
    """From 1 to 100 every entry falls or stays, and is one that a baseline decoder reads."""
    entries = [
        [entry for table in tables(quality, is_colour_halved=is_colour_halved) for entry in table]
        for quality in range(1, 101)
    ]
    for worse, better in pairwise(entries):
        assert all(255 >= low >= high >= 1 for low, high in zip(worse, better, strict=True))
    assert entries[0] != entries[-1]


def test_the_highest_quality_loses_next_to_nothing() -> None:
    """At 100 all entries are 1 and colours are whole."""
    image = jpeg(encode(photo(), 100, Effort.BALANCED))
    assert {entry for table in image.quantization.values() for entry in table} == {1}
    assert get_sampling(image) == WHOLE
    assert difference(image.convert("RGB"), photo()) < 1


@pytest.mark.parametrize("effort", Effort)
def test_a_higher_quality_takes_more_bytes_and_is_nearer(effort: Effort) -> None:
    """Bytes rise and the difference falls with the quality."""
    frame = photo(320, 240)
    made = [encode(frame, quality, effort) for quality in (1, 10, 30, 50, 70, 80, 90, 100)]
    sizes = [len(data) for data in made]
    differences = [difference(opened(data).convert("RGB"), frame) for data in made]
    assert sizes == sorted(sizes)
    assert differences == sorted(differences, reverse=True)
    assert sizes[0] < sizes[-1] / 4


@pytest.mark.parametrize("quality", [30, 50, 60, 75, 85])
def test_a_number_means_what_it_means_elsewhere(quality: int) -> None:
    """A picture is about as near to its source as by libjpeg's own tables, in fewer bytes."""
    frame = pale(320, 240)
    ours, theirs = encode(frame, quality, Effort.BALANCED), saved(frame, "JPEG", quality=quality)
    near, nearer = sorted(difference(opened(data).convert("RGB"), frame) for data in (ours, theirs))
    assert nearer < 1.15 * near
    assert len(ours) < len(theirs)


def test_effort_buys_bytes() -> None:
    """The pixels are the same at every effort, the bytes fewer and fewer."""
    made = [encode(photo(320, 240), 75, effort) for effort in Effort]
    fast, balanced, best = map(len, made)
    assert fast > balanced > best
    assert len({opened(data).tobytes() for data in made}) == 1


@pytest.mark.parametrize("effort", Effort)
def test_only_the_best_effort_is_progressive(effort: Effort) -> None:
    """The others are baseline, which any decoder reads and reads fast."""
    image = jpeg(encode(photo(320, 240), 75, effort))
    assert ("progressive" in image.info) is (effort is Effort.BEST)


@pytest.mark.parametrize(
    ("frame", "quality", "sampling"),
    [
        (pale(), 75, HALVED),
        (pale(), 94, HALVED),
        (pale(), 95, WHOLE),
        (letters("red", "white"), 40, WHOLE),
        (letters("blue", "red"), 75, WHOLE),
        (letters("black", "white"), 75, HALVED),
        (letters("#888", "#a99"), 75, HALVED),
    ],
)
def test_colours_are_whole_where_half_would_show(
    frame: Image.Image, quality: int, sampling: int
) -> None:
    """Red letters would blur at half the resolution; black ones don't, nor do photos."""
    assert get_sampling(jpeg(encode(frame, quality, Effort.FAST))) == sampling


@pytest.mark.parametrize(
    ("stripes", "size"), [((2, 1), (64, 64)), ((1, 2), (64, 64)), ((2, 1), (64, 4000))]
)
def test_finds_colour_edges_of_every_direction_in_every_part(
    stripes: tuple[int, int], size: tuple[int, int]
) -> None:
    """A last quarter of fine lines is enough, upright or lying, however high the picture."""
    red_and_white = Image.new("RGB", stripes, "white")
    red_and_white.putpixel((0, 0), (255, 0, 0))
    lines = Image.new("RGB", (64, 16))
    for x, y in product(range(0, 64, stripes[0]), range(0, 16, stripes[1])):
        lines.paste(red_and_white, (x, y))
    frame = Image.new("RGB", size, "white")
    assert not has_colour_edges(frame)
    for y in range(size[1] * 3 // 4, size[1], 16):
        frame.paste(lines, (0, y))
    assert has_colour_edges(frame)


def test_coloured_letters_keep_their_colour() -> None:
    """Two-pixel lines of pure red on white come out nearly as they were."""
    frame = letters("red", "white")
    assert difference(opened(encode(frame, 75, Effort.BALANCED)).convert("RGB"), frame) < 20


@pytest.mark.parametrize("effort", Effort)
@pytest.mark.parametrize("quality", [1, 75, 100])
def test_grey_stays_one_component(quality: int, effort: Effort) -> None:
    """A grey frame has one component, and one table."""
    frame = photo(mode="L")
    image = jpeg(encode(frame, quality, effort))
    assert (image.mode, len(image.quantization)) == ("L", 1)
    assert difference(image, frame) < (100 if quality == 1 else 8)


@pytest.mark.parametrize("effort", Effort)
@pytest.mark.parametrize("quality", [1, 75, 100])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 17), (15, 9)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_smallest_sizes(mode: str, size: tuple[int, int], quality: int, effort: Effort) -> None:
    """Whatever the size, it comes back, and in its one colour."""
    frame = Image.new("RGB", size, (200, 90, 30)).convert(mode)
    image = opened(encode(frame, quality, effort))
    assert (image.size, image.mode) == (size, mode)
    assert difference(image, frame) < (60 if quality == 1 else 8)


@pytest.mark.parametrize("effort", Effort)
def test_noise_at_the_highest_quality(effort: Effort) -> None:
    """What takes more bytes than its pixels is encoded as well."""
    frame = noise(512, 512)
    data = encode(frame, 100, effort)
    assert len(data) > 512 * 512
    assert difference(opened(data).convert("RGB"), frame) < 2


@pytest.mark.parametrize("effort", Effort)
def test_the_same_frame_gives_the_same_bytes(effort: Effort) -> None:
    """Nothing of time or chance is in a file."""
    assert encode(photo(), 75, effort) == encode(photo(), 75, effort)
