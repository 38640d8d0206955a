"""The ways in which a file comes to the service as a stranger's, and what may come of each.

    for end in send_images(service, origin, files, "webp"): …
    for end in send_http(service.url, files): …

Each yields an `End` for every file, whose `fault` says which promise was broken, if one was. What
becomes of the process meanwhile is for `watch`.
"""

from __future__ import annotations

import io
import os
import re
import socket
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests
from PIL import Image, ImageOps, ImageSequence

from errors import ErrorCode
from tests.fuzz.connection import statuses_of
from tests.service import csv_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.origin import Origin
    from tests.service import Service

ANSWER_SECONDS: Final = 30.0  # for an upload or a connection to end
STALL_SECONDS: Final = 120.0  # twice the default of COMPRESS_SECONDS, in which some image ends
POLL_SECONDS: Final = 0.25
OPTIONS: Final[dict[str, dict[str, str]]] = {
    "keep": {},
    **{name: {"format": name} for name in ("jpeg", "png", "webp", "avif")},
    "max_width": {"max_width": "64"},
    "max_bytes": {"max_bytes": "10000"},
}
# Judgements of an image. Any other end is our fault, or nothing that was to be tried here.
JUDGEMENTS: Final = {
    ErrorCode.TOO_LARGE,
    ErrorCode.TRUNCATED,
    ErrorCode.NOT_AN_IMAGE,
    ErrorCode.UNSUPPORTED_FORMAT,
    ErrorCode.DECODE_ERROR,
    ErrorCode.TOO_MANY_PIXELS,
    ErrorCode.TOO_MANY_FRAMES,
    ErrorCode.MAX_BYTES_UNREACHABLE,
}
_NO_END: Final = "no end"
_BOUNDARY: Final = re.compile(rb"--([0-9A-Za-z'()+_,./:=?-]{1,70})")


@dataclass(frozen=True, slots=True)
class End:
    """What came of a file that was sent one way; `fault` is empty where that was right."""

    way: str
    path: Path
    answer: str
    seconds: float
    fault: str = ""


def send_images(
    service: Service, origin: Origin, paths: Sequence[Path], option: str
) -> Iterator[End]:
    """Upload one CSV that names every file, served by the origin; look at each output."""
    served = [f"/{option}/{number}" for number in range(len(paths))]
    urls = [origin.serve(at, path.read_bytes()) for at, path in zip(served, paths, strict=True)]
    accepted = service.upload(csv_of(*urls), OPTIONS[option])
    accepted.raise_for_status()
    request_id = accepted.json()["request_id"]
    ended = _follow(service, request_id)
    places = {at: number for number, at in enumerate(served)}
    asked = {places[r.path]: r.at for r in origin.requests if r.path in places}
    taken = own_seconds(asked, ended, os.cpu_count() or 1)
    for number, image in enumerate(service.images(request_id)):
        answer, fault = _judge(service, image, paths[number], option)
        yield End(f"images, {option}", paths[number], answer, taken.get(number, 0.0), fault)


def own_seconds(
    asked: dict[int, float], ended: dict[int, float], decoders: int
) -> dict[int, float]:
    """Return about how long each image took, without its wait for a decoder.

    They wait in line: the next one begins when one of those before it has ended.
    """
    free = [0.0] * decoders + sorted(ended.values())
    in_line = sorted(asked.keys() & ended.keys(), key=lambda number: asked[number])
    return {
        number: max(0.0, ended[number] - max(asked[number], free[place]))
        for place, number in enumerate(in_line)
    }


def _follow(service: Service, request_id: str) -> dict[int, float]:
    """Wait until the request has ended or nothing moves; return when each image had, by its place."""
    ended: dict[int, float] = {}
    moved = time.monotonic()
    while time.monotonic() < moved + STALL_SECONDS:
        has_finished = service.get(f"/status/{request_id}").json()["finished_at"]
        now = time.monotonic()
        for number, image in enumerate(service.images(request_id)):
            if number not in ended and image["state"] in {"succeeded", "failed"}:
                ended[number] = moved = now
        if has_finished:
            break
        time.sleep(POLL_SECONDS)
    return ended


def _judge(service: Service, image: dict[str, Any], path: Path, option: str) -> tuple[str, str]:
    """Return what became of an image, and its fault."""
    if image["state"] == "succeeded":
        output = service.get(image["output_url"].removeprefix(service.url)).content
        return "succeeded", find_fault(output, image, path.stat().st_size, option)
    if image["state"] != "failed":
        return _NO_END, f"still {image['state']}"
    code = image["error"]["code"]
    return code, "" if code in JUDGEMENTS else image["error"]["detail"]


