"""Containers are walked to their end, and what is no picture is taken out of them."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from codec import container_png
from codec.image_format import SourceFormat
from codec.image_metadata import strip, survey
from errors import ImageError
from tests.images import (
    SECRET,
    animation,
    exif,
    jpeg_of_planes,
    opened,
    photo,
    png,
    png_chunk,
    saved,
    with_metadata,
)
from tests.odd_images.profiles import ADOBE_RGB

STORED = [SourceFormat(name) for name in ("JPEG", "PNG", "WEBP", "GIF", "AVIF")]


def pixels(data: bytes) -> list[bytes]:
    """Return the pixels of every frame."""
    image = opened(data)
    frames = []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        frames.append(image.convert("RGBA").tobytes())
    return frames


@pytest.mark.parametrize("source_format", STORED)
def test_strips_everything_but_the_picture(source_format: SourceFormat) -> None:
    """Maker, place, comments and trailing bytes go; every pixel stays."""
    data = with_metadata(source_format)
    assert data.count(SECRET) >= 3
    stripped = strip(source_format, data, keep_profile=False)
    assert SECRET not in stripped
    assert pixels(stripped) == pixels(data)
    info = opened(stripped).info
    assert not info.keys() & {"exif", "xmp", "comment", "dpi", "Author"}
    assert survey(source_format, stripped, 9).end == len(stripped)


@pytest.mark.parametrize("source_format", STORED)
def test_stripping_twice_changes_nothing(source_format: SourceFormat) -> None:
    """What is clean stays as it is, byte for byte."""
    once = strip(source_format, with_metadata(source_format), keep_profile=False)
    assert strip(source_format, once, keep_profile=False) == once


@pytest.mark.parametrize("source_format", STORED)
def test_every_cut_is_noticed(source_format: SourceFormat) -> None:
    """However short a file is cut, its walk ends in an error."""
    data = strip(source_format, with_metadata(source_format), keep_profile=False)
    for size in [*range(12, 200, 7), *range(200, len(data), 97), len(data) - 1]:
        with pytest.raises(ImageError) as caught:
            survey(source_format, data[:size], 9)
        assert caught.value.code in {"truncated", "decode_error"}, size
    assert caught.value.code == "truncated"


@pytest.mark.parametrize(
    ("source_format", "settings"),
    [
        (SourceFormat.JPEG, {}),
        (SourceFormat.JPEG, {"progressive": True}),
        (SourceFormat.JPEG, {"restart_marker_rows": 1}),
        (SourceFormat.PNG, {}),
        (SourceFormat.WEBP, {}),
        (SourceFormat.WEBP, {"lossless": True}),
        (SourceFormat.WEBP, {"exif": exif()}),
        (SourceFormat.GIF, {}),
    ],
)
def test_reads_the_size(source_format: SourceFormat, settings: dict[str, Any]) -> None:
    """Width and height come from the headers, whatever stands before them."""
    structure = survey(source_format, saved(photo(70, 50), source_format, **settings), 9)
    assert (structure.width, structure.height, structure.frames) == (70, 50, 1)
    assert structure.is_lossless == ("lossless" in settings)
    is_jpeg, is_progressive = source_format is SourceFormat.JPEG, "progressive" in settings
    assert structure.scans == (10 if is_progressive else 1 if is_jpeg else 0)


@pytest.mark.parametrize("source_format", [SourceFormat.PNG, SourceFormat.WEBP, SourceFormat.GIF])
def test_counts_frames_and_stops_at_the_limit(source_format: SourceFormat) -> None:
    """The number of frames is known without decoding; one too many is an error."""
    data = animation(source_format, frames=4)
    assert survey(source_format, data, 4).frames == 4
    with pytest.raises(ImageError) as caught:
        survey(source_format, data, 3)
    assert caught.value.code == "too_many_frames"


@pytest.mark.parametrize("progressive", [False, True])
def test_what_the_survey_found_needs_no_second_walk(*, progressive: bool) -> None:
    """A JPEG is stripped by the segments of its survey as by a walk of its own."""
    data = with_metadata(SourceFormat.JPEG, progressive=progressive)
    structure = survey(SourceFormat.JPEG, data, 1)
    walked = strip(SourceFormat.JPEG, data, keep_profile=True)
    assert strip(SourceFormat.JPEG, data, keep_profile=True, structure=structure) == walked
    without = replace(structure, segments=structure.segments[:-1])
    assert strip(SourceFormat.JPEG, data, keep_profile=True, structure=without) == walked[:-2]


@pytest.mark.parametrize("source_format", [SourceFormat.JPEG, SourceFormat.PNG, SourceFormat.WEBP])
@pytest.mark.parametrize("keep", [True, False])
def test_keeps_the_profile_when_asked(source_format: SourceFormat, keep: bool) -> None:  # noqa: FBT001  a table's column
    """The profile defines the colours, so it may have to stay."""
    data = saved(photo(), source_format, icc_profile=ADOBE_RGB, exif=exif())
    stripped = strip(source_format, data, keep_profile=keep)
    assert opened(stripped).info.get("icc_profile") == (ADOBE_RGB if keep else None)
    assert SECRET not in stripped


@pytest.mark.parametrize("source_format", [SourceFormat.JPEG, SourceFormat.PNG, SourceFormat.WEBP])
def test_can_leave_the_orientation_alone(source_format: SourceFormat) -> None:
    """An image that can't be turned keeps the one field that says which way is up."""
    data = saved(photo(), source_format, exif=exif(6))
    stripped = strip(source_format, data, keep_profile=False, orientation=6)
    assert SECRET not in stripped
    assert dict(opened(stripped).getexif()) == {0x0112: 6}


