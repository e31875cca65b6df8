"""Memory whose neighbourhood cannot be touched, and compiled networks that run in nothing but such memory.

A stray access is a crash there, not a wrong number that nobody sees. Networks run in a child process, so that the crash
is a failed test.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Sequence
from ctypes import c_int32, c_void_p
from typing import Any

import numpy as np

from fxquant.runtime import abi
from fxquant.runtime.artifact import Artifact
from fxquant.runtime.elf import Library

Array = np.ndarray[Any, Any]


def guarded(data: Array, slack: int = 0, at_end: bool = True) -> Array:
    """A copy of bytes between two pages that cannot be touched: it ends `slack` bytes before the second one, or begins
    right behind the first one. A child process shares it."""
    page = mmap.PAGESIZE
    pages = max(1, -(-(data.size + slack) // page)) * page
    memory = mmap.mmap(-1, pages + 2 * page)
    view = np.frombuffer(memory, np.uint8)
    protect = ctypes.CDLL(None).mprotect
    for start in (0, page + pages):
        assert protect(c_void_p(view.ctypes.data + start), ctypes.c_size_t(page), 0) == 0
    start = page + pages - slack - data.size if at_end else page
    view[start : start + data.size] = data
    return view[start : start + data.size]


def run_guarded(artifact: Artifact, inputs: Sequence[Array], at_end: bool = True) -> list[Array]:
    """The outputs of one sample (or of the fixed batch), everything that the code is given lying between guard pages.

    `at_end`: a byte too far is a crash; else a byte too early. Raises AssertionError if the code crashes.
    """
    library = Library(artifact.code)
    ports = [guarded(np.ascontiguousarray(x).reshape(-1).view(np.uint8), at_end=at_end) for x in inputs]
    results = [_garbage(port.nbytes, at_end) for port in artifact.unchecked().outputs]
    weights = guarded(np.frombuffer(artifact.weight_view, np.uint8), at_end=at_end)
    resident = _garbage(artifact.resident_bytes, at_end) if artifact.resident_bytes else weights
    arena, scratch = (_garbage(_lines(size), at_end) for size in (artifact.arena_bytes, artifact.scratch_bytes))
    sync = guarded(np.zeros(_lines(4 * artifact.sync_words), np.uint8), at_end=at_end)
    memory = [sync, arena, scratch, resident, *ports, *results]
    run = ctypes.CFUNCTYPE(None, c_int32, c_int32, *[c_void_p] * len(memory))(library.address("run"))
    addresses = [m.ctypes.data for m in memory]
    prepare = library.function("prepare", None, [c_void_p, c_void_p]) if artifact.resident_bytes else None
    child = os.fork()
    if not child:
        try:
            if prepare is not None:
                prepare(weights.ctypes.data, resident.ctypes.data)
            run(0, 1, *addresses)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        side = "end" if at_end else "beginning"
        name = signal.Signals(os.WTERMSIG(status)).name
        raise AssertionError(f"{artifact.name}: the code died of {name} with guard pages at the {side} of its memory")
    assert status == 0, f"{artifact.name}: the child process ended with status {status}"
    return [
        result.view(port.dtype).reshape(port.shape).copy()
        for result, port in zip(results, artifact.outputs, strict=False)  # what checks find lies behind
    ]


def _garbage(size: int, at_end: bool) -> Array:
    """Memory that holds nothing of use: what is read before it is written shows."""
    return guarded(np.full(size, 0xA5, np.uint8), at_end=at_end)


def _lines(size: int) -> int:
    """Whole cache lines, on which memory of the runtime starts and ends."""
    return -(-size // abi.LINE) * abi.LINE
