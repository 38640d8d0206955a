"""What gets into a decoder does not get out: each bar by itself, and all of them together."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import landlockpy
import pytest

from codec.image_compressor import compress
from decoder import decoder_handle, decoder_syscalls
from decoder.decoder_cage import Bar
from decoder.decoder_pool import DecoderPool, DecoderUnavailableError
from request_options import ImageOptions, OutputFormat
from tests.images import LIMITS, photo, saved

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="most bars are Linux's")


def landlock_version() -> int:
    """Return what this kernel's Landlock is, or 0: a container's filter may refuse the question."""
    try:
        return landlockpy.abi_version()
    except OSError:
        return 0


LANDLOCK = landlock_version()
with_landlock = pytest.mark.skipif(not LANDLOCK, reason="no Landlock")
is_root = os.geteuid() == 0
as_root = pytest.mark.skipif(not is_root, reason="only root changes to another user")
with_id = pytest.mark.skipif(not shutil.which("id"), reason="no program that tells who runs it")
with_seccomp = pytest.mark.skipif(
    os.uname().machine not in decoder_syscalls.ARCHITECTURES, reason="another architecture"
)

with_autogroups = pytest.mark.skipif(
    not os.access("/proc/self/autogroup", os.W_OK), reason="no shares of processors by session"
)

ROOT = Path(__file__).parents[2]
ESCAPES = Path(__file__).with_name("escapes.py")
AS_IT_IS = 0
SETPRIV = shutil.which("setpriv") if is_root else None
WITHOUT_PRIVILEGE = [SETPRIV, "--bounding-set=-sys_admin"] if SETPRIV else []
ORDINARY = 65_532 if is_root else AS_IT_IS
USERS = (AS_IT_IS, ORDINARY) if is_root else (AS_IT_IS,)
JPEG = saved(photo(), "JPEG", quality=97)
FILES = ("read_file", "write_file", "list_folder", "read_environment")
TCP = ("connect_tcp", "listen_tcp")
SOCKETS = (*TCP, "send_udp", "connect_unix", "connect_abstract")
OTHERS = ("signal", "trace", "read_memory")
BARS = (
    set(Bar)
    - ({Bar.LANDLOCK_FILES} if LANDLOCK < 1 else set())
    - ({Bar.LANDLOCK_NETWORK} if LANDLOCK < 4 else set())
    - ({Bar.LANDLOCK_SCOPES} if LANDLOCK < 6 else set())
)
BY_LANDLOCK = dict.fromkeys((*FILES, "execute"), "EACCES")
BY_LANDLOCK |= dict.fromkeys(("trace", "read_memory"), "EPERM")
if Bar.LANDLOCK_NETWORK in BARS:
    BY_LANDLOCK |= dict.fromkeys((*TCP, "connect_inherited"), "EACCES")
if Bar.LANDLOCK_SCOPES in BARS:
    BY_LANDLOCK |= dict.fromkeys(("signal", "connect_abstract"), "EPERM")


def escapes(user: int, steps: list[str], *attempts: str) -> dict[str, str]:
    """Raise bars in a process of its own; return how each attempt (by default all) ended."""
    done = subprocess.run(
        [sys.executable, str(ESCAPES), str(user), *steps, "--", *attempts],
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    ended: dict[str, str] = dict(json.loads(line) for line in done.stdout.splitlines())
    shutil.rmtree(ended.pop("folder"))
    return ended


def may_look_into_others(user: int) -> bool:
    """Tell whether the Yama module lets a user trace a process that is willing."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return not scope.exists() or int(scope.read_text()) < (2 if user else 3)


@as_root
@pytest.mark.parametrize(
    "user",
    [
        pytest.param(
            user,
            marks=pytest.mark.skipif(not may_look_into_others(user), reason="Yama is stricter"),
        )
        for user in USERS
    ],
)
def test_without_bars_every_attempt_succeeds(user: int) -> None:
    """So a failure of one is a bar's doing; an ordinary user only can't become root."""
    ended = escapes(user, [])
    assert ended.pop("become_root") == ("EPERM" if user else "done")
    assert set(ended.values()) == {"done"}


