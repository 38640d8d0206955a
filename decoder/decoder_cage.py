"""What a decoder gives up for good before the first stranger's byte: the bars of its cage.

A decoder needs memory, processor time and its two pipes. Each bar takes something else away, and
each holds by itself, so that a hole in one is closed by another. A bar that this system doesn't
have, or doesn't let this process raise, is missing, and the service says so; one that is there and
fails raises OSError, and then nothing may be decoded. When to raise which is for
`decoder_process`; what the filter of system calls says is for `decoder_syscalls`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import landlockpy

from decoder import decoder_syscalls

# Nobody's number, and not `nobody`'s: the embedded PostgreSQL of a service of root's runs as that.
_USER = 65_533
_NICENESS = 10  # a tenth of the service's weight: enough to go on where others keep cores busy
_SESSION_NICENESS = 5  # a third of another session's; 10 and 19 made answers no quicker
_AUTOGROUP = Path("/proc/self/autogroup")
_AUTOGROUP_SECONDS = 0.1  # in which Linux takes one change, from whomever it comes
_AUTOGROUP_TRIES = 50
_IS_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


class Bar(StrEnum):
    """What can be barred, in the order in which it is told."""

    USER = "user"
    """An ordinary user, and without root's supplementary groups."""
    NO_NEW_PRIVILEGES = "no_new_privileges"
    """No program that is run gives a privilege."""
    NO_TRACING = "no_tracing"
    """No process of the same user looks into this one."""
    LIFETIME = "lifetime"
    """The kernel kills it with the service, whatever it ignores."""
    LIMITS = "limits"
    """Memory, processor time, files, processes and core dumps have an end that can't be moved."""
    LANDLOCK_FILES = "landlock_files"
    LANDLOCK_NETWORK = "landlock_network"
    LANDLOCK_SCOPES = "landlock_scopes"
    """No signal and no abstract Unix socket reaches another process."""
    SECCOMP = "seccomp"
    """Only the system calls that decoding takes are left."""


def drop_user() -> set[Bar]:
    """Become a user who owns nothing, if this process is root's and may change; all threads do."""
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setgid(_USER)
            os.setuid(_USER)
        except OSError as error:
            # A container without the privilege, or one that doesn't know the number.
            if error.errno not in {errno.EPERM, errno.EINVAL}:
                raise
            return set()
    return {Bar.USER}


def give_way() -> None:
    """Leave the processor to the server's threads and PostgreSQL's, which want it but briefly.

    No bar. Otherwise answers wait for a decoder's turn to end. Linux may share processors between
    sessions before it looks at who is nice within one (sched(7), autogroups), so that the session
    is made nice, too: this process leads one, in which there is nobody else.
    """
    os.nice(_NICENESS)
    for _ in range(_AUTOGROUP_TRIES):
        try:
            _AUTOGROUP.write_bytes(b"%d" % _SESSION_NICENESS)
        except BlockingIOError:
            time.sleep(_AUTOGROUP_SECONDS)
        except OSError:  # no autogroups, or /proc is not ours to write
            return
        else:
            return


def be_first_to_go() -> None:
    """Let the kernel end this process before any other when memory runs out, if it lets us ask.

    No bar: what was taken over is as welcome a victim as any. It takes an open file.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(b"1000")


def forbid_privileges() -> set[Bar]:
    """Let no program that is run give a privilege; to all threads, as there is one yet."""
    if not _IS_LINUX:
        return set()
    _require_one_thread()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return {Bar.NO_NEW_PRIVILEGES}


def forbid_tracing() -> set[Bar]:
    """Let nobody look into this process; for all threads. A change of the user may undo it."""
    if not _IS_LINUX:
        return set()
    _prctl(_PR_SET_DUMPABLE, 0)
    return {Bar.NO_TRACING}


def die_with(parent: int) -> set[Bar]:
    """Be killed when the parent ends, or its thread that started this process.

    A change of the user undoes it. Raises OSError when the parent ended before it was set.
    """
    if not _IS_LINUX:
        return set()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise OSError(errno.ESRCH, "the service is gone")
    return {Bar.LIFETIME}


def limit_resources(address_space: int, processor_seconds: int) -> set[Bar]:
    """Lower the limits for good: only a privileged process could raise them again.

    No further thread can start, either. The processor's time is for the whole life; within it, its
    soft limit moves with each image.
    """
    has_memory_limit = True
    try:
        _limit(resource.RLIMIT_AS, address_space)
    except (ValueError, OSError):
        if _IS_LINUX:
            raise
        has_memory_limit = False  # macOS knows none
    _limit(resource.RLIMIT_CPU, processor_seconds)
    for kind in (
        resource.RLIMIT_CORE,
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_NPROC,
        resource.RLIMIT_NOFILE,
    ):
        _limit(kind, 0)
    return {Bar.LIMITS} if has_memory_limit else set()


def restrict_by_landlock() -> set[Bar]:
    """Give up every right that this kernel's Landlock knows, on any file, port or process.

    It binds this thread and those that it starts, so it must be the only one as yet. What is open
    stays open.
    """
    try:
        version = landlockpy.abi_version()
    except OSError:
        return set()  # a container's own filter may refuse even the question
    if not version:
        return set()
    _require_one_thread()
    scopes = landlockpy.scope_for_abi(version)
    with landlockpy.Ruleset(scoped=scopes) as ruleset:
        ruleset.restrict()
    bars = {Bar.LANDLOCK_FILES: True}
    bars[Bar.LANDLOCK_NETWORK] = bool(ruleset.handled_net)
    bars[Bar.LANDLOCK_SCOPES] = bool(ruleset.scoped)
    return {bar for bar, is_up in bars.items() if is_up}


def filter_system_calls() -> set[Bar]:
    """Leave all threads only the system calls that decoding takes; no thread can start any more."""
    return {Bar.SECCOMP} if decoder_syscalls.install() else set()


def _limit(kind: int, value: int) -> None:
    _, hardest = resource.getrlimit(kind)
    lowered = value if hardest == resource.RLIM_INFINITY else min(value, hardest)
    resource.setrlimit(kind, (lowered, lowered))


def _require_one_thread() -> None:
    tasks = Path("/proc/self/task")
    if tasks.exists() and len(list(tasks.iterdir())) != 1:
        raise OSError(errno.EBUSY, "a thread is outside of the cage")


def _prctl(option: int, value: int) -> None:
    none = ctypes.c_ulong(0)
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), none, none, none):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
