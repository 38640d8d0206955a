"""Images are decoded in processes apart, whatever becomes of these."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from PIL import Image

from codec.compressed_image import ImageLimits
from codec.image_compressor import compress
from decoder import decoder_clock, decoder_handle, decoder_pool, decoder_protocol
from decoder.decoder_pool import DecoderPool, DecoderUnavailableError
from errors import ImageError
from request_options import Effort, ImageOptions, OutputFormat
from tests.images import LIMITS, opened, photo, png, saved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JPEG = saved(photo(), "JPEG", quality=97)
ROOT = Path(__file__).parents[2]
GOOD = '"format": "jpeg", "width": 4, "height": 3, "quality": "75"'
BODY = b"\xff\xd8\xff"  # what makes it a JPEG, as far as anybody looks


@contextmanager
def pool(
    processes: int = 1, limits: ImageLimits = LIMITS, seconds: float = 30
) -> Iterator[DecoderPool]:
    """Give a pool that is closed at the end."""
    decoders = DecoderPool(processes, limits, seconds)
    try:
        yield decoders
    finally:
        decoders.close()


class Recorded(subprocess.Popen[bytes]):
    """A process that is remembered."""

    all: ClassVar[list[Recorded]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        Recorded.all.append(self)


@pytest.fixture(autouse=True)
def _recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember every process that a test starts."""
    monkeypatch.setattr(subprocess, "Popen", Recorded)
    Recorded.all.clear()


def children() -> list[Recorded]:
    """Return the processes that are not reaped: also the dead, if nobody has waited for them."""
    return [child for child in Recorded.all if child.returncode is None]


def worked(process: Recorded) -> float:
    """Return the processor seconds that a process has used."""
    return time.clock_gettime(~process.pid << 3 | 2)


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until something is true, for a minute at the most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let pools start another program, which may use `ready`, `answer` and `read` of this one."""
    head = f"""
import os, signal, struct, sys, time
sys.path.insert(0, {str(ROOT)!r})
from decoder import decoder_protocol
def answer(message, body=b"", size=None):
    os.write(1, decoder_protocol.pack(message, len(body) if size is None else size) + body)
def ready():
    answer({{"ready": True, "bars": ["limits"]}})
def read():
    header = os.read(0, decoder_protocol.HEADER_BYTES)
    left = sum(decoder_protocol.unpack_header(header, 1 << 40))
    while left:
        left -= len(os.read(0, left))
"""

    def use(body: str) -> None:
        path = tmp_path / "decoder_of_a_test.py"
        path.write_text(head + body)
        monkeypatch.setattr(decoder_handle, "_PROGRAM", path)

    return use


@pytest.mark.parametrize(
    "options",
    [
        ImageOptions(),
        ImageOptions(format=OutputFormat.PNG, max_width=50),
        ImageOptions(format=OutputFormat.WEBP, quality=30, effort=Effort.BEST),
        ImageOptions(format=OutputFormat.AVIF, max_bytes=900, background="#123456"),
    ],
)
def test_gives_what_the_compressor_gives(options: ImageOptions) -> None:
    """The way through another process changes nothing."""
    with pool() as decoders:
        assert decoders.compress(JPEG, options) == compress(JPEG, options, LIMITS)


def test_large_images_pass_both_ways() -> None:
    """Frames far larger than a pipe's buffer arrive whole."""
    noise = Image.frombytes("RGB", (1000, 1000), os.urandom(3_000_000))
    data = saved(noise, "BMP")
    with pool() as decoders:
        image = decoders.compress(data, ImageOptions(format=OutputFormat.PNG, effort=Effort.FAST))
    assert len(image.data) > 2_000_000
    assert opened(image.data).tobytes() == opened(data).tobytes()


@pytest.mark.parametrize("target", [OutputFormat.JPEG, OutputFormat.PNG, OutputFormat.AVIF])
def test_noise_at_the_highest_quality_fits_into_an_answer(target: OutputFormat) -> None:
    """Nothing packs worse; it may have as many pixels as an image may have at all."""
    side = 1200
    on_or_off = bytes(255 * (byte & 1) for byte in os.urandom(4 * side * side))
    data = saved(Image.frombytes("RGBA", (side, side), on_or_off), "TIFF")
    with pool(limits=ImageLimits(side * side, 1)) as decoders:
        image = decoders.compress(data, ImageOptions(target, quality=100, effort=Effort.FAST))
    assert (image.format, image.width) == (target, side)


