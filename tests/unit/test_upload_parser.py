"""An upload's body in pieces: forms, plain CSV, limits, and everything malformed."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import HttpError
from upload_parser import (
    MAX_OPTION_BYTES,
    MAX_OPTIONS,
    MAX_PART_HEADER_BYTES,
    MAX_PART_HEADERS,
    UploadParser,
)

FORM = "multipart/form-data; boundary=XyZ"
CSV = b"S. No.,Product Name,URLs\r\n1,Vase,http://a/1\r\n--XyZ\r\n\r\n--Xy"
FILE = 'form-data; name="file"; filename="products.csv"'
ROOM = 1_000_000


def part(disposition: str, content: bytes, *headers: str) -> bytes:
    """Return one part with the boundary before it."""
    lines = [f"Content-Disposition: {disposition}", *headers]
    return b"--XyZ\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"


def option(name: str, value: bytes) -> bytes:
    """Return the part of one option."""
    return part(f'form-data; name="{name}"', value)


def form(*parts: bytes) -> bytes:
    """Return a whole body."""
    return b"".join(parts) + b"--XyZ--\r\n"


A_FILE = part(FILE, CSV.replace(b"--XyZ", b"--xYz"), "Content-Type: text/csv")
A_CSV = CSV.replace(b"--XyZ", b"--xYz")


def parse(
    body: bytes,
    content_type: str = FORM,
    *,
    step: int = 0,
    length: int | None = None,
    room: int = ROOM,
) -> tuple[dict[str, str], bytes]:
    """Feed a body in pieces of `step` bytes and return the options and the CSV."""
    file = io.BytesIO()
    parser = UploadParser(content_type, len(body) if length is None else length, file, room)
    step = step or max(1, len(body))
    for start in range(0, len(body), step):
        parser.feed(body[start : start + step])
    return parser.finish(), file.getvalue()


def status_of(body: bytes, content_type: str = FORM, **how: int) -> int:
    """Return the status with which a body is refused."""
    with pytest.raises(HttpError) as refused:
        parse(body, content_type, **how)
    return refused.value.status


def test_a_form_split_at_every_byte() -> None:
    """Wherever a body is cut in two, the same file and options come out."""
    body = form(option("format", b"webp"), A_FILE, option("quality", "80\u00e9".encode()))
    expected = ({"format": "webp", "quality": "80\u00e9"}, A_CSV)
    for cut in range(len(body) + 1):
        file = io.BytesIO()
        parser = UploadParser(FORM, len(body), file, ROOM)
        parser.feed(body[:cut])
        parser.feed(body[cut:])
        assert (parser.finish(), file.getvalue()) == expected


@pytest.mark.parametrize("step", [1, 2, 3, 5, 11, 64])
def test_a_form_in_small_pieces(step: int) -> None:
    """The size of the pieces makes no difference either."""
    assert parse(form(A_FILE, option("strict", b"true")), step=step) == ({"strict": "true"}, A_CSV)


def test_the_file_may_have_no_name_and_no_content() -> None:
    """A part named file is the file, with or without a file name."""
    assert parse(form(part('form-data; name="file"', b""))) == ({}, b"")


def test_the_csv_may_be_large() -> None:
    """A file as large as allowed goes through; the rest of the form doesn't count."""
    content = b"x\r\n" * 100_000
    body = form(part(FILE, content), option("format", b"jpeg"))
    assert parse(body, step=65_536, room=300_000)[1] == content


@pytest.mark.parametrize("step", [0, 1, 4])
def test_a_line_break_may_come_first(step: int) -> None:
    """RFC 2046 counts it as part of the boundary."""
    assert parse(b"\r\n" + form(A_FILE), step=step) == ({}, A_CSV)


def test_the_last_line_break_may_be_missing() -> None:
    """Some clients end with the last boundary itself."""
    assert parse(form(A_FILE).removesuffix(b"\r\n")) == ({}, A_CSV)


@pytest.mark.parametrize(
    "content_type",
    ["text/csv", "Text/CSV; charset=UTF-8", 'text/csv; header=present; charset="utf-16"'],
)
@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_plain_csv(content_type: str, step: int) -> None:
    """A text/csv body is the file, whatever is in it; its options come elsewhere."""
    assert parse(CSV, content_type, step=step) == ({}, CSV)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "text/plain",
        "text/csvx",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=XyZ",
        "text/csv; charset=iso-8859-1",
        "text/csv; charset=''",
    ],
)
def test_other_content_types(content_type: str) -> None:
    """Anything else is 415 before a byte is read."""
    with pytest.raises(HttpError) as refused:
        UploadParser(content_type, 10, io.BytesIO(), ROOM)
    assert refused.value.status == 415


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary="a "',
        'multipart/form-data; boundary="a\nb"',
        "multipart/form-data; boundary=é",
        "multipart/form-data; boundary=" + "x" * 71,
    ],
)
def test_bad_boundaries(content_type: str) -> None:
    """A form whose parts can't be told apart is 400."""
    with pytest.raises(HttpError) as refused:
        UploadParser(content_type, 10, io.BytesIO(), ROOM)
    assert refused.value.status == 400


