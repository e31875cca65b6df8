"""A graph run node by node, each over all batches before the next one.

So a pass can change a layer by what it gives on data, run that layer again, and go on with what it gives then: one run
for all layers. A value is dropped behind its last reader; what is alive at a time is what the batches need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph import compute, constant_value, outputs, placeholders


class Walk:
    """Iterate over it for the nodes, the output left out; `values` holds what is alive, a list over batches each.

    `batches` are inputs as `fxquant.calibration.arrange` gives them. `also` names values that shall still be alive when
    a node is given, besides its operands. Constants may be edited on the way.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        batches: Sequence[Sequence[Tensor]],
        also: Mapping[fx.Node, Sequence[fx.Node]] | None = None,
    ) -> None:
        self.module = module
        self.batches = batches
        self.also = also or {}
        self.values: dict[fx.Node, list[Any]] = {}
        self._inputs = {node: place for place, node in enumerate(placeholders(module.graph))}

    def __iter__(self) -> Iterator[fx.Node]:
        """Compute a node, give it, and drop what nobody will read any more."""
        last = _last_reads(self.module.graph, self.also)
        for node in list(self.module.graph.nodes):
            if node.op == "output":
                return
            self.again(node)
            yield node
            for read in last.get(node, ()):
                self.values.pop(read, None)

    def again(self, node: fx.Node) -> None:
        """Compute a node (once more)."""
        self.values[node] = [self.value(node, batch) for batch in range(len(self.batches))]

    def value(self, node: fx.Node, batch: int, instead: Mapping[fx.Node, Any] | None = None) -> Any:
        """What a node gives for a batch, with other operands `instead` of those that the walk has."""
        if node.op == "placeholder":
            return self.batches[batch][self._inputs[node]]
        if node.op == "get_attr":
            return constant_value(self.module, node)
        if node.op == "call_module":  # an observer, which gives what it takes
            return self._of(node.all_input_nodes[0], batch, instead)
        with torch.no_grad():
            return compute(node, lambda operand: self._of(operand, batch, instead))

    def outputs(self) -> list[list[Tensor]]:
        """The graph's results behind the walk: of each output its batches."""
        return [self.values[node] for node in outputs(self.module.graph)]

    def _of(self, node: fx.Node, batch: int, instead: Mapping[fx.Node, Any] | None) -> Any:
        if instead is not None and node in instead:
            return instead[node]
        # A constant may be another one than when the walk came by, or new.
        return constant_value(self.module, node) if node.op == "get_attr" else self.values[node][batch]


def _last_reads(graph: fx.Graph, also: Mapping[fx.Node, Sequence[fx.Node]]) -> dict[fx.Node, list[fx.Node]]:
    """For each node the values that nobody reads behind it, itself if nobody ever does."""
    last = {node: node for node in graph.nodes}
    for node in graph.nodes:
        last.update(dict.fromkeys((*node.all_input_nodes, *also.get(node, ())), node))
    found: dict[fx.Node, list[fx.Node]] = {}
    for read, reader in last.items():
        found.setdefault(reader, []).append(read)
    return found
