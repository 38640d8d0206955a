"""Few colours where they look right; alpha to the bit; never bands, never a photo."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from codec import format_hint, png_palette, ssimulacra2
from codec.likeness import AIM
from errors import ErrorCode, ImageError
from request_options import OutputFormat
from tests.images import animation, opened, saved, squeezed

SIDES = (240, 160)


def drawn(discs: int = 30, mode: str = "RGB") -> Image.Image:
    """Return discs with smooth edges over each other, over nothing where there is alpha."""
    large = Image.new(mode, (SIDES[0] * 4, SIDES[1] * 4), "white" if mode == "RGB" else None)
    draw = ImageDraw.Draw(large)
    random = np.random.default_rng(5)
    for _ in range(discs):
        x, y = (int(random.integers(0, 4 * side)) for side in SIDES)
        radius = int(random.integers(60, 160))
        fill = tuple(int(level) for level in random.integers(0, 256, 3))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    return large.resize(SIDES, Image.Resampling.BOX)


def photo(width: int = 300, height: int = 200) -> Image.Image:
    """Return soft blots of every colour, with a grain."""
    random = np.random.default_rng(7)
    blots = Image.fromarray(random.integers(0, 256, (6, 9, 3), np.uint8))
    soft = np.asarray(blots.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray(np.clip(soft + random.normal(0, 4, soft.shape), 0, 255).astype(np.uint8))


def gradient(*corners: tuple[int, int, int]) -> Image.Image:
    """Return a picture that goes smoothly from corner to corner, with a disc before it."""
    across, down = np.linspace(0, 1, 400)[None, :, None], np.linspace(0, 1, 300)[:, None, None]
    first, second, third, fourth = (np.array(corner) for corner in corners)
    top, bottom = first + across * (second - first), third + across * (fourth - third)
    picture = Image.fromarray(np.rint(top + down * (bottom - top)).astype(np.uint8))
    ImageDraw.Draw(picture).ellipse((20, 20, 90, 90), fill="white", outline="red")
    return picture


def colour_count(image: Image.Image) -> int:
    """Return how many pairs of colour and alpha there are."""
    return len(image.getcolors(1 << 24) or [])


def reduced(image: Image.Image, least_score: float = AIM) -> Image.Image:
    """Return the picture in few colours, which there has to be."""
    result = png_palette.reduce(image, least_score)
    assert result is not None
    return result


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_flat_art_gets_few_colours_and_looks_right(mode: str) -> None:
    """Edges between flat colours take hundreds of colours, and need few of them."""
    art = drawn(mode=mode)
    few = reduced(art)
    assert colour_count(art) > 500
    assert colour_count(few) <= 256
    assert few.mode == mode
    assert ssimulacra2.score(art, few) >= AIM


def test_a_logo_gets_four_bits_a_pixel() -> None:
    """No more colours are taken than the look needs."""
    logo = drawn(discs=3)
    assert 2 < colour_count(reduced(logo)) <= 16


def test_a_lower_score_is_had_from_fewer_colours() -> None:
    """A quality that is asked for is not exceeded for nothing."""
    art = drawn()
    few, more = reduced(art, 40), reduced(art, 90)
    assert colour_count(few) < colour_count(more)
    assert ssimulacra2.score(art, more) >= 90


@pytest.mark.parametrize("side", [33, 34, 35, 36])
def test_a_small_picture_is_judged_by_itself_alone(side: int) -> None:
    """Pixels laid around it would count as if nothing in them were wrong."""
    for seed in range(8):
        random = np.random.default_rng(seed)
        blots = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
        soft = np.asarray(blots.resize((side, side), Image.Resampling.BICUBIC), np.float64)
        grainy = np.clip(soft + random.normal(0, 2, soft.shape), 0, 255).astype(np.uint8)
        small = Image.fromarray(grainy)
        few = png_palette.reduce(small, AIM)
        assert few is None or ssimulacra2.score(small, few) >= AIM - 1


def test_a_photo_keeps_its_colours() -> None:
    """With 256 of them its soft parts would fall into bands."""
    assert png_palette.reduce(photo(), AIM) is None


def test_bands_are_no_way_to_save() -> None:
    """A palette that scores enough is refused for steps where the picture is smooth."""
    soft = gradient((90, 100, 120), (90, 100, 120), (150, 170, 200), (150, 170, 200))
    assert ssimulacra2.score(soft, png_palette.fit(soft, 32)) > AIM
    assert colour_count(reduced(soft)) > 32


def test_a_gradient_of_many_colours_stays() -> None:
    """No palette is right for it."""
    soft = gradient((250, 120, 80), (120, 60, 200), (40, 160, 220), (250, 230, 140))
    assert png_palette.reduce(soft, 60) is None


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 16, 256]), st.integers(2, 256))
def test_alpha_stays_to_the_bit(seed: int, alphas: int, colours: int) -> None:
    """Whatever becomes of the colours, nothing becomes more or less transparent."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (12, 17, 4), np.uint8)
    pixels[..., 3] = random.integers(0, alphas, (12, 17)) * (255 // (alphas - 1))
    image = Image.fromarray(pixels)
    few = png_palette.fit(image, colours)
    assert few.getchannel("A").tobytes() == image.getchannel("A").tobytes()


@pytest.mark.parametrize("least_score", [30, AIM])
def test_alpha_of_a_cut_out_stays_to_the_bit(least_score: float) -> None:
    """With every alpha there is, colours alone are counted."""
    cut_out = drawn(mode="RGBA")
    cut_out.putalpha(Image.linear_gradient("L").resize(SIDES))
    few = reduced(cut_out, least_score)
    assert few.getchannel("A").tobytes() == cut_out.getchannel("A").tobytes()
    assert colour_count(few.convert("RGB")) <= 256
    stored = squeezed(saved(cut_out, "PNG"))
    assert stored.quality == "palette"
    alpha = opened(stored.data).convert("RGBA").getchannel("A")
    assert alpha.tobytes() == cut_out.getchannel("A").tobytes()


def test_what_nobody_sees_costs_no_colour() -> None:
    """Pixels of no alpha are all the same."""
    art = drawn(mode="RGBA")
    hidden = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*SIDES[::-1], 3), np.uint8))
    hidden.putalpha(0)
    noisy = Image.composite(art, hidden, art.getchannel("A").point(lambda level: 255 * (level > 0)))
    assert colour_count(noisy) > colour_count(art)
    assert reduced(noisy).tobytes() == reduced(art).tobytes()
    few = np.asarray(png_palette.fit(noisy, 4))
    assert not few[few[..., 3] == 0].any()


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 300), (300, 1), (5, 7), (65, 3)])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_small_images_of_every_mode(size: tuple[int, int], mode: str) -> None:
    """There is an answer, and it is of the same size and mode."""
    image = photo(*size).convert(mode)
    few = png_palette.fit(image, 8)
    assert (few.size, few.mode) == (size, mode)
    assert colour_count(few) <= 8
    assert (png_palette.reduce(image, AIM) or image).size == size


