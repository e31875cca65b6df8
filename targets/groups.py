"""Which nodes of an INTEGER graph are one kernel: decided here, and read by lowering, costs, the report and the viewer.

    conv, linear, matmul, interpolate  ->  requantize | add  ->  lookup     accumulators stay in registers
    mul  ->  requantize
    conv, linear  ->  rescale_real  ->  add  ->  relu, clamp                where ranges are found at run time
    matmul  ->  rescale_real  ->  relu, clamp

Each of them is read by the next one alone. What stands in no group is a kernel by itself, or a view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.arguments import int_arg, node_arg, nodes_arg
from fxquant.graph import constant_value, is_float, sample_shape, shape
from fxquant.primitives import primitives_with
from fxquant.targets.kernels.contract.epilogue import RESIDUAL_LIMIT
from fxquant.targets.kernels.contract.fusing import EVERYTHING, Fusing

aten, fxq = torch.ops.aten, torch.ops.fxq

PRODUCTS = primitives_with(lambda facts: facts.has_weights)
CLAMPS = (aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default)


@dataclass(frozen=True)
class Group:
    """Nodes of one kernel in their order, of which only the last one's value is stored.

    `residual` is the other operand of an addition among them: it is read, not computed.
    """

    nodes: tuple[fx.Node, ...]
    residual: fx.Node | None = None

    @property
    def first(self) -> fx.Node:
        """What multiplies."""
        return self.nodes[0]

    @property
    def last(self) -> fx.Node:
        """Whose value is stored."""
        return self.nodes[-1]


def groups(
    module: fx.GraphModule, fusing: Fusing = EVERYTHING, values: Mapping[fx.Node, Any] | None = None
) -> dict[fx.Node, Group]:
    """The group of every node that is in one; `values` are the nodes' fake tensors, where they are not `val`."""
    rules, found = _Rules(module, fusing, values), dict[fx.Node, Group]()
    for node in module.graph.nodes:
        group = None if node in found else rules.group_of(node)
        if group is not None:
            found.update(dict.fromkeys(group.nodes, group))
    return found


def group_from(module: fx.GraphModule, node: fx.Node) -> dict[fx.Node, Group]:
    """What `groups` says of the nodes of the group that begins with this one; nothing where it begins none."""
    group = _Rules(module, EVERYTHING, None).group_of(node)
    return {} if group is None else dict.fromkeys(group.nodes, group)


def feeds(node: fx.Node, found: Mapping[fx.Node, Group]) -> fx.Node | None:
    """The node that takes up the accumulators of a product in its kernel; None where they are stored, or are none."""
    group = found.get(node)
    return group.nodes[1] if group is not None and node is group.first else None