def test_keeps_how_a_cmyk_jpeg_is_to_be_read() -> None:
    """Without Adobe's segment the colours of a CMYK JPEG can't be told."""
    data = saved(photo(mode="CMYK"), "JPEG")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x00"
    data = data.replace(b"\xff\xee", b"\xff\xec", 1)
    data = data[:2] + adobe + data[2:]
    assert adobe in strip(SourceFormat.JPEG, data, keep_profile=False)


def test_drops_what_hides_behind_known_names() -> None:
    """Segments and extensions that stay are stripped of more than their standard fields."""
    jfif = b"\xff\xe0\x00\x24JFIF\0\1\1\0\0\1\0\1\0\0" + SECRET
    data = saved(photo(), "JPEG")
    stripped = strip(SourceFormat.JPEG, data[:2] + jfif + data[20:], keep_profile=False)
    assert SECRET not in stripped
    assert stripped[2:11] == b"\xff\xe0\x00\x10JFIF\0"
    loop = b"\3\1\0\0\0"
    data = animation("GIF")
    hidden = data.replace(loop, loop[:-1] + bytes([len(SECRET)]) + SECRET + b"\0", 1)
    assert SECRET in hidden
    assert strip(SourceFormat.GIF, hidden, keep_profile=False) == data


def test_what_belonged_to_a_text_goes_with_it() -> None:
    """A control block that was meant for a text must not reach the next frame."""
    data = animation("GIF")
    at = data.index(b"!\xf9")
    text = b"!\xf9\x04\x0d\x63\0\1\0" + b"!\x01\x0c" + bytes(13)
    assert strip(SourceFormat.GIF, data[:at] + text + data[at + 8 :], keep_profile=False) == (
        data[:at] + data[at + 8 :]
    )


def test_an_avif_without_its_pixels_is_cut_short() -> None:
    """A cut between two boxes is seen by what the directory promises."""
    data = saved(photo(), "AVIF")
    with pytest.raises(ImageError) as caught:
        survey(SourceFormat.AVIF, data[: data.index(b"mdat") - 4], 9)
    assert caught.value.code == "truncated"


def test_drops_what_hides_inside_the_frames_of_a_webp() -> None:
    """Frames have chunks of their own."""
    data = animation("WEBP")
    at = data.index(b"ANMF")
    (size,) = struct.unpack("<I", data[at + 4 : at + 8])
    hidden = b"NOTE" + struct.pack("<I", len(SECRET)) + SECRET
    frame = data[at + 8 : at + 8 + size] + hidden
    body = data[8:at] + b"ANMF" + struct.pack("<I", len(frame)) + frame + data[at + 8 + size :]
    assert strip(
        SourceFormat.WEBP, b"RIFF" + struct.pack("<I", len(body)) + body, keep_profile=False
    ) == strip(SourceFormat.WEBP, data, keep_profile=False)


def test_blanks_private_boxes_of_an_avif() -> None:
    """A box of unknown purpose keeps its place and loses its content."""
    data = saved(photo(), "AVIF")
    box = struct.pack(">I", 8 + 16 + len(SECRET)) + b"uuid" + bytes(16) + SECRET
    stripped = strip(SourceFormat.AVIF, data + box, keep_profile=False)
    assert len(stripped) == len(data + box)
    assert SECRET not in stripped
    assert pixels(stripped) == pixels(data)


