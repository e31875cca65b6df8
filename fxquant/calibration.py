"""Calibration: run an OBSERVED graph on example inputs so that its observers see every value.

Memory is constant in the number of inputs. A run that is interrupted keeps the inputs that it saw whole: with a
`checkpoint` file (see `fxquant.checkpoint`) it resumes where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.batches import Transform, transformed
from fxquant.checkpoint import Checkpoint, restore, states_of
from fxquant.errors import CalibrationError, OpTableError
from fxquant.graph import placeholders
from fxquant.observers import all_merge, observers_of
from fxquant.plan import record
from fxquant.progress import track
from fxquant.source import describe
from fxquant.stage import Stage, stage_of

# A checkpoint is written after the first input, then after as many seconds, and when the run ends or is interrupted.
SAVE_EVERY = 1.0


def calibrate(
    module: fx.GraphModule,
    data: Iterable[Any],
    *,
    transform: Transform | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> fx.GraphModule:
    """Show `data` to the observers of `module`, in place, and return it.

    `data` gives inputs as forward() takes them, or what `transform` makes such inputs of (`lambda batch: batch[0]` for
    a loader of images and labels): a tensor, a tuple or list, or a dict by input name. Calling again with
    more data continues. A graph without observers needs no data: its ranges are found at run time. Raises
    CalibrationError, naming the input's number, for no data at all, a wrong count, dtype or shape, and NaN or infinity
    anywhere; the observers are then as they were before that input. A `checkpoint` of another graph is refused.
    """
    if stage_of(module) is not Stage.OBSERVED:
        raise CalibrationError(f"calibrate needs an OBSERVED graph, this one is {stage_of(module)}: run prepare first")
    if not any(True for _ in observers_of(module)):
        return module  # every range is known or found at run time: nothing looks at the data
    run = _Run(module, None if checkpoint is None else Checkpoint(module, checkpoint))
    count = 0
    try:
        for number, batch in enumerate(track(transformed(data, transform), "calibrating", progress)):
            if number >= run.resumed:
                _observe(module, batch, number)
                run.advance()
            count = number + 1
    except BaseException:
        run.stop()
        raise
    run.finish(count)
    _require_truth(module)
    return module


class _Run:
    """What the observers have seen of whole inputs: one counts when all of them have seen it."""

    def __init__(self, module: fx.GraphModule, checkpoint: Checkpoint | None) -> None:
        self.module, self.checkpoint = module, checkpoint
        self.resumed = checkpoint.resume() if checkpoint is not None else 0
        self.seen, self.saved, self.due = self.resumed, self.resumed, 0.0
        self.states = states_of(module)

    def advance(self) -> None:
        """One more input is seen."""
        self.states = states_of(self.module)
        self.seen += 1
        start = monotonic()
        if start >= self.due:
            self._save()
            # Where writing takes long it must not take most of the time.
            self.due = monotonic() + max(SAVE_EVERY, 20 * (monotonic() - start))

    def stop(self) -> None:
        """Something went wrong within an input, which has then been seen by none."""
        restore(self.module, self.states)
        self._save()

    def finish(self, count: int) -> None:
        """The data have come to their end, after so many inputs."""
        if self.checkpoint is not None and count < self.resumed:
            raise CalibrationError(
                f"the checkpoint {self.checkpoint.path} has seen {self.resumed} inputs, and the data give {count}: "
                "they are other data, or a generator that was used before; delete the checkpoint to start over"
            )
        if count == 0:
            raise CalibrationError("no calibration data: the iterable gave nothing; a generator can be used only once")
        self._save()

    def _save(self) -> None:
        if self.checkpoint is not None and self.seen > self.saved:
            self.checkpoint.save(self.states, self.seen)
            self.saved = self.seen


def _require_truth(module: fx.GraphModule) -> None:
    """Raise OpTableError where the data contradicts the bounds that a record of the op table claims.

    Rounding of floats does not.
    """
    sources = {str(node.target): node.all_input_nodes[0] for node in module.graph.find_nodes(op="call_module")}
    for name, observer in observers_of(module):
        source = sources[name]
        rule = record(source)
        if rule is None or observer.empty:
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
        hint = "; if the rest are labels, say transform=lambda batch: batch[0]" if len(values) > len(nodes) else ""
        raise CalibrationError(
            f"{where} has {len(values)} tensors; the model takes {len(nodes)}: {', '.join(names)}{hint}"
        )
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


def merge_ranks(module: fx.GraphModule) -> fx.GraphModule:
    """Merge the observers of all `torch.distributed` ranks, so that every rank holds what one process would have seen.

    Call it on every rank, each having calibrated its own part of the data, before `convert`.
    """
    all_merge([observer for _, observer in observers_of(module)])
    return module
