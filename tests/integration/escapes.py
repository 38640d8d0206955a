"""A program that raises bars of a decoder's cage in itself and tries to get out.

    escapes.py USER STEP ... -- ATTEMPT ...

USER is who it is before (0 changes nothing), a STEP a function of `decoder_cage`, or `everything` for
what a decoder does. Says of each attempt whether it is `done`, or how it failed, as lines of JSON. What
the attempts reach for (a process, listeners, a folder, a socket) is there before the bars are.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import json
import mmap
import os
import resource
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

ROOT: Final = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from decoder import decoder_cage, decoder_process  # noqa: E402  # found by the line above
from tests.images import LIMITS  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

_LIBRARY: Final = ctypes.CDLL(None, use_errno=True)
_ADDRESS_SPACE: Final = 1 << 30
_SECONDS: Final = 60
_PR_SET_DUMPABLE: Final = 4
_PR_SET_PTRACER, _PR_SET_PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)
_PTRACE_SEIZE, _PTRACE_DETACH = 0x4206, 17
_SECRET: Final = ctypes.create_string_buffer(b"a secret of the service")


class Surroundings:
    """What is there before the bars: another process, its listeners, a folder, an open socket."""

    def __init__(self, user: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        (self.folder / "readable").write_text("x")
        self.setuid_id = self._copy_id()
        if user:
            self._become(user)
        # Where the Yama module lets only parents look into processes, its children may as well.
        _LIBRARY.prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(self.folder / "socket"))
        self.unix.listen()
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind("")  # Linux chooses an abstract address
        self.abstract.listen()
        self.inherited = socket.socket()
        self.addresses = [
            held.getsockname() for held in (self.tcp, self.udp, self.unix, self.abstract)
        ]
        self.orders, self.answers = os.pipe(), os.pipe()
        self.stranger = os.fork()
        if not self.stranger:
            self._be_a_stranger()
        os.close(self.orders[0])

    def _copy_id(self) -> Path | None:
        """Copy a program that tells who runs it, if there is one, and let it be run as its owner."""
        self.folder.chmod(0o755)
        if not (original := shutil.which("id")):
            return None
        path = self.folder / "id"
        path.write_bytes(Path(original).read_bytes())
        path.chmod(0o4755)
        return path

    def _become(self, user: int) -> None:
        """Become a user, who may be traced like any other."""
        os.chown(self.folder, user, user)
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        _LIBRARY.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)

    def _be_a_stranger(self) -> None:
        """Wait until it is asked to look into its parent, and say what came of it; then end."""
        os.close(self.orders[1])
        if os.read(self.orders[0], 1):
            os.write(self.answers[1], outcome(lambda: read_memory(os.getppid())).encode())
        os._exit(0)

    def end(self) -> None:
        """Let the other process end; what lies in the folder is the caller's."""
        os.close(self.orders[1])


def trace(pid: int) -> None:
    """Begin to trace a process, and let go of it."""
    if _LIBRARY.ptrace(_PTRACE_SEIZE, pid, None, None) == -1:
        raise OSError(ctypes.get_errno(), "refused")
    _LIBRARY.ptrace(_PTRACE_DETACH, pid, None, None)


def read_memory(pid: int) -> None:
    """Read what stands at the secret's address in a process that was forked from or by this one."""
    size = len(_SECRET)
    sink = ctypes.create_string_buffer(size)
    vectors = (ctypes.c_size_t * 4)(ctypes.addressof(sink), size, ctypes.addressof(_SECRET), size)
    start = ctypes.addressof(vectors)
    theirs = ctypes.c_void_p(start + 2 * ctypes.sizeof(ctypes.c_size_t))
    none = ctypes.c_ulong(0)
    one = ctypes.c_ulong(1)
    if _LIBRARY.process_vm_readv(pid, ctypes.c_void_p(start), one, theirs, one, none) == -1:
        raise OSError(ctypes.get_errno(), "refused")
    assert sink.raw == _SECRET.raw


