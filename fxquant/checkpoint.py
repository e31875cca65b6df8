"""Checkpoints of calibration: what the observers of one graph have seen so far, in a safetensors file.

A checkpoint belongs to a graph, its weights and its observers, and says so by a digest of them: ranges of another
model, or of the same one before it was trained further, would be wrong without a sign of it.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.errors import CalibrationError
from fxquant.observers import observers_of
from fxquant.tensor_file import TensorFileError, digest_of, read_tensors, write_tensors

KIND, VERSION = "calibration", 1

# What an observer has seen, by its name in the graph.
States = dict[str, dict[str, Tensor]]


class Checkpoint:
    """The file of one calibration of `module`, as it is when this is made."""

    def __init__(self, module: fx.GraphModule, path: str | os.PathLike[str]) -> None:
        self.module, self.path = module, Path(path)
        self.graph = digest(module)

    def save(self, states: States, inputs_seen: int) -> None:
        """Write what was seen of whole inputs, or leave the file as it was and raise CalibrationError."""
        facts = {"graph": self.graph, "inputs_seen": inputs_seen}
        tensors = {f"{name}/{key}": value for name, state in states.items() for key, value in state.items()}
        try:
            write_tensors(self.path, KIND, VERSION, facts, tensors)
        except (OSError, TensorFileError) as error:
            why = getattr(error, "strerror", None) or error
            raise CalibrationError(f"cannot write the checkpoint {self.path}: {why}; what was there stays") from error

    def resume(self) -> int:
        """Put back what was seen, and say of how many inputs: 0 if there is no file.

        Raises CalibrationError for a file that is damaged, foreign, or of another graph; the observers then stay as
        they are.
        """
        try:
            facts, tensors = read_tensors(self.path, KIND, VERSION)
            seen = self._inputs_seen(facts)
            self._restore(tensors)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise CalibrationError(f"the checkpoint {self.path} cannot be read: {error.strerror or error}") from error
        except (TensorFileError, ValueError) as error:
            raise CalibrationError(
                f"the checkpoint {self.path} is {error}; name another file, or delete this one, to start over"
            ) from error
        return seen

    def _inputs_seen(self, facts: Any) -> int:
        if not isinstance(facts, dict) or facts.keys() != {"graph", "inputs_seen"}:
            raise ValueError("damaged: it does not say what it is of")
        if facts["graph"] != self.graph:
            raise ValueError("of another model, of other weights, or of a recipe with other observers")
        seen = facts["inputs_seen"]
        if type(seen) is not int or not 0 < seen < 1 << 53:
            raise ValueError(f"damaged: it has seen {str(seen)[:80]} inputs")
        return seen

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        states: States = {name: {} for name, _ in observers_of(self.module)}
        for key, value in tensors.items():
            name, _, field = key.rpartition("/")
            if name not in states:
                raise ValueError(f"damaged: the graph has no observer {name!r}")
            states[name][field] = value
        before = states_of(self.module)
        try:
            restore(self.module, states)
            for _, observer in observers_of(self.module):
                observer.require_sound()
        except Exception as error:  # whatever an observer says of a state that is none
            restore(self.module, before)
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"damaged: {first}") from error


def states_of(module: fx.GraphModule) -> States:
    """A copy of what all observers have seen."""
    return {name: observer.state() for name, observer in observers_of(module)}


def restore(module: fx.GraphModule, states: States) -> None:
    """Make the observers have seen what they had when `states_of` gave `states`."""
    for name, observer in observers_of(module):
        observer.load_state(states[name])


def digest(module: fx.GraphModule) -> str:
    """SHA-256 of an OBSERVED graph: its calls, its weights and its observers, but not of what these have seen."""
    found = sha256()
    for node in module.graph.nodes:
        called = node.target if node.op != "call_function" else _function(node.target)
        found.update(f"{node.op} {node.name} {called} {node.args} {node.kwargs}\n".encode())
    observers = dict(observers_of(module))
    for name, observer in observers.items():
        found.update(f"{name} {observer.describe()}\n".encode())
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    weights = {name: value for name, value in tensors.items() if not _is_inside(name, {*observers})}
    found.update(digest_of(weights).encode())
    return found.hexdigest()


def _function(target: Any) -> str:
    # An operator tells its name and overload; what a function prints holds its address.
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"


def _is_inside(name: str, modules: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in modules for length in range(1, len(parts)))