def test_the_longest_boundary() -> None:
    """RFC 2046 allows 70 characters."""
    boundary = "x" * 70
    body = form(A_FILE).replace(b"--XyZ", b"--" + boundary.encode())
    assert parse(body, f'multipart/form-data; boundary="{boundary}"') == ({}, A_CSV)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"x" * 200, 400),
        (b"--XyZ--\r\n", 400),
        (form(option("format", b"webp")), 400),
        (form(A_FILE, A_FILE), 400),
        (form(part('form-data; name="csv"; filename="a.csv"', CSV[:20])), 400),
        (form(A_FILE, part('form-data; name="csv"; filename="a.csv"', b"x")), 400),
        (form(A_FILE, option("format", b"\xff")), 400),
        (form(part("form-data", CSV[:20])), 400),
        (form(part('attachment; name="file"', CSV[:20])), 400),
        (form(A_FILE).replace(b"\r\n", b"\n"), 400),
        (b"preamble\r\n" + form(A_FILE), 400),
        (form(A_FILE) + b"epilogue, longer than a boundary", 400),
        (form(A_FILE) + form(A_FILE), 400),
        (form(A_FILE)[:-5], 400),
        (A_FILE, 400),
        (form(part(FILE, b"x", "Content-Type")), 400),
        (form(part(FILE, b"x", " folded: header")), 400),
        (form(part(FILE, b"x", "X: a\nb")), 400),
        (form(part(FILE, b"x", "Content-Length: 2")), 400),
        (form(A_FILE, option("format", b"a"), option("format", b"b")), 422),
        (form(A_FILE, option("format", b"x" * (MAX_OPTION_BYTES + 1))), 413),
        (form(A_FILE, *(option(str(n), b"") for n in range(MAX_OPTIONS + 1))), 413),
        (form(part(FILE, b"x", *["X: y"] * MAX_PART_HEADERS)), 400),
        (form(part(FILE, b"x", "X: " + "y" * (MAX_PART_HEADER_BYTES - 2))), 400),
        (form(part(FILE, b"x", "X: y\n" + "y" * MAX_PART_HEADER_BYTES)), 400),
        (form(part(FILE, b"x", "\nX: y")), 400),
    ],
    ids=[
        "empty",
        "no boundary at all",
        "no part",
        "no file",
        "two files",
        "a file of another name",
        "a further file of another name",
        "an option that is not UTF-8",
        "a part without a name",
        "a part of another disposition",
        "bare line feeds",
        "text before the first boundary",
        "text after the last boundary",
        "two forms",
        "half a last boundary",
        "no last boundary",
        "a header without a colon",
        "a folded header",
        "a line feed in a header",
        "a part's length that is not right",
        "an option twice",
        "a long option",
        "many options",
        "many headers",
        "a long header",
        "a long header with a line feed",
        "a line feed before a header",
    ],
)
@pytest.mark.parametrize("step", [0, 1, 13])
def test_refused_forms(body: bytes, status: int, step: int) -> None:
    """A malformed or excessive form is refused alike however it is cut."""
    assert status_of(body, step=step) == status


def test_as_many_options_as_allowed() -> None:
    """The limits themselves are within the limits."""
    names = [str(n) for n in range(MAX_OPTIONS)]
    body = form(A_FILE, *(option(name, b"x" * MAX_OPTION_BYTES) for name in names))
    assert parse(body)[0] == dict.fromkeys(names, "x" * MAX_OPTION_BYTES)


@pytest.mark.parametrize("step", [0, 1, 13])
def test_the_longest_header(step: int) -> None:
    """A header as long as allowed is taken, also when it is cut before its line feed."""
    header = "X: " + "y" * (MAX_PART_HEADER_BYTES - 3)
    assert parse(form(part(FILE, b"x", header)), step=step) == ({}, b"x")


@pytest.mark.parametrize("content_type", [FORM, "text/csv"])
def test_a_csv_over_the_limit(content_type: str) -> None:
    """It is refused as soon as the limit is passed, with no byte beyond it written."""
    body = form(part(FILE, b"x" * 5000)) if content_type == FORM else b"x" * 5000
    file = io.BytesIO()
    parser = UploadParser(content_type, len(body), file, 1000)
    parser.feed(body[:1000])
    with pytest.raises(HttpError, match="1000 bytes") as refused:
        parser.feed(body[1000:2000])
    assert refused.value.status == 413
    assert len(file.getvalue()) <= 1000


@pytest.mark.parametrize("content_type", [FORM, "text/csv"])
def test_a_body_of_another_length(content_type: str) -> None:
    """A body that is cut short, or goes on, is 400."""
    body = form(A_FILE)
    assert status_of(body, content_type, length=len(body) + 1) == 400
    assert status_of(body, content_type, length=len(body) - 1) == 400


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_content_comes_through(content: bytes, step: int) -> None:
    """The file is what was sent, byte by byte, as long as it doesn't have the boundary."""
    if b"\r\n--XyZ" in b"\r\n" + content:
        content = b""
    assert parse(form(part(FILE, content)), step=step) == ({}, content)


PIECES = [
    b"--XyZ",
    b"\r\n",
    b"--",
    b'Content-Disposition: form-data; name="file"',
    b":",
    b"x",
    b"\n",
]


@given(
    st.sampled_from([b"", b"--XyZ\r\n", A_FILE, A_FILE[:20]]),
    st.lists(st.sampled_from(PIECES)).map(b"".join),
    st.integers(1, 40),
)
def test_any_bytes_have_one_answer(start: bytes, rest: bytes, step: int) -> None:
    """Whatever arrives is a form or an HttpError, the same one however it is cut."""

    def answer(step: int) -> object:
        try:
            return parse(start + rest, step=step)
        except HttpError as refused:
            return refused.status

    assert answer(0) == answer(step)