def find_fault(output: bytes, image: dict[str, Any], bytes_in: int, option: str) -> str:
    """Say what is wrong with an output: it has to be what `image` declares and the option asks."""
    try:
        with (
            warnings.catch_warnings(action="error", category=UserWarning),
            Image.open(io.BytesIO(output)) as opened,
        ):
            upright = ImageOps.exif_transpose(opened)
            found = {"format": str(opened.format).lower(), "size": upright.size}
            for frame in ImageSequence.Iterator(opened):
                frame.load()
    except Exception as error:  # noqa: BLE001  # whatever a decoder says, it is no image
        return f"the output doesn't open: {error!r}"
    declared = {"format": image["format"], "size": (image["width"], image["height"])}
    asked = OPTIONS[option]
    if found != declared:
        return f"the output is {found}, not {declared}"
    if asked.get("format", image["format"]) != image["format"]:
        return f"the output is a {image['format']}"
    if image["width"] > int(asked.get("max_width", image["width"])):
        return f"the output is {image['width']} pixels wide"
    most = int(asked.get("max_bytes", len(output))) if asked else bytes_in
    return "" if len(output) <= most else f"the output has {len(output)} bytes, {most} at most"


def send_csv(url: str, paths: Sequence[Path]) -> Iterator[End]:
    """Upload every file as a CSV: in a form, as the body, and as a dry run."""
    yield from _post(url, "csv, form", paths, lambda data: {"files": {"file": ("a.csv", data)}})
    raw = {"Content-Type": "text/csv"}
    yield from _post(url, "csv, body", paths, lambda data: {"data": data, "headers": raw})
    dry = {"headers": raw, "params": {"dry_run": "true"}}
    yield from _post(url, "csv, dry run", paths, lambda data: {"data": data, **dry})


def send_multipart(url: str, paths: Sequence[Path]) -> Iterator[End]:
    """Upload every file as a form's body, with the boundary that it begins with, if it does."""

    def form(data: bytes) -> dict[str, Any]:
        found = _BOUNDARY.match(data.lstrip(b"\r\n"))
        boundary = found[1].decode() if found else "boundary"
        kind = f'multipart/form-data; boundary="{boundary}"'
        return {"data": data, "headers": {"Content-Type": kind}}

    yield from _post(url, "multipart", paths, form)


def _post(
    url: str, way: str, paths: Sequence[Path], options: Callable[[bytes], dict[str, Any]]
) -> Iterator[End]:
    """Upload every file over one session."""
    with requests.Session() as session:
        session.trust_env = False
        for path in paths:
            asked = {"timeout": ANSWER_SECONDS, **options(path.read_bytes())}
            started = time.monotonic()
            try:
                status = session.post(f"{url}/upload", **asked).status_code
                answer, fault = str(status), _fault_of(status)
            except requests.RequestException as error:
                answer, fault = _NO_END, repr(error)
            yield End(way, path, answer, time.monotonic() - started, fault)


def _fault_of(status: int) -> str:
    return f"answered {status}" if status >= 500 else ""


def send_http(url: str, paths: Sequence[Path]) -> Iterator[End]:
    """Send every file as the bytes of a connection of its own; the answer is the last status."""
    for path in paths:
        started = time.monotonic()
        answer, fault = _converse(url, path.read_bytes())
        yield End("http", path, answer, time.monotonic() - started, fault)


def _converse(url: str, data: bytes) -> tuple[str, str]:
    """Send the bytes and their end, read until the server's; return the last status and the fault."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    received = b""
    deadline = time.monotonic() + ANSWER_SECONDS
    with socket.create_connection((address.hostname, address.port), ANSWER_SECONDS) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # refused before it was read: the answer is there
            pass
        try:
            while piece := sock.recv(65536):
                received += piece
                sock.settimeout(max(0.01, deadline - time.monotonic()))
        except TimeoutError:
            return _NO_END, f"open after {ANSWER_SECONDS:g} s"
        except ConnectionResetError:  # it takes what was not read yet along
            pass
    try:
        statuses = list(statuses_of(received))
    except AssertionError:
        return "no HTTP", f"answered {received[:100]!r}"
    worst = max(statuses, default=0)
    return str(statuses[-1]) if statuses else "closed", _fault_of(worst)