@pytest.mark.parametrize(
    ("user", "steps", "expected"),
    [
        pytest.param(
            AS_IT_IS,
            ["drop_user"],
            dict.fromkeys(("write_file", "read_environment", "connect_unix"), "EACCES")
            | dict.fromkeys((*OTHERS, "limit_other", "become_root"), "EPERM"),
            marks=as_root,
            id="user",
        ),
        pytest.param(
            ORDINARY,
            ["forbid_privileges"],
            {"run_as_owner": "EPERM"},
            marks=[as_root, with_id],  # it takes root to make a program of root's
            id="privileges",
        ),
        pytest.param(ORDINARY, ["forbid_tracing"], {"be_looked_into": "EPERM"}, id="tracing"),
        pytest.param(
            ORDINARY,
            ["limit_resources"],
            dict.fromkeys((*FILES, *SOCKETS), "EMFILE")
            | {"duplicate_descriptor": "EINVAL", "fork": "EAGAIN", "start_thread": "RuntimeError"}
            | {"take_memory": "ENOMEM", "raise_limits": "ValueError"}
            | {"compute_for_ever": "ValueError"},
            id="limits",
        ),
        *(
            pytest.param(
                user,
                ["restrict_by_landlock"],
                BY_LANDLOCK,
                marks=with_landlock,
                id=f"landlock {user}",
            )
            for user in USERS
        ),
        *(
            pytest.param(
                user,
                # An ordinary user may only have a filter when there are no privileges to gain.
                ["forbid_privileges"] * bool(user or not is_root) + ["filter_system_calls"],
                dict.fromkeys((*FILES, *SOCKETS, *OTHERS), "ENOSYS")
                | dict.fromkeys(("connect_inherited", "duplicate_descriptor", "fork"), "ENOSYS")
                | dict.fromkeys(("limit_other", "raise_limits", "become_root"), "ENOSYS")
                | {"make_code": "ENOSYS", "execute": "ENOSYS", "start_thread": "RuntimeError"},
                marks=with_seccomp,
                id=f"seccomp {user}",
            )
            for user in USERS
        ),
    ],
)
def test_each_bar_bars_alone(user: int, steps: list[str], expected: dict[str, str]) -> None:
    """No bar hides that another one isn't there."""
    assert escapes(user, steps, *expected) == expected


@with_seccomp
@pytest.mark.parametrize("user", USERS)
def test_nothing_gets_out_of_the_whole_cage(user: int) -> None:
    """Around a decoder as it is, started by root or not, every attempt fails."""
    ended = escapes(user, ["everything"])
    if is_root and not user:
        del ended["be_looked_into"]  # the other process is still root's
    assert len(ended) > 20
    assert "done" not in ended.values()


@with_seccomp
def test_the_bars_are_told_and_bind_every_thread() -> None:
    """A decoder's codecs have threads of their own; none of them stays outside."""
    with closing(DecoderPool(1, LIMITS, 30)) as decoders:
        assert decoders.bars == set()
        decoders.start()
        assert decoders.bars == BARS
        (decoder,) = decoders._idle
        tasks = list(Path(f"/proc/{decoder._process.pid}/task").iterdir())
        assert len(tasks) > 1
        for task in tasks:
            status = (task / "status").read_text()
            assert "NoNewPrivs:\t1" in status
            assert "Seccomp:\t2" in status
            assert "CapEff:\t0000000000000000" in status
            assert not is_root or "Uid:\t65533\t65533\t65533\t65533\n" in status
            assert not is_root or "Gid:\t65533\t65533\t65533\t65533\n" in status
            assert not is_root or "Groups:\t \n" in status