def test_an_original_fits_into_an_answer_whatever_it_has() -> None:
    """Samples of 16 bits are more than what is made anew has, and stay as they are."""
    side = 900
    data = png(16, 6, [os.urandom(8 * side) for _ in range(side)])
    with pool(limits=ImageLimits(side * side, 1)) as decoders:
        image = decoders.compress(data, ImageOptions(effort=Effort.FAST))
    assert len(image.data) > 7 * side * side
    assert image.quality == "lossless"


@pytest.mark.parametrize(
    ("data", "limits", "code"),
    [
        (b"", LIMITS, "not_an_image"),
        (b"<svg/>", LIMITS, "unsupported_format"),
        (JPEG[:-50], LIMITS, "truncated"),
        (JPEG, ImageLimits(99, 1), "too_many_pixels"),
    ],
)
def test_an_image_s_failure_is_told_and_the_decoder_lives_on(
    data: bytes, limits: ImageLimits, code: str
) -> None:
    """One image's failure costs no process."""
    with pool(limits=limits) as decoders:
        for _ in range(2):
            with pytest.raises(ImageError) as caught:
                decoders.compress(data, ImageOptions())
            assert caught.value.code == code
            assert caught.value.detail.endswith(".")
        assert len(children()) == 1


def test_many_threads_share_few_decoders() -> None:
    """Each thread gets its own image back, and no more processes run than allowed."""
    pictures = [saved(photo(40 + index, 30), "JPEG") for index in range(40)]
    with pool(2) as decoders, ThreadPoolExecutor(8) as threads:
        images = threads.map(lambda data: decoders.compress(data, ImageOptions()), pictures)
        assert [image.width for image in images] == [40 + index for index in range(40)]
        assert len(children()) == 2


def test_starts_nothing_before_the_first_image_and_leaves_nothing_behind() -> None:
    """Processes come when needed; closing ends and reaps every one."""
    with pool(2) as decoders:
        assert not children()
        decoders.compress(JPEG, ImageOptions())
        assert len(children()) == 1
    assert not children()
    with pytest.raises(DecoderUnavailableError):
        decoders.compress(JPEG, ImageOptions())


def test_a_decoder_that_died_while_idle_is_replaced() -> None:
    """Someone killed it between two images: the next image doesn't notice, of however many."""
    slow = ImageOptions(format=OutputFormat.AVIF)
    data = saved(photo(600, 600), "PNG")
    with pool(5) as decoders, ThreadPoolExecutor(5) as threads:
        list(threads.map(decoders.compress, [data] * 5, [slow] * 5))
        victims = children()
        assert len(victims) == 5
        for victim in victims:
            victim.kill()
            os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
        assert decoders.compress(JPEG, ImageOptions()).width == 160
        assert len([victim for victim in victims if victim in children()]) == 4


def test_a_decoder_killed_at_work_costs_no_image() -> None:
    """A SIGKILL from outside says nothing about the image, so it is done again."""
    data = saved(photo(1400, 1400), "PNG")
    with pool() as decoders, ThreadPoolExecutor(1) as threads:
        decoders.compress(JPEG, ImageOptions())
        victim = children()[0]
        before = worked(victim)
        slow = ImageOptions(format=OutputFormat.AVIF, effort=Effort.BEST)
        waiting = threads.submit(decoders.compress, data, slow)
        wait_for(lambda: worked(victim) > before + 0.1)
        victim.kill()
        assert waiting.result(60).format == "avif"
        assert victim.pid not in {child.pid for child in children()}


def test_a_decoder_that_was_stopped_costs_no_image() -> None:
    """Time in which a decoder could not work is not the image's fault."""
    with pool(seconds=0.5) as decoders:
        decoders.compress(JPEG, ImageOptions())
        victim = children()[0]
        victim.send_signal(signal.SIGSTOP)
        assert decoders.compress(JPEG, ImageOptions()).width == 160
        assert victim.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what was waited for")
def test_waiting_for_a_processor_is_not_the_image_s_time(program: Callable[[str], None]) -> None:
    """A decoder that gives way to others has the processor's time that it would have without."""
    processor = min(os.sched_getaffinity(0))
    here = f"os.sched_setaffinity(0, [{processor}])"
    work = "end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    program(f"ready(); read(); {here}; os.nice(5); {work}\nanswer({{{GOOD}}}, {BODY!r})")
    busy = f"import os; {here}; print(flush=True)\nwhile True: pass"
    with (
        subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as rival,
        pool(seconds=0.6) as decoders,  # a quarter of which it would get to work
    ):
        try:
            assert rival.stdout
            rival.stdout.readline()
            assert decoders.compress(JPEG, ImageOptions()).data == BODY
        finally:
            rival.kill()
    assert len(Recorded.all) == 2  # at the first try


