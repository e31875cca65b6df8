"""Compiled code beside Python where a network has float islands, as docs/architecture.md promises it: integers are
identical but right behind an island, where they may differ by a step.

An error of one step would grow in the layers behind it. So the compiled network gives the integers behind each island,
too, and Python goes on from those.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph import clean, outputs

# Of the largest magnitude: what the float functions of two libraries may differ by.
CLOSE = 1e-4


def is_island(node: fx.Node) -> bool:
    """Whether the node is computed in float, or gives no float and is computed from floats."""
    return bool(node.meta.get("fxq.island"))


def behind_islands(graph: fx.Graph) -> list[fx.Node]:
    """The roundings of what islands give."""
    roundings = graph.find_nodes(op="call_function", target=torch.ops.fxq.quantize.default)
    return [node for node in roundings if is_island(node.all_input_nodes[0])]


def exposed(module: fx.GraphModule) -> fx.GraphModule:
    """The graph returning, after its outputs, the integers behind its islands."""
    result = copy.deepcopy(module)
    found = [*outputs(result.graph), *behind_islands(result.graph)]
    result.graph.output_node().args = (tuple(found),)
    return clean(result)


class _Follower(fx.Interpreter):
    """Runs the graph, taking over `given` behind islands; `steps` is how far they were from its own."""

    def __init__(self, module: fx.GraphModule, given: Sequence[Tensor]) -> None:
        super().__init__(module)
        self.given = dict(zip(behind_islands(module.graph), given, strict=True))
        self.steps = dict[str, int]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n not in self.given:
            return value
        self.steps[n.name] = int((self.given[n].int() - value.int()).abs().max())
        return self.given[n]


def follow(module: fx.GraphModule, inputs: Sequence[Tensor], compiled: Sequence[Tensor]) -> list[Tensor]:
    """What Python gives where compiled code, with these results of `exposed(module)`, is given the last word behind
    islands. Raises AssertionError where that is more than a step from Python's own."""
    count = len(outputs(module.graph))
    follower = _Follower(module, compiled[count:])
    with torch.no_grad():
        results = follower.run(*inputs)
    assert max(follower.steps.values(), default=0) <= 1, f"behind islands, by steps: {follower.steps}"
    return list(results) if isinstance(results, (tuple, list)) else [results]


def is_close(found: Tensor, wanted: Tensor) -> bool:
    """Whether what islands give is as near as floats can be asked to be."""
    if not found.is_floating_point():
        return torch.equal(found, wanted)
    largest = float(wanted.abs().nan_to_num(posinf=0.0).max()) if wanted.numel() else 0.0
    return torch.allclose(found, wanted, rtol=CLOSE, atol=CLOSE * largest, equal_nan=True)