@pytest.mark.parametrize("target", OutputFormat)
def test_every_format_is_decoded_and_encoded_in_the_cage(target: OutputFormat) -> None:
    """An image that passes through the cage is the one that the compressor makes."""
    inputs = [saved(photo(), name) for name in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP")]
    inputs += [saved(photo(), "TIFF", compression=kind) for kind in ("tiff_lzw", "jpeg", "zstd")]
    with closing(DecoderPool(1, LIMITS, 60)) as decoders:
        for data in inputs:
            options = ImageOptions(format=target)
            assert decoders.compress(data, options) == compress(data, options, LIMITS)


@pytest.fixture
def cage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let pools start decoders with something in their cage replaced, by a line of Python."""

    def replace(line: str) -> None:
        path = tmp_path / "decoder_of_a_test.py"
        path.write_text(
            f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            "import ctypes, errno, os, resource\n"
            "from decoder import decoder_cage, decoder_process, decoder_syscalls\n"
            "def fail(*_): raise OSError(errno.EIO, 'it broke')\n"
            "def refuse(*_): raise PermissionError(errno.EPERM, 'not here')\n"
            f"{line}\ndecoder_process.main(sys.argv[1:])\n"
        )
        monkeypatch.setattr(decoder_handle, "_PROGRAM", path)

    return replace


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("os.setuid = fail", marks=as_root),
        "decoder_cage._prctl = fail",
        pytest.param("os.getppid = iter((1, 2)).__next__", id="a service that is gone"),
        "resource.setrlimit = fail",
        pytest.param("decoder_cage.landlockpy.Ruleset.restrict = fail", marks=with_landlock),
        pytest.param(
            "decoder_syscalls.assemble = lambda _: bytes(8)",
            marks=with_seccomp,
            id="a program that the kernel refuses",
        ),
        pytest.param(
            "decoder_syscalls.ALLOWED = tuple(\n"
            " call for call in decoder_syscalls.ALLOWED if call.name not in {'mmap', 'brk'})",
            marks=with_seccomp,
            id="a filter under which codecs don't work",
        ),
        pytest.param(
            "import threading; threading.Thread(target=sys.stdin.read, daemon=True).start()",
            id="a thread that started too early",
        ),
    ],
)
def test_a_bar_that_fails_keeps_the_decoder_from_starting(
    cage: Callable[[str], None], line: str
) -> None:
    """Nothing is decoded in half a cage, and the service is told at its start."""
    cage(line)
    with closing(DecoderPool(1, LIMITS, 30)) as decoders:
        for use in (decoders.start, lambda: decoders.compress(JPEG, ImageOptions())):
            with pytest.raises(DecoderUnavailableError):
                use()
        assert decoders.bars == set()


def test_what_failed_is_logged(
    cage: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """An operator sees what the kernel said."""
    cage("decoder_cage._prctl = fail")
    with closing(DecoderPool(1, LIMITS, 30)) as decoders, pytest.raises(DecoderUnavailableError):
        decoders.start()
    assert "it broke" in caplog.text


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        pytest.param("os.setuid = refuse", {Bar.USER}, marks=as_root),
        pytest.param("os.setgroups = refuse", {Bar.USER}, marks=as_root),
        (
            "decoder_cage.landlockpy.abi_version = lambda: 0",
            {Bar.LANDLOCK_FILES, Bar.LANDLOCK_NETWORK, Bar.LANDLOCK_SCOPES},
        ),
        (
            "decoder_cage.landlockpy.abi_version = refuse",
            {Bar.LANDLOCK_FILES, Bar.LANDLOCK_NETWORK, Bar.LANDLOCK_SCOPES},
        ),
        pytest.param(
            "decoder_cage.landlockpy._syscall.abi_version = lambda: 1\n"
            "decoder_cage.landlockpy.abi_version = lambda: 1",
            {Bar.LANDLOCK_NETWORK, Bar.LANDLOCK_SCOPES},
            marks=with_landlock,
        ),
        ("decoder_syscalls._seccomp = lambda *_: -errno.ENOSYS", {Bar.SECCOMP}),
        ("decoder_syscalls.ARCHITECTURES = {}", {Bar.SECCOMP}),
    ],
)
@with_seccomp
def test_a_bar_that_the_system_lacks_is_missing(
    cage: Callable[[str], None], line: str, missing: set[Bar]
) -> None:
    """An older kernel or a strict container still decodes, and says what is missing."""
    cage(line)
    with closing(DecoderPool(1, LIMITS, 30)) as decoders:
        decoders.start()
        assert decoders.bars == BARS - missing
        assert decoders.compress(JPEG, ImageOptions()).width == 160


@as_root
def test_a_change_of_the_user_undoes_no_bar(cage: Callable[[str], None]) -> None:
    """Where fs.suid_dumpable is 1, a process can be looked into again after it."""
    cage(
        "change = os.setuid\n"
        "os.setuid = lambda user: (change(user), decoder_cage._prctl(4, 1))  # PR_SET_DUMPABLE"
    )
    with closing(DecoderPool(1, LIMITS, 30)) as decoders:
        decoders.start()
        (decoder,) = decoders._idle
        assert Path(f"/proc/{decoder._process.pid}/environ").stat().st_uid == 0


def test_decoders_go_first_when_memory_runs_out() -> None:
    """Whatever their size is, the kernel chooses them and not the server or PostgreSQL."""
    with closing(DecoderPool(1, LIMITS, 30)) as decoders:
        decoders.start()
        (decoder,) = decoders._idle
        path = Path(f"/proc/{decoder._process.pid}/oom_score_adj")
        assert path.read_text() == "1000\n"


def session_niceness(pid: int) -> int:
    """Return how nice the session is whose share of the processors a process has."""
    return int(Path(f"/proc/{pid}/autogroup").read_text().rpartition("nice ")[2])


def test_decoders_give_way_to_the_service() -> None:
    """A status or an image is not kept waiting by pictures that are compressed."""
    with closing(DecoderPool(1, LIMITS, 30)) as decoders:
        decoders.start()
        (decoder,) = decoders._idle
        niceness = os.getpriority(os.PRIO_PROCESS, decoder._process.pid)
        assert niceness >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)


@with_autogroups
def test_sessions_of_decoders_give_way() -> None:
    """Decoders have sessions of their own, nice ones, even if several start as an ordinary user."""
    program = "from decoder import decoder_cage; input(); decoder_cage.give_way(); print(); input()"
    processes = [
        subprocess.Popen(
            [*WITHOUT_PRIVILEGE, sys.executable, "-c", program],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout
        process.stdout.readline()
        assert session_niceness(process.pid) == 5
        process.communicate(b"\n", timeout=30)
    with closing(DecoderPool(1, LIMITS, 30)) as decoders:
        decoders.start()
        (decoder,) = decoders._idle
        assert os.getsid(decoder._process.pid) == decoder._process.pid
        assert session_niceness(decoder._process.pid) == 5


def test_a_decoder_that_ignores_everything_ends_with_its_service(
    cage: Callable[[str], None],
) -> None:
    """One that an image has taken over reads no end of its input, and computes on."""
    cage("decoder_process._answer = lambda *_: any(iter(int, 1))")
    program = f"""
from pathlib import Path
from decoder import decoder_handle, decoder_protocol
from request_options import ImageOptions
from tests.images import LIMITS
decoder_handle._PROGRAM = Path({str(decoder_handle._PROGRAM)!r})
decoder = decoder_handle.Decoder(LIMITS, 600)
decoder.wait_until_ready()
print(decoder._process.pid, flush=True)
request = decoder_protocol.pack({{"options": ImageOptions().to_json()}}, 1)
decoder.ask(request, b"x", 600, 0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE
    ) as service:
        assert service.stdout
        pid = int(service.stdout.readline())
        ended = os.pidfd_open(pid)
        try:
            clock = ~pid << 3 | 2
            ready = time.clock_gettime(clock)
            while time.clock_gettime(clock) < ready + 0.1:
                time.sleep(0.005)
            service.kill()
            assert select.select([ended], [], [], 30)[0]
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(ended, signal.SIGKILL)
            os.close(ended)


@with_seccomp
def test_the_filter_binds_threads_that_are_there() -> None:
    """The codecs' threads are older than the filter."""
    program = """
import sys, threading
from decoder import decoder_cage
decoder_cage.forbid_privileges()
lock, said = threading.Lock(), []
lock.acquire()
def attempt():
    lock.acquire()
    try:
        open("/")
    except OSError as error:
        said.append(error.errno)
thread = threading.Thread(target=attempt)
thread.start()
decoder_cage.filter_system_calls()
lock.release()
thread.join()
print(said)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=True
    )
    assert done.stdout == b"[38]\n"