def test_a_machine_that_is_too_busy_costs_no_image(
    program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that hardly got to work is not waited for without end, nor its image given up."""
    monkeypatch.setattr(decoder_clock, "_waited_seconds", lambda _: time.monotonic())
    program("ready(); read(); time.sleep(60)")
    with pool(seconds=0.1) as decoders, pytest.raises(DecoderUnavailableError):
        decoders.compress(JPEG, ImageOptions())
    assert len(Recorded.all) == 1  # later, when there is more room


def test_what_a_decoder_runs_is_counted_whatever_it_waits(
    program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that wait for each other don't lengthen the time of one that was taken over."""
    monkeypatch.setattr(decoder_clock, "_waited_seconds", lambda _: time.monotonic())
    program("ready(); read()\nwhile True: pass")
    with pool(seconds=0.4) as decoders, pytest.raises(ImageError) as caught:
        decoders.compress(JPEG, ImageOptions())
    assert caught.value.code == "compress_timeout"


def test_a_decoder_that_hangs_after_its_work_is_the_image_s_fault(
    program: Callable[[str], None],
) -> None:
    """What it did in the beginning counts: it was not stopped, and is not tried again."""
    work = "end = time.process_time() + 0.15\nwhile time.process_time() < end: pass"
    program(f"ready(); read(); {work}\ntime.sleep(60)")
    with pool(seconds=1) as decoders, pytest.raises(ImageError) as caught:
        decoders.compress(JPEG, ImageOptions())
    assert caught.value.code == "compress_timeout"
    assert len(Recorded.all) == 1


def test_an_image_that_takes_too_long_is_given_up() -> None:
    """The decoder is killed, and the next image gets a new one."""
    noise = Image.frombytes("RGB", (1400, 1400), os.urandom(1400 * 1400 * 3))
    data = saved(noise, "JPEG")
    with pool(seconds=0.4) as decoders:
        with pytest.raises(ImageError) as caught:
            decoders.compress(data, ImageOptions(format=OutputFormat.AVIF, effort=Effort.BEST))
        assert caught.value.code == "compress_timeout"
        assert [process.returncode for process in Recorded.all] == [-signal.SIGKILL]
        assert decoders.compress(JPEG, ImageOptions()).width == 160


def test_a_decoder_that_crashes_costs_one_image(program: Callable[[str], None]) -> None:
    """A crash by itself is the image's fault, and is not tried again."""
    program("ready(); read(); os.kill(os.getpid(), signal.SIGSEGV)")
    with pool() as decoders:
        for _ in range(2):
            with pytest.raises(ImageError) as caught:
                decoders.compress(JPEG, ImageOptions())
            assert caught.value.code == "compress_crash"
    assert not children()


def test_gives_up_when_decoders_are_killed_again_and_again(program: Callable[[str], None]) -> None:
    """Memory may run out for one image alone, so there is an end to trying."""
    program("ready(); read(); os.kill(os.getpid(), signal.SIGKILL)")
    with pool() as decoders, pytest.raises(ImageError) as caught:
        decoders.compress(JPEG, ImageOptions())
    assert caught.value.code == "compress_crash"


@pytest.mark.parametrize("body", ["sys.exit(1)", "os.write(1, b'x' * 99)", "import nothing_at_all"])
def test_decoders_that_do_not_start_are_no_image_s_fault(
    program: Callable[[str], None], body: str
) -> None:
    """An installation that is broken must not fail a million images."""
    program(body)
    with pool() as decoders:
        for _ in range(2):
            with pytest.raises(DecoderUnavailableError):
                decoders.compress(JPEG, ImageOptions())
    assert not children()


@pytest.mark.parametrize(
    "reply",
    [
        'os.write(1, b"<html>" * 9)',
        'os.write(1, struct.pack(">4sIQ", b"img1", 1 << 31, 0))',
        'answer({"format": "jpeg"}, b"x", size=1 << 50)',
        'os.write(1, struct.pack(">4sIQ", b"img1", 4, 0) + b"nope")',
        'os.write(1, struct.pack(">4sIQ", b"img1", 2, 0) + b"[]")',
        "answer({})",
        'answer({"code": "blocked_address", "detail": "x"})',
        'answer({"code": "decode_error", "detail": 7})',
        f"answer({{{GOOD}}})",
        f"answer({{{GOOD}}}, b'x')",
        f"answer({{{GOOD}}}, b'<html>')",
        f"answer({{{GOOD}}}, b'GIF89a')",
        f'answer({{{GOOD}, "format": "png"}}, {BODY!r})',
        f'answer({{{GOOD}, "format": "html"}}, {BODY!r})',
        f'answer({{{GOOD}, "format": "tiff"}}, b"II*\\0" + bytes(9))',
        f'answer({{{GOOD}, "width": "4"}}, {BODY!r})',
        f'answer({{{GOOD}, "width": -4, "height": -3}}, {BODY!r})',
        f'answer({{{GOOD}, "width": 10**9, "height": 10**9}}, {BODY!r})',
        f'answer({{{GOOD}, "width": True}}, {BODY!r})',
        f'answer({{{GOOD}, "height": True}}, {BODY!r})',
        f'answer({{{GOOD}, "quality": "101"}}, {BODY!r})',
        f'answer({{{GOOD}, "quality": "best"}}, {BODY!r})',
        f'answer({{{GOOD}, "hint": 7}}, {BODY!r})',
        f'os.write(1, decoder_protocol.pack({{{GOOD}}}, 3) + {BODY!r} + b"i")',  # at once: to be seen in time
        f"os.write(1, (decoder_protocol.pack({{{GOOD}}}, 3) + {BODY!r}) * 2)",
    ],
)
def test_nonsense_is_no_answer(program: Callable[[str], None], reply: str) -> None:
    """What a hostile image makes a decoder say is checked, and the decoder is ended."""
    program(f"ready(); read(); {reply}; time.sleep(60)")
    with pool() as decoders:
        with pytest.raises(ImageError) as caught:
            decoders.compress(JPEG, ImageOptions())
        assert caught.value.code == "compress_crash"
        assert not children()


def test_what_is_said_between_two_images_answers_neither(
    program: Callable[[str], None], tmp_path: Path
) -> None:
    """A forged answer that waits in the pipe would be the next image's: the decoder is ended."""
    (tmp_path / "go").touch()
    forged = f"""
ready(); read(); answer({{{GOOD}}}, {BODY!r} + b"first")
while os.path.exists({str(tmp_path / "go")!r}):
    time.sleep(0.005)
answer({{{GOOD}}}, {BODY!r} + b"forged"); read(); time.sleep(60)"""
    program(forged)
    with pool() as decoders:
        assert decoders.compress(JPEG, ImageOptions()).data == BODY + b"first"
        (victim,) = children()
        (tmp_path / "go").unlink()
        (decoder,) = decoders._idle
        wait_for(lambda: not decoder.is_usable)
        (tmp_path / "go").touch()  # the next decoder is a sound one
        assert decoders.compress(JPEG, ImageOptions()).data == BODY + b"first"
        assert victim.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("os.close(1); time.sleep(60)", "compress_crash"),
        ("os.close(0); time.sleep(60)", "compress_crash"),
        ("while True: pass", "compress_timeout"),
        (
            'os.write(1, struct.pack(">4sIQ", b"img1", 2, 1 << 24) + b"{}")\n'  # noqa: ISC004  one
            'while True: os.write(1, b"x")',
            "compress_timeout",
        ),
    ],
    ids=["output closed", "input closed", "never read", "trickled"],
)
def test_a_decoder_that_neither_answers_nor_dies_costs_its_time_alone(
    program: Callable[[str], None], body: str, code: str
) -> None:
    """There is one time for all that a decoder does, however much it is doing."""
    program(f"ready()\n{body}")
    large = saved(photo(1400, 1400), "BMP")  # more than a pipe takes
    with pool(seconds=0.5) as decoders:
        with pytest.raises(ImageError) as caught:
            decoders.compress(large, ImageOptions())
        assert caught.value.code == code
        assert not children()