def test_notices_a_png_with_too_few_pixels() -> None:
    """Every row has to be there, also of interlaced images and of each frame."""
    rows = [bytes(16)] * 16
    whole = png(8, 0, rows)
    assert container_png.has_whole_pixels(whole)
    short = whole.replace(struct.pack(">II", 16, 16), struct.pack(">II", 16, 17))
    assert not container_png.has_whole_pixels(short)
    assert container_png.has_whole_pixels(animation("PNG"))
    passes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]  # of 8 x 8 pixels
    raw = b"".join((b"\0" + bytes(width)) * height for width, height in passes)
    for packed, is_whole in ((raw, True), (raw[:-1], False)):
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1))
        pixels = png_chunk(b"IDAT", zlib.compress(packed))
        interlaced = whole[:8] + header + pixels + png_chunk(b"IEND", b"")
        assert container_png.has_whole_pixels(interlaced) == is_whole


@pytest.mark.parametrize(
    "data",
    [
        *(saved(photo(mode=mode), "JPEG", progressive=True) for mode in ("L", "RGB", "CMYK")),
        jpeg_of_planes(*photo().split()),
    ],
)
def test_a_jpeg_has_all_its_scans(data: bytes) -> None:
    """A scan too few is noticed even where an end follows; a decoder would show a blur."""
    assert opened(data).size == (160, 120)
    assert survey(SourceFormat.JPEG, data, 9).end == len(data)
    scans = [match.start() for match in re.finditer(b"\xff\xda", data)]
    assert len(scans) > 2
    for start, following in pairwise(scans):
        for cut in ((start + following) // 2, following):
            with pytest.raises(ImageError) as caught:
                survey(SourceFormat.JPEG, data[:cut] + b"\xff\xd9", 9)
            assert caught.value.code == "truncated"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xd8\xff\xd9", "decode_error"),
        (b"\xff\xd8\xff\xe0", "truncated"),
        (b"\xff\xd8\xff\xf7\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xd9", "unsupported_format"),
        (b"\xff\xd8\xff\xc0\0\x0b\x0c\0\1\0\1\1\1\x11\0\xff\xd9", "unsupported_format"),
    ],
)
def test_refuses_odd_jpegs(data: bytes, code: str) -> None:
    """No picture, half a segment, JPEG-LS, twelve bits: each has its code."""
    with pytest.raises(ImageError) as caught:
        survey(SourceFormat.JPEG, data, 9)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("chunks", "code"),
    [
        ([png_chunk(b"CgBI", bytes(4))], "unsupported_format"),
        ([png_chunk(b"tEXt", b"a\0b"), png_chunk(b"IEND", b"")], "decode_error"),
        ([png_chunk(b"IHDR", bytes(13)), png_chunk(b"IEND", b"")], "decode_error"),
        ([b"\xff\xff\xff\xffIHDR"], "truncated"),
    ],
)
def test_refuses_odd_pngs(chunks: list[bytes], code: str) -> None:
    """Apple's variant, no header, no pixels, a chunk without end: each has its code."""
    with pytest.raises(ImageError) as caught:
        survey(SourceFormat.PNG, b"\x89PNG\r\n\x1a\n" + b"".join(chunks), 9)
    assert caught.value.code == code


