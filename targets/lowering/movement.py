"""Operations that only move values: views where strides allow, copies where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import callee, int_arg, int_args, ints_arg, node_arg, nodes_arg
from fxquant.graph import constant_bits
from fxquant.indices import index_bounds
from fxquant.names import label_of
from fxquant.ops.movement import VIEWS
from fxquant.runtime.artifact import IndexCheck
from fxquant.source import name_of
from fxquant.targets.buffers import Tensor, row_major
from fxquant.targets.kernels.elementwise.indices import index_check_kernel
from fxquant.targets.kernels.parts.weights import Stored
from fxquant.targets.kernels.words.numbers import clamp
from fxquant.targets.lowering.borders import pad_border
from fxquant.targets.lowering.convolution import read_by_kernels
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.tvm_api import T, tirx

aten, fxq = torch.ops.aten, torch.ops.fxq

_RESHAPES = (aten.reshape.default, aten.view.default, aten._unsafe_view.default)


@lowers(aten.clone.default, aten.alias.default)
def same(ctx: Lowering, node: fx.Node) -> None:
    """The operand itself."""
    ctx.tensors[node] = ctx.operand(node, 0)


@lowers(fxq.unpack.default)
def unpack(ctx: Lowering, node: fx.Node) -> None:
    """Nothing: each reader has its own way with numbers of few bits, see `fxquant.graph.constant_bits`."""


@lowers(*VIEWS)
def move(ctx: Lowering, node: fx.Node) -> None:
    """A view of the operand; a reshape that strides do not allow is copied."""
    source, shape = ctx.operand(node, 0), tuple(ctx.fake[node].shape)

    def moved(t: torch.Tensor) -> torch.Tensor:
        return _moved(node, t, shape)

    found = source.try_view(moved)
    if found is not None:
        ctx.tensors[node] = found
    elif len(shape) != 4 or not _copied_to_image(ctx, node, source):
        ctx.tensors[node] = ctx.dense(source, node).view(moved)


def _copied_to_image(ctx: Lowering, node: fx.Node, source: Tensor) -> bool:
    """Whether the copy could be written as its readers want images, its axes being those of the operand merged."""
    found = ctx.result(node).try_view(lambda t: t.view(source.shape))
    if found is not None:
        ctx.copy(source, found, node)
    return found is not None


def _moved(node: fx.Node, t: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if node.target in _RESHAPES:
        return t.view(shape)
    if node.target is aten.expand.default:
        return t.expand(shape)
    moved: torch.Tensor = callee(node)(t, *node.args[1:])
    return moved


@lowers(aten.flip.default)
def flip(ctx: Lowering, node: fx.Node) -> None:
    """A copy: strides are never negative, so that no kernel must expect it."""
    x = ctx.operand(node, "self")
    turned = {axis % len(x.shape) for axis in ints_arg(node, "dims")}

    def body(t: Any, i: Any) -> Any:
        return t[0](*(x.shape[axis] - 1 - at if axis in turned else at for axis, at in enumerate(i)))

    ctx.map("flip", ctx.result(node, x), [x], body, node, key=tuple(sorted(turned)))


@lowers(aten.index_select.default)
def pick(ctx: Lowering, node: fx.Node) -> None:
    """Copies by a table of positions."""
    x, axis = ctx.operand(node, "self"), int_arg(node, "dim") % len(ctx.fake[node].shape)
    positions = ctx.constant(ctx.array(node_arg(node, "index")).astype(np.int32), f"{node.name}_positions")

    def body(t: Any, i: Any) -> Any:
        return t[0](*i[:axis], t[1](i[axis]), *i[axis + 1 :])

    ctx.map("pick", ctx.result(node, x), [x, positions], body, node, key=axis, weight=2)


@lowers(fxq.pad.default)
def pad(ctx: Lowering, node: fx.Node) -> None:
    """The border that is already there, or a copy into padded memory; a negative width crops."""
    border = pad_border(node)
    source = node_arg(node, "x")
    if border is not None and not ctx.memory.has_borders and read_by_kernels(ctx, node, border):
        ctx.outside[node] = border
        return
    room = ctx.room.get(source)
    if border is not None and room is not None and room.covers(border):
        ctx.tensors[node] = border.outer(ctx.tensor(source))
        ctx.room[node] = border.within(room)
        return
    x = ctx.tensor(source)
    out = ctx.result(node, x)
    value, widths = int_arg(node, "value"), ints_arg(node, "widths")
    before = dict(zip(range(len(x.shape) - 1, -1, -1), widths[::2], strict=False))

    def body(t: Any, i: Any) -> Any:
        inside, at = [], list(i)
        for axis, width in before.items():
            position = i[axis] - width
            at[axis] = tirx.min(tirx.max(position, 0), x.shape[axis] - 1)
            inside += [position >= 0, position < x.shape[axis]]
        return tirx.Select(tirx.all(*inside), t[0](*at), tirx.const(value, "int32"))

    ctx.map("pad", out, [x], body, node, key=(tuple(widths), value))


@lowers(aten.cat.default, fxq.join.default)
def concat(ctx: Lowering, node: fx.Node) -> None:
    """Parts that live elsewhere are copied into their place; empty ones, of whatever rank, have none."""
    parts = [ctx.tensor(p) for p in nodes_arg(node, 0) if ctx.fake[p].numel()]
    axis = int_arg(node, "dim") % len(parts[0].shape)
    out = ctx.tensors.get(node) or ctx.result(node, None if node in ctx.homes else parts[0])
    start = 0
    for part in parts:
        target = out.sliced(axis, start, part.shape[axis])
        if (part.buffer, part.offset) != (target.buffer, target.offset):
            ctx.copy(part, target, node)
        start += part.shape[axis]


@lowers(aten.embedding.default)
def embedding(ctx: Lowering, node: fx.Node) -> None:
    """Rows of a table, by index. One that the table lacks is clamped into it, and a runtime that listens is told."""
    rows, index = node_arg(node, "weight"), ctx.operand(node, "indices")
    size = 8 if ctx.memory.has_runtime else constant_bits(rows)
    table, stored = ctx.stored(rows) if size < 8 else ctx.tensor(rows), Stored(size)
    if ctx.memory.has_runtime:
        _check(ctx, node, index)
    out, width = ctx.result(node, table), int(ctx.fake[rows].shape[1])
    ends = [tirx.const(end, index.spec.dtype) for end in index_bounds(node)]

    def body(t: Any, i: Any) -> Any:
        # Clamped before it is cast: an index of 64 bits may be anything.
        row = T.cast(clamp(t[1](*i[:-1]), *ends), "int32")
        if size == 8:
            return t[0](row, i[-1])
        # Only the row's own bytes are looked at.
        at = row * width + i[-1]
        return stored.part(t[0](at // stored.count), at % stored.count)

    ctx.map("embedding", out, [table, index], body, node, key=size)


def _check(ctx: Lowering, node: fx.Node, index: Tensor) -> None:
    source, rows = node_arg(node, "indices"), index_bounds(node)[1] + 1
    found = Tensor.new(f"{node.name}_index", "output", row_major("int64", (1,)))
    where = f"input {str(source.target)!r}" if source.op == "placeholder" else f"value {name_of(source)!r}"
    ctx.program.checks.append((IndexCheck(where, label_of(node), rows), found))
    key = ("index_check", index.spec, rows)
    symbol = ctx.program.symbol("index_check", key, lambda: index_check_kernel(index.spec, rows))
    ctx.program.call(symbol, [index, found], found, f"{label_of(node)} index")


@lowers(aten.clamp.default)
def clamp_index(ctx: Lowering, node: fx.Node) -> None:
    """Whole numbers between two ends; nothing to do where all that read them are look-ups, which clamp as well."""
    ends = int_args(node, "min", "max")
    if all(user.target is aten.embedding.default and list(index_bounds(user)) == ends for user in node.users):
        ctx.tensors[node] = ctx.operand(node, "self")
        return
    x = ctx.operand(node, "self")
    low, high = (tirx.const(end, x.spec.dtype) for end in ends)
    ctx.map("clamp_index", ctx.result(node, x), [x], lambda t, i: clamp(t[0](*i), low, high), node, key=tuple(ends))