def test_a_decoder_can_be_started_ahead(program: Callable[[str], None]) -> None:
    """It waits for the first image, and the bars of its cage are known."""
    program(f'ready(); read(); answer({{{GOOD}}}, {BODY!r} + b"first")')
    with pool() as decoders:
        assert decoders.bars == frozenset()
        decoders.start()
        assert decoders.bars == {"limits"}
        (process,) = children()
        assert decoders.compress(JPEG, ImageOptions()).data == BODY + b"first"
        assert Recorded.all == [process]


def test_all_decoders_can_be_started_ahead() -> None:
    """Each call brings one more, also beside images, and never one too many."""
    with pool(2) as decoders, ThreadPoolExecutor(4) as threads:
        decoders.start()
        assert len(children()) == 1
        for _ in range(3):
            threads.submit(decoders.start)
        images = threads.map(lambda _: decoders.compress(JPEG, ImageOptions()), range(20))
        assert len(list(images)) == 20
        decoders.start()
        assert len(children()) == len(Recorded.all) == 2


@pytest.mark.parametrize(
    "message",
    [
        "{}",
        '{"ready": 1, "bars": []}',
        '{"ready": True}',
        '{"ready": True, "bars": ["gold"]}',
        '{"ready": True, "bars": [[]]}',
        '{"ready": True, "bars": "limits"}',
    ],
)
def test_bars_are_data(program: Callable[[str], None], message: str) -> None:
    """Names that are none of ours go into no log and no metric."""
    program(f"answer({message}); time.sleep(60)")
    with pool() as decoders:
        with pytest.raises(DecoderUnavailableError):
            decoders.start()
        assert decoders.bars == frozenset()
        assert not children()


