"""Calibration: run an OBSERVED graph on example inputs so that its observers see every value.

Memory is constant in the number of inputs. A run that is interrupted keeps what it saw: with a `checkpoint` file it
resumes where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxquant.errors import CalibrationError, OpTableError
from fxquant.graph import placeholders
from fxquant.observers import all_merge
from fxquant.observers.base import Observer
from fxquant.plan import record
from fxquant.progress import track
from fxquant.source import describe
from fxquant.stage import Stage, stage_of

# A checkpoint is written after this many inputs, and when the run is interrupted.
CHECKPOINT_EVERY = 16


def calibrate(
    module: fx.GraphModule,
    data: Iterable[Any],
    *,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> fx.GraphModule:
    """Show `data` to the observers of `module`, in place, and return it.

    `data` gives inputs as forward() takes them: a tensor, a tuple or list, or a dict by input name. Calling again with
    more data continues. A graph without observers needs no data: its ranges are found at run time. Raises
    CalibrationError, naming the input's number, for no data at all, a wrong count, dtype or shape, and NaN or infinity
    anywhere.
    """
    if stage_of(module) is not Stage.OBSERVED:
        raise CalibrationError(f"calibrate needs an OBSERVED graph, this one is {stage_of(module)}: run prepare first")
    path = None if checkpoint is None else Path(checkpoint)
    if not any(True for _ in observers_of(module)):
        return module  # every range is known or found at run time: nothing looks at the data
    done = _resume(module, path)
    seen = done
    try:
        for number, batch in enumerate(track(data, "calibrating", progress)):
            if number < done:
                continue
            _observe(module, batch, number)
            seen = number + 1
            if path is not None and seen % CHECKPOINT_EVERY == 0:
                _save(module, path, seen)
    except KeyboardInterrupt:
        if path is not None:
            _save(module, path, seen)
        raise
    if seen == 0:
        raise CalibrationError("no calibration data: the iterable gave nothing; a generator can be used only once")
    if path is not None:
        _save(module, path, seen)
    _require_truth(module)
    return module


def _require_truth(module: fx.GraphModule) -> None:
    """Raise OpTableError where the data contradicts the bounds that a record of the op table claims.

    Rounding of floats does not.
    """
    for node in module.graph.find_nodes(op="call_module"):
        observer, source = module.get_submodule(str(node.target)), node.all_input_nodes[0]
        rule = record(source)
        if rule is None or not isinstance(observer, Observer) or observer.empty:
            continue
        (least, most), low, high = rule.ends(source), float(observer.low.min()), float(observer.high.max())
        slack = 1e-3 * max(abs(low), abs(high))
        if low < least - slack or high > most + slack:
            raise OpTableError(
                f"the record {rule.name!r} of the op table says [{least:g}, {most:g}], and [{low:g}, {high:g}] was "
                f"observed of {describe(source)}: its bounds are wrong"
            )


def _observe(module: fx.GraphModule, batch: Any, number: int) -> None:
    inputs = arrange(module, batch, f"calibration input {number}")
    try:
        with torch.no_grad():
            module(*inputs)
    except CalibrationError as error:
        raise CalibrationError(f"calibration input {number}: {error}") from None


def arrange(module: fx.GraphModule, batch: Any, where: str) -> list[Tensor]:
    """Inputs in the order of the graph's placeholders, checked against what the graph was traced with."""
    nodes = placeholders(module.graph)
    names = [str(node.target) for node in nodes]
    if isinstance(batch, Mapping):
        missing = [name for name in names if name not in batch]
        if missing:
            raise CalibrationError(f"{where} lacks {', '.join(missing)}; the model takes {', '.join(names)}")
        values: Sequence[Any] = [batch[name] for name in names]
    else:
        values = [batch] if isinstance(batch, Tensor) else list(batch)
    if len(values) != len(nodes):
        raise CalibrationError(f"{where} has {len(values)} tensors; the model takes {len(nodes)}: {', '.join(names)}")
    for node, value in zip(nodes, values, strict=True):
        _check(node, value, where)
    return list(values)


def _check(node: fx.Node, value: Any, where: str) -> None:
    wanted = node.meta["val"]
    if not isinstance(value, Tensor):
        raise CalibrationError(f"{where}: {node.target} is a {type(value).__name__}, not a tensor")
    if value.dtype != wanted.dtype:
        raise CalibrationError(f"{where}: {node.target} is {value.dtype}, the model was traced with {wanted.dtype}")
    if value.device.type != "cpu":
        raise CalibrationError(f"{where}: {node.target} is on {value.device}; move it to the CPU")
    free = [isinstance(size, torch.SymInt) for size in wanted.shape]
    same = value.ndim == wanted.ndim
    if not same or not all(f or a == b for f, a, b in zip(free, value.shape, wanted.shape, strict=True)):
        shown = ", ".join("batch" if f else str(n) for f, n in zip(free, wanted.shape, strict=True))
        raise CalibrationError(f"{where}: {node.target} has shape {tuple(value.shape)}, the model takes ({shown})")


def observers_of(module: fx.GraphModule) -> Iterator[tuple[str, Observer]]:
    """Observers by name, in the order of the graph."""
    for node in module.graph.find_nodes(op="call_module"):
        observer = module.get_submodule(str(node.target))
        if isinstance(observer, Observer):
            yield str(node.target), observer


def merge_ranks(module: fx.GraphModule) -> fx.GraphModule:
    """Merge the observers of all `torch.distributed` ranks, so that every rank holds what one process would have seen.

    Call it on every rank, each having calibrated its own part of the data, before `convert`.
    """
    all_merge([observer for _, observer in observers_of(module)])
    return module


def _save(module: fx.GraphModule, path: Path, seen: int) -> None:
    """Plain arrays, written beside and moved into place, so that a broken write loses nothing."""
    arrays: dict[str, Any] = {"inputs_seen": np.array(seen)}
    for name, observer in observers_of(module):
        arrays |= {f"{name}/{key}": value.numpy() for key, value in observer.state().items()}
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CalibrationError(f"cannot write the checkpoint {path}: {error.strerror}") from error


def _resume(module: fx.GraphModule, path: Path | None) -> int:
    if path is None or not path.exists():
        return 0
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
        for name, observer in observers_of(module):
            prefix = f"{name}/"
            observer.load_state({k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)})
        return int(arrays["inputs_seen"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise CalibrationError(
            f"{path} is no checkpoint of this calibration ({error}); delete it to start over"
        ) from error
