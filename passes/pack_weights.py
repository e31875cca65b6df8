"""Store constants of fewer than 8 bits in as many: several in a byte.

    %w = get_attr int8[16, 8]; %acc = fxq.linear(%x_q, %w, ...)        # the scheme of the weight has 4 bits
      =>  %w_packed = get_attr uint8[64]; %w = fxq.unpack(%w_packed, 4, [16, 8]); %acc = fxq.linear(%x_q, %w, ...)

The integers are the same, so that nothing else changes: a file of the graph, an artifact and flash are smaller. Weights
of 3 bits take 4; those of 5 bits and more a byte, as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxquant.arguments import node_arg
from fxquant.graph import add_constant, call, clean, constant_value, locate
from fxquant.packing import pack, stored_bits
from fxquant.passmanager import Pass
from fxquant.plan import range_of
from fxquant.primitives import primitives_with
from fxquant.qparams import QParams
from fxquant.scheme import Scheme
from fxquant.stage import Stage

aten, fxq = torch.ops.aten, torch.ops.fxq

# Operands that may be constants, and are read by kernels that take packed ones.
_OPERANDS: dict[object, tuple[str, ...]] = {fxq.matmul.default: ("a", "b"), aten.embedding.default: ("weight",)}


@dataclass(frozen=True)
class PackWeights(Pass):
    """Store constants of fewer than 8 bits in as many: several in a byte."""

    needs: ClassVar[Stage] = Stage.INTEGER
    gives: ClassVar[Stage] = Stage.INTEGER

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: weights of products. Case 2: constant matrices, and tables of embeddings."""
        products = primitives_with(lambda facts: facts.has_weights)
        bits: dict[fx.Node, int] = {}
        for node in module.graph.nodes:
            for name in ("weight",) if node.target in products else _OPERANDS.get(node.target, ()):
                operand = node_arg(node, name)
                if operand.op == "get_attr" and operand.meta["val"].dtype is torch.int8:
                    bits[operand] = max(_bits(node, operand), bits.get(operand, 0))
        for operand, size in bits.items():
            if size < 8 and operand.meta["val"].numel():
                _pack(module, operand, size)
        return clean(module)


def _bits(node: fx.Node, operand: fx.Node) -> int:
    """What the constant's integers are stored in by its parameters."""
    found = range_of(operand)
    q = found.qparams if found is not None else node.meta.get("fxq.weight_qparams")
    if not isinstance(q, QParams):
        return 8
    fits = all(-(1 << (size - 1)) <= q.qmin and q.qmax < 1 << (size - 1) for size in [stored_bits(_size(q))])
    return stored_bits(_size(q)) if fits else 8


def _size(q: QParams) -> int:
    return Scheme(q.qmin, q.qmax).bits


def _pack(module: fx.GraphModule, constant: fx.Node, bits: int) -> None:
    values = constant_value(module, constant)
    with module.graph.inserting_after(constant):
        packed = torch.from_numpy(pack(values.numpy().reshape(-1), bits))
        stored = add_constant(module, packed, f"{constant.target}_packed")
    with module.graph.inserting_after(stored):
        made = call(module.graph, fxq.unpack.default, stored, bits, list(values.shape))
    locate(made, constant)
    made.meta |= {key: constant.meta[key] for key in ("fxq.range", "fxq.origin") if key in constant.meta}
    constant.replace_all_uses_with(made)
    module.graph.erase_node(constant)
    made.name = constant.name
