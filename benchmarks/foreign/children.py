"""One architecture in a process of its own, which may run out of time or memory, or die, without harm to the sweep."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.foreign.architecture import Architecture
from benchmarks.foreign.row import Row

# Imported once, by the process that all others are forked from.
_HEAVY = ("torch", "fxquant.api", "benchmarks.foreign.loaded")


@dataclass(frozen=True)
class Limits:
    """What one architecture may take: seconds of wall time, and GiB of address space."""

    seconds: float = 600.0
    memory: float = 8.0


Find = Callable[[str], Architecture]


def judged(name: str, package: str, find: Find, until: str, inputs: int, limits: Limits) -> Row:
    """The row of the architecture that `find` knows by this name."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_HEAVY))
    reading, writing = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(name, find, until, inputs, limits.memory, writing), daemon=True)
    child.start()
    writing.close()
    found: dict[str, Any] = {}
    is_late = not _received(reading, found, time.monotonic() + limits.seconds)
    if is_late:
        child.kill()
    child.join()
    if is_late:
        found["error"] = f"it took more than {limits.seconds:.0f} s"
    elif child.exitcode and not found.get("error"):
        found["error"] = f"the process died ({child.exitcode})"
    return Row.of({"name": name, "package": package, **found})


def _received(reading: Connection, found: dict[str, Any], deadline: float) -> bool:
    """Take in what the child tells until it ends; whether that was in time."""
    while reading.poll(max(deadline - time.monotonic(), 0.0)):
        try:
            found.update(reading.recv())
        except EOFError:
            return True
    return False


def _child(name: str, find: Find, until: str, inputs: int, memory: float, writing: Connection) -> None:
    import torch

    from benchmarks.foreign.judge import Judge

    size = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    torch.set_num_threads(1)
    Judge(find(name), writing.send, until, inputs).judge()
    writing.close()
