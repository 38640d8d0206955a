"""The filter of system calls, run as the kernel would run it."""

from __future__ import annotations

import errno
import struct

import pytest

from decoder.decoder_syscalls import ALLOWED, ARCHITECTURES, Architecture, Call, assemble

LOAD, AND, JUMP_IF_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.ENOSYS
FOREIGN = {"x86_64": "aarch64", "aarch64": "x86_64"}
UNWANTED = {  # x86_64, aarch64
    "open": (2, None),
    "openat": (257, 56),
    "socket": (41, 198),
    "connect": (42, 203),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "execve": (59, 221),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "ioctl": (16, 29),
    "prctl": (157, 167),
    "setuid": (105, 146),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "memfd_create": (319, 279),
    "pkey_mprotect": (329, 288),
    "one that is to come": (999, 999),
}

architectures = pytest.mark.parametrize("machine", ARCHITECTURES.values(), ids=list(ARCHITECTURES))


def judge(program: bytes, architecture: Architecture, number: int, *arguments: int) -> int:
    """Run a filter over a call and return its verdict."""
    values = [*arguments, *([0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number, architecture.audit, 0, *values)
    accumulator = at = 0
    while True:
        operation, if_true, if_false, operand = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if operation == LOAD:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif operation == AND:
            accumulator &= operand
        elif operation == JUMP_IF_EQUAL:
            at += if_true if accumulator == operand else if_false
        else:
            assert operation == RETURN
            return int(operand)


def number_of(call: Call, architecture: Architecture) -> int:
    """Return a call's number."""
    return {"x86_64": call.x86_64, "aarch64": call.aarch64}[architecture.name]


@architectures
def test_what_is_listed_passes(machine: Architecture) -> None:
    """With arguments of zero every condition holds: no code, this process, a plain wait."""
    program = assemble(machine)
    for call in ALLOWED:
        assert judge(program, machine, number_of(call, machine)) == ALLOW, call.name


@architectures
def test_nothing_else_passes(machine: Architecture) -> None:
    """Of all numbers that there are and may come, only the list's, each once."""
    program = assemble(machine)
    passed = [number for number in range(1024) if judge(program, machine, number) == ALLOW]
    assert sorted(number_of(call, machine) for call in ALLOWED) == passed
    for number in range(1024):
        assert judge(program, machine, number) in {ALLOW, REFUSE}


@architectures
@pytest.mark.parametrize("name", UNWANTED)
def test_what_a_decoder_must_not_do_is_refused(machine: Architecture, name: str) -> None:
    """The list is short, but the next one to add to it should stumble over these."""
    number = UNWANTED[name][list(ARCHITECTURES).index(machine.name)]
    if number is not None:
        assert judge(assemble(machine), machine, number) == REFUSE


@architectures
def test_calls_of_another_architecture_are_refused(machine: Architecture) -> None:
    """The same numbers mean other calls there."""
    foreign = ARCHITECTURES[FOREIGN[machine.name]]
    program = assemble(machine)
    for number in range(1024):
        assert judge(program, foreign, number) == REFUSE


def test_calls_of_x32_are_refused() -> None:
    """They come under the name of x86_64, with a bit in the number."""
    machine = ARCHITECTURES["x86_64"]
    program = assemble(machine)
    for number in range(1024):
        assert judge(program, machine, 1 << 30 | number) == REFUSE


@pytest.mark.parametrize(
    ("name", "arguments", "verdict"),
    [
        ("prlimit64", (0, 0), ALLOW),
        ("prlimit64", (1, 0), REFUSE),
        ("prlimit64", (0xFFFFFFFF, 0), REFUSE),
        ("prlimit64", (0, 7), REFUSE),
        ("mmap", (0, 4096, 1 | 2), ALLOW),
        ("mmap", (0, 4096, 1 | 4), REFUSE),
        ("mmap", (0, 4096, 1 << 32 | 4), REFUSE),
        ("mprotect", (0, 4096, 1 | 2), ALLOW),
        ("mprotect", (0, 4096, 4), REFUSE),
        *(("madvise", (0, 4096, advice), ALLOW) for advice in (0, 4, 8, 14)),
        *(("madvise", (0, 4096, advice), REFUSE) for advice in (9, 10, 12, 18, 21, 25, 100)),
        *(("futex", (0, plain), ALLOW) for plain in (0, 1, 3, 4, 5, 9, 10)),
        *(("futex", (0, 128 | 256 | plain), ALLOW) for plain in (0, 1, 3, 4, 5, 9, 10)),
        *(("futex", (0, lending), REFUSE) for lending in (2, 6, 7, 8, 11, 12, 13)),
        *(("futex", (0, 128 | lending), REFUSE) for lending in (6, 7, 8, 11, 12, 13)),
        ("futex", (0, 512), REFUSE),
    ],
)
@architectures
def test_arguments_are_looked_at(
    machine: Architecture, name: str, arguments: tuple[int, ...], verdict: int
) -> None:
    """No more than this process's own limit, memory that can't be run, and what libraries ask for."""
    (call,) = [call for call in ALLOWED if call.name == name]
    assert judge(assemble(machine), machine, number_of(call, machine), *arguments) == verdict
