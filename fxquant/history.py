"""Which passes made a node, and which changed what it is: written down by the pass manager, never by passes.

`meta["fxq.passes"]` begins with "trace" for what the model itself computes. That another operand stands where one stood
before is no change of the node: what it does with it is the same.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from fxquant import names

PASSES = "fxq.passes"

# What a node is called, and which float value it stands for, says nothing of what it does.
_NOT_COUNTED = frozenset({names.NAME, "fxq.origin", PASSES})
# Any operand.
_VALUE = "%"


class Look:
    """A graph as it was before a pass, to be compared with what the pass left."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._nodes = {node.name: _facts(node) for node in module.graph.nodes}
        self._layers = names.all_layers(module.graph)

    def note(self, module: fx.GraphModule, doer: str) -> None:
        """Write `doer` on every node that is new or another one than before, and give every node a name of its own."""
        done = module.meta[PASSES] = tuple(dict.fromkeys((*module.meta.get(PASSES, ("trace",)), doer)))
        for node in module.graph.nodes:
            if self._nodes.get(node.name) != _facts(node):
                node.meta[PASSES] = tuple(step for step in done if step in (*passes_of(node), doer))
        names.settle(module.graph)
        names.lost(self._layers, module, doer)


def passes_of(node: fx.Node) -> tuple[str, ...]:
    """The passes that made and changed the node, in order."""
    return tuple(node.meta.get(PASSES, ()))


def inherit_passes(node: fx.Node, *origins: fx.Node) -> None:
    """Note that the node does what `origins` did: what made and changed these made it, too."""
    if not names.is_conversion(node):
        node.meta[PASSES] = tuple(dict.fromkeys(step for one in (node, *origins) for step in passes_of(one)))


def begin(module: fx.GraphModule) -> None:
    """Nothing has happened yet to the nodes of a graph that has just been traced."""
    for node in module.graph.nodes:
        node.meta[PASSES] = ("trace",)


def _facts(node: fx.Node) -> tuple[Any, ...]:
    """What a pass may change: the operation, its settings, and what passes noted."""
    settings = fx.map_arg((node.args, node.kwargs), lambda _: _VALUE)
    notes = {key: note for key, note in node.meta.items() if key.startswith("fxq.") and key not in _NOT_COUNTED}
    return node.op, node.target, settings, notes
