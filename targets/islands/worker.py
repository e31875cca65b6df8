"""Runs freshly compiled code in a process of its own, between pages that nobody may touch.

    python -m fxquant.targets.islands.worker    requests on standard input, replies on standard output, both pickled

Code that reads or writes outside its buffers ends this process, not that of the user.
"""

from __future__ import annotations

import ctypes
import mmap
import pickle
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from fxquant.runtime.elf import Library
from fxquant.targets.islands.trial import Array, Slot, Trial

# What memory holds before it is written.
_UNWRITTEN = 0xA5
# Code may count on buffers being aligned so.
_ALIGN = 64
_NO_ACCESS = 0


def run(trial: Trial) -> list[list[Array]]:
    """The results of each run; every second run has its buffers at the other end of their pages."""
    library = Library(trial.code)
    functions: dict[str, Callable[..., Any]] = {
        symbol: library.function(symbol, None, [ctypes.c_int32, *[ctypes.c_void_p] * len(slots)])
        for symbol, slots in trial.calls
    }
    found = []
    for number, arrays in enumerate(trial.runs):
        given = dict(zip(trial.inputs, arrays, strict=True))
        memory = [_Guarded(slot, given.get(i, slot.data), at_end=number % 2 == 0) for i, slot in enumerate(trial.slots)]
        for symbol, slots in trial.calls:
            functions[symbol](0, *(memory[i].address for i in slots))
        found.append([memory[i].array.copy() for i in trial.results])
    return found


class _Guarded:
    """An array on pages of its own, with a page before and behind that must not be touched."""

    def __init__(self, slot: Slot, data: Array | None, *, at_end: bool) -> None:
        dtype, page = np.dtype(slot.dtype), mmap.PAGESIZE
        size = int(np.prod(slot.shape, dtype=np.int64)) * dtype.itemsize
        inner = max(-(-size // page), 1) * page
        self._memory = mmap.mmap(-1, inner + 2 * page)
        start = page + ((inner - size) // _ALIGN * _ALIGN if at_end else 0)
        view = np.frombuffer(self._memory, np.uint8)
        view[page : page + inner] = _UNWRITTEN
        self.array = view[start : start + size].view(dtype).reshape(slot.shape)
        if data is not None:
            self.array[...] = data
        base = view.ctypes.data
        self.address = base + start
        for guard in (base, base + page + inner):
            ctypes.CDLL(None).mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), _NO_ACCESS)


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer trials with their results, or with the exception that they ended with, until there are no more."""
    while True:
        try:
            trial = pickle.load(requests)
        except EOFError:
            return
        try:
            reply: Any = run(trial)
        except Exception as error:
            reply = error
        pickle.dump(reply, replies)
        replies.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
