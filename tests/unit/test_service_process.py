"""Tests of what every long-running command does alike."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from service_process import HEAPS

ROOT: Final = Path(__file__).resolve().parents[2]
# Each of many threads at a time takes memory, then glibc says how many heaps that was from.
_TAKE_MEMORY: Final = """
import ctypes, sys, threading
from service_process import bound_heaps
if sys.argv[1] == "bound":
    bound_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fdopen.restype = ctypes.c_void_p
ready = threading.Barrier(17)
def take():
    libc.malloc(ctypes.c_size_t(1000))
    ready.wait()
    ready.wait()
for _ in range(16):
    threading.Thread(target=take, daemon=True).start()
ready.wait()
stdout = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stdout)
libc.fflush(stdout)
ready.wait()
"""


def _heaps(environment: dict[str, str], *, are_bound: bool = True) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _TAKE_MEMORY, "bound" if are_bound else "free"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps are of glibc")
def test_threads_share_few_heaps() -> None:
    """All threads take memory from two heaps, unless the operator has said otherwise."""
    assert _heaps({}, are_bound=False) > HEAPS
    assert _heaps({}) <= HEAPS
    assert _heaps({"MALLOC_ARENA_MAX": "3"}) == HEAPS + 1
