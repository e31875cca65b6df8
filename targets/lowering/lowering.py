"""From an INTEGER fx graph to a Program: one function per primitive, registered by `lowers`.

What has no primitive is a float island. Inputs and results are as the caller holds them, row-major.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from fxquant.errors import LoweringError
from fxquant.graph import outputs
from fxquant.names import label_of, layers_of, output_names
from fxquant.primitives import PRIMITIVES
from fxquant.source import describe
from fxquant.target import Target
from fxquant.targets.buffers import Tensor
from fxquant.targets.groups import Group, groups
from fxquant.targets.kernels.catalogue import kernels
from fxquant.targets.kernels.choosing import Choose, modelled
from fxquant.targets.lowering.workspace import Workspace
from fxquant.targets.program import Program
from fxquant.targets.tvm_api import tirx
from fxquant.training.device import LABEL, NEXT, State, state_of

aten = torch.ops.aten

# Only move values, so that they need no float code, and keep an index that data gives inside of its table.
MOVES = (aten.embedding.default, aten.flip.default)

Lower = Callable[["Lowering", fx.Node], None]
LOWERINGS: dict[Any, Lower] = {}
LowerGroup = Callable[["Lowering", Group], None]
# By what the group begins with.
GROUPS: dict[Any, LowerGroup] = {}


def lowers(*targets: Any) -> Callable[[Lower], Lower]:
    """Register the decorated function as the lowering of these primitives."""

    def add(function: Lower) -> Lower:
        LOWERINGS.update(dict.fromkeys(targets, function))
        return function

    return add


def lowers_groups(*targets: Any) -> Callable[[LowerGroup], LowerGroup]:
    """Register the decorated function as the lowering of all groups that begin with these primitives."""

    def add(function: LowerGroup) -> LowerGroup:
        GROUPS.update(dict.fromkeys(targets, function))
        return function

    return add


class Lowering(Workspace):
    """One graph being lowered for the kernels and the memory of a target; `choose` picks among several kernels."""

    def __init__(self, module: fx.GraphModule, target: Target, choose: Choose) -> None:
        super().__init__(module, target.memory)
        self.kernels, self.choose = kernels(target.isa), choose
        self.groups = groups(module, self.kernels.fusing, self.fake)
        # Lowered already, together with a node before them.
        self.lowered: set[fx.Node] = set()

    def run(self) -> Program:
        """Lower every node in order."""
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self._port(node)
            elif node.op == "call_function" and node not in self.lowered and self._has_tensors(node):
                self._lower(node)
        for node, name in zip(outputs(self.module.graph), output_names(self.module), strict=True):
            if (kept := self.program.learning.states.get(str(node.meta.get(NEXT)))) is not None:
                if self.tensors[node].buffer is not kept.buffer:
                    self.copy(self.tensor(node), kept, node)
                continue
            self.program.outputs.append(self._returned(node))
            self.program.outputs[-1].buffer.name = name
        nodes = self.module.graph.nodes
        # Of accumulators and their rounding, the latter knows all.
        self.program.layers = {label_of(node): found for node in nodes if (found := layers_of(node))}
        places = {label_of(node): node for node in nodes if node.op != "get_attr"}
        self.program.where = lambda label: describe(places[label]) if label in places else label
        return self.program

    def _has_tensors(self, node: fx.Node) -> bool:
        # Sizes are plain numbers by now.
        return any(isinstance(value, torch.Tensor) for value in tree_leaves(self.fake[node]))

    def _lower(self, node: fx.Node) -> None:
        value = self.fake[node]
        if isinstance(value, torch.Tensor) and not value.numel():
            # A value without elements needs neither code nor memory.
            self.tensors[node] = Tensor.new(node.name, "arena", self.held(node))
            return
        self._require_elements(node)
        if (group := self.groups.get(node)) is not None:
            # Once what its second node adds is there.
            if node is group.nodes[1]:
                self.lowered.update(group.nodes)
                GROUPS[group.first.target](self, group)
            return
        function = LOWERINGS.get(node.target)
        if function is None or (node.meta.get("fxq.island") and node.target not in (*MOVES, *PRIMITIVES.values())):
            function = LOWERINGS["island"]
        function(self, node)

    def _require_elements(self, node: fx.Node) -> None:
        """Kernels loop over operands at least once; only a concat knows to leave empty ones out."""
        values = [self.fake[operand] for operand in node.all_input_nodes]
        if node.target is not aten.cat.default and any(isinstance(v, torch.Tensor) and not v.numel() for v in values):
            raise LoweringError(
                f"{describe(node)} makes a result of {tuple(self.fake[node].shape)} out of a tensor without elements, "
                "and there is no code for that: leave the operation out where its operand is empty"
            )

    def _port(self, node: fx.Node) -> None:
        state = None if self.memory.has_runtime else state_of(node)
        if state is not None:
            self._state(node, state)
            return
        self.tensors[node] = Tensor.new(str(node.target), "input", self.port(node))
        self.program.inputs.append(self.tensors[node])
        if LABEL in node.meta and not self.memory.has_runtime:
            self.program.learning.label, self.program.learning.classes = self.tensors[node], int(node.meta[LABEL])

    def _state(self, node: fx.Node, state: State) -> None:
        """A piece of the state, and the call that starts it. With a runtime it is a port like others."""
        kept = Tensor.new(str(node.target), "state", self.plain(node))
        self.tensors[node] = self.program.learning.states[str(node.target)] = kept
        first = state.initial.numpy()
        if first.any():
            self.copy(Tensor(self.packed(first, f"{node.name}_first"), kept.spec), kept, node)
        else:
            zero = tirx.const(0, kept.spec.dtype)
            self.map("zero", kept, [], lambda _t, _i: zero, node)
        self.program.calls[-1].facts["starts"] = True

    def _returned(self, node: fx.Node) -> Tensor:
        found, wanted, before = self.tensor(node), self.port(node), self.program.outputs
        there = found.buffer.kind == "output" and found.spec == wanted and found.offset == 0
        if there and all(found.buffer is not other.buffer for other in before):
            return found
        target = Tensor.new(f"output{len(before)}", "output", wanted)
        if wanted.size:
            self.copy(found, target, node)
        return target


def lower(module: fx.GraphModule, target: Target, choose: Choose = modelled) -> Program:
    """Lower an INTEGER graph. Raises LoweringError for what has no code."""
    return Lowering(module, target, choose).run()
