"""The system calls that a decoder is left with, as a program for the kernel's seccomp filter.

Owns the list, its translation into the kernel's filter language (classic BPF, see
Documentation/userspace-api/seccomp_filter.rst) and its installation. Whatever is not on the list
fails as if the kernel had never heard of it (ENOSYS), which every C library can live with;
nothing is killed for trying.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from dataclasses import dataclass

_PROT_EXEC = 4
_RLIMIT_CPU = 0
_EVERY_BIT = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Condition:
    """What an argument of a call may be: its lower 32 bits, under a mask."""

    argument: int
    mask: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that is allowed if all conditions hold, and its numbers."""

    name: str
    x86_64: int
    aarch64: int
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the kernel calls an architecture, and its number of seccomp(2)."""

    name: str
    audit: int
    seccomp: int


_NOT_EXECUTABLE = (Condition(2, _PROT_EXEC, (0,)),)
_OWN_PROCESSOR_LIMIT = (Condition(0, _EVERY_BIT, (0,)), Condition(1, _EVERY_BIT, (_RLIMIT_CPU,)))
# What allocators ask for: NORMAL, DONTNEED, FREE, HUGEPAGE.
_ORDINARY_ADVICE = (Condition(2, _EVERY_BIT, (0, 4, 8, 14)),)
# WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, WAIT_BITSET and WAKE_BITSET, private or not, by either
# clock. The others lend priorities: no codec does, and there the kernel had its holes.
_ORDINARY_FUTEX = (Condition(1, _EVERY_BIT & ~(128 | 256), (0, 1, 3, 4, 5, 9, 10)),)
ALLOWED: tuple[Call, ...] = (
    # The two pipes; what libraries print goes to /dev/null.
    Call("read", 0, 63),
    Call("write", 1, 64),
    Call("writev", 20, 66),
    Call("close", 3, 57),
    # Memory, but no new machine code.
    Call("brk", 12, 214),
    Call("mmap", 9, 222, _NOT_EXECUTABLE),
    Call("mprotect", 10, 226, _NOT_EXECUTABLE),
    Call("munmap", 11, 215),
    Call("mremap", 25, 216),
    Call("madvise", 28, 233, _ORDINARY_ADVICE),
    # Threads that are there wait for each other and end. The kernel goes on by the third of these
    # after a stop; by the fourth ends the signal that tells a thread of its process's new user.
    Call("futex", 202, 98, _ORDINARY_FUTEX),
    Call("sched_yield", 24, 124),
    Call("restart_syscall", 219, 128),
    Call("rt_sigreturn", 15, 139),
    Call("exit", 60, 93),
    Call("exit_group", 231, 94),
    # Clocks, and the limit that moves with each image.
    Call("clock_gettime", 228, 113),
    Call("gettimeofday", 96, 169),
    Call("getrusage", 98, 165),
    Call("prlimit64", 302, 261, _OWN_PROCESSOR_LIMIT),
    # Python and Rust seed hash tables; Pillow asks for the working directory, which is "/".
    Call("getrandom", 318, 278),
    Call("getcwd", 79, 17),
)
ARCHITECTURES = {
    "x86_64": Architecture("x86_64", 0xC000003E, 317),
    "aarch64": Architecture("aarch64", 0xC00000B7, 277),
}

_SET_MODE_FILTER = 1
# All threads at once, and without slowing down loads and stores: what an attack by speculation
# could read here, this process has anyway. Older kernels slow down whoever has a filter.
_FLAGS = 1 << 0 | 1 << 2  # TSYNC, SPEC_ALLOW

# Classic BPF, and the places in `struct seccomp_data`, in bytes of a little-endian machine.
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.ENOSYS

_Instruction = tuple[int, int, int, int]  # operation, jumps when true and when false, operand


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def assemble(architecture: Architecture) -> bytes:
    """Return the filter for an architecture: calls of any other one are refused.

    A call of x32 has a bit in its number that no call of the list has.
    """
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for call in ALLOWED:
        judgement = [step for condition in call.conditions for step in _check(condition)]
        judgement.append((_RETURN, 0, 0, _ALLOW))
        number = getattr(call, architecture.name)
        program += [(_JUMP_IF_EQUAL, 0, len(judgement), number), *judgement]
    program.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(_INSTRUCTION.pack(*step) for step in program)


def _check(condition: Condition) -> list[_Instruction]:
    return [
        (_LOAD, 0, 0, _ARGUMENTS + 8 * condition.argument),
        (_AND, 0, 0, condition.mask),
        *(
            (_JUMP_IF_EQUAL, left, 0, value)
            for left, value in zip(
                range(len(condition.values), 0, -1), condition.values, strict=True
            )
        ),
        (_RETURN, 0, 0, _REFUSE),
    ]


def install() -> bool:
    """Put this process, with all its threads, under the filter; for good.

    Returns whether the system has such filters. Raises OSError when it has and it fails; the
    process must have given up new privileges before.
    """
    architecture = ARCHITECTURES.get(os.uname().machine)
    if sys.platform != "linux" or sys.maxsize < 1 << 32 or architecture is None:
        return False
    if _seccomp(architecture, None) != -errno.EFAULT:
        return False  # with nothing to install, that is what a kernel says that could
    instructions = assemble(architecture)
    program = _Program(len(instructions) // _INSTRUCTION.size, instructions)
    # A positive answer is a thread that has another filter.
    if outcome := _seccomp(architecture, program):
        raise OSError(abs(outcome), "the filter of system calls could not be installed")
    return True


def _seccomp(architecture: Architecture, program: _Program | None) -> int:
    """Call seccomp(2). Returns what it does, or the negative errno."""
    library = ctypes.CDLL(None, use_errno=True)
    address = ctypes.byref(program) if program else None
    outcome: int = library.syscall(
        ctypes.c_long(architecture.seccomp),
        ctypes.c_long(_SET_MODE_FILTER),
        ctypes.c_long(_FLAGS),
        address,
    )
    return -ctypes.get_errno() if outcome == -1 else outcome
