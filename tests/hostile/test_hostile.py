"""The command that sends hostile files: it passes what is well, and each broken promise fails it."""

from __future__ import annotations

import functools
import logging
import signal
import subprocess
import sys
import tempfile
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from service_log import TextFormatter
from tests.acceptance.misbehaving_decoder import MARK
from tests.hostile import hostile, watch, ways
from tests.images import animation, exif, photo, saved
from tests.origin import Reply
from tests.service import ROOT, WithDecoder, csv_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.origin import Origin

DECODER = ROOT / "tests" / "acceptance" / "misbehaving_decoder.py"
JPEG = saved(photo(), "JPEG")
MOVING = animation("PNG")
_AT = MOVING.index(b"acTL") - 4
TWICE_MOVING = MOVING[:_AT] + MOVING[_AT : _AT + 20] + MOVING[_AT:]
WEBP = animation("WEBP")
_AT = WEBP.rindex(b"VP8")
BROKEN_LATE = WEBP[: _AT + 8] + bytes(len(WEBP) - _AT - 8)
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--x--\r\n'
FILES = {
    "pictures/sound.jpg": JPEG,
    "pictures/half.jpg": JPEG[: len(JPEG) // 2],
    "pictures/moving.gif": animation("GIF"),
    "pictures/deeper/empty": b"",
    "texts/products.csv": csv_of("http://shop.example/a.jpg").encode(),
    "texts/form": FORM % csv_of("http://shop.example/a.jpg").encode(),
    "texts/requests": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/9\r\n\r\n",
}


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the servers' folders where tests' files go."""
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "work"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of all the files."""
    for name, data in FILES.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "files"


def test_every_file_goes_every_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each comes to what it has to, the table says so, and the exit code is 0."""
    assert hostile.main([str(folder), "--options", "keep", "webp"]) == 0
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "images, keep pictures 2 succeeded, 1 truncated",
        "images, webp pictures/deeper 1 not_an_image",
        "csv, form texts 1 202, 2 422",
        "csv, dry run texts 1 200, 2 422",
        "multipart texts 1 202, 2 400",
        "http texts 3 400",
        f"{7 * len(FILES)} sent, 0 promises broken",
    ):
        assert line in said


def test_deadly_image_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that its decoder dies of is named, and the exit code is 1."""
    deadly = folder / "pictures" / "deadly.jpg"
    deadly.write_bytes(JPEG + MARK + b"segfault;")
    monkeypatch.setattr(hostile, "Service", functools.partial(WithDecoder, decoder=DECODER))
    assert hostile.main([str(folder), "--ways", "images"]) == 1
    said = capsys.readouterr().out
    assert "1 compress_crash, 2 succeeded, 1 truncated" in said
    assert f"{len(FILES) + 1} sent, 1 promises broken" in said
    assert f"images, keep: {deadly}: compress_crash: " in said


def test_server_that_is_at_fault_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with the server itself, here its memory, is a broken promise too."""
    monkeypatch.setattr(watch, "MOST_GROWTH_MIB", -1000.0)
    assert hostile.main([str(folder), "--ways", "multipart"]) == 1
    assert "uploads: the server grew by" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_folder_has_to_be_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A forgotten or wrong folder is told, and nothing is sent."""
    with pytest.raises(SystemExit) as ended:
        hostile.main([name])
    assert ended.value.code == 2
    assert "there is no folder" in capsys.readouterr().err


def output(**other: Any) -> dict[str, Any]:
    """Return what is declared of an output that is the sound JPEG, but for what is told."""
    return {"format": "jpeg", "width": 160, "height": 120} | other


@pytest.mark.parametrize(
    ("data", "image", "bytes_in", "option", "fault"),
    [
        (JPEG, output(), len(JPEG), "keep", ""),
        (JPEG, output(), 1, "jpeg", ""),
        (saved(photo(), "JPEG", exif=exif(6)), output(width=120, height=160), 9**9, "keep", ""),
        (TWICE_MOVING, output(format="png", width=32, height=32), 9**9, "keep", "Invalid APNG"),
        (JPEG[:1000], output(), len(JPEG), "keep", "doesn't open"),
        (b"", output(), len(JPEG), "keep", "doesn't open"),
        (animation("GIF")[:-60], output(format="gif", width=32, height=32), 9999, "keep", "open"),
        (BROKEN_LATE, output(format="webp", width=32, height=32), 9999, "keep", "open"),
        (JPEG, output(width=161), len(JPEG), "keep", "(160, 120)"),
        (JPEG, output(format="png"), len(JPEG), "keep", "not {'format': 'png'"),
        (JPEG, output(), len(JPEG), "webp", "is a jpeg"),
        (JPEG, output(), len(JPEG), "max_width", "160 pixels wide"),
        (JPEG + bytes(9999), output(), 20_000, "max_bytes", "10000 at most"),
        (JPEG, output(), len(JPEG) - 1, "keep", f"{len(JPEG) - 1} at most"),
    ],
)
def test_outputs_are_looked_at(
    data: bytes, image: dict[str, Any], bytes_in: int, option: str, fault: str
) -> None:
    """An output is whole, what it says to be and what was asked for, and no larger than its input."""
    found = ways.find_fault(data, image, bytes_in, option)
    assert fault in found
    assert bool(found) == bool(fault)


def test_time_in_line_is_not_an_images_own() -> None:
    """Where all were downloaded at once, each takes from when a decoder was free."""
    ended = {0: 11.0, 1: 15.0, 2: 13.0, 3: 19.0}
    taken = ways.own_seconds(dict.fromkeys(ended, 10.0), ended, 2)
    assert taken == {0: 1.0, 1: 5.0, 2: 2.0, 3: 6.0}


@pytest.mark.parametrize(
    ("reply", "answer", "is_fault"),
    [
        (Reply(status=400), "400", False),
        (Reply(status=500), "500", True),
        (Reply(status=503), "503", True),
        (Reply(until=Event()), "no end", True),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), "no HTTP", True),
        (Reply(raw=b""), "closed", False),
    ],
)
def test_connections_are_looked_at(
    *,
    origin: Origin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reply: Reply,
    answer: str,
    is_fault: bool,
) -> None:
    """A connection has to end, with whole answers of which none is our fault."""
    monkeypatch.setattr(ways, "ANSWER_SECONDS", 0.3 if answer == "no end" else 30.0)
    origin.serve_in_turn("/", reply)
    (tmp_path / "request").write_bytes(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    (end,) = ways.send_http(origin.url(""), [tmp_path / "request"])
    assert (end.answer, bool(end.fault)) == (answer, is_fault)


@pytest.mark.parametrize("send", [ways.send_csv, ways.send_multipart])
@pytest.mark.parametrize(
    ("reply", "answer", "is_fault"),
    [
        (Reply(status=422), "422", False),
        (Reply(status=500), "500", True),
        (Reply(silent=True), "no end", True),
    ],
)
def test_uploads_are_looked_at(
    *,
    origin: Origin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    send: Any,
    reply: Reply,
    answer: str,
    is_fault: bool,
) -> None:
    """An upload has to be answered, and not with a fault of ours."""
    monkeypatch.setattr(ways, "ANSWER_SECONDS", 0.3 if answer == "no end" else 30.0)
    for path in ("/upload", "/upload?dry_run=true"):
        origin.serve_in_turn(path, reply)
    (tmp_path / "file").write_bytes(b"--x\r\n")
    ends = list(send(origin.url(""), [tmp_path / "file"]))
    assert {(end.answer, bool(end.fault)) for end in ends} == {(answer, is_fault)}


@pytest.fixture
def quiet(origin: Origin, tmp_path: Path) -> Iterator[Any]:
    """Give a server that stands still, for which the origin answers."""
    (tmp_path / "log").write_text("")
    origin.serve("/status/x")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield SimpleNamespace(url=origin.url(""), process=process, log=tmp_path / "log")
        process.kill()


def log_a_bug(service: Any) -> None:
    """Have it in the log as the service writes it."""
    try:
        raise KeyError("lost")  # noqa: TRY301  # for its traceback
    except KeyError:
        error = sys.exc_info()
    record = logging.LogRecord("server", logging.ERROR, "a", 1, "a bug", None, error)
    service.log.write_text(TextFormatter("%(message)s").format(record) + "\n")


def end_it(service: Any) -> None:
    """End its process."""
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()


@pytest.mark.parametrize(
    ("harm", "reply", "growth", "fault"),
    [
        (None, Reply(), 128, ""),
        (log_a_bug, Reply(), 128, "logged 1 times: KeyError"),
        (end_it, Reply(), 128, "the server ended with -9"),
        (None, Reply(), -1000, "the server grew by"),
        (None, Reply(status=503), 128, "answered 503"),
        (None, Reply(silent=True), 128, "had no answer"),
    ],
)
def test_servers_are_looked_at(
    *,
    quiet: Any,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Any], None] | None,
    reply: Reply,
    growth: float,
    fault: str,
) -> None:
    """A server that ended, grew, logged a bug or kept an ordinary client waiting is told of."""
    monkeypatch.setattr(watch, "MOST_GROWTH_MIB", growth)
    monkeypatch.setattr(watch, "STATUS_SECONDS", 0.5 if reply.silent else 30.0)
    origin.serve_in_turn("/status/x", reply)
    with watch.Watch(cast("Any", quiet), "x") as watched:
        if harm:
            harm(quiet)
    assert [fault in found for found in watched.faults] == [True] * bool(fault)
