"""The main job over HTTP: images good and bad, each slot in its place, and what is left of it."""

from __future__ import annotations

import codecs
import csv
import io
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageSequence

from tests.images import CORNERS, SECRET, animation, corners, exif, laid, opened, photo, saved
from tests.origin import Reply
from tests.service import CSV_HEADER, Service, csv_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from database_helper import Database
    from tests.origin import Origin

MAX_IMAGE_BYTES = 300_000
MAX_IMAGE_PIXELS = 200_000
MAX_IMAGE_FRAMES = 20
ATTEMPTS = 2

JPEG = saved(photo(), "JPEG", quality=95)
PNG = saved(photo(), "PNG")
HTML = b"<!doctype html><title>Not found</title><p>Sorry."
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
INVALID = "ftp://files.example/a.jpg"
BLOCKED = "http://10.0.0.1/x.jpg"


@pytest.fixture(scope="module")
def refused_port() -> Iterator[int]:
    """Give a port of ours on which nobody listens."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture(scope="module")
def service(
    module_database: Database,
    module_origin: Origin,
    refused_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """Run the service with short time-outs and low limits."""
    settings = {
        "ALLOWED_SOURCES": f"{module_origin.authority},127.0.0.1:{refused_port}",
        "DOWNLOAD_ATTEMPTS": str(ATTEMPTS),
        "DOWNLOAD_SECONDS": "3",
        "MAX_IMAGE_BYTES": str(MAX_IMAGE_BYTES),
        "MAX_IMAGE_PIXELS": str(MAX_IMAGE_PIXELS),
        "MAX_IMAGE_FRAMES": str(MAX_IMAGE_FRAMES),
        "HOST_CONCURRENCY": "64",
    }
    with Service(tmp_path_factory.mktemp("service"), module_database, **settings) as running:
        yield running


def output_of(service: Service, request_id: str) -> bytes:
    """Return a finished request's output CSV."""
    answer = service.get(f"/static/{request_id}.csv")
    assert answer.status_code == 200
    return answer.content


def slots_of(service: Service, request_id: str) -> list[list[str]]:
    """Return the slots of each row of the output CSV."""
    lines = csv.reader(io.StringIO(output_of(service, request_id).decode(), newline=""))
    return [line[-1].split(",") for line in list(lines)[1:]]


def download(service: Service, image: dict[str, Any]) -> Image.Image:
    """Return an output image, decoded."""
    answer = service.get(image["output_url"].removeprefix(service.url))
    assert len(answer.content) == image["bytes_out"]
    output = opened(answer.content)
    assert output.size == (image["width"], image["height"])
    assert output.format == image["format"].upper()
    return output


# An image's troubles


@dataclass(frozen=True)
class Trouble:
    """A URL that `url(origin, path)` prepares, and what shall become of its image."""

    url: Callable[[Origin, str], str]
    code: str | None
    attempts: int = 1
    http_status: int | None = None


def serving(*replies: Reply) -> Callable[[Origin, str], str]:
    """Serve these replies in turn."""
    return lambda origin, path: origin.serve_in_turn(path, *replies)


def answering(status: int) -> Callable[[Origin, str], str]:
    """Answer with a status and a body that says nothing."""
    return serving(Reply(b"sorry", status=status, content_type="text/plain"))


def redirecting(target: str) -> Callable[[Origin, str], str]:
    """Redirect to a place."""
    return lambda origin, path: origin.redirect(path, target)


def literally(url: str) -> Callable[[Origin, str], str]:
    """Name a URL as it stands."""
    return lambda _origin, _path: url


def redirecting_often(times: int) -> Callable[[Origin, str], str]:
    """Redirect so many times, then serve an image."""

    def prepare(origin: Origin, path: str) -> str:
        origin.serve(f"{path}/0", JPEG)
        for n in range(1, times + 1):
            origin.redirect(f"{path}/{n}", f"{path}/{n - 1}")
        return origin.url(f"{path}/{times}")

    return prepare


