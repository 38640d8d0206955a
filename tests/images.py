"""Images for tests: drawn, never read from a file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image, ImageDraw, PngImagePlugin

from codec.compressed_image import CompressedImage, ImageLimits
from codec.image_compressor import compress
from codec.image_format import SourceFormat
from request_options import ImageOptions

LIMITS = ImageLimits(max_pixels=2_000_000, max_frames=20)
SECRET = b"Ansel Adams was here"
CORNERS = ("red", "green", "blue", "white")


def photo(width: int = 160, height: int = 120, mode: str = "RGB") -> Image.Image:
    """Return an image with gradients and some grain, which packs like a photo."""
    ramp = Image.linear_gradient("L").resize((width, height))
    across = Image.radial_gradient("L").resize((width, height))
    grain = Image.effect_mandelbrot((width, height), (-2, -1.5, 1, 1.5), 60)
    return Image.merge("RGB", (ramp, across, grain)).convert(mode)


def corners(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    """Return an image whose quarters are red, green, blue and white, clockwise from top left."""
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    middle, half = width // 2, height // 2
    boxes = [
        (0, 0, middle, half),
        (middle, 0, width, half),
        (middle, half, width, height),
        (0, half, middle, height),
    ]
    for box, colour in zip(boxes, CORNERS, strict=True):
        draw.rectangle(box, fill=colour)
    return image.convert(mode)


def saved(image: Image.Image, pillow_format: str, **settings: Any) -> bytes:
    """Encode an image with Pillow."""
    sink = io.BytesIO()
    image.save(sink, pillow_format, **settings)
    return sink.getvalue()


def animation(pillow_format: str, frames: int = 3, size: int = 32, **settings: Any) -> bytes:
    """Encode frames of different colours, 100, 200, 300 … milliseconds long, run for ever."""
    images = [Image.new("RGB", (size, size), (i * 40, 255 - i * 40, 90)) for i in range(frames)]
    for index, image in enumerate(images):
        ImageDraw.Draw(image).rectangle((index, index, size // 2, size // 2), fill="white")
    durations = [100 * (index + 1) for index in range(frames)]
    return saved(
        images[0],
        pillow_format,
        **{
            "save_all": True,
            "append_images": images[1:],
            "duration": durations,
            "loop": 0,
            **settings,
        },
    )


def opened(data: bytes) -> Image.Image:
    """Decode an image with Pillow."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def squeezed(data: bytes, limits: ImageLimits = LIMITS, **options: Any) -> CompressedImage:
    """Compress with the options named."""
    return compress(data, ImageOptions(**options), limits)


def exif(orientation: int = 1) -> Image.Exif:
    """Return EXIF data with a maker, a place and an orientation."""
    block = Image.Exif()
    block[0x010F] = SECRET.decode()
    block[0x0112] = orientation
    place = block.get_ifd(0x8825)
    place[1], place[0x1B] = "N", SECRET
    return block


def with_metadata(
    source_format: SourceFormat, image: Image.Image | None = None, **settings: Any
) -> bytes:
    """Return an image with everything that people leave in it."""
    image = image or photo(64, 48)
    xmp = b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>"
    block = exif().tobytes() + SECRET  # a thumbnail lies at the end
    match source_format:
        case SourceFormat.JPEG:
            told = {"exif": block, "comment": SECRET, "xmp": xmp, "progressive": True}
            data = saved(image, "JPEG", **told | settings)
            data = data[:2] + _iptc_segment() + data[2:]
        case SourceFormat.PNG:
            texts = PngImagePlugin.PngInfo()
            texts.add_text("Author", SECRET.decode())
            texts.add_text("Author", SECRET.decode(), zip=True)
            texts.add_itxt("XML:com.adobe.xmp", xmp)
            data = saved(image, "PNG", exif=block, pnginfo=texts, dpi=(72, 72), **settings)
        case SourceFormat.GIF:
            data = animation("GIF", comment=SECRET)
            said = bytes([len(SECRET)]) + SECRET + b"\0"
            extensions = b"!\xff\x0bXMP DataXMP" + said + b"!\x01\x0c" + bytes(12) + said
            at = data.index(b"!\xf9")
            data = data[:at] + extensions + data[at:]
        case SourceFormat.TIFF:
            tags = {270: SECRET.decode(), 315: SECRET.decode(), 700: xmp, 33723: SECRET}
            data = saved(image, "TIFF", exif=exif(), tiffinfo=tags)
        case SourceFormat.BMP:
            data = saved(image, "BMP")
        case _:
            data = saved(image, source_format, exif=block, xmp=xmp, **settings)
    return data + SECRET


def _iptc_segment() -> bytes:
    """Return a JPEG's segment of Photoshop's resources with IPTC in it."""
    resources = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(SECRET)) + SECRET
    return b"\xff\xed" + struct.pack(">H", 2 + len(resources)) + resources


def laid(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image as a camera stores it that says `orientation` for the upright one."""
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    return image.transpose(turn) if turn is not None else image


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    """Return a PNG chunk."""
    checksum = struct.pack(">I", zlib.crc32(kind + payload))
    return struct.pack(">I", len(payload)) + kind + payload + checksum


def png(depth: int, colour_type: int, rows: list[bytes], *chunks: bytes) -> bytes:
    """Return a PNG made by hand, of rows of packed samples; all rows have 8 bits a byte."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    width = len(rows[0]) * 8 // (depth * samples)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", pixels)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + png_chunk(b"IEND", b"")


def jpeg_of_planes(*planes: Image.Image, sampling: int = 0x11) -> bytes:
    """Return a baseline JPEG with a scan for each plane.

    `sampling`: how much larger the first is than the others, across in the upper four bits.
    """
    jpegs = [saved(plane, "JPEG", quality=90) for plane in planes]
    frame, scan = (jpegs[0].index(marker) for marker in (b"\xff\xc0", b"\xff\xda"))
    factors = [sampling] + [0x11] * (len(planes) - 1)
    components = b"".join(bytes([number, by, 0]) for number, by in enumerate(factors, 1))
    header = jpegs[0][frame + 4 : frame + 9] + bytes([len(planes)]) + components
    pieces = [jpegs[0][:frame], b"\xff\xc0", struct.pack(">H", 2 + len(header)), header]
    pieces.append(jpegs[0][frame + 13 : scan])
    for number, jpeg in enumerate(jpegs, 1):
        pieces += [b"\xff\xda\0\x08\1", bytes([number]), b"\0\0\x3f\0"]
        pieces.append(jpeg[jpeg.index(b"\xff\xda") + 10 : -2])
    return b"".join(pieces) + b"\xff\xd9"