def test_the_background_stays_what_it_is() -> None:
    """The colour that is most of its neighbourhood is not mixed with it."""
    levels = np.full((100, 100, 3), (244, 245, 247), np.uint8)
    levels[:45] = np.linspace(180, 255, 45, dtype=np.uint8)[:, None, None]
    few = png_palette.fit(Image.fromarray(levels), 3)
    assert few.getpixel((50, 80)) == (244, 245, 247)


def test_very_many_colours_are_counted_coarsely() -> None:
    """White stays white and black black when the low bits go."""
    noise = np.random.default_rng(3).integers(0, 256, (600, 1200, 3), np.uint8)
    noise[:, :200], noise[:, 200:400] = 255, 0
    few = png_palette.fit(Image.fromarray(noise), 64)
    assert colour_count(few) == 64
    assert (few.getpixel((0, 0)), few.getpixel((300, 0))) == ((255,) * 3, (0,) * 3)


def test_the_same_picture_gives_the_same_colours() -> None:
    """Nothing is left to chance, and the source isn't touched."""
    art = drawn()
    before = art.tobytes()
    assert reduced(art).tobytes() == reduced(art.copy()).tobytes()
    assert art.tobytes() == before


def test_a_huge_picture_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time and memory go into packing it."""
    monkeypatch.setattr(png_palette, "LARGEST_PIXELS", SIDES[0] * SIDES[1] - 1)
    assert png_palette.reduce(drawn(), AIM) is None
    assert squeezed(saved(drawn(), "PNG")).quality == "lossless"


def test_colours_that_save_nothing_are_kept() -> None:
    """Where alpha takes the bytes, fewer colours are no gain."""
    art = drawn(mode="RGBA")
    noise = np.random.default_rng(1).integers(1, 256, SIDES[::-1], np.uint8)
    art.putalpha(Image.fromarray(noise))
    assert png_palette.reduce(art, AIM) is None


def test_a_higher_quality_wants_a_higher_score() -> None:
    """`auto` is the score that the service aims at."""
    scores = [png_palette.score_for(quality) for quality in range(1, 100)]
    assert all(low < high for low, high in itertools.pairwise(scores))
    assert png_palette.score_for(None) == AIM


def test_art_is_stored_with_a_palette() -> None:
    """It takes less than half of what the same pixels take."""
    png = saved(drawn(), "PNG")
    few, exact = squeezed(png), squeezed(png, quality=100)
    assert (few.quality, exact.quality) == ("palette", "lossless")
    assert len(few.data) < 0.6 * len(exact.data)
    assert opened(few.data).mode == "P"
    assert opened(exact.data).convert("RGB").tobytes() == drawn().tobytes()
    assert squeezed(png).data == few.data


def test_full_quality_asks_for_no_palette(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where any would do."""
    monkeypatch.setattr(png_palette, "score_for", lambda _: 30.0)
    assert squeezed(saved(drawn(), "PNG"), quality=100).quality == "lossless"