GOOD = Reply(JPEG)
BROKEN_PNG = PNG[:60] + bytes(20) + PNG[80:]
PIXELS = saved(Image.new("L", (1000, 201)), "PNG")
FRAMES = animation("GIF", frames=MAX_IMAGE_FRAMES + 1, size=64)

TROUBLES = {
    # Answers
    "404": Trouble(answering(404), "http_404", 1, 404),
    "403": Trouble(answering(403), "http_403", 1, 403),
    "500 always": Trouble(answering(500), "http_500", ATTEMPTS, 500),
    "503 then 200": Trouble(serving(Reply(status=503), GOOD), None, 2),
    "408 then 200": Trouble(serving(Reply(status=408), GOOD), None, 2),
    "425 then 200": Trouble(serving(Reply(status=425), GOOD), None, 2),
    "429 then 200": Trouble(serving(Reply(status=429), GOOD), None, 2),
    "429 always": Trouble(answering(429), "rate_limited", ATTEMPTS, 429),
    "204": Trouble(answering(204), "http_204", 1, 204),
    "206": Trouble(serving(Reply(JPEG, status=206)), "http_206", 1, 206),
    "HTML": Trouble(serving(Reply(HTML, content_type="text/html")), "not_an_image"),
    "HTML that claims to be a JPEG": Trouble(serving(Reply(HTML)), "not_an_image"),
    "empty": Trouble(serving(Reply(b"")), "not_an_image"),
    "nothing": Trouble(serving(Reply(raw=b"")), "connect_error", ATTEMPTS),
    "no HTTP": Trouble(serving(Reply(raw=b"hello there\r\n\r\n")), "connect_error", ATTEMPTS),
    "half a body": Trouble(serving(Reply(JPEG, cut_after=2000)), "truncated", ATTEMPTS),
    "half a chunked body": Trouble(
        serving(Reply(JPEG, framing="chunked", piece=1000, cut_after=2000)), "truncated", ATTEMPTS
    ),
    "half a body, then all of it": Trouble(serving(Reply(JPEG, cut_after=2000), GOOD), None, 2),
    "chunked": Trouble(serving(Reply(JPEG, framing="chunked", piece=1000)), None),
    "until the connection ends": Trouble(serving(Reply(JPEG, framing="close")), None),
    "silence": Trouble(serving(Reply(silent=True)), "timeout", ATTEMPTS),
    "a trickle": Trouble(serving(Reply(JPEG, piece=100, pause=0.25)), "timeout", ATTEMPTS),
    "declared too large": Trouble(serving(Reply(JPEG, declared=10**9)), "too_large"),
    "too large": Trouble(
        serving(Reply(JPEG, repeat=1 + MAX_IMAGE_BYTES // len(JPEG), framing="chunked")),
        "too_large",
    ),
    "gzip": Trouble(
        serving(Reply(JPEG, headers={"Content-Encoding": "gzip"})), "unsupported_format"
    ),
    # Redirects
    "five redirects": Trouble(redirecting_often(5), None),
    "six redirects": Trouble(redirecting_often(6), "too_many_redirects"),
    "a redirect to itself": Trouble(
        lambda origin, path: origin.redirect(path, path), "too_many_redirects"
    ),
    "a redirect inside": Trouble(redirecting(BLOCKED), "blocked_address"),
    "a redirect to the cloud": Trouble(
        redirecting("http://169.254.169.254/latest/meta-data/"), "blocked_address"
    ),
    "a redirect to FTP": Trouble(redirecting(INVALID), "invalid_url"),
    # Addresses
    "a private address": Trouble(literally(BLOCKED), "blocked_address"),
    "cloud metadata": Trouble(literally("http://169.254.169.254/"), "blocked_address"),
    "loopback": Trouble(literally("http://127.0.0.1/"), "blocked_address"),
    "loopback by name": Trouble(literally("http://localhost/"), "blocked_address"),
    "loopback in hexadecimal": Trouble(literally("http://0x7f000001/"), "blocked_address"),
    "loopback in octal": Trouble(literally("http://017700000001/"), "blocked_address"),
    "loopback as a number": Trouble(literally("http://2130706433/"), "blocked_address"),
    "IPv6 loopback": Trouble(literally("http://[::1]/"), "blocked_address"),
    "IPv4 in IPv6": Trouble(literally("http://[::ffff:10.0.0.1]/"), "blocked_address"),
    "the unspecified address": Trouble(literally("http://0.0.0.0/"), "blocked_address"),
    "another port": Trouble(literally("http://127.0.0.1:22/"), "blocked_address"),
    "TLS where there is none": Trouble(
        lambda origin, path: origin.url(path).replace("http:", "https:"), "tls_error"
    ),
    # URLs
    "FTP": Trouble(literally(INVALID), "invalid_url"),
    "no scheme": Trouble(literally("cdn.example/a.jpg"), "invalid_url"),
    "no host": Trouble(literally("http://"), "invalid_url"),
    "a bracket": Trouble(literally("http://["), "invalid_url"),
    "a space in the host": Trouble(literally("http://a b/"), "invalid_url"),
    "a file": Trouble(literally("file:///a.jpg"), "invalid_url"),
    "data": Trouble(literally("data:image/png;base64,AAAA"), "invalid_url"),
    "a script": Trouble(literally("javascript:alert(1)"), "invalid_url"),
    # Contents
    "a truncated JPEG": Trouble(serving(Reply(JPEG[: len(JPEG) // 2])), "truncated", ATTEMPTS),
    "a truncated PNG": Trouble(serving(Reply(PNG[: len(PNG) // 2])), "truncated", ATTEMPTS),
    "a broken PNG": Trouble(serving(Reply(BROKEN_PNG)), "decode_error"),
    "an SVG": Trouble(serving(Reply(SVG)), "unsupported_format"),
    "a text": Trouble(serving(Reply(b"Just words.")), "not_an_image"),
    "too many pixels": Trouble(serving(Reply(PIXELS)), "too_many_pixels"),
    "too many frames": Trouble(serving(Reply(FRAMES)), "too_many_frames"),
    "a PNG that is called JPEG": Trouble(serving(Reply(PNG)), None),
    "an image that is called HTML": Trouble(serving(Reply(JPEG, content_type="text/html")), None),
    "an image of no type": Trouble(serving(Reply(JPEG, content_type=None)), None),
}


@dataclass(frozen=True)
class Ended:
    """A finished request: its status, and its images by row."""

    status: dict[str, Any]
    rows: list[list[dict[str, Any]]]
    slots: list[list[str]]


@pytest.fixture(scope="module")
def troubles(service: Service, module_origin: Origin, refused_port: int) -> Ended:
    """Run one request with every trouble, each in a row between two good images."""
    good = module_origin.serve("/good.jpg", JPEG)
    urls = [
        trouble.url(module_origin, f"/trouble/{n}.jpg")
        for n, trouble in enumerate(TROUBLES.values())
    ]
    urls.append(f"http://127.0.0.1:{refused_port}/a.jpg")
    status = service.run(csv_of(*(f"{good}, {url}, {good}" for url in urls)))
    rows: list[list[dict[str, Any]]] = [[] for _ in urls]
    for image in service.images(status["request_id"]):
        rows[image["row"] - 1].append(image)
    return Ended(status, rows, slots_of(service, status["request_id"]))


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble(service: Service, troubles: Ended, name: str) -> None:
    """Each trouble ends as it should, after the attempts it is worth, and shifts no slot."""
    trouble, n = TROUBLES[name], list(TROUBLES).index(name)
    before, image, after = troubles.rows[n]
    assert (before["state"], after["state"]) == ("succeeded", "succeeded")
    assert image["attempts"] == trouble.attempts, image
    if trouble.code is None:
        assert image["state"] == "succeeded", image
        assert download(service, image).size == (160, 120)
    else:
        assert image["state"] == "failed"
        assert image["error"]["code"] == trouble.code, image
        assert image["error"]["http_status"] == trouble.http_status
        assert image["error"]["retryable"] == (trouble.attempts > 1)
        assert image["error"]["detail"].endswith(".")
        assert image["output_url"] is None
    expected = [one["output_url"] or "" for one in troubles.rows[n]]
    assert troubles.slots[n] == expected


def test_nobody_listens(troubles: Ended) -> None:
    """A port on which nobody listens is tried again, in vain."""
    image = troubles.rows[-1][1]
    assert image["error"]["code"] == "connect_error"
    assert image["attempts"] == ATTEMPTS


def test_troubles_are_counted(troubles: Ended) -> None:
    """The status counts each failure by its code, and the request ends all the same."""
    images = [image for row in troubles.rows for image in row]
    failed = [image for image in images if image["state"] == "failed"]
    codes = [image["error"]["code"] for image in failed]
    assert troubles.status["status"] == "completed_with_errors"
    assert troubles.status["errors_by_code"] == {code: codes.count(code) for code in set(codes)}
    progress = troubles.status["progress"]
    assert progress["total"] == progress["done"] == len(images)
    assert (progress["failed"], progress["succeeded"]) == (len(failed), len(images) - len(failed))


def test_same_url_is_fetched_once(troubles: Ended, module_origin: Origin) -> None:
    """However often a URL stands in a request, it is fetched once, and every slot has its file."""
    assert module_origin.count("/good.jpg") == 1
    good = [image for row in troubles.rows for image in (row[0], row[2])]
    assert [image["reused"] for image in good] == [False] + [True] * (len(good) - 1)
    assert len({image["output_url"] for image in good}) == len(good)
    assert len({image["sha256"] for image in good}) == 1


def test_origin_that_asks_for_time(service: Service, module_origin: Origin) -> None:
    """Retry-After is honoured, where the backoff alone would be shorter."""
    busy = Reply(status=429, headers={"Retry-After": "2"})
    url = module_origin.serve_in_turn("/busy.jpg", busy, GOOD)
    status = service.run(csv_of(url))
    times = [datetime.fromisoformat(status[name]) for name in ("started_at", "finished_at")]
    assert status["status"] == "completed"
    assert (times[1] - times[0]).total_seconds() >= 2


# Requests


def test_odd_urls(service: Service, module_origin: Origin) -> None:
    """Commas, spaces, unicode and percent signs in a URL reach the origin as they are meant."""
    asked = {
        "/a,b.jpg": "/a,b.jpg",
        "/with space.jpg": "/with%20space.jpg",
        "/bäckerei/ø.jpg": "/b%C3%A4ckerei/%C3%B8.jpg",
        "/写真.jpg?größe=1": "/%E5%86%99%E7%9C%9F.jpg?gr%C3%B6%C3%9Fe=1",
        "/100%.jpg": "/100%25.jpg",
        "/already%20encoded%2F.jpg": "/already%20encoded%2F.jpg",
        "/q.jpg?a=1&b=c d#fragment": "/q.jpg?a=1&b=c%20d",
        "/(round)'quotes'.jpg": "/(round)'quotes'.jpg",
    }
    for target in asked.values():
        module_origin.serve(target, JPEG)
    urls = [module_origin.url(path) for path in asked]
    status = service.run(csv_of(",".join(urls), " , ".join(urls), "\n,".join(urls)))
    images = service.images(status["request_id"])
    assert [image["input_url"] for image in images] == urls * 3
    assert status["status"] == "completed", status["errors_by_code"]
    assert [module_origin.count(target) for target in asked.values()] == [1] * len(asked)


def test_row_with_a_hundred_urls(service: Service, module_origin: Origin) -> None:
    """A hundred images of one product fill a hundred slots in their sequence."""
    paths = [f"/hundred/{n}.jpg" for n in range(100)]
    for n, path in enumerate(paths):
        if n % 10 != 3:  # the others are not there
            module_origin.serve(path, JPEG)
    status = service.run(csv_of(",".join(map(module_origin.url, paths))))
    request_id = status["request_id"]
    assert (status["progress"]["succeeded"], status["progress"]["failed"]) == (90, 10)
    prefix = f"{service.url}/uploads/{request_id}/{request_id}"
    expected = ["" if n % 10 == 3 else f"{prefix}-{n + 1}.jpg" for n in range(100)]
    assert slots_of(service, request_id) == [expected]
    assert [image["position"] for image in service.images(request_id)] == list(range(1, 101))


def test_requests_at_the_same_time(service: Service, module_origin: Origin) -> None:
    """Requests side by side get each its own images."""
    colours = ["red", "green", "blue", "yellow"]
    cells = []
    for colour in colours:
        data = saved(Image.new("RGB", (32, 32), colour), "PNG")
        cells.append(",".join(module_origin.serve(f"/{colour}/{n}.png", data) for n in range(5)))
    with ThreadPoolExecutor(len(colours)) as threads:
        statuses = list(threads.map(service.run, [csv_of(cell) for cell in cells]))
    assert len({status["request_id"] for status in statuses}) == len(colours)
    for colour, status in zip(colours, statuses, strict=True):
        assert status["status"] == "completed"
        for image in service.images(status["request_id"]):
            expected = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
            assert download(service, image).convert("RGB").getpixel((9, 9)) == expected


def test_same_csv_twice(service: Service, module_origin: Origin) -> None:
    """The same CSV again is another request, with the same bytes but for the id."""
    good, other = (module_origin.serve(f"/twice/{n}.jpg", JPEG) for n in range(2))
    source = csv_of(f"{good},{INVALID},{other}", BLOCKED, f"{other}, {good}")
    with ThreadPoolExecutor(2) as threads:
        first, second = (status["request_id"] for status in threads.map(service.run, [source] * 2))
    assert first != second
    for end in (".csv", "-report.csv"):
        texts = [service.get(f"/static/{one}{end}").text for one in (first, second)]
        assert texts[0].replace(first, "ID") == texts[1].replace(second, "ID")
        assert second not in texts[0]


@pytest.mark.parametrize(
    ("urls", "status"),
    [
        (["/good.jpg"], "completed"),
        (["/good.jpg", "/gone.jpg"], "completed_with_errors"),
        (["/gone.jpg", "/gone.jpg"], "failed"),
    ],
)
def test_statuses(service: Service, module_origin: Origin, urls: list[str], status: str) -> None:
    """A request is completed, with errors or without, or failed when nothing succeeded."""
    module_origin.serve("/good.jpg", JPEG)
    ended = service.run(csv_of(",".join(map(module_origin.url, urls))))
    assert ended["status"] == status
    assert len(slots_of(service, ended["request_id"])[0]) == len(urls)


# CSV out


def test_output_is_exact(service: Service, module_origin: Origin) -> None:
    """The output has the input's columns as they were, then the slots; UTF-8, commas, CRLF."""
    good = module_origin.serve("/exact.jpg", JPEG)
    source = (
        "Colour,URLs, product NAME ,S. No.,Größe\n"
        f'red,"{good}, {INVALID} ,{good}"," Vase, ""large""",007,\n'
        "\n"
        f'"two\nlines",{BLOCKED},Krug 🏺, 12 ,XL\n'
    )
    status = service.run(source)
    request_id = status["request_id"]
    slot = f"{service.url}/uploads/{request_id}/{request_id}"
    assert output_of(service, request_id).decode() == (
        "Colour,URLs, product NAME ,S. No.,Größe,Output Image Urls\r\n"
        f'red,"{good}, {INVALID} ,{good}"," Vase, ""large""",007,,"{slot}-1.jpg,,{slot}-3.jpg"\r\n'
        f'"two\nlines",{BLOCKED},Krug 🏺, 12 ,XL,\r\n'
    )


@pytest.mark.parametrize(
    ("bom", "encoding", "delimiter"),
    [
        (codecs.BOM_UTF8, "utf-8", ";"),
        (codecs.BOM_UTF16_LE, "utf-16-le", ";"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "\t"),
        (b"", "utf-8", "\t"),
    ],
)
def test_output_of_other_encodings(
    service: Service, bom: bytes, encoding: str, delimiter: str
) -> None:
    """Whatever encoding and delimiter came in, the output is the contract's."""
    lines = [
        CSV_HEADER.replace(",", delimiter),
        delimiter.join(["1", "Väse", f"{BLOCKED},{INVALID}"]),
    ]
    status = service.run(bom + "\n".join(lines).encode(encoding))
    expected = f'{CSV_HEADER},Output Image Urls\r\n1,Väse,"{BLOCKED},{INVALID}",","\r\n'
    assert output_of(service, status["request_id"]) == expected.encode()


def test_formulas(service: Service) -> None:
    """Cells that a spreadsheet would run are neutralised in the file and raw in the database."""
    cells = ["=1+1", "+49 40 1", "-1+2", "@SUM(A1)", "\tx", "-5", "+3.5", "-1e5", "'=1", "x=1"]
    safe = ["'=1+1", "'+49 40 1", "'-1+2", "'@SUM(A1)", "'\tx", "-5", "+3.5", "-1e5", "'=1", "x=1"]
    lines = [f"{n},{cell},{BLOCKED},{cell}" for n, cell in enumerate(cells, 1)]
    status = service.run("\r\n".join([f"{CSV_HEADER},=Note", *lines]))
    request_id = status["request_id"]
    text = output_of(service, request_id).decode()
    output = list(csv.reader(io.StringIO(text, newline="")))
    assert output[0] == [*CSV_HEADER.split(","), "'=Note", "Output Image Urls"]
    assert [(line[1], line[3]) for line in output[1:]] == [(cell, cell) for cell in safe]
    links = "select product_name, other_cells from image_links where request_id = %s order by row"
    assert service.query(links, request_id) == [
        {"product_name": cell, "other_cells": [cell]} for cell in cells
    ]


def test_report(service: Service, troubles: Ended) -> None:
    """The report has a line for each image, which says what the service says of it."""
    request_id = troubles.status["request_id"]
    text = service.get(f"/static/{request_id}-report.csv").text
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    images = [image for row in troubles.rows for image in row]
    assert len(lines) == len(images)
    for line, image in zip(lines, images, strict=True):
        error = image["error"] or {"code": None, "detail": None}
        expected = image | {"code": error["code"], "detail": error["detail"]}
        for name in ("state", "code", "detail", "bytes_in", "bytes_out", "width", "height"):
            value = expected[name]
            assert line[name] == ("" if value is None else str(value))


def test_database_says_the_same(service: Service, troubles: Ended) -> None:
    """The rows of the three tables say what the status says."""
    status = troubles.status
    request_id, progress = status["request_id"], status["progress"]
    (request,) = service.query("select * from requests where id = %s", request_id)
    assert request["status"] == status["status"]
    assert (request["products"], request["images"]) == (len(troubles.rows), progress["total"])
    assert (request["succeeded"], request["failed"]) == (progress["succeeded"], progress["failed"])
    for name in ("bytes_in", "bytes_out", "errors_by_code", "options"):
        assert request[name] == status[name]
    links = service.query(
        "select * from image_links where request_id = %s order by row", request_id
    )
    assert [link["output_image_urls"].split(",") for link in links] == troubles.slots
    assert [link["serial_number"] for link in links] == [str(n) for n in range(1, len(links) + 1)]
    rows = service.query("select * from images where request_id = %s order by n", request_id)
    images = [image for row in troubles.rows for image in row]
    assert [row["n"] for row in rows] == list(range(1, len(images) + 1))
    for row, image in zip(rows, images, strict=True):
        names = ("row", "position", "input_url", "state", "attempts", "bytes_in", "bytes_out")
        for name in (*names, "width", "height", "format", "sha256", "reused"):
            assert row[name] == image[name]
        assert row["error_code"] == (image["error"] or {"code": None})["code"]
    totals = [sum(row[name] or 0 for row in rows) for name in ("bytes_in", "bytes_out")]
    assert totals == [status["bytes_in"], status["bytes_out"]]


def test_files_are_those_that_succeeded(service: Service, troubles: Ended) -> None:
    """On disk there is a file for each image that succeeded, named by its number, and no other."""
    request_id = troubles.status["request_id"]
    images = [image for row in troubles.rows for image in row if image["output_url"]]
    expected = {image["output_url"].rpartition("/")[2] for image in images}
    assert {path.name for path in (service.folder / "uploads" / request_id).iterdir()} == expected


# Images


def alpha() -> Image.Image:
    """Return an image that is transparent to the right."""
    image = photo(mode="RGBA")
    image.paste((0, 0, 0, 0), (80, 0, 160, 120))
    return image


FORMATS = {
    "JPEG": (JPEG, "jpeg"),
    "JPEG, progressive": (saved(photo(), "JPEG", quality=90, progressive=True), "jpeg"),
    "JPEG, grey": (saved(photo(mode="L"), "JPEG", quality=90), "jpeg"),
    "JPEG, CMYK": (saved(photo(mode="CMYK"), "JPEG", quality=95), "jpeg"),
    "JPEG, small already": (saved(photo(), "JPEG", quality=10, optimize=True), "jpeg"),
    "PNG": (PNG, "png"),
    "PNG, transparent": (saved(alpha(), "PNG"), "png"),
    "PNG, 16 bit": (saved(photo(mode="I;16"), "PNG"), "png"),
    "PNG, palette": (saved(photo().quantize(16), "PNG"), "png"),
    "PNG, animated": (animation("PNG"), "png"),
    "WebP": (saved(photo(), "WEBP", quality=95), "webp"),
    "WebP, transparent": (saved(alpha(), "WEBP", quality=95), "webp"),
    "WebP, lossless": (saved(photo(), "WEBP", lossless=True), "webp"),
    "WebP, animated": (animation("WEBP"), "webp"),
    "GIF": (saved(photo(), "GIF"), "gif"),
    "GIF, animated": (animation("GIF"), "gif"),
    "AVIF": (saved(photo(), "AVIF", quality=95), "avif"),
    "BMP": (saved(photo(), "BMP"), "jpeg"),
    "TIFF": (saved(photo(), "TIFF"), "jpeg"),
    "TIFF, transparent": (saved(alpha(), "TIFF"), "png"),
}


@pytest.fixture(scope="module")
def formats(service: Service, module_origin: Origin) -> list[dict[str, Any]]:
    """Run one request with an image of every kind, all of them called .jpg."""
    urls = [
        module_origin.serve(f"/format/{n}.jpg", data, content_type="application/octet-stream")
        for n, (data, _) in enumerate(FORMATS.values())
    ]
    return service.images(service.run(csv_of(",".join(urls)))["request_id"])


@pytest.mark.parametrize("name", FORMATS)
def test_format(service: Service, formats: list[dict[str, Any]], name: str) -> None:
    """An image keeps format, size, transparency and frames, and is never larger than it was."""
    image, (data, output_format) = formats[list(FORMATS).index(name)], FORMATS[name]
    assert image["error"] is None
    assert image["format"] == output_format
    extension = "jpg" if output_format == "jpeg" else output_format
    assert image["output_url"].endswith(f".{extension}")
    assert image["bytes_in"] == len(data)
    assert image["bytes_out"] <= len(data)
    before, after = opened(data), download(service, image)
    assert after.size == before.size
    assert len(list(ImageSequence.Iterator(after))) == len(list(ImageSequence.Iterator(before)))
    if "transparent" in name:
        mask = after.convert("RGBA").getchannel("A")
        assert (mask.getpixel((9, 9)), mask.getpixel((150, 9))) == (255, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(service: Service, module_origin: Origin, orientation: int) -> None:
    """A photo is stored upright, without the maker's name and the place where it was taken."""
    lying = laid(corners(120, 80), orientation)
    data = saved(lying, "JPEG", quality=95, exif=exif(orientation), comment=SECRET) + SECRET
    url = module_origin.serve(f"/lying/{orientation}.jpg", data)
    status = service.run(csv_of(url))
    (image,) = service.images(status["request_id"])
    output = download(service, image)
    assert output.size == (120, 80)
    places = ((10, 10), (110, 10), (110, 70), (10, 70))
    for place, colour in zip(places, CORNERS, strict=True):
        seen, meant = output.getpixel(place), Image.new("RGB", (1, 1), colour).getpixel((0, 0))
        assert all(abs(a - b) < 40 for a, b in zip(seen, meant, strict=True))  # type: ignore[arg-type]
    assert not output.getexif()
    assert SECRET not in service.get(image["output_url"].removeprefix(service.url)).content


@pytest.mark.parametrize(
    ("options", "output_format", "size"),
    [
        ({"format": "webp"}, "webp", (160, 120)),
        ({"format": "avif", "effort": "fast"}, "avif", (160, 120)),
        ({"format": "png", "max_width": "80"}, "png", (80, 60)),
        ({"max_height": "30", "max_width": "100"}, "jpeg", (40, 30)),
        ({"max_width": "1000"}, "jpeg", (160, 120)),
        ({"quality": "20"}, "jpeg", (160, 120)),
    ],
)
def test_options_at_work(
    service: Service,
    module_origin: Origin,
    options: dict[str, str],
    output_format: str,
    size: tuple[int, int],
) -> None:
    """What an upload asks for is done to its images."""
    url = module_origin.serve("/options.jpg", JPEG)
    status = service.run(csv_of(url), **options)
    (image,) = service.images(status["request_id"])
    assert (image["format"], image["width"], image["height"]) == (output_format, *size)
    assert download(service, image).size == size
    assert str(image["quality"]) == options.get("quality", str(image["quality"]))


def test_background(service: Service, module_origin: Origin) -> None:
    """What was transparent has the background's colour in a format without transparency."""
    url = module_origin.serve("/alpha.png", saved(alpha(), "PNG"))
    status = service.run(csv_of(url), format="jpeg", background="#0000ff")
    (image,) = service.images(status["request_id"])
    red, green, blue = download(service, image).getpixel((150, 9))  # type: ignore[misc]
    assert (red < 20, green < 20, blue > 235) == (True, True, True)


def test_max_bytes(service: Service, module_origin: Origin) -> None:
    """No output is over the ceiling; where that can't be, the image fails."""
    url = module_origin.serve("/ceiling.jpg", JPEG)
    status = service.run(csv_of(url), max_bytes="2000")
    assert 0 < status["bytes_out"] <= 2000
    failed = service.run(csv_of(url), max_bytes="20")
    assert (failed["status"], failed["errors_by_code"]) == ("failed", {"max_bytes_unreachable": 1})


def test_original_is_kept(service: Service, formats: list[dict[str, Any]]) -> None:
    """An image that can't be made smaller keeps its pixels, and says so."""
    image = formats[list(FORMATS).index("JPEG, small already")]
    data, _ = FORMATS["JPEG, small already"]
    assert image["quality"] == "original"
    assert download(service, image).tobytes() == opened(data).tobytes()