def test_a_side_that_the_database_can_not_hold_is_no_answer() -> None:
    """Whatever the limit for pixels is, the row of the image can be written."""
    limits = ImageLimits(max_pixels=2**40, max_frames=1)
    answer = {"format": "jpeg", "width": 2**31, "height": 1, "quality": "75"}
    with pytest.raises(decoder_protocol.ProtocolError):
        decoder_pool._read_reply(answer, BODY, limits)
    decoder_pool._read_reply(answer | {"width": 2**31 - 1}, BODY, limits)


def test_a_sound_answer_is_believed(program: Callable[[str], None]) -> None:
    """The checks let through what is right; details and hints are cut and cleaned."""
    body = f'ready(); read(); answer({{{GOOD}}}, {BODY!r} + b"pixels"); read()\n'
    body += 'hint = "half\\ud800\\u202e\\0" + "!" * 900; '
    body += f'answer({{{GOOD}, "hint": hint}}, {BODY!r}); read()\n'
    program(body + r'answer({"code": "truncated", "detail": "half\x1b[2J" + "!" * 900})')
    with pool() as decoders:
        image = decoders.compress(JPEG, ImageOptions())
        assert (image.data, image.hint) == (BODY + b"pixels", "")
        hint = decoders.compress(JPEG, ImageOptions()).hint
        assert hint.startswith("half!!!")
        assert len(hint) <= 500
        with pytest.raises(ImageError) as caught:
            decoders.compress(JPEG, ImageOptions())
        assert caught.value.detail.startswith("half[2J!!!")
        assert len(caught.value.detail) <= 500


def test_a_bug_is_logged_and_costs_one_image(
    program: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """An operator sees the traceback, a client does not."""
    program('ready(); read(); answer({"bug": "Traceback of a test"}); time.sleep(60)')
    with pool() as decoders:
        with pytest.raises(ImageError) as caught:
            decoders.compress(JPEG, ImageOptions())
        assert not children()  # nobody knows what state it was in
    assert caught.value.code == "internal_error"
    assert "Traceback" not in caught.value.detail
    assert "Traceback of a test" in caplog.text


def test_decoders_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leak in a codec has no time to grow."""
    monkeypatch.setattr(decoder_pool, "_RENEWED_AFTER_IMAGES", 2)
    pids = []
    with pool() as decoders:
        for _ in range(4):
            decoders.compress(JPEG, ImageOptions())
            pids.append({child.pid for child in children()})
    assert pids[0] and not pids[1] and pids[2] and pids[2] != pids[0]  # noqa: PT018  one story


def test_closing_ends_images_under_way() -> None:
    """Whoever waits is told that it was not the image's fault, also who waits for a turn."""
    slow = ImageOptions(format=OutputFormat.AVIF, effort=Effort.BEST)
    data = saved(photo(1400, 1400), "PNG")
    with pool() as decoders, ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(decoders.compress, data, slow) for _ in range(3)]
        wait_for(children)
        decoders.close()
        for future in waiting:
            with pytest.raises(DecoderUnavailableError):
                future.result(30)
    assert not children()