@pytest.mark.parametrize("source_format", STORED)
def test_refuses_a_file_of_absurdly_many_parts(
    source_format: SourceFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes each, they would take minutes."""
    data = with_metadata(source_format)
    survey(source_format, data, 9)
    monkeypatch.setattr("codec.container_structure._MAX_PARTS", 2)
    with pytest.raises(ImageError, match="too many pieces") as caught:
        survey(source_format, data, 9)
    assert caught.value.code == "decode_error"


def test_the_zeros_between_the_blocks_of_a_gif_are_parts() -> None:
    """A few are a common mistake, millions are a way to keep us busy."""
    data = animation("GIF")
    survey(SourceFormat.GIF, data[:-1] + bytes(1000) + data[-1:], 9)
    with pytest.raises(ImageError, match="too many pieces"):
        survey(SourceFormat.GIF, data[:-1] + bytes(100_000) + data[-1:], 9)


def test_the_parts_of_all_frames_of_a_webp_are_counted() -> None:
    """Each frame has parts of its own, and there may be many frames."""
    data = animation("WEBP", frames=3)

    def survey_with(parts: int) -> None:
        body = data[8 : data.index(b"ANMF")]
        for frame in data.split(b"ANMF")[1:]:
            payload = frame[4:] + (b"NOTE" + bytes(4)) * parts
            body += b"ANMF" + struct.pack("<I", len(payload)) + payload
        survey(SourceFormat.WEBP, b"RIFF" + struct.pack("<I", len(body)) + body, 9)

    survey_with(33_000)
    with pytest.raises(ImageError, match="too many pieces"):
        survey_with(34_000)


def test_a_jpeg_has_no_thousand_scans() -> None:
    """Each scan goes over every pixel, and an empty one takes next to no bytes."""
    data = saved(photo(64, 48, "L"), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    survey(SourceFormat.JPEG, data[:-2] + scan * 400 + data[-2:], 9)
    with pytest.raises(ImageError, match="500 scans") as caught:
        survey(SourceFormat.JPEG, data[:-2] + scan * 500 + data[-2:], 9)
    assert caught.value.code == "decode_error"


def test_an_animation_is_as_long_as_it_says() -> None:
    """A PNG that announces more frames than may be is judged by that alone."""
    data = animation("PNG", frames=3)
    at = data.index(b"acTL") + 4
    liar = data[:at] + struct.pack(">I", 2**31 - 1) + data[at + 4 :]
    with pytest.raises(ImageError) as caught:
        survey(SourceFormat.PNG, liar, 9)
    assert caught.value.code == "too_many_frames"


def test_an_animation_says_once_that_it_is_one() -> None:
    """Of a PNG that says it twice, viewers show different pictures."""
    data = animation("PNG", frames=3)
    at = data.index(b"acTL") - 4
    with pytest.raises(ImageError, match="twice") as caught:
        survey(SourceFormat.PNG, data[:at] + data[at : at + 20] + data[at:], 9)
    assert caught.value.code == "decode_error"


def _box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", 8 + len(payload)) + kind + payload


def test_the_boxes_of_an_avif_are_not_followed_without_end() -> None:
    """Thousands of boxes, one inside the other, are no reason to run out of stack."""
    nested = b""
    for _ in range(3000):
        nested = _box(b"moov", nested)
    assert survey(SourceFormat.AVIF, nested, 9).end == len(nested)
    assert len(strip(SourceFormat.AVIF, nested, keep_profile=False)) == len(nested)


def test_the_extents_of_an_avif_take_bytes() -> None:
    """A directory whose entries have no size can promise billions of them."""
    item = struct.pack(">HHH", 1, 0, 65535)
    iloc = _box(b"iloc", bytes(6) + struct.pack(">H", 1000) + item * 1000)
    with pytest.raises(ImageError, match="too many pieces"):
        survey(SourceFormat.AVIF, _box(b"meta", bytes(4) + iloc), 9)


def _repeat_exif(avif: bytes, times: int) -> bytes:
    """Return an AVIF whose Exif item lies `times` over the whole file."""
    iinf = _box(b"iinf", bytes(4) + b"\0\1" + _box(b"infe", b"\2\0\0\0\0\1\0\0Exif\0"))
    span = struct.pack(">II", 0, len(avif))
    iloc = bytes(4) + b"\x44\0" + struct.pack(">HHHH", 1, 1, 0, times) + span * times
    return avif + _box(b"meta", bytes(4) + iinf + _box(b"iloc", iloc))


def test_metadata_of_an_avif_are_blanked_once() -> None:
    """Items that lie over each other would make blanking them endless."""
    avif = saved(photo(64, 48), "AVIF")
    assert strip(SourceFormat.AVIF, _repeat_exif(avif, 1), keep_profile=False)
    with pytest.raises(ImageError, match="overlap"):
        strip(SourceFormat.AVIF, _repeat_exif(avif, 3), keep_profile=False)


def test_an_avif_sequence_does_not_tell_its_date() -> None:
    """When it was made is nobody's business, and no picture."""
    data = animation("AVIF")
    at = data.index(b"mvhd") + 8
    assert any(data[at : at + 16])
    assert not any(strip(SourceFormat.AVIF, data, keep_profile=False)[at : at + 16])
    assert pixels(strip(SourceFormat.AVIF, data, keep_profile=False)) == pixels(data)
