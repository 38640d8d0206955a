"""Draws the sample images: small product photos, one for each kind of file that shops have.

Run from anywhere: `python samples/make_samples.py`. Everything is drawn from seeded noise,
gradients and turned outlines with Pillow alone, so the images are free of anybody's rights and
the same Pillow gives the same bytes again. `test.csv` names the files.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import (
    ExifTags,
    Image,
    ImageChops,
    ImageDraw,
    ImageEnhance,
    ImageFilter,
    ImageOps,
    TiffImagePlugin,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Size = tuple[int, int]
Point = tuple[float, float]
Outline = list[Point]  # (height, radius), both 0 to 1, from the top down

HERE = Path(__file__).resolve().parent
FULL = 255


# Materials and light


def noise(size: Size, seed: int, *, coarse: Size = (3, 3), octaves: int = 6) -> Image.Image:
    """Return fractal noise: random grids, each twice as fine as the last and half as strong."""
    rng = random.Random(seed)  # noqa: S311  # pictures, not secrets; the seed is the point
    total = Image.new("L", size, FULL // 2)
    for octave in reversed(range(octaves)):
        columns, rows = coarse[0] << octave, coarse[1] << octave
        grid = Image.frombytes("L", (columns, rows), rng.randbytes(columns * rows))
        total = Image.blend(total, grid.resize(size, Image.Resampling.BICUBIC), 0.5)
    return ImageOps.autocontrast(total, cutoff=1)


def ramp(size: Size, values: Callable[[float], float], *, downwards: bool = False) -> Image.Image:
    """Return a gradient to the right (or down) of `values`, which maps 0..1 to 0..1."""
    levels = [max(0, min(FULL, round(values(step / FULL) * FULL))) for step in range(FULL + 1)]
    row = Image.frombytes("L", (FULL + 1, 1), bytes(levels))
    if downwards:
        row = row.transpose(Image.Transpose.ROTATE_270)
    return row.resize(size, Image.Resampling.BICUBIC)


def lit(texture: Image.Image, light: Image.Image) -> Image.Image:
    """Return the texture under grey `light`."""
    return ImageChops.multiply(texture, Image.merge("RGB", (light, light, light)))


def grained(image: Image.Image, seed: int, amount: float = 0.035) -> Image.Image:
    """Return the image with a sensor's fine grain, which is what makes photos hard to store."""
    rng = random.Random(seed)  # noqa: S311  # as above
    width, height = image.size
    layers = [
        Image.frombytes("L", image.size, rng.randbytes(width * height)).filter(
            ImageFilter.GaussianBlur(0.7)
        )
        for _ in range(3)
    ]
    return Image.blend(image, Image.merge("RGB", layers), amount)


def wood(size: Size, seed: int, dark: str, light: str) -> Image.Image:
    """Return planed wood with its grain running across."""
    rings = noise(size, seed, coarse=(1, 5), octaves=4)
    lines = rings.point([round(FULL * (0.5 + 0.5 * math.sin(v / 4.2))) for v in range(FULL + 1)])
    fibres = noise(size, seed + 1, coarse=(2, 40), octaves=4)
    return ImageOps.colorize(Image.blend(lines, fibres, 0.6), dark, light)


def studio(size: Size, paper: str, shade: str, seed: int) -> Image.Image:
    """Return a sheet of paper that sweeps from the wall onto the table, lit from the left."""
    sheet = ImageOps.colorize(noise(size, seed, octaves=3), shade, paper)
    sheet = Image.blend(sheet, Image.new("RGB", size, paper), 0.75)
    sweep = ramp(size, lambda y: 0.80 + 0.2 * math.sin(math.pi * y**0.8), downwards=True)
    return lit(lit(sheet, sweep), ramp(size, lambda x: 1 - 0.16 * x**1.5))


# Things


def radius_at(outline: Outline, height: float) -> float:
    """Return the outline's radius at a height, eased between its points."""
    for (top, r_top), (bottom, r_bottom) in itertools.pairwise(outline):
        if height <= bottom:
            part = (height - top) / (bottom - top)
            eased = (1 - math.cos(math.pi * part)) / 2
            return r_top + (r_bottom - r_top) * eased
    return outline[-1][1]


