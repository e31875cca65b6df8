"""A team of threads with the memory that one run of a network needs: job block, arena, scratch, synchronization words.

The hand-over of jobs happens in the compiled code (`fxq_launch`, `fxq_serve`), so a run costs one call from Python. The
workers are Python threads that spend their life inside `fxq_serve`, without the interpreter lock.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from ctypes import c_int32, c_int64, c_void_p
from typing import Any

import numpy as np

from fxquant.errors import OutOfMemoryError
from fxquant.runtime import abi, needs, object_file
from fxquant.runtime.artifact import Artifact
from fxquant.runtime.elf import Library
from fxquant.runtime.memory import aligned, allocate


class Code:
    """The mapped entry points of a network and its weights, shared by all teams that run it.

    `ObjectCodeError` where the object lacks an entry point, or was compiled for other memory than `artifact` tells of.
    """

    def __init__(self, artifact: Artifact) -> None:
        expands = artifact.resident_bytes > 0
        parsed = object_file.parse(artifact.code)
        parsed.require_code(("run", "fxq_launch", "fxq_serve", "fxq_stop", *["prepare"] * expands))
        artifact.needs.require_recorded(parsed.only(needs.SECTION))
        library = Library(parsed)
        self.run = library.address("run")
        self.launch = library.function("fxq_launch", None, [c_void_p])
        self.serve = library.function("fxq_serve", None, [c_void_p, c_int32])
        self.stop = library.function("fxq_stop", None, [c_void_p])
        stored = np.frombuffer(artifact.weight_view, np.uint8)
        if expands:
            self.weights = allocate(artifact.resident_bytes)
            prepare = library.function("prepare", None, [c_void_p, c_void_p])
            prepare(stored.ctypes.data, self.weights.ctypes.data)
        else:
            self.weights = aligned(stored)


class Team:
    """`threads` threads, the caller included, that compute one job at a time. Workers start with the first job."""

    def __init__(self, code: Code, artifact: Artifact, threads: int) -> None:
        ports, checks = (*artifact.inputs, *artifact.outputs), len(artifact.index_checks)
        pointers = len(ports) + checks
        self._code, self._threads = code, threads
        self._block = allocate(abi.block_bytes(pointers, threads), zero=True)
        self._address = address = self._block.ctypes.data
        self._launch = code.launch
        self._samples = c_int64.from_address(address + abi.SAMPLES)
        self._io = (c_int64 * len(ports)).from_address(address + abi.PORTS)
        self._failed, self._passed = (c_int64 * checks)(), bytes(8 * checks)
        self._seen = memoryview(self._failed).cast("B")
        self._memory: list[object] = [self._block, self._failed]
        self._set(c_int64, abi.RUN, code.run)
        self._set(c_int64, abi.WEIGHTS, code.weights.ctypes.data)
        self._set(c_int64, abi.SYNC_BYTES, 4 * artifact.sync_words)
        self._set(c_int32, abi.THREADS, threads)
        for index, port in enumerate(ports):
            self._set(c_int64, abi.PORTS + 8 * (pointers + index), port.nbytes)
        for index in range(checks):
            self._set(c_int64, abi.PORTS + 8 * (len(ports) + index), ctypes.addressof(self._failed) + 8 * index)
        libc = ctypes.CDLL(None)
        for tid in range(threads):
            record = abi.threads_offset(pointers) + abi.THREAD_BYTES * tid
            libc.sem_init(c_void_p(address + record + abi.SEMAPHORE), 0, 0)
            self._own(record + abi.ARENA, artifact.arena_bytes)
            self._own(record + abi.SCRATCH, artifact.scratch_bytes)
            self._own(record + abi.SYNC, 4 * artifact.sync_words)
        self._workers: list[threading.Thread] = []
        self._started = threads == 1

    def run(self, addresses: list[Any], samples: int) -> None:
        """Run `samples` samples from and to `addresses` (inputs, then outputs). One caller at a time."""
        if not self._started:
            self._start()
        self._io[:] = addresses
        self._samples.value = samples
        self._launch(self._address)

    def failure(self) -> tuple[int, int] | None:
        """The number of a check that failed in the last run, and the index; asked once, it is forgotten."""
        if self._seen == self._passed:
            return None
        failed = next((check, index) for check, index in enumerate(self._failed) if index)
        self._seen[:] = self._passed
        return failed

    def stop(self) -> None:
        """End the workers and wait until they are gone. The team cannot run afterwards."""
        if self._workers:
            self._finalizer()
            for worker in self._workers:
                worker.join()

    def _start(self) -> None:
        # The threads hold the memory and the code they work on, but not the team: an abandoned team is collected, which
        # tells them to end. At exit nothing is done: they sleep, and the process takes them with it.
        alive = [self._memory, self._code]
        self._finalizer = weakref.finalize(self, _stop, self._code, self._address, alive)
        self._finalizer.atexit = False
        self._started = True
        for tid in range(1, self._threads):
            arguments = (self._code.serve, self._address, tid, alive)
            worker = threading.Thread(target=_serve, args=arguments, name=f"fxquant-{tid}", daemon=True)
            try:
                worker.start()
            except RuntimeError as error:
                self.stop()
                raise OutOfMemoryError(
                    f"the system starts no more than {tid} of {self._threads} threads ({error}); ask for fewer"
                ) from error
            self._workers.append(worker)

    def _own(self, offset: int, size: int) -> None:
        memory = allocate(size)
        self._memory.append(memory)
        self._set(c_int64, offset, memory.ctypes.data)

    def _set(self, kind: Any, offset: int, value: int) -> None:
        kind.from_address(self._address + offset).value = value


def _stop(code: Code, block: int, _alive: list[object]) -> None:
    code.stop(block)


def _serve(serve: Callable[[int, int], int], block: int, tid: int, _alive: list[object]) -> None:
    serve(block, tid)