def start_decoder(seconds: float = 30) -> subprocess.Popen[bytes]:
    """Start the program itself, and wait until it is ready."""
    program = [sys.executable, "-m", "decoder.decoder_process", "2000000", "20", str(seconds)]
    process = subprocess.Popen(
        program,
        cwd=ROOT,
        env=decoder_handle._ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    header = process.stdout.read(decoder_protocol.HEADER_BYTES)
    message_bytes, _ = decoder_protocol.unpack_header(header, 0)
    assert decoder_protocol.unpack_message(process.stdout.read(message_bytes))["ready"] is True
    return process


def test_a_decoder_ends_with_its_service() -> None:
    """No signal is needed: its input ends."""
    process = start_decoder()
    assert process.stdin
    process.stdin.close()
    assert process.wait(30) == 0
    process = start_decoder()
    assert process.stdin
    process.stdin.write(decoder_protocol.pack({"options": ImageOptions().to_json()}, 1000))
    process.stdin.close()
    assert process.wait(30) == 0


def test_a_decoder_leaves_signals_to_its_service() -> None:
    """A supervisor may signal every process, but images under way are to be finished."""
    process = start_decoder()
    assert process.stdin
    assert process.stdout
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    options = {"options": ImageOptions().to_json()}
    process.stdin.write(decoder_protocol.pack(options, len(JPEG)) + JPEG)
    process.stdin.flush()
    assert process.stdout.read(4) == b"img1"
    process.kill()
    process.wait(30)


@pytest.mark.skipif(sys.platform != "linux", reason="limits are read from /proc")
def test_a_decoder_gives_up_what_it_does_not_need() -> None:
    """Memory, files, processes, core dumps and processor time have an end."""
    with pool() as decoders:
        decoders.compress(JPEG, ImageOptions())
        limits = Path(f"/proc/{children()[0].pid}/limits").read_text()
    for name, value in {
        "address space": 1_201_741_824,
        "core file size": 0,
        "file size": 0,
        "processes": 0,
        "open files": 0,
    }.items():
        assert re.search(rf"Max {name} +{value} +{value} ", limits)
    assert re.search(r"Max cpu time +\d\d +130060 ", limits)  # of this image, and of its life


@pytest.mark.skipif(sys.platform != "linux", reason="what is there is read from /proc")
@pytest.mark.skipif(os.geteuid() != 0, reason="nobody else looks into a decoder")
def test_a_decoder_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret is there, and no file or connection beside two pipes."""
    monkeypatch.setenv("DATABASE_URL", "a-password-of-this-service")
    with pool() as decoders:
        decoders.compress(JPEG, ImageOptions())
        process = Path(f"/proc/{children()[0].pid}")
        environment = (process / "environ").read_bytes()
        links = [path.readlink() for path in (process / "fd").iterdir()]
    assert b"PYTHONPATH" in environment
    assert b"a-password-of-this-service" not in environment
    assert sorted(str(link).split(":")[0] for link in links) == ["/dev/null"] * 3 + ["pipe"] * 2


def test_a_decoder_works_nowhere(program: Callable[[str], None]) -> None:
    """Its working directory, which it may ask for, tells nothing of the machine."""
    program('ready(); read(); answer({"code": "truncated", "detail": os.getcwd()})')
    with pool() as decoders, pytest.raises(ImageError) as caught:
        decoders.compress(JPEG, ImageOptions())
    assert caught.value.detail == "/"


def test_what_libraries_print_is_lost(capfd: pytest.CaptureFixture[str]) -> None:
    """A hostile file's words end neither between frames nor in the service's log."""
    tiff = saved(photo(), "TIFF", compression="tiff_lzw")
    odd = struct.pack("<HHI", 0x0111, 4, 1)
    with pool() as decoders:
        with suppress(ImageError):
            decoders.compress(tiff.replace(odd, struct.pack("<HHI", 0xF00D, 77, 1)), ImageOptions())
        assert decoders.compress(tiff, ImageOptions()).width == 160
    assert capfd.readouterr() == ("", "")


def test_closing_twice_and_from_several_threads_is_harmless() -> None:
    """A shutdown may come from two sides."""
    with pool(2) as decoders:
        decoders.compress(JPEG, ImageOptions())
        closers = [threading.Thread(target=decoders.close) for _ in range(3)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(30)
    assert not children()
