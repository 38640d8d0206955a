"""Images that promise or cost more than they are, each with what has to become of it.

    for name, (data, code) in BOMBS.items():

`code` is that of the failure, None where a sound image has to come out. They are small to send,
and made anew each time.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from tests.images import animation, exif, photo, png_chunk, saved

_PNG = b"\x89PNG\r\n\x1a\n"
_SCRIPT = b"<script>alert(1)</script>"


def _png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = pixels or zlib.compress(bytes((1 + 3 * width) * height), 9)
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", packed)]
    return _PNG + b"".join(parts) + png_chunk(b"IEND", b"")


def _unpacking_to(megabytes: int) -> bytes:
    """Return what unpacks to so many megabytes of zeros; its one block is packed only once."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = ((megabytes << 20) % 65521 << 16) + 1  # Adler-32 of zeros
    return b"\x78\xda" + block * megabytes + packer.flush() + struct.pack(">I", checksum)


def _after(marker: bytes, data: bytes, skip: int, content: bytes) -> bytes:
    """Return the data with other content some bytes behind the start of a marker."""
    at = data.index(marker) + skip
    return data[:at] + content + data[at + len(content) :]


def _segment(code: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, 2 + len(payload)) + payload


def _with_head(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def _gif(
    width: int, height: int, *frames: tuple[int, int, int, int], extension: bytes = b""
) -> bytes:
    blocks = [b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"]
    blocks.append(extension)
    blocks += [b"," + struct.pack("<HHHHB", *frame, 0) + b"\2\2\x44\1\0" for frame in frames]
    return b"".join(blocks) + b";"


def _webp(width: int, height: int) -> bytes:
    """Return an animation of one small frame on a canvas of that size."""
    frame = bytes(6) + b"\x0f\0\0\x0f\0\0" + b"\x64\0\0\0" + saved(photo(16, 16), "WEBP")[12:]
    canvas = b"\2\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = [(b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"".join(kind + struct.pack("<I", len(payload)) + payload for kind, payload in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _tiff(fields: dict[int, int], pixels: bytes, following: int = 0) -> bytes:
    """Return a TIFF of 8 by 8 pixels but for other fields; its pixels lie at 200."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: len(pixels)}
    entries = sorted((tags | fields).items())
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory
    return (head + struct.pack("<I", following)).ljust(200, b"\0") + pixels


def _bmp(width: int, height: int, compression: int, pixels: bytes) -> bytes:
    fields = (40, width, height, 1, 8, compression, len(pixels), 0, 0, 0, 0)
    size = 54 + 1024 + len(pixels)
    head = (
        b"BM" + struct.pack("<IHHI", size, 0, 0, 54 + 1024) + struct.pack("<IiiHHIIiiII", *fields)
    )
    return head + bytes(1024) + pixels


def _box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", 8 + len(payload)) + kind + payload


_JPEG = saved(photo(64, 48), "JPEG")
_PROGRESSIVE = saved(photo(64, 48), "JPEG", progressive=True)
_LAST_SCAN = _PROGRESSIVE[_PROGRESSIVE.rindex(b"\xff\xda") : -2]
_AVIF = saved(photo(64, 48), "AVIF")
_GIGABYTE = _unpacking_to(1024)
_MANY_SIDED = struct.pack(">HH", 65_500, 65_500)
_NESTED = b""
for _ in range(2000):
    _NESTED = _box(b"moov", _NESTED)

BOMBS: dict[str, tuple[bytes, str | None]] = {
    "a PNG of 3.6 billion pixels": (_png(60_000, 60_000, pixels=b"x"), "too_many_pixels"),
    "a PNG with a gigabyte for 8 pixels": (_png(8, 1, pixels=_GIGABYTE), None),
    "a PNG with few of its pixels": (_png(900, 900, pixels=zlib.compress(b"x")), "truncated"),
    "a PNG with a gigabyte of text": (_png(8, 8, png_chunk(b"zTXt", b"a\0\0" + _GIGABYTE)), None),
    "a PNG with a gigabyte of XMP": (
        _png(8, 8, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _GIGABYTE)), None),
    "a PNG with a gigabyte of profile": (
        _png(8, 8, png_chunk(b"iCCP", b"p\0\0" + _GIGABYTE)), None),
    "a PNG of 200,000 chunks": (_png(8, 8, png_chunk(b"tEXt", b"a\0") * 200_000), "decode_error"),
    "an animation that says 2 billion frames": (
        _after(b"acTL", animation("PNG"), 4, b"\x7f\xff\xff\xff"), "too_many_frames"),
    "an animation of 10,000 frames": (_gif(1, 1, *[(0, 0, 1, 1)] * 10_000), "too_many_frames"),
    "a GIF on a giant screen": (_gif(65_535, 65_535, (0, 0, 1, 1)), "too_many_pixels"),
    "a GIF far outside its screen": (_gif(9, 9, (65_000, 65_000, 9, 9)), "too_many_pixels"),
    "a GIF of 200,000 comments": (
        _gif(9, 9, (0, 0, 1, 1), extension=b"!\xfe\1a\0" * 200_000), "decode_error"),
    "a WebP on a giant canvas": (_webp(1 << 24, 1 << 24), "too_many_pixels"),
    "a JPEG of 4.3 billion pixels": (_after(b"\xff\xc0", _JPEG, 5, _MANY_SIDED), "too_many_pixels"),
    "a JPEG with few of its pixels": (
        _after(b"\xff\xc0", _JPEG, 5, b"\x04\0\x04\0"), "truncated"),
    "a progressive JPEG with few of its pixels": (
        _after(b"\xff\xc2", _PROGRESSIVE, 5, b"\x04\0\x04\0"), "truncated"),
    "a JPEG of 2,000 scans": (_PROGRESSIVE[:-2] + _LAST_SCAN * 2000 + b"\xff\xd9", "decode_error"),
    "a JPEG of 200,000 segments": (
        _with_head(_JPEG, _segment(0xE1, b"Exif\0\0MM\0*") * 200_000), "decode_error"),
    "a JPEG behind a megabyte of filling": (_with_head(_JPEG, b"\xff" * (1 << 20)), None),
    "a JPEG with a profile of junk": (
        _with_head(_JPEG, *(
            _segment(0xE2, b"ICC_PROFILE\0" + bytes([part, 255]) + bytes(2000))
            for part in range(1, 256)
        )), None),
    "a JPEG with EXIF that is nowhere": (
        _with_head(_JPEG, _segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff")), None),
    "a JPEG that lies in a ninth way": (saved(photo(64, 48), "JPEG", exif=exif(9)), None),
    "a JPEG of 12 bits": (_after(b"\xff\xc0", _JPEG, 4, b"\x0c"), "unsupported_format"),
    "a JPEG and a script": (_JPEG + _SCRIPT, None),
    "a GIF and a script": (saved(photo(64, 48).quantize(), "GIF") + _SCRIPT, None),
    "a TIFF whose pages go round in circles": (_tiff({330: 8, 34665: 8}, bytes(64), 8), None),
    "a TIFF of absurd tiles": (
        _tiff({322: 30_000, 323: 30_000, 324: 200, 325: 64}, bytes(64)), "decode_error"),
    "a TIFF of 18 quintillion pixels": (
        _tiff({256: 2**32 - 1, 257: 2**32 - 1}, bytes(64)), "too_many_pixels"),
    "a TIFF with its pixels elsewhere": (_tiff({273: 2**32 - 1}, bytes(64)), "truncated"),
    "a BMP that jumps over its pixels": (
        _bmp(60_000, 60_000, 1, b"\0\2\xff\xff" * 99 + b"\0\1"), "too_many_pixels"),
    "a BMP with a JPEG inside": (_bmp(64, 48, 4, _JPEG), "unsupported_format"),
    "an AVIF of boxes in boxes": (_box(b"ftyp", b"avif" * 4) + _NESTED, "decode_error"),
    "an AVIF of another size than its pixels": (
        _after(b"ispe", _AVIF, 8, struct.pack(">II", 65_535, 65_535)), "decode_error"),
    "a sequence of 2 billion frames": (
        _after(b"stsz", animation("AVIF"), 12, b"\x7f\xff\xff\xff"), "decode_error"),
    "a PostScript program": (saved(Image.new("RGB", (9, 9)), "EPS"), "unsupported_format"),
    "an SVG with an entity": (
        b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "unsupported_format"),
    "a Photoshop document": (b"8BPS\0\1" + bytes(99), "unsupported_format"),
    "a HEIC image": (_box(b"ftyp", b"heic\0\0\0\0mif1heic"), "unsupported_format"),
    "a JPEG 2000 image": (saved(Image.new("RGB", (9, 9)), "JPEG2000"), "unsupported_format"),
    "a FITS image": (b"SIMPLE  =                    T".ljust(2880), "unsupported_format"),
    "a web page": (b"<!doctype html>" + _SCRIPT, "not_an_image"),
}  # fmt: skip
