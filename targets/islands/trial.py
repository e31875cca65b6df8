"""Compiled code that is tried in a process of its own: what it takes, and what becomes of it."""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from fxquant.errors import LoweringError

Array = np.ndarray[Any, Any]

# Far more than any trial takes.
SECONDS = 300.0


@dataclass(frozen=True)
class Slot:
    """A buffer: its type, its shape, and what it holds if it is constant."""

    dtype: str
    shape: tuple[int, ...]
    data: Array | None = None


@dataclass(frozen=True)
class Trial:
    """An object file, calls of its functions on numbered slots, and for each run the arrays of the input slots."""

    code: bytes
    slots: tuple[Slot, ...]
    calls: tuple[tuple[str, tuple[int, ...]], ...]
    inputs: tuple[int, ...]
    results: tuple[int, ...]
    runs: Sequence[Sequence[Array]]


def results_of(trial: Trial) -> list[list[Array]]:
    """The results of each run. Raises LoweringError, with the reason alone, where the code does not come to an end."""
    return _worker(os.getpid()).ask(trial)


@cache
def _worker(_process: int) -> _Worker:
    """One per process: a fork must not share its parent's."""
    return _Worker()


class _Worker:
    """`fxquant.targets.islands.worker`, started when it is first asked, and anew after it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        atexit.register(self._end)

    def ask(self, trial: Trial) -> list[list[Array]]:
        """The results of each run."""
        with self._lock:
            process = self._running or self._start()
            limit = threading.Timer(SECONDS, process.kill)
            limit.start()
            try:
                assert process.stdin is not None and process.stdout is not None
                pickle.dump(trial, process.stdin)
                process.stdin.flush()
                reply = pickle.load(process.stdout)
            except (EOFError, OSError, pickle.UnpicklingError):
                raise LoweringError(self._how_it_died()) from None
            finally:
                limit.cancel()
        if isinstance(reply, Exception):
            raise LoweringError(f"its code cannot be run: {reply}") from reply
        return list(reply)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fxquant.targets.islands.worker"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        self._running = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return self._running

    def _how_it_died(self) -> str:
        process = self._end()
        code = process.returncode if process else 0
        if -code in (signal.SIGSEGV, signal.SIGBUS):
            return "its code reads or writes outside its memory"
        if code < 0:
            return f"its code ends with {signal.Signals(-code).name}"
        return f"the process that tries it out cannot be started (exit status {code})"

    def _end(self) -> subprocess.Popen[bytes] | None:
        process, self._running = self._running, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    assert pipe is not None
                    pipe.close()
            process.wait()
        return process
