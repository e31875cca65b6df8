"""A compiled model that can be called: numpy arrays or torch tensors in, the same kind out."""

from __future__ import annotations

import operator
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fxquant.errors import InputError, ObjectCodeError
from fxquant.runtime import storage
from fxquant.runtime.artifact import Artifact, Port
from fxquant.runtime.binding import NumpyBinding, TorchBinding, accept_all, torch_of
from fxquant.runtime.team import Code, Team

_Bindings = tuple[tuple[NumpyBinding, ...], tuple[NumpyBinding, ...]]  # of the inputs and of the outputs

# Or as many as the machine has cores: more of them wait for each other, at last for minutes.
MOST_THREADS = 256

_MODELS: weakref.WeakSet[CompiledModel] = weakref.WeakSet()


class CompiledModel:
    """Runs an artifact in this process with `threads` threads (None: as many as this process has cores).

    Calls from several Python threads are safe. With one thread each of them runs on its own; with more, the calls take
    turns, since each uses all the threads. A batch of at least `threads` samples is dealt out sample by sample, a
    smaller one is computed one sample after the other, all threads at work on each. After `os.fork` the child starts
    threads of its own.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        """`WrongMachineError` if this machine cannot run `artifact`, `ObjectCodeError` if its code cannot be mapped."""
        self._threads = _team_size(threads, artifact.name)
        storage.check_host(artifact, f"model {artifact.name!r}")
        self.artifact = artifact
        self._code: Code | None = Code(artifact)
        self._arity = len(artifact.inputs)
        self._numpy = self._bind(NumpyBinding)
        self._torch: _Bindings | None = None
        self._reset()
        _MODELS.add(self)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.artifact.name

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What a call takes, in order."""
        return self.artifact.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What a call returns, in order."""
        return self.artifact.outputs

    @property
    def report(self) -> dict[str, Any]:
        """What the compiler said about this model."""
        return dict(self.artifact.report)

    @property
    def threads(self) -> int:
        """Number of threads of a run."""
        return self._threads

    def __call__(self, *inputs: Any) -> Any:
        """Run the model: one output, or a tuple if it has several.

        Inputs have the dtype and shape of `self.inputs`, dimension 0 being the number of samples where the artifact is
        batched. Outputs are new tensors if any input is a tensor, else new arrays. `InputError` for anything else, and
        for an index that a table of the model lacks.
        """
        arity = self._arity
        if len(inputs) != arity:
            names = ", ".join(port.name for port in self.inputs)
            raise InputError(f"model {self.name!r} takes {arity} inputs ({names}), got {len(inputs)}")
        torch = torch_of(inputs)
        inward, outward = self._numpy if torch is None else self._torch or self._bind_torch(torch)
        addresses, alive, samples = accept_all(inward, inputs)
        results = []
        for binding in outward:
            result, address = binding.allocate(samples)
            results.append(result)
            addresses.append(address)
        if self._threads == 1:  # a team for each concurrent call
            self._run(addresses, samples)
        else:  # one team, taken in turns
            with self._turn:
                self._run(addresses, samples)
        del alive  # held until here: the addresses point into it
        return results[0] if len(results) == 1 else tuple(results)

    def save(self, path: str | os.PathLike[str], *, key: bytes | None = None) -> Path:
        """Write the model to one file (`load` reads it) and return its path; `ArtifactWriteError` if that fails.

        With a `key`, at least 16 secret bytes, the file is signed, for `load(..., trusted=key)`.
        """
        return storage.write(self.artifact, path, key=key)

    def close(self) -> None:
        """End the model's threads, after the call in progress if there is one. A closed model cannot be called."""
        with self._turn:
            self._code = None
            while self._teams:
                self._teams.pop().stop()

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        a = self.artifact
        features = f" ({', '.join(a.cpu_features)})" if a.cpu_features else ""
        state = "closed" if self._code is None else f"{self._threads} thread{'s' * (self._threads > 1)}"
        lines = [f"CompiledModel {a.name!r} for {a.machine}{features}, {state}"]
        for direction, ports in (("in ", a.inputs), ("out", a.outputs)):
            lines += [f"  {direction} {port.describe(a.batched)}" for port in ports]
        sizes = {"code": len(a.code), "weights": len(a.weight_view), "arena": a.arena_bytes, "scratch": a.scratch_bytes}
        if a.resident_bytes:
            sizes["weights in memory"] = a.resident_bytes
        return "\n".join([*lines, "  " + ", ".join(f"{what} {size / 1024:.1f} KiB" for what, size in sizes.items())])

    def _run(self, addresses: list[int], samples: int) -> None:
        code, teams = self._code, self._teams
        if code is None:
            raise InputError(f"model {self.name!r} is closed; load it again")
        try:
            team = teams.pop()
        except IndexError:
            team = Team(code, self.artifact, self._threads)
        team.run(addresses, samples)
        failed = team.failure() if self.artifact.index_checks else None
        teams.append(team)
        if failed is not None:
            check, index = self.artifact.index_checks[failed[0]], failed[1]
            raise InputError(
                f"{check.index} of model {self.name!r} holds the index {index}, but the table of layer "
                f"{check.reader!r} has {check.rows} rows; pass indices that lead to 0 ... {check.rows - 1}"
            )

    def _bind(self, kind: Callable[[Port, str, bool], NumpyBinding]) -> _Bindings:
        a = self.artifact
        inward, outward = (tuple(kind(port, a.name, a.batched) for port in ports) for ports in (a.inputs, a.outputs))
        return inward, outward

    def _bind_torch(self, torch: Any) -> _Bindings:
        self._torch = self._bind(partial(TorchBinding, torch=torch))
        return self._torch

    def _reset(self) -> None:
        # Also in the child of a fork, which has the memory of its parent's teams but not their threads.
        self._turn = threading.Lock()
        self._teams: list[Team] = []


def load(path: str | os.PathLike[str], threads: int | None = None, *, trusted: bytes | None = None) -> CompiledModel:
    """Read a model that `CompiledModel.save` wrote; for `threads` and the errors see `CompiledModel` and `read`.

    With the key `trusted`, only a file that was saved with the same key is looked into.
    """
    artifact = storage.read(path, trusted=trusted)
    try:
        return CompiledModel(artifact, threads)
    except ObjectCodeError as error:
        raise ObjectCodeError(f"{os.fspath(path)}: {error}") from error


def _team_size(threads: int | None, name: str) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0))
    try:
        count = 0 if isinstance(threads, bool) else operator.index(threads)
    except TypeError:
        count = 0
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if not 1 <= count <= most:
        raise InputError(
            f"model {name!r} got {threads!r} threads; give an integer from 1 to {most}, or None for all cores"
        )
    return count


def _after_fork() -> None:
    for model in list(_MODELS):
        model._reset()


os.register_at_fork(after_in_child=_after_fork)
