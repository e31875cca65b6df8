"""A graph that is trained: an ordinary module of parameters, at the stage TRAINING, and what its users call besides."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.arguments import node_arg
from fxquant.errors import TrainingError
from fxquant.graph import FxquantGraph, compute, placeholders
from fxquant.stage import Stage, set_stage
from fxquant.training.exact import compute_exactly
from fxquant.training.norms import LiveNorm
from fxquant.training.steps import Step, WeightStep

_EXACT = "fxq.exact"


class TrainingGraph(FxquantGraph):
    """A graph at the stage TRAINING.

    `exact` says what a forward pass in training mode computes: the deployed integers, or in float what rounding to
    their steps comes to, which is cheaper. In `eval()` mode it is the deployed integers either way.
    """

    @property
    def exact(self) -> bool:
        """Whether training goes through the deployed integers."""
        return bool(self.meta.get(_EXACT, True))

    @exact.setter
    def exact(self, wanted: bool) -> None:
        self.meta[_EXACT] = bool(wanted)

    def recompile(self) -> Any:
        """The code of the graph is the cheap mode's."""
        code = super().recompile()
        kind: Any = type(self)
        kind.cheaply, kind.forward = kind.forward, _forward
        return code


def _forward(self: Any, *inputs: Any, **named: Any) -> Any:
    if self.training and not self.exact:
        return self.cheaply(*inputs, **named)
    return _exactly(self, _bound(self, inputs, named))


def _bound(module: fx.GraphModule, inputs: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
    """What a call was given, in the order of the graph's inputs. Raises TypeError for others than these."""
    names = [str(node.target) for node in placeholders(module.graph)]
    given = dict(zip(names, inputs, strict=False)) | named
    if len(inputs) + len(named) != len(names) or set(given) != set(names):
        raise TypeError(f"this graph takes {', '.join(names)}; given were {len(inputs)} inputs and {sorted(named)}")
    return [given[name] for name in names]


def _exactly(module: fx.GraphModule, given: list[Any], watched: Collection[fx.Node] = ()) -> Any:
    first = next((x for x in given if isinstance(x, Tensor)), None)
    device = "cpu" if first is None else first.device.type
    # Half precision holds neither sums nor steps: what is exact stays in float32.
    with torch.autocast(device, enabled=False):
        return compute_exactly(module, [_plain(x) for x in given], watched)


def run_watched(
    module: fx.GraphModule, watched: Collection[fx.Node], inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, dict[fx.Node, Any]]:
    """What a call of a FLOAT or TRAINING graph gives, and the real numbers of its nodes `watched`, one at least."""
    given = _bound(module, inputs, named)
    if isinstance(module, TrainingGraph) and not (module.training and not module.exact):
        found: tuple[Any, dict[fx.Node, Any]] = _exactly(module, given, watched)
        return found
    run = _Watching(module, watched)
    return run.run(*given), run.seen


class _Watching(fx.Interpreter):
    """A run node by node that keeps some values."""

    def __init__(self, module: fx.GraphModule, watched: Collection[fx.Node]) -> None:
        super().__init__(module)
        self.watched, self.seen = watched, dict[fx.Node, Any]()

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, kept if it is watched."""
        value = super().run_node(n)
        if n in self.watched:
            self.seen[n] = value
        return value


def _plain(value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half else value


def training_graph(module: fx.GraphModule, exact: bool) -> TrainingGraph:
    """The module of a graph that has steps in it."""
    made = TrainingGraph(module, module.graph)
    made.meta = dict(module.meta)
    made.exact = exact
    set_stage(made, Stage.TRAINING)
    return made


def freeze_norms(model: nn.Module) -> None:
    """Batch norms of a TRAINING graph go by their running statistics from now on, and are folded for good.

    Train a little longer after it: what is trained is then exactly what is deployed.
    """
    _require_training(model)
    for part in model.modules():
        if isinstance(part, LiveNorm):
            part.freeze()


def qat_parameters(model: nn.Module) -> list[dict[str, Any]]:
    """The parameters of a TRAINING graph in groups for an optimizer: weights, and apart from them the scales.

    Scales are logarithms: weight decay would pull them towards 1, so that their group has none.
    """
    _require_training(model)
    scales = {id(p) for part in model.modules() if isinstance(part, (Step, WeightStep)) for p in part.parameters()}
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for parameter in model.parameters():
        groups[id(parameter) in scales].append(parameter)
    return [
        {"name": "weights", "params": groups[False]},
        {"name": "scales", "params": groups[True], "weight_decay": 0.0},
    ]


def damping(model: nn.Module) -> Tensor:
    """A term of the loss that draws weights to the codes that they are rounded to, so that they stop oscillating.

    The sum over all weights of squared distances in steps; see `WeightStep.distance`. It helps depthwise layers below 8
    bits. Let its factor grow with time, from 0.
    """
    _require_training(model)
    graphs = [part for part in model.modules() if isinstance(part, TrainingGraph)]
    terms = [
        part.distance(parametric(graph, node_arg(node, 0)))
        for graph in graphs
        for node in graph.graph.find_nodes(op="call_module")
        if isinstance(part := graph.get_submodule(str(node.target)), WeightStep)
    ]
    return torch.stack(terms).sum()


def parametric(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """A value that depends on parameters only, with its gradients: a weight, folded where it is."""
    if node.op == "get_attr":
        owner, _, leaf = str(node.target).rpartition(".")
        found: Tensor = getattr(module.get_submodule(owner), leaf)
        return found
    made: Tensor = compute(node, lambda operand: parametric(module, operand))
    return made


def _require_training(model: nn.Module) -> None:
    inside = [part for part in model.modules() if isinstance(part, TrainingGraph)]
    if not inside:
        raise TrainingError("this model has no TRAINING graph in it: make one of a traced model by fxq.prepare_qat")
