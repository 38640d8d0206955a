"""`auto` takes for each picture the quality at which it looks right."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from codec import image_encoder, quality_predictor, ssimulacra2
from codec.image_format import TargetFormat
from codec.likeness import AIM
from codec.picture import Picture
from codec.quality_model import FORMULAS, to_level, to_quality
from request_options import Effort

LOSSY = [TargetFormat.JPEG, TargetFormat.WEBP, TargetFormat.AVIF]


def natural(roughness: float, seed: int, size: int = 320) -> Image.Image:
    """Return a picture with the spectrum of nature; less steep is rougher."""
    chance = np.random.default_rng(seed)
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequencies[0, 0] = 1
    bands = []
    for share in (1, 0.3, 0.3):
        spectrum = np.fft.fft2(chance.normal(size=(size, size))) / frequencies**roughness
        spectrum[0, 0] = 0
        band = np.fft.ifft2(spectrum).real
        bands.append(np.clip(128 + band / band.std() * 45 * share, 0, 255).astype(np.uint8))
    return Image.merge("YCbCr", [Image.fromarray(band) for band in bands]).convert("RGB")


def drawing(size: int = 320) -> Image.Image:
    """Return a drawing with sharp edges on white, as of a product."""
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    for index in range(8):
        draw.ellipse(
            (20 + index * 15, 30, size - 20, size - index * 30), fill=(30 * index, 90, 200)
        )
    draw.text((40, 40), "Best before 2031 " * 3, fill="black")
    return image


PICTURES = {
    "smooth": natural(1.6, 1),
    "rough": natural(0.9, 2),
    "grey": natural(1.2, 3).convert("L"),
    "drawing": drawing(),
}


def encoded(image: Image.Image, target: TargetFormat, quality: int) -> Image.Image:
    """Return what is left of an image."""
    data = image_encoder.encode(
        Picture([image], [0]), target, quality, Effort.BALANCED, is_lossless=False
    )
    return Image.open(io.BytesIO(data))


def predicted(image: Image.Image, target: TargetFormat, effort: Effort = Effort.BALANCED) -> int:
    """Return what auto takes for a still picture."""
    return quality_predictor.predict(Picture([image], [0]), target, effort)


@pytest.mark.parametrize("target", LOSSY)
def test_pictures_of_all_kinds_look_right(target: TargetFormat) -> None:
    """Each comes near the aim, though one number for all of them would not."""
    qualities = {name: predicted(image, target) for name, image in PICTURES.items()}
    middle = round(float(np.median(list(qualities.values()))))
    misses, misses_of_one = (
        [
            abs(ssimulacra2.score(image, encoded(image, target, number)) - AIM)
            for image, number in zip(PICTURES.values(), numbers, strict=True)
        ]
        for numbers in (qualities.values(), [middle] * len(PICTURES))
    )
    assert max(misses) < 8
    assert sum(misses) < sum(misses_of_one)
    assert len(set(qualities.values())) > 2


@pytest.mark.parametrize("effort", Effort)
@pytest.mark.parametrize("target", LOSSY)
def test_every_effort_has_its_formula(target: TargetFormat, effort: Effort) -> None:
    """Its answer is a quality that encoders take, within what photos took."""
    formula = FORMULAS[target, effort]
    quality = predicted(PICTURES["rough"], target, effort)
    assert formula.lowest <= to_level(target, quality) <= formula.highest + 1
    assert 1 <= formula.lowest < formula.usual < formula.highest <= 100


def screenshot() -> Image.Image:
    """Return coloured letters on a dark ground, which no photo is like."""
    image = Image.new("RGB", (320, 320), (20, 20, 40))
    draw = ImageDraw.Draw(image)
    for line in range(29):
        colour = ("red", "lime", "cyan", "magenta")[line % 4]
        draw.text((4, line * 11), "def auto(self) -> None: return 75  # " * 2, fill=colour)
    return image


def test_print_takes_what_it_needs() -> None:
    """Where a formula of photos is out of its depth, tiles have to look right themselves."""
    image, target = screenshot(), TargetFormat.AVIF
    formula = FORMULAS[target, Effort.BALANCED]
    trials = quality_predictor.Trials(image, target, Effort.BALANCED)
    too_low = to_quality(target, formula.level(trials.features(formula.trial)))
    quality = predicted(image, target)
    assert quality > too_low
    for number, is_right in ((too_low, False), (quality, True)):
        assert (ssimulacra2.score(image, encoded(image, target, number)) > AIM) is is_right


def test_what_can_not_look_right_is_not_paid_for() -> None:
    """Colours of noise have half the resolution in a WebP at any quality."""
    noise = Image.merge("RGB", [Image.effect_noise((256, 256), 90) for _ in range(3)])
    formula = FORMULAS[TargetFormat.WEBP, Effort.BALANCED]
    quality = predicted(noise, TargetFormat.WEBP)
    assert to_level(TargetFormat.WEBP, quality) <= formula.highest + 1


@pytest.mark.parametrize("target", LOSSY)
@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 8)])
def test_what_is_too_small_to_be_sampled_has_the_usual(
    target: TargetFormat, size: tuple[int, int]
) -> None:
    """A strip has no tile."""
    formula = FORMULAS[target, Effort.BALANCED]
    image = PICTURES["rough"].resize(size)
    assert predicted(image, target) == to_quality(target, formula.usual)


def test_strange_pictures_get_what_photos_get_at_most() -> None:
    """However wild a formula's answer would be."""
    formula = FORMULAS[TargetFormat.JPEG, Effort.BALANCED]
    for wild, bound in ((-1e6, formula.lowest), (1e6, formula.highest)):
        features = (0.0,) * 9 + (wild / formula.weights[-1],)
        assert formula.level(features) == bound


def test_the_middle_of_an_animation_is_looked_at() -> None:
    """The first frame is often blank."""
    blank = Image.new("RGB", (320, 320))
    frames = [blank, PICTURES["rough"], blank]
    quality = quality_predictor.predict(
        Picture(frames, [100] * 3), TargetFormat.WEBP, Effort.BALANCED
    )
    assert (
        quality
        == predicted(PICTURES["rough"], TargetFormat.WEBP)
        != predicted(blank, TargetFormat.WEBP)
    )


def test_transparency_can_be_sampled() -> None:
    """A cut-out on nothing has a quality of its own."""
    image = PICTURES["rough"].convert("RGBA")
    ImageDraw.Draw(image).rectangle((0, 0, 320, 160), fill=(0, 0, 0, 0))
    for target in (TargetFormat.WEBP, TargetFormat.AVIF):
        assert 30 < predicted(image, target) < 95


@pytest.mark.parametrize(("quality", "level"), [(0, 0), (30, 20), (75, 50), (85, 70), (100, 100)])
def test_a_webp_s_quality_counts_thrice_from_75_on(quality: int, level: int) -> None:
    """A level counts alike everywhere, and leads back."""
    assert to_level(TargetFormat.WEBP, quality) == pytest.approx(level)
    assert to_quality(TargetFormat.WEBP, level) == quality
    assert to_level(TargetFormat.JPEG, quality) == quality == to_quality(TargetFormat.JPEG, quality)