class _Rules:
    """The rules for one graph."""

    def __init__(self, module: fx.GraphModule, fusing: Fusing, values: Mapping[fx.Node, Any] | None) -> None:
        self.module, self.fusing, self.values = module, fusing, values
        self.order = {node: place for place, node in enumerate(module.graph.nodes)}

    def group_of(self, node: fx.Node) -> Group | None:
        """The group that begins with a node."""
        reader = _only_reader(node)
        if reader is None:
            return None
        if node.target is fxq.mul.default:
            return Group((node, reader)) if reader.target is fxq.requantize.default else None
        if reader.target is fxq.rescale_real.default:
            return self._real(node, reader)
        if node.target in PRODUCTS or self._rounds_by_one(node, reader):
            return self._rounded(node, reader)
        return None

    def _value(self, node: fx.Node) -> Tensor:
        value: Tensor = node.meta["val"] if self.values is None else self.values[node]
        return value

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        return sample_shape(self._value(node))

    def _dtype(self, node: fx.Node) -> torch.dtype:
        return self._value(node).dtype

    def _rounds_by_one(self, node: fx.Node, reader: fx.Node) -> bool:
        """Whether a kernel with one multiplier for all channels rounds this product."""
        if node.target is fxq.interpolate.default:
            # Between two neighbours along each axis.
            able = self.fusing.resample and all(shape(index)[1] == 2 for index in nodes_arg(node, "indices"))
        else:
            able = self._is_tiled(node) and reader.target is fxq.requantize.default
        return able and self._multiplier(node, reader).numel() == 1

    def _is_tiled(self, node: fx.Node) -> bool:
        """Whether it is a product of two activations by a kernel that completes it."""
        if node.target is not fxq.matmul.default or not self.fusing.matmul:
            return False
        a, b = (self._dtype(node_arg(node, side)) for side in ("a", "b"))
        # 16 bits about zero are multiplied as they are.
        is_word = a is torch.int16 and int_arg(node, "a_zero") == int_arg(node, "drop") == 0
        bytes_only = {b if is_word else a, b} <= {torch.int8, torch.uint8}
        sizes = zip(self._shape(node)[-2:], self.fusing.matmul, strict=True)
        return bytes_only and all(size >= least for size, least in sizes)

    def _has_one_factor(self, rescale: fx.Node) -> bool:
        numbers = (constant_value(self.module, node_arg(rescale, name)) for name in ("factor", "bias"))
        return all(number.numel() == 1 for number in numbers)

    def _multiplier(self, product: fx.Node, reader: fx.Node) -> Tensor:
        """That of the product in what rounds it."""
        name = "multiplier" if reader.target is fxq.requantize.default else f"{sides(reader, product)[0]}_multiplier"
        return constant_value(self.module, node_arg(reader, name))

    def _rounded(self, product: fx.Node, reader: fx.Node) -> Group | None:
        """A product that a requantize rounds, or an add; and the table of bytes that alone reads the result."""
        is_wide = torch.int16 in (self._dtype(product.all_input_nodes[0]), self._dtype(reader))
        if is_wide and product.target not in PRODUCTS:
            return None
        if reader.target is fxq.requantize.default:
            residual, fits = None, self._is_by_channel(product, reader)
        elif reader.target is fxq.add.default:
            residual = node_arg(reader, sides(reader, product)[1])
            fits = self._is_by_channel(product, reader) and self._is_residual(product, reader, residual)
        else:
            return None
        if not fits:
            return None
        table = _only_reader(reader)
        after = (table,) if table is not None and self._is_table(reader, table) else ()
        return Group((product, reader, *after), residual)

    def _is_by_channel(self, product: fx.Node, reader: fx.Node) -> bool:
        """Whether there is one multiplier, or one for each channel; no epilogue knows negative ones, or places."""
        multiplier, shape = self._multiplier(product, reader), self._shape(product)
        channels = -1 if product.target is fxq.linear.default else 1
        whole = [1] * (len(shape) - multiplier.ndim) + list(multiplier.shape)
        is_one = multiplier.numel() == 1 or multiplier.numel() == whole[channels]
        return is_one and not bool((multiplier < 0).any())

    def _is_residual(self, product: fx.Node, add: fx.Node, other: fx.Node) -> bool:
        """Whether the other operand has 8 or 16 bits, the same shape, and a multiplier that the epilogue holds."""
        factor = constant_value(self.module, node_arg(add, f"{sides(add, product)[1]}_multiplier"))
        if other is product or other.target in PRODUCTS or factor.numel() != 1 or self._dtype(other) == torch.int32:
            return False
        shift = int_arg(add, "a_shift")
        unit, most = int(factor) << shift, (0xFFFF, 14) if self._dtype(other) == torch.int16 else (0xFF, 22)
        fits = 0 <= unit and 2 * most[0] * unit + (1 << 41) <= RESIDUAL_LIMIT and shift <= most[1]
        return fits and self._shape(other) == self._shape(add) == self._shape(product)

    def _is_table(self, source: fx.Node, lookup: fx.Node) -> bool:
        """Whether it is a look-up of bytes by bytes, with an entry for each."""
        if lookup.target is not fxq.lookup.default or {self._dtype(source), self._dtype(lookup)} != {torch.int8}:
            return False
        return constant_value(self.module, node_arg(lookup, "table")).numel() == 256

    def _real(self, product: fx.Node, rescale: fx.Node) -> Group | None:
        """The product of one sample that becomes real numbers, a layer's addition, and a clamp."""
        is_layer = product.target in (fxq.conv.default, fxq.linear.default)
        if not is_layer and not (self._is_tiled(product) and self._has_one_factor(rescale)):
            return None
        if not self.fusing.real or self._shape(product)[0] != 1:
            return None
        nodes, residual = [product, rescale], None
        added = self._real_addition(rescale) if is_layer else None
        if added is not None:
            nodes.append(added[0])
            residual = added[1]
        if (clamp := _only_reader(nodes[-1])) is not None and clamp.target in CLAMPS:
            nodes.append(clamp)
        return Group(tuple(nodes), residual)

    def _real_addition(self, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
        """The addition that alone reads `node`, and its other operand: of its shape, and there before the product."""
        user = _only_reader(node)
        if user is None or user.target is not aten.add.Tensor or user.kwargs or len(user.args) != 2:
            return None
        others = [a for a in user.args if isinstance(a, fx.Node) and a is not node]
        if len(others) != 1 or not is_float(others[0]) or self._dtype(others[0]) != torch.float32:
            return None
        same = self._shape(others[0]) == self._shape(node) == self._shape(user)
        is_there = others[0].op != "get_attr" and self.order[others[0]] < self.order[node]
        return (user, others[0]) if same and is_there else None


def sides(add: fx.Node, product: fx.Node) -> tuple[str, str]:
    """The names of an addition's operands: that of the product, and the other one."""
    return ("a", "b") if node_arg(add, "a") is product else ("b", "a")


def _only_reader(node: fx.Node) -> fx.Node | None:
    """The call that alone reads a value."""
    (reader, *others) = [*node.users, None]
    return reader if reader is not None and others == [None] and reader.op == "call_function" else None
