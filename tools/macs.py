"""Multiply-accumulates of an operation for one sample.

Primitives say it themselves, and the usual products are counted by a rule. Whatever else a float graph holds,
`torch.utils.flop_counter` counts: it runs the operation on tensors without memory and sums up the products that it
consists of, so that a recurrent layer or an einsum counts as the matrix products that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from fxquant.arguments import arguments, node_arg
from fxquant.graph import sample_shape, size
from fxquant.primitives import FACTS

aten = torch.ops.aten


def macs(node: fx.Node) -> int:
    """Multiply-accumulates for one sample; 0 for what multiplies nothing, and for what `is_uncounted`."""
    return _count(node) or 0


def is_uncounted(node: fx.Node) -> bool:
    """Whether nobody can say how many there are: torch cannot run the operation without its numbers."""
    return _count(node) is None


def _count(node: fx.Node) -> int | None:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return 0
    if (rule := _RULES.get(node.target)) is not None:
        return rule(node)
    if (facts := FACTS.get(node.target)) is not None:
        return facts.macs(sample_shape(node.meta["val"]), _shapes(node)) if facts.macs else 0
    if torch.Tag.pointwise in node.target.tags or node.target.is_view:
        return 0
    return _counted_by_torch(node)


def _counted_by_torch(node: fx.Node) -> int | None:
    counter = FlopCounterMode(display=False, custom_mapping=_FLOPS)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), _without_memory)
    try:
        with torch.no_grad(), counter:
            node.target(*args, **kwargs)  # type: ignore[operator]  # an OpOverload by now
    except Exception:  # operators differ in what they raise where numbers are needed
        return None
    return int(counter.get_total_flops()) // 2


def _without_memory(node: fx.Node) -> Any:
    value = node.meta["val"]
    if isinstance(value, Tensor):
        return torch.empty(sample_shape(value), dtype=value.dtype, device="meta")
    return size(value) if isinstance(value, torch.SymInt) else value


def _shapes(node: fx.Node) -> dict[str, tuple[int, ...]]:
    """Those of a call's tensors, by the names of its schema."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    operands = zip(names, arguments(node), strict=True)
    return {name: sample_shape(x.meta["val"]) for name, x in operands if isinstance(x, fx.Node)}


def _operand(node: fx.Node, position: int) -> tuple[int, ...]:
    return sample_shape(node_arg(node, position).meta["val"])


def _result(node: fx.Node) -> int:
    return prod(sample_shape(node.meta["val"]))


def _conv(node: fx.Node) -> int:
    return _result(node) * prod(_operand(node, 1)[1:])


def _conv_transpose(node: fx.Node) -> int:
    return prod(_operand(node, 0)) * prod(_operand(node, 1)[1:])


def _product(node: fx.Node) -> int:
    return _result(node) * _operand(node, 0)[-1]


_RULES: dict[Any, Callable[[fx.Node], int]] = {
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), _conv),
    **dict.fromkeys(
        (
            aten.conv_transpose1d.default,
            aten.conv_transpose2d.input,
            aten.conv_transpose3d.input,
        ),
        _conv_transpose,
    ),
    **dict.fromkeys((aten.linear.default, aten.matmul.default, aten.bmm.default), _product),
}


def _vectors(matrix: Sequence[int], *_others: Any, out_shape: Any = None, **_options: Any) -> int:
    return 2 * prod(matrix)


def _added_vectors(_bias: Any, matrix: Sequence[int], *_others: Any, out_shape: Any = None, **_options: Any) -> int:
    return 2 * prod(matrix)


def _distances(rows: Sequence[int], *_others: Any, out_shape: Sequence[int] = (), **_options: Any) -> int:
    return 2 * prod(out_shape) * rows[-1]


# What torch's own table leaves out: two operations per multiply-accumulate, from shapes.
_FLOPS: dict[Any, Callable[..., int]] = {
    aten.mv: _vectors,
    aten.dot: _vectors,
    aten.vdot: _vectors,
    aten.addmv: _added_vectors,
    aten._cdist_forward: _distances,
}
