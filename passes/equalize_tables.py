"""Give the columns of tables like ranges, by factors that are multiplied in behind.

    %e = embedding(%t, %i)   =>   %r = embedding(%t / s, %i); %e = mul(%r, s)

A table is rounded with one step for all of its columns, and those of a transformer are of unlike size: a few are tens
of times larger, and of the others only a few codes are left. With s a column's largest magnitude they all have the same
range. The product with s is not rounded by itself where an addition takes it up; where its result needs more than 8
bits, WidenValues may give it 16, for a row and not for the whole table. What LLM.int8() (Dettmers et al. 2022) found of
features, that few of them are outliers and always the same ones, begins in the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.arguments import node_arg
from fxquant.gains import Gain, decibels, noise_power, note_gain
from fxquant.graph import add_constant, call, calls, clean, constant_value, replace
from fxquant.names import belong, layer_of
from fxquant.passmanager import Pass
from fxquant.qparams import choose_qparams
from fxquant.scheme import Scheme

aten = torch.ops.aten

ROWS = ":rows"


@dataclass(frozen=True)
class EqualizeTables(Pass):
    """Give the columns of tables like ranges, by factors that are multiplied in behind.

    `unlike` is how many times larger than the median one the largest column must be.
    """

    unlike: float = 4.0

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: an embedding in a constant table."""
        found = [node for node in calls(module.graph, aten.embedding.default) if node_arg(node, 0).op == "get_attr"]
        tables = [constant_value(module, node_arg(node, 0)).double() for node in found]
        kept = [node for node, table in zip(found, tables, strict=True) if _is_unlike(table, self.unlike)]
        before = [_noise(table, torch.ones_like(table[0])) for table in tables]
        after = list(before)
        for place, (node, table) in enumerate(zip(found, tables, strict=True)):
            after[place] = _noise(table, _factors(table)) if node in kept else before[place]
        for node in kept:
            _divide(module, node)
        note = "" if found else "no table occurs"
        if found and not kept:
            note = f"no column of a table is more than {self.unlike:g} times as large as the median one"
        told = [decibels(1.0, sum(noise) / max(1, len(found))) for noise in (before, after)]
        note_gain(module, Gain(self.name, len(found), len(kept), "their tables", told[0], told[1], note))
        return clean(module)


def _columns(table: Tensor) -> Tensor:
    """The largest magnitude of each column."""
    return table.abs().flatten(0, -2).amax(0)


def _is_unlike(table: Tensor, unlike: float) -> bool:
    columns = _columns(table)
    return bool(columns.max() > unlike * columns.median()) and bool(columns.isfinite().all())


def _factors(table: Tensor) -> Tensor:
    columns = _columns(table)
    return torch.where(columns > 0, columns, 1.0).float().double()


def _noise(table: Tensor, factors: Tensor) -> float:
    """What 8 bits of the table, its columns divided by factors, make of its numbers, as a share of them."""
    divided = (table / factors).float()
    qparams = choose_qparams([float(divided.min())], [float(divided.max())], Scheme(-128, 127))
    signal, noise = noise_power(table, qparams.rounded(divided) * factors)
    return noise / signal if signal else 0.0


def _divide(module: fx.GraphModule, node: fx.Node) -> None:
    table = constant_value(module, node_arg(node, 0)).double()
    factors = _factors(table)
    with module.graph.inserting_before(node):
        divided = add_constant(module, (table / factors).float(), f"{node.name}_table")
        by = add_constant(module, factors.float(), f"{node.name}_factors")
        rows = call(module.graph, aten.embedding.default, divided, *node.args[1:], like=node)
        product = call(module.graph, aten.mul.Tensor, rows, by, like=node)
    belong(rows, layer_of(node), ROWS)
    replace(node, product)