def cylinder_light(size: Size, gloss: float) -> Image.Image:
    """Return the light on an upright cylinder seen from the front, the lamp front left."""

    def brightness(x: float) -> float:
        across = 2 * x - 1
        diffuse = max(0.0, -0.5 * across + 0.85 * math.sqrt(max(0.0, 1 - across * across)))
        bounce = 0.14 * max(0.0, across) ** 3
        shine = gloss * math.exp(-(((across + 0.45) / 0.09) ** 2))
        return 0.2 + 0.68 * diffuse + bounce + shine

    return ramp(size, brightness)


def turned(texture: Image.Image, outline: Outline, *, gloss: float = 0.12) -> Image.Image:
    """Return the texture wrapped around a body turned on a lathe, as RGBA, seen from above."""
    width, height = texture.size
    foot = width * outline[-1][1] * 0.07  # how far the round foot bulges towards the viewer
    skin = lit(texture, cylinder_light(texture.size, gloss))
    body = Image.new("RGBA", texture.size)
    for y in range(height):
        bulge = max(0.0, y - (height - foot)) / foot
        round_off = math.sqrt(1 - bulge * bulge)
        across = max(1, round(width * radius_at(outline, y / height) * round_off))
        row = skin.crop((0, y, width, y + 1)).resize((across, 1), Image.Resampling.BOX)
        body.paste(row, ((width - across) // 2, y))
    return body


def ball(diameter: int, dark: str, middle: str, light: str, seed: int) -> Image.Image:
    """Return a dimpled ball lit from the upper left, as RGBA."""
    spread = Image.radial_gradient("L").resize((diameter * 2, diameter * 2))
    left, top = round(diameter * 0.66), round(diameter * 0.70)
    light_map = ImageOps.invert(spread.crop((left, top, left + diameter, top + diameter)))
    dimples = noise((diameter, diameter), seed, coarse=(12, 12), octaves=3)
    surface = ImageOps.autocontrast(Image.blend(light_map, dimples, 0.05))
    body = ImageOps.colorize(surface, dark, light, mid=middle, midpoint=150)
    mask = Image.new("L", (diameter * 2, diameter * 2))
    ImageDraw.Draw(mask).ellipse((2, 2, diameter * 2 - 3, diameter * 2 - 3), fill=FULL)
    body.putalpha(mask.resize((diameter, diameter), Image.Resampling.LANCZOS))
    return body


def mouth(body: Image.Image, box: tuple[float, float, float, float], inside: str, rim: str) -> None:
    """Draw the round opening of a vessel on its body; the box is in parts of the body's size."""
    width, height = body.size
    left, top, right, bottom = (
        part * side for part, side in zip(box, (width, height) * 2, strict=True)
    )
    body.paste((0, 0, 0, 0), (0, 0, width, round((top + bottom) / 2)))
    draw = ImageDraw.Draw(body)
    draw.ellipse((left, top, right, bottom), fill=rim)
    lip = (right - left) * 0.025
    draw.ellipse((left + lip, top + lip * 0.8, right - lip, bottom - lip * 0.5), fill=inside)


def place(scene: Image.Image, thing: Image.Image, foot: Point, width: int) -> None:
    """Put a thing (RGBA) on the scene with its soft shadow; `foot` is where it stands, 0..1."""
    thing = thing.crop(thing.getbbox())
    height = round(thing.height * width / thing.width)
    thing = thing.resize((width, height), Image.Resampling.LANCZOS)
    x, y = round(scene.width * foot[0] - width / 2), round(scene.height * foot[1] - height)
    shadow = Image.new("L", scene.size)
    draw = ImageDraw.Draw(shadow)
    base = y + height
    draw.ellipse((x + width * 0.1, base - width * 0.1, x + width * 1.35, base + width * 0.07), 120)
    shadow = shadow.filter(ImageFilter.GaussianBlur(width / 12))
    contact = Image.new("L", scene.size)
    ImageDraw.Draw(contact).ellipse(
        (x + width * 0.16, base - width * 0.06, x + width * 0.9, base + width * 0.025), 150
    )
    contact = contact.filter(ImageFilter.GaussianBlur(width / 40))
    scene.paste((38, 30, 34), (0, 0), ImageChops.lighter(shadow, contact))
    scene.paste(thing, (x, y), thing)


# Photos


def vase() -> Image.Image:
    """Return a blue glazed vase."""
    glaze = ImageOps.colorize(noise((700, 1000), 11, coarse=(3, 2)), "#123a63", "#5fa3c7")
    foot = ramp(glaze.size, lambda y: 1.0 if y > 0.9 else 0.0, downwards=True)
    glaze.paste(Image.new("RGB", glaze.size, "#c9a27c"), (0, 0), foot)
    outline = [(0, 0.36), (0.06, 0.32), (0.2, 0.27), (0.58, 0.96), (0.9, 0.52), (1, 0.48)]
    body = turned(glaze, outline, gloss=0.35)
    mouth(body, (0.32, 0.0, 0.68, 0.045), "#0d2238", "#7fb8d4")
    scene = studio((1000, 1250), "#ece4da", "#cdbfae", 12)
    place(scene, body, (0.48, 0.86), 600)
    return grained(scene, 13)


def oranges() -> Image.Image:
    """Return oranges on a wooden board."""
    size = (1400, 940)
    scene = studio(size, "#e3e7df", "#b9c4b6", 21)
    board = wood((1400, 400), 22, "#6e4527", "#b98a58")
    scene.paste(lit(board, ramp(board.size, lambda y: 0.72 + 0.28 * y, downwards=True)), (0, 540))
    for number, (x, y, width) in enumerate(
        [(0.30, 0.70, 290), (0.72, 0.71, 300), (0.52, 0.75, 330), (0.38, 0.88, 330)]
    ):
        fruit = ball(width, "#8a3505", "#ee8413", "#ffd9a0", 23 + number)
        place(scene, fruit.rotate(17 * number - 20, Image.Resampling.BICUBIC), (x, y), width)
    return grained(scene, 29)


def bowl() -> Image.Image:
    """Return a stoneware bowl, in black and white."""
    clay = ImageOps.colorize(noise((900, 430), 31, coarse=(6, 4)), "#8a857d", "#dcd7cd")
    for y in range(60, 400, 34):
        ImageDraw.Draw(clay).line((0, y, 900, y + 6), fill="#a29c93", width=3)
    outline = [(0, 0.9), (0.14, 0.94), (0.75, 0.6), (0.9, 0.36), (1, 0.38)]
    body = turned(clay.filter(ImageFilter.GaussianBlur(1)), outline)
    mouth(body, (0.047, 0.0, 0.953, 0.27), "#5b5751", "#cfcac1")
    scene = studio((1200, 900), "#d4d2ce", "#a19e99", 32)
    place(scene, body, (0.5, 0.76), 720)
    return grained(scene, 33).convert("L")


def mug() -> Image.Image:
    """Return a mug on a wooden table."""
    scene = studio((900, 1200), "#dfe6ea", "#aebbc4", 41)
    table = wood((900, 420), 42, "#5a3a24", "#a87950")
    scene.paste(lit(table, ramp(table.size, lambda y: 0.65 + 0.35 * y, downwards=True)), (0, 780))
    glaze = ImageOps.colorize(noise((560, 600), 43, coarse=(4, 4)), "#b5432f", "#e2795c")
    band = ramp(glaze.size, lambda y: 1.0 if y < 0.3 else 0.0, downwards=True)
    glaze.paste(Image.new("RGB", glaze.size, "#f2ead9"), (0, 0), band)
    body = turned(glaze, [(0, 0.96), (0.8, 0.94), (0.95, 0.86), (1, 0.8)], gloss=0.25)
    mouth(body, (0.022, 0.0, 0.978, 0.16), "#3b2014", "#f7f1e4")
    cup = Image.new("RGBA", (800, 600))
    draw = ImageDraw.Draw(cup)
    draw.ellipse((430, 130, 770, 470), outline="#a8452f", width=58)
    draw.ellipse((440, 138, 756, 456), outline="#cb6348", width=16)
    cup.alpha_composite(body, (0, 0))
    place(scene, cup, (0.55, 0.84), 620)
    return grained(scene, 44)


def mountains() -> Image.Image:
    """Return a printed poster: mountains at dawn."""
    size = (900, 1200)
    tint = ramp(size, lambda y: y**0.8, downwards=True)
    sky = ImageOps.colorize(tint, "#3d5a86", "#ffe0b8", mid="#e8a48c")
    cloud = noise(size, 51, coarse=(2, 7), octaves=5).point([max(0, v - 120) for v in range(256)])
    sky.paste("#fff3e2", (0, 0), cloud)
    ImageDraw.Draw(sky).ellipse((560, 250, 700, 390), fill="#fff1cf")
    scene = sky.filter(ImageFilter.GaussianBlur(2))
    for layer, colour in enumerate(("#a98fa0", "#7d728f", "#4f5877", "#2c3f57", "#17283a")):
        ridge = noise((900, 1), 52 + layer, coarse=(2 + layer, 1), octaves=6)
        crest = [470 + layer * 130 - value * (0.9 - layer * 0.1) for value in ridge.tobytes()]
        mask = Image.new("L", size)
        points: list[Point] = [(0, 1200), *enumerate(crest), (900, 1200)]
        ImageDraw.Draw(mask).polygon(points, fill=FULL)
        rock = ImageOps.colorize(noise(size, 60 + layer, coarse=(6, 8)), colour, "#e6c3b4")
        scene.paste(Image.blend(rock, Image.new("RGB", size, colour), 0.75), (0, 0), mask)
    return ImageOps.expand(grained(scene, 66, 0.03), 40, "#fbf8f1").convert("CMYK")


def cushion() -> Image.Image:
    """Return a striped linen cushion on flat paper, smooth enough for PNG."""
    size = (760, 760)
    cloth = Image.new("RGB", size, "#e9dfcb")
    draw = ImageDraw.Draw(cloth)
    for x in range(0, 760, 76):
        draw.rectangle((x, 0, x + 26, 760), fill="#3f6f6a")
        draw.rectangle((x + 38, 0, x + 44, 760), fill="#c98b4a")
    folds = noise(size, 71, coarse=(2, 2), octaves=2).filter(ImageFilter.GaussianBlur(18))
    cloth = lit(cloth, folds.point([round(190 + value / 4) for value in range(256)]))
    cloth = lit(cloth, ramp(size, lambda x: 1 - 0.35 * x**2))
    mask = Image.new("L", size)
    corner = [(60, 70), (380, 110), (700, 60), (655, 380), (705, 705), (380, 655), (55, 700)]
    ImageDraw.Draw(mask).polygon([*corner, (105, 380)], fill=FULL)
    mask = mask.filter(ImageFilter.GaussianBlur(22)).point([0] * 110 + [FULL] * 146)
    thing = cloth.convert("RGBA")
    thing.putalpha(mask.filter(ImageFilter.GaussianBlur(1.2)))
    scene = Image.new("RGB", (800, 800), "#f3f0ea")
    place(scene, thing, (0.49, 0.92), 620)
    return scene


def bottle() -> Image.Image:
    """Return a brown glass bottle with a label, cut out."""
    glass = ImageOps.colorize(ramp((420, 1100), lambda y: y, downwards=True), "#7a3d12", "#4a200a")
    ImageDraw.Draw(glass).rectangle((0, 0, 420, 130), fill="#22201f")
    label = ImageDraw.Draw(glass)
    label.rectangle((0, 520, 420, 930), fill="#efe6d2")
    for y, colour in ((560, "#2f5d50"), (880, "#2f5d50"), (700, "#c08a3e")):
        label.rectangle((0, y, 420, y + 14), fill=colour)
    label.ellipse((165, 600, 255, 690), fill="#2f5d50")
    for y in (750, 784, 818):
        label.rectangle((120, y, 300, y + 9), fill="#6f6a60")
    outline = [(0, 0.36), (0.12, 0.36), (0.121, 0.3), (0.22, 0.31), (0.4, 0.95), (0.97, 0.95)]
    body = turned(glass, [*outline, (1, 0.86)], gloss=0.45)
    cutout = Image.new("RGBA", (620, 1180))
    cutout.alpha_composite(body, (100, 40))
    return cutout.resize((600, 1142), Image.Resampling.LANCZOS)


def badge() -> Image.Image:
    """Return an enamel badge in few colours."""
    big = Image.new("RGB", (1440, 1440), "#f4efe6")
    draw = ImageDraw.Draw(big)
    centre = 720
    for radius, colour in ((640, "#c9b27c"), (610, "#20435c"), (500, "#c9b27c"), (484, "#f0d9a0")):
        draw.circle((centre, centre), radius, fill=colour)
    for spoke in range(24):
        turn = spoke * math.pi / 12
        tips = [
            (centre + r * math.cos(turn + a), centre + r * math.sin(turn + a))
            for r, a in ((484, -0.06), (484, 0.06), (120, 0.0))
        ]
        draw.polygon(tips, fill="#e39a5b" if spoke % 2 else "#c95f45")
    star = [
        (centre + r * math.sin(k * math.pi / 5), centre - r * math.cos(k * math.pi / 5))
        for k, r in enumerate((330, 140) * 5)
    ]
    draw.polygon(star, fill="#fdf6e3", outline="#20435c", width=14)
    small = big.resize((720, 720), Image.Resampling.LANCZOS)
    return small.quantize(64, dither=Image.Dither.NONE)


def board() -> Image.Image:
    """Return a walnut chopping board seen from above."""
    scene = ImageOps.colorize(noise((1200, 900), 81, coarse=(5, 4)), "#c4c8c6", "#eceeec")
    plank = wood((960, 560), 82, "#3f2414", "#96653c").convert("RGBA")
    mask = Image.new("L", plank.size)
    draw = ImageDraw.Draw(mask)
    draw.rounded_rectangle((0, 0, 800, 559), 70, fill=FULL)
    draw.rounded_rectangle((740, 200, 959, 360), 80, fill=FULL)
    draw.ellipse((872, 252, 926, 306), fill=0)
    plank.putalpha(mask.filter(ImageFilter.GaussianBlur(1.5)))
    place(scene, plank.rotate(8, Image.Resampling.BICUBIC, expand=True), (0.5, 0.88), 980)
    return grained(scene, 83)


def lamp() -> Image.Image:
    """Return a table lamp, cut out with its glow."""
    linen = ImageOps.colorize(noise((640, 400), 91, coarse=(60, 2)), "#e7c48f", "#fff0d0")
    glow = ramp(linen.size, lambda y: 0.72 + 0.28 * math.sin(math.pi * y), downwards=True)
    shade = turned(lit(linen, glow), [(0, 0.6), (1, 0.98)], gloss=0)
    shade = ImageEnhance.Brightness(shade).enhance(1.2)
    ceramic = ImageOps.colorize(noise((420, 500), 92), "#2c5a52", "#7fb3a2")
    outline = [(0, 0.1), (0.12, 0.1), (0.5, 0.9), (0.86, 0.4), (0.92, 0.56), (1, 0.58)]
    body = turned(ceramic, outline, gloss=0.35)
    cutout = Image.new("RGBA", (900, 1100), "#ffdf9c00")
    halo = Image.new("L", cutout.size)
    ImageDraw.Draw(halo).ellipse((190, 90, 710, 580), fill=130)
    cutout.putalpha(halo.filter(ImageFilter.GaussianBlur(70)))
    cutout.alpha_composite(body, (240, 520))
    cutout.alpha_composite(shade, (130, 150))
    return cutout


def candle_frames() -> list[Image.Image]:
    """Return a candle whose flame moves, as palette frames."""
    wax = ImageOps.colorize(ramp((260, 420), lambda y: y, downwards=True), "#fff6dc", "#ffe3b0")
    body = turned(wax, [(0, 0.96), (1, 0.98)], gloss=0)
    mouth(body, (0.02, 0.0, 0.98, 0.11), "#ffeec2", "#f6dcab")
    scene = Image.new("RGB", (600, 720), "#3a3346")
    place(scene, body, (0.5, 0.92), 220)
    scene = scene.quantize(64, dither=Image.Dither.NONE).convert("RGB")
    frames = []
    for step in range(10):
        sway, height = 9 * math.sin(step * math.pi / 5), 118 + 10 * math.cos(step * math.pi / 2.5)
        frame = scene.copy()
        draw = ImageDraw.Draw(frame)
        draw.line((300, 330, 300, 312), fill="#2a1d18", width=5)
        for part, colour in ((1.0, "#f08a2c"), (0.78, "#ffc04d"), (0.5, "#fff3c4")):
            tip, half = (300 + sway * part, 318 - height * part), 27 * part
            draw.ellipse((300 - half, 318 - 2 * half, 300 + half, 318), fill=colour)
            draw.polygon((tip, (300 - half, 318 - half), (300 + half, 318 - half)), fill=colour)
        frames.append(frame.quantize(96, dither=Image.Dither.NONE))
    return frames


def marble() -> Image.Image:
    """Return a slab of green marble."""
    size = (1100, 1100)
    clouds, veins = (
        noise(size, 101, coarse=(2, 2), octaves=7),
        noise(size, 102, coarse=(3, 2), octaves=4),
    )
    thin = veins.point([round(FULL * math.exp(-((v - 128) ** 2) / 14)) for v in range(256)])
    stone = ImageOps.colorize(clouds, "#12342b", "#4f8a72")
    stone.paste("#e4efe6", (0, 0), thin.filter(ImageFilter.GaussianBlur(1)))
    return grained(stone, 103, 0.02)


def soap() -> Image.Image:
    """Return three bars of soap, smooth enough for a lossless file."""
    scene = Image.new("RGB", (720, 540), "#efe7ee")
    for foot, tint in (
        ((0.5, 0.88), "#8fb6a5"),
        ((0.47, 0.66), "#e3b7a0"),
        ((0.52, 0.44), "#b7a6cf"),
    ):
        bar = Image.new("RGBA", (840, 260))
        ImageDraw.Draw(bar).rounded_rectangle((6, 6, 833, 253), 90, fill=tint)
        light = ramp(bar.size, lambda y: 1.1 - 0.45 * y**1.6, downwards=True)
        side = lit(bar.convert("RGB"), light)
        side.putalpha(bar.getchannel("A"))
        place(scene, side, foot, 420)
    return scene


# Files


def camera_exif() -> Image.Exif:
    """Return what a phone held upright writes: orientation 6, and where it was."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Sample"
    exif[ExifTags.Base.Model] = "Phone 1"
    exif[ExifTags.Base.Orientation] = 6
    degrees = TiffImagePlugin.IFDRational
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(
        {
            ExifTags.GPS.GPSLatitudeRef: "N",
            ExifTags.GPS.GPSLatitude: (degrees(51), degrees(28), degrees(40)),
            ExifTags.GPS.GPSLongitudeRef: "W",
            ExifTags.GPS.GPSLongitude: (degrees(0), degrees(0), degrees(5)),
        }
    )
    return exif


def main() -> None:
    """Draw every sample into this script's folder and list them."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    vase().save(HERE / "vase.jpg", quality=93, subsampling=0)
    oranges().save(HERE / "oranges-progressive.jpg", quality=90, progressive=True)
    bowl().save(HERE / "bowl-grey.jpg", quality=92)
    sideways = mug().transpose(Image.Transpose.ROTATE_90)
    sideways.save(HERE / "mug-sideways.jpg", quality=92, exif=camera_exif())
    mountains().save(HERE / "poster-cmyk.jpg", quality=88)
    cushion().save(HERE / "cushion.png")
    bottle().save(HERE / "bottle-cutout.png")
    badge().save(HERE / "badge-palette.png")
    board().save(HERE / "board.webp", quality=90)
    lamp().save(HERE / "lamp-cutout.webp", quality=88)
    first, *rest = candle_frames()
    first.save(HERE / "candle.gif", save_all=True, append_images=rest, duration=90, loop=0)
    marble().save(HERE / "marble.avif", quality=80, max_threads=1)
    predictor = {TiffImagePlugin.PREDICTOR: 2}
    soap().save(HERE / "soap.tiff", compression="tiff_adobe_deflate", tiffinfo=predictor)
    for path in sorted(HERE.iterdir()):
        if path != Path(__file__).resolve() and path.is_file():
            with Image.open(path) as image:
                print(f"{path.name:24} {image.format:5} {image.size} {path.stat().st_size:8,}")


if __name__ == "__main__":
    main()
