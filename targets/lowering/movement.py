"""Operations that only move values: views where strides allow, copies where not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from fxquant.targets.lowering.borders import pad_border
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.values import Tensor
from fxquant.targets.tvm_api import tirx

aten, fxq = torch.ops.aten, torch.ops.fxq


@lowers(
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.permute.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
    aten.clone.default,
    aten.alias.default,
)
def move(l: Lowering, node: fx.Node) -> None:
    """A view of the operand; a reshape that strides do not allow is copied into dense order first."""
    source = l.tensor(node.args[0])
    shape = tuple(l.fake[node].shape)
    if node.target in (aten.clone.default, aten.alias.default):
        l.tensors[node] = source
        return
    found = source.viewed(lambda t: _moved(node, t, shape))
    if found is None:
        dense = l.allocate(source.shape, l.fake[node].dtype, f"{node.name}_dense", order=range(len(source.shape)))
        l.map("copy", dense, [source], lambda t, i: t[0](*i), node)
        found = dense.viewed(lambda t: _moved(node, t, shape))
    assert found is not None
    l.tensors[node] = found


_RESHAPES = (aten.reshape.default, aten.view.default, aten._unsafe_view.default)


def _moved(node: fx.Node, t: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if node.target in _RESHAPES:
        return t.view(shape)
    if node.target is aten.expand.default:
        return t.expand(shape)
    return node.target(t, *node.args[1:])  # type: ignore[operator,no-any-return]


@lowers(fxq.pad.default)
def pad(l: Lowering, node: fx.Node) -> None:
    """The border that is already there, or a copy into padded memory; a negative width crops."""
    border = pad_border(node)
    source: Any = node.args[0]
    room = l.room.get(source)
    if border is not None and room is not None and room.covers(border):
        l.tensors[node] = border.outer(l.tensor(source))
        l.room[node] = border.within(room)
        return
    x = l.tensor(source)
    out = l.result(node, x)
    value = int(node.args[2])  # type: ignore[call-overload]
    widths = [int(w) for w in node.args[1]]  # type: ignore[union-attr]
    before = dict(zip(range(len(x.shape) - 1, -1, -1), widths[::2], strict=False))

    def body(t: Any, i: Any) -> Any:
        inside, at = [], list(i)
        for axis, width in before.items():
            position = i[axis] - width
            at[axis] = tirx.min(tirx.max(position, 0), x.shape[axis] - 1)
            inside += [position >= 0, position < x.shape[axis]]
        return tirx.Select(tirx.all(*inside), t[0](*at), tirx.const(value, "int32"))

    l.map("pad", out, [x], body, node, key=(tuple(widths), value))


@lowers(aten.cat.default)
def concat(l: Lowering, node: fx.Node) -> None:
    """Parts that live elsewhere are copied into their place."""
    parts: Any = node.args[0]
    tensors = [l.tensor(p) for p in parts]
    axis = int(node.args[1]) % len(tensors[0].shape) if len(node.args) > 1 else 0  # type: ignore[call-overload]
    out = l.tensors.get(node) or l.result(node, None if node in l.homes else tensors[0])
    start = 0
    for part in tensors:
        size = part.shape[axis]
        target = _slice(out, axis, start, size)
        if (part.buffer, part.offset) != (target.buffer, target.offset):
            l.map("copy", target, [part], lambda t, i: t[0](*i), node)
        start += size


def _slice(tensor: Tensor, axis: int, start: int, size: int) -> Tensor:
    spec = tensor.spec
    shape = (*spec.shape[:axis], size, *spec.shape[axis + 1 :])
    return Tensor(tensor.buffer, replace(spec, shape=shape), tensor.offset + start * spec.strides[axis])


@lowers(aten.embedding.default)
def embedding(l: Lowering, node: fx.Node) -> None:
    """Rows of a table, by index; an index outside of the table is clamped into it."""
    table, index = l.tensor(node.args[0]), l.tensor(node.args[1])
    out = l.result(node, table)
    rows = table.shape[0]

    def body(t: Any, i: Any) -> Any:
        at = tirx.Cast("int32", t[1](*i[:-1]))
        return t[0](tirx.min(tirx.max(at, 0), rows - 1), i[-1])

    l.map("embedding", out, [table, index], body, node)