def fork() -> None:
    """Start a process, which ends at once."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def start_thread() -> None:
    """Start a thread, and wait for it."""
    lock = _thread.allocate_lock()
    lock.acquire()
    _thread.start_new_thread(lock.release, ())
    lock.acquire()


def run_as_owner(program: Path) -> None:
    """Run a program that is to run as its owner, who is root. Raises PermissionError."""
    inlet, outlet = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(outlet, 1)
        with suppress(OSError):
            os.execv(program, [str(program), "-u"])  # noqa: S606  to be refused
        os._exit(1)
    os.close(outlet)
    os.waitpid(pid, 0)
    if os.read(inlet, 9) != b"0\n":
        raise PermissionError(errno.EPERM, "still who it was")


def be_looked_into(around: Surroundings) -> None:
    """Let another process of the same user try. Raises what it was told."""
    os.write(around.orders[1], b"!")
    if (answer := os.read(around.answers[0], 99).decode()) != "done":
        raise OSError(getattr(errno, answer), "refused")


def compute_for_ever() -> None:
    """Take the limit of the processor's time away, as the process's own to move."""
    resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def attempts(around: Surroundings) -> dict[str, Callable[[], object]]:
    """Return what can be tried; `execute` ends this program when it succeeds."""
    tcp, udp, unix, abstract = around.addresses
    possible: dict[str, Callable[[], object]] = {
        "read_file": lambda: os.open(around.folder / "readable", os.O_RDONLY),
        "write_file": lambda: os.open(around.folder / "new", os.O_WRONLY | os.O_CREAT),
        "list_folder": lambda: list(Path("/").iterdir()),
        "read_environment": lambda: os.open("/proc/self/environ", os.O_RDONLY),
        "connect_tcp": lambda: socket.socket().connect(tcp),
        "listen_tcp": lambda: socket.create_server(("127.0.0.1", 0)),
        "send_udp": lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", udp),
        "connect_unix": lambda: socket.socket(socket.AF_UNIX).connect(unix),
        "connect_abstract": lambda: socket.socket(socket.AF_UNIX).connect(abstract),
        "connect_inherited": lambda: around.inherited.connect(tcp),
        "duplicate_descriptor": lambda: os.dup(0),
        "fork": fork,
        "start_thread": start_thread,
        "signal": lambda: os.kill(around.stranger, 0),
        "trace": lambda: trace(around.stranger),
        "read_memory": lambda: read_memory(around.stranger),
        "be_looked_into": lambda: be_looked_into(around),
        "limit_other": lambda: resource.prlimit(around.stranger, resource.RLIMIT_CORE, (0, 0)),
        "raise_limits": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        "compute_for_ever": compute_for_ever,
        "become_root": lambda: os.setuid(0),
        "take_memory": lambda: mmap.mmap(-1, 1 << 33),
        "make_code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        "execute": lambda: os.execv("/bin/echo", ["echo", '["execute", "done"]']),  # noqa: S606
    }
    if program := around.setuid_id:
        possible = {"run_as_owner": lambda: run_as_owner(program)} | possible
    return possible


def outcome(attempt: Callable[[], object]) -> str:
    """Return `done`, or the name of the error."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except (ValueError, RuntimeError) as error:  # what Python makes of a refusal by the kernel
        return type(error).__name__
    return "done"


def raise_bars(step: str) -> None:
    """Raise the bars that a step is about."""
    if step == "everything":
        decoder_process._enter_cage(LIMITS, _SECONDS, os.getppid())
    elif step == "limit_resources":
        decoder_cage.limit_resources(_ADDRESS_SPACE, _SECONDS)
    else:
        getattr(decoder_cage, step)()


def main() -> None:
    """Do what the arguments say."""
    user, rest = int(sys.argv[1]), sys.argv[2:]
    report = os.dup(1)
    around = Surroundings(user)
    print(json.dumps(["folder", str(around.folder)]), flush=True)  # noqa: T201  its answer
    for step in rest[: rest.index("--")]:
        raise_bars(step)
    possible = attempts(around)
    for name in rest[rest.index("--") + 1 :] or possible:
        os.write(report, json.dumps([name, outcome(possible[name])]).encode() + b"\n")
    around.end()


if __name__ == "__main__":
    main()
