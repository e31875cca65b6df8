"""Recurrent layers: one kernel for all steps; the two results of an LSTM come from one run of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import argument, int_arg, int_args, ints_arg, node_arg
from fxquant.primitives.recurrent import GATE_FRACTION
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.kernels.contract.operations import Recurrence
from fxquant.targets.kernels.recurrent import Numbers
from fxquant.targets.lowering.lowering import Lowering, lowers

fxq = torch.ops.fxq

_OTHER: dict[Any, Any] = {fxq.lstm.default: fxq.lstm_cells.default, fxq.lstm_cells.default: fxq.lstm.default}


@lowers(fxq.lstm.default, fxq.lstm_cells.default)
def lower_lstm(ctx: Lowering, node: fx.Node) -> None:
    """Hidden states, cell states, or both."""
    found = {node.target: node}
    if (twin := _twin(ctx, node)) is not None:
        ctx.lowered.add(twin)
        found[twin.target] = twin
    hidden, cells = found.get(fxq.lstm.default), found.get(fxq.lstm_cells.default)
    zero, qmin, qmax = int_args(node, "zero_point", "qmin", "qmax")
    carry, bend, out = (ints_arg(node, name) for name in ("carry", "bend", "out"))
    fraction = int_arg(node, "projection_fraction")
    numbers = _numbers(node, (zero, qmin, qmax), carry=carry, bend=bend, out=out, projection=fraction)
    _emit(ctx, "lstm", node, hidden, cells, numbers)


@lowers(fxq.gru.default)
def lower_gru(ctx: Lowering, node: fx.Node) -> None:
    """Hidden states of 16 bits."""
    _emit(ctx, "gru", node, node, None, _numbers(node, (0, 0, 0), carry=ints_arg(node, "carry")))


@lowers(fxq.rnn.default)
def lower_rnn(ctx: Lowering, node: fx.Node) -> None:
    """Hidden states."""
    kind, (zero, qmin, qmax) = "relu" if argument(node, "relu") else "rnn", int_args(node, "zero_point", "qmin", "qmax")
    _emit(ctx, kind, node, node, None, _numbers(node, (zero, qmin, qmax), out=ints_arg(node, "out")))


def _numbers(
    node: fx.Node,
    ends: tuple[int, int, int],
    carry: Sequence[int] = (0, GATE_FRACTION),
    bend: Sequence[int] = (0, 1),
    out: Sequence[int] = (0, 1),
    projection: int = 1,
) -> Numbers:
    fraction, keep = int_arg(node, "fraction"), 1 << (carry[1] - GATE_FRACTION)
    return Numbers(*ends, fraction, carry[0], carry[1], keep, bend[0], bend[1], out[0], out[1], projection)


def _emit(
    ctx: Lowering, kind: Any, node: fx.Node, hidden: fx.Node | None, cells: fx.Node | None, numbers: Numbers
) -> None:
    states = ["gates", "hidden", *(["cell"] if kind == "lstm" else [])]
    x: list[Tensor] = [ctx.operand(node, name) for name in states]
    results = [None if one is None else ctx.ordered(one) for one in (hidden, cells)]
    specs = [None if t is None else t.spec for t in results]
    cell = x[2].spec if kind == "lstm" else None
    projected = argument(node, "projection") if kind == "lstm" else None
    is_reverse, projects = bool(argument(node, "reverse")), projected is not None
    problem = Recurrence(kind, x[0].spec, x[1].spec, cell, specs[0], specs[1], is_reverse, projects)
    choice = ctx.kernels.get("recurrence", problem)
    weight = ctx.array(node_arg(node, "weight"))
    bias = ctx.array(node_arg(node, "bias")) - numbers.zero_point * weight.sum(1, dtype=np.int64)
    by_unit = weight.reshape(-1, problem.size, problem.depth).swapaxes(0, 1)
    constants: list[Tensor | Buffer] = [
        ctx.packed(by_unit, f"{node.name}_weight"),
        ctx.packed((bias & 0xFFFFFFFF).astype(np.uint32), f"{node.name}_bias"),
        *(ctx.operand(node, name) for name in ("gate_scale", "state_scale", "table")),
        ctx.packed(np.array(numbers, np.int64), f"{node.name}_numbers"),
    ]
    if projected is not None:
        constants.append(ctx.packed(ctx.array(projected), f"{node.name}_projection"))
        constants.append(ctx.operand(node, "projection_scale"))
    first, *others = [t for t in results if t is not None]
    ctx.kernel(choice.name, problem, choice.build, [*x, *constants], first, node, others=others)


def _twin(ctx: Lowering, node: fx.Node) -> fx.Node | None:
    """The call that computes the other states of the same steps, if there is one."""
    for other in node_arg(node, "gates").users:
        if other.target is _OTHER[node.target] and other not in ctx.lowered and _has_same(ctx, node, other):
            return other
    return None


def _has_same(ctx: Lowering, node: fx.Node, other: fx.Node) -> bool:
    """Whether two calls have the same arguments; constants are compared by what they hold."""
    for mine, its in zip(node.args, other.args, strict=True):
        is_constant = all(isinstance(a, fx.Node) and a.op == "get_attr" for a in (mine, its))
        if is_constant and not np.array_equal(ctx.array(mine), ctx.array(its)):  # type: ignore[arg-type]
            return False
        if not is_constant and mine != its:
            return False
    return True
