"""Values inside of a model while it is called: of a graph's nodes by their names, of a module's parts by their paths.

A watch is opened and closed; closed, the model is as it was. `values` has what the last call gave.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.errors import DistillationError, UnknownNameError
from fxquant.graph import is_float
from fxquant.names import did_you_mean, find, is_conversion, layer_of
from fxquant.stage import Stage, stage_of
from fxquant.training.graph import run_watched
from fxquant.training.norms import LiveNorm
from fxquant.training.steps import Step

Sizes = tuple[Any, ...]


class Watch:
    """Base: the values called `names` of a model, whose `role` errors tell."""

    def __init__(self, role: str, names: Sequence[str]) -> None:
        self.role, self.names = role, tuple(names)
        self.values: dict[str, Tensor] = {}

    def open(self) -> None:
        """Begin to watch."""

    def close(self) -> None:
        """Leave the model as it was."""
        self.values.clear()

    def sizes(self, name: str) -> Sizes | None:
        """The shape of a value, with names for sizes that are free; None where only a call will tell."""
        return None


def watch(model: nn.Module, role: str, names: Sequence[str]) -> Watch:
    """A watch of a graph, or of a plain module. Raises DistillationError for names that it does not have."""
    if not names:
        return Watch(role, ())
    return GraphWatch(model, role, names) if isinstance(model, fx.GraphModule) else ModuleWatch(model, role, names)


class GraphWatch(Watch):
    """Values of a graph; `named` has the nodes that compute them, `nodes` those where they are rounded."""

    def __init__(self, model: fx.GraphModule, role: str, names: Sequence[str]) -> None:
        super().__init__(role, names)
        if stage_of(model) in (Stage.QUANTIZED, Stage.INTEGER):
            raise DistillationError(
                f"the {role} is an {stage_of(model)} graph, whose values are integers: points are of graphs that train "
                "(fxq.prepare_qat), and of FLOAT ones (fxq.trace); logits alone need none"
            )
        self.model = model
        self.named = {name: self._named(name) for name in names}
        self.nodes = {name: _rounded(model, node) for name, node in self.named.items()}

    def _named(self, name: str) -> fx.Node:
        try:
            node = find(self.model, name)
            node = find(self.model, layer_of(node)) if is_conversion(node) else node
        except UnknownNameError as error:
            raise DistillationError(f"{_whose(self.role)}: {error}{_remedy(self.role)}") from None
        if not is_float(node):
            raise DistillationError(f"{_whose(self.role)}: {name!r} is no real number: name a layer's values")
        return node

    def sizes(self, name: str) -> Sizes | None:
        """As the graph has it."""
        return sizes(self.nodes[name].meta["val"])

    def open(self) -> None:
        """Calls of the graph give its values as well."""
        model, nodes, values = self.model, self.nodes, self.values
        learns = self.role == "student"
        if "forward" in model.__dict__:
            raise DistillationError(
                f"the {self.role}'s forward is replaced already, by points of another distillation: close() that first"
            )

        plain: Any = type(model).forward

        # A function of its own on this instance alone, which hides that of its class until it is deleted.
        def forward(*inputs: Any, **named: Any) -> Any:
            if learns and not torch.is_grad_enabled():
                return plain(model, *inputs, **named)
            output, seen = run_watched(model, set(nodes.values()), inputs, named)
            values.update({name: seen[node] for name, node in nodes.items()})
            return output

        model.forward = forward

    def close(self) -> None:
        """The class's own forward again."""
        self.model.__dict__.pop("forward", None)
        super().close()


def _rounded(model: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Where a value is as it is passed on: behind its norm while that is apart, and rounded."""
    for kind in (LiveNorm, Step):
        for user in node.users:
            if user.op == "call_module" and isinstance(model.get_submodule(str(user.target)), kind):
                node = user
                break
    return node


class ModuleWatch(Watch):
    """Results of a plain module's parts: 'layer1.0', or 'relu@1' for its second call, as graphs name them."""

    def __init__(self, model: nn.Module, role: str, names: Sequence[str]) -> None:
        super().__init__(role, names)
        self.model = model
        self.parts = {name: self._part(name) for name in names}
        self.calls: dict[str, int] = {}
        self.hooks: list[Any] = []

    def _part(self, name: str) -> tuple[nn.Module, int]:
        path, _, call = name.partition("@")
        known = dict(self.model.named_modules())
        if path in known and path and re.fullmatch(r"\d*", call):
            return known[path], int(call or 0)
        near = did_you_mean(name, [other for other in known if other])
        raise DistillationError(
            f"{_whose(self.role)}: no module called {name!r}{near}; to name what is computed between modules, give a "
            f"graph (fxq.trace) for the {self.role}{_remedy(self.role)}"
        )

    def open(self) -> None:
        """Hooks on the model and on its parts."""
        self.hooks.append(self.model.register_forward_pre_hook(lambda *_: self.calls.clear()))
        for name, (part, number) in self.parts.items():
            self.hooks.append(part.register_forward_hook(self._hook(name, number)))

    def _hook(self, name: str, number: int) -> Any:
        def hook(part: nn.Module, inputs: Any, output: Any) -> None:
            if self.calls.get(name, 0) == number:
                self.values[name] = output
            self.calls[name] = self.calls.get(name, 0) + 1

        return hook

    def close(self) -> None:
        """Without hooks again."""
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        super().close()


def sizes(value: Any) -> Sizes:
    """The shape of a tensor, free sizes as their symbols' names. Raises DistillationError for what is none."""
    if not isinstance(value, Tensor):
        raise DistillationError(f"a point gives {type(value).__name__} and no tensor: name one within it")
    return tuple(n if isinstance(n, int) else str(n) for n in value.shape)


def _whose(role: str) -> str:
    return f"of the {role}'s points"


def _remedy(role: str) -> str:
    return "; points={student's: teacher's} pairs names that differ" if role == "teacher" else ""
