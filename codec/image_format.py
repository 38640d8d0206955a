"""What kinds of image there are, and which of them some bytes are, by their content alone.

Owns the names of what is taken and of what is stored, and the signatures: of the kinds that are
taken, of those that are known but not taken, and the difference between these and what is no
image at all. Looks at the first bytes only; whether the rest is whole and sound is for
`image_metadata` and the decoders.
"""

from __future__ import annotations

import re
from enum import StrEnum

from errors import ErrorCode, ImageError


class SourceFormat(StrEnum):
    """The kinds that are taken. The values are Pillow's names."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WEBP"
    GIF = "GIF"
    BMP = "BMP"
    TIFF = "TIFF"
    AVIF = "AVIF"


class TargetFormat(StrEnum):
    """What can be stored."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"
    AVIF = "avif"


def identify(data: bytes) -> SourceFormat:
    """Tell the kind of image. Raises ImageError `not_an_image` or `unsupported_format`."""
    head = data[:4096]
    for signature, source_format in _TAKEN:
        if signature.match(head):
            return source_format
    if head[4:8] == b"ftyp":
        return _identify_by_brands(head)
    for signature, name in _NOT_TAKEN:
        if signature.match(head):
            raise unsupported(name)
    if not data:
        raise ImageError(ErrorCode.NOT_AN_IMAGE, "The file is empty.")
    if _MARKUP.match(head):
        raise ImageError(ErrorCode.NOT_AN_IMAGE, "The file is a web page or other text.")
    raise ImageError(ErrorCode.NOT_AN_IMAGE, "The file is not an image.")


def unsupported(name: str) -> ImageError:
    """Return the error for an image of a kind that is not taken, `name` with its article."""
    return ImageError(
        ErrorCode.UNSUPPORTED_FORMAT,
        f"The file is {name}; JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF are taken.",
    )


def _identify_by_brands(head: bytes) -> SourceFormat:
    """Read the brands of an ISO base media file (ISO/IEC 14496-12 section 4.3)."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12]} | {head[at : at + 4] for at in range(16, size - 3, 4)}
    if brands & {b"avif", b"avis"}:
        return SourceFormat.AVIF
    if brands & _HEIF_BRANDS:
        raise unsupported("a HEIC image")
    if b"crx " in brands:
        raise unsupported("a camera's raw image")
    raise ImageError(ErrorCode.NOT_AN_IMAGE, "The file is a video or sound, not an image.")


_HEIF_BRANDS = {
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"msf1", b"mif2", b"miaf", b"jpeg", b"avci", b"vvic"),
}


def _compile(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


_TAKEN = [
    (_compile(rb"\xff\xd8\xff"), SourceFormat.JPEG),
    (_compile(rb"\x89PNG\r\n\x1a\n"), SourceFormat.PNG),
    (_compile(rb"RIFF....WEBP"), SourceFormat.WEBP),
    (_compile(rb"GIF8[79]a"), SourceFormat.GIF),
    # The header's own size follows the 14 bytes of the file header; "BM" alone is also text.
    (_compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"), SourceFormat.BMP),
    # Canon's raw images call themselves TIFF too.
    (_compile(rb"(?:II[*+]\0|MM\0[*+])(?!.{4}CR)"), SourceFormat.TIFF),
]

_NOT_TAKEN = [
    (
        _compile(rb"(?:\xef\xbb\xbf)?\s*<(?:svg[\s/>]|(?:\?xml|!--|!DOCTYPE svg).*<svg[\s/>])"),
        "an SVG",
    ),
    (_compile(rb"\0\0[\x01\x02]\0[^\0]\0"), "an icon"),
    (_compile(rb"icns"), "an icon"),
    (_compile(rb"8BPS"), "a Photoshop document"),
    (_compile(rb"gimp xcf"), "a GIMP document"),
    (_compile(rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"), "a JPEG XL image"),
    (_compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "a JPEG 2000 image"),
    (_compile(rb"II\xbc"), "a JPEG XR image"),
    (_compile(rb"II[*]\0.{4}CR|IIRO|IIU\0|FUJIFILMCCD-RAW"), "a camera's raw image"),
    (_compile(rb"\x8aMNG|\x8bJNG"), "an MNG or JNG image"),
    (_compile(rb"qoif"), "a QOI image"),
    (_compile(rb"FLIF"), "a FLIF image"),
    (_compile(rb"BPG\xfb"), "a BPG image"),
    (_compile(rb"DDS "), "a DDS texture"),
    (_compile(rb"\x76\x2f\x31\x01"), "an OpenEXR image"),
    (_compile(rb"#\?(?:RADIANCE|RGBE)"), "a Radiance image"),
    (_compile(rb"P[1-7][ \t\r\n]"), "a PNM image"),
    (_compile(rb"farbfeld"), "a farbfeld image"),
    (_compile(rb"%!PS-Adobe|\xc5\xd0\xd3\xc6"), "a PostScript document"),
    (_compile(rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF"), "a Windows metafile"),
    (_compile(rb"\x0a[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]"), "a PCX image"),
    (_compile(rb"\x01\xda[\0\x01][\x01\x02]"), "an SGI image"),
    (_compile(rb"\x59\xa6\x6a\x95"), "a Sun raster image"),
    (_compile(rb"/\* XPM \*/|#define \w+_width "), "an X pixmap"),
    (_compile(rb"AT&TFORM"), "a DjVu document"),
    (_compile(rb"SIMPLE  ="), "a FITS image"),
    (_compile(rb".{128}DICM"), "a DICOM image"),
]

_MARKUP = _compile(rb"(?:\xef\xbb\xbf)?\s*[<{\[]")