def test_photos_and_animations_lose_nothing() -> None:
    """What no palette is right for is packed as it is."""
    stored = squeezed(saved(photo(), "PNG"))
    assert stored.quality == "lossless"
    assert opened(stored.data).tobytes() == photo().tobytes()
    assert squeezed(animation("PNG")).quality != "palette"


@pytest.mark.parametrize("has_alpha", [False, True])
def test_a_photo_says_what_another_format_would_save(*, has_alpha: bool) -> None:
    """The figure is that of the file that the other format gives."""
    picture = photo()
    if has_alpha:
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    png = saved(picture, "PNG")
    stored = squeezed(png)
    words = stored.hint.removesuffix(".").replace(",", "").split()
    told = {words[at - 1]: int(words[at + 1]) for at, word in enumerate(words) if word == "about"}
    told = {name if name != "have" else words[1]: share for name, share in told.items()}
    assert list(told) == (["WebP"] if has_alpha else ["WebP", "JPEG"])
    for name, share in told.items():
        other = squeezed(png, format=OutputFormat(name.lower()))
        assert share == pytest.approx(100 - 100 * len(other.data) / len(stored.data), abs=1)


def test_art_a_small_file_and_a_chosen_format_have_no_hint() -> None:
    """It is worth a sentence only where it is much, and where `keep` chose the format."""
    assert squeezed(saved(drawn(), "PNG")).hint == ""
    assert squeezed(saved(photo(60, 40), "PNG")).hint == ""
    assert squeezed(saved(photo(), "PNG"), format=OutputFormat.PNG).hint == ""
    assert squeezed(saved(photo(), "JPEG")).hint == ""


def test_a_format_that_can_not_be_is_not_named() -> None:
    """Nor one that saves less than half."""

    def encode(target: OutputFormat) -> bytes:
        if target is OutputFormat.WEBP:
            raise ImageError(ErrorCode.TOO_MANY_PIXELS, "A side is too long.")
        return bytes(30_000)

    said = format_hint.hint(100_000, encode, has_alpha=False)
    assert said == "As JPEG it would have about 70 % fewer bytes."
    assert format_hint.hint(59_000, encode, has_alpha=False) == ""
    assert format_hint.hint(100_000, encode, has_alpha=True) == ""


def test_a_small_file_costs_no_trial() -> None:
    """There is nothing worth a sentence to be saved."""

    def encode(target: OutputFormat) -> bytes:
        raise AssertionError(target)

    assert format_hint.hint(10_000, encode, has_alpha=False) == ""


def test_an_image_that_is_done_fails_for_no_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial may take more memory than the image did."""

    def no_memory(*_: object, **__: object) -> str:
        raise MemoryError

    png = saved(photo(), "PNG")
    assert squeezed(png).hint
    monkeypatch.setattr(format_hint, "hint", no_memory)
    assert squeezed(png).hint == ""
