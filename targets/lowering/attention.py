"""Matrix products of activations, softmax, and layer normalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.targets.kernels.rows import layer_norm_kernel, matmul_kernel, softmax_kernel
from fxquant.targets.lowering.elementwise import ints, numbers
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.values import Tensor

fxq = torch.ops.fxq


@lowers(fxq.matmul.default)
def matmul(l: Lowering, node: fx.Node) -> None:
    """s32 accumulators of a batched product."""
    shape = tuple(l.fake[node].shape)
    a = _broadcast(l.tensor(node.args[0]), shape[:-2])
    b = _broadcast(l.tensor(node.args[2]), shape[:-2])
    out = l.allocate(shape, torch.int32, node.name, order=range(len(shape)))
    l.tensors[node] = out
    n = numbers(l, node, *ints(node, 1, 3))
    specs = (a.spec, b.spec, out.spec)
    l.kernel("matmul", specs, lambda: matmul_kernel(*specs), [a, b, n, out], out, node)


def _broadcast(x: Tensor, batch: tuple[int, ...]) -> Tensor:
    found = x.viewed(lambda t: t.expand(*batch, *t.shape[-2:]))
    assert found is not None
    return found


def _dense_rows(l: Lowering, node: fx.Node, source: Any) -> Tensor:
    """The operand with its last axis contiguous."""
    x = l.tensor(source)
    if x.spec.strides[-1] == 1 or x.shape[-1] == 1:
        return x
    dense = l.allocate(x.shape, l.fake[source].dtype, f"{node.name}_operand", order=range(len(x.shape)))
    l.map("copy", dense, [x], lambda t, i: t[0](*i), node)
    return dense


@lowers(fxq.softmax.default)
def softmax(l: Lowering, node: fx.Node) -> None:
    """One row at a time."""
    x = _dense_rows(l, node, node.args[0])
    out = l.allocate(x.shape, l.fake[node].dtype, node.name, order=range(len(x.shape)))
    l.tensors[node] = out
    n = numbers(l, node, *ints(node, 2, 3, 4))
    table = l.tensor(node.args[1])
    key = (x.spec, table.spec, out.spec)
    l.kernel("softmax", key, lambda: softmax_kernel(*key), [x, table, n, out], out, node)


@lowers(fxq.layer_norm.default)
def layer_norm(l: Lowering, node: fx.Node) -> None:
    """One row at a time."""
    x = _dense_rows(l, node, node.args[0])
    out = l.allocate(x.shape, l.fake[node].dtype, node.name, order=range(len(x.shape)))
    l.tensors[node] = out
    multiplier, offset = l.tensor(node.args[1]), l.tensor(node.args[2])
    n = numbers(l, node, *ints(node, 4, 5))
    epsilon = ints(node, 3)[0]
    key = (x.spec, out.spec, epsilon)
    l.kernel(
        "layer_norm", key, lambda: layer_norm_kernel(*key), [x, multiplier, offset, n, out], out, node
    )
