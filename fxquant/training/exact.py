"""The exact forward pass of a TRAINING graph: what the INTEGER graph computes, with the gradients of the float one.

Every value is known twice. As integers it is spelled by the same records of the op table that spell the INTEGER graph
(`fxquant.ops`): a `Speller` whose calls are not written down but computed. As a real number it is what autograd sees:

    a product        its accumulators times their scale, with the gradients of the float product
    other operators  the float operator on real numbers, for its gradients
    a rounded value  what its integers stand for, straight-through (`fxquant.training.straight`)

Behind a norm that is still live there are no integers until the next value is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, callee, node_arg
from fxquant.graph import is_float
from fxquant.ops.spelling import Float, Int, Speller, Sum, Weight
from fxquant.ops.table import FloatOp, RangeRule
from fxquant.plan import range_of, record
from fxquant.source import describe
from fxquant.training.held import Held, compute, dequantize, held, quantize
from fxquant.training.norms import LiveNorm
from fxquant.training.steps import Step, Trained, WeightStep, moved
from fxquant.training.straight import PRODUCTS, product

aten = torch.ops.aten


def refresh(module: fx.GraphModule) -> None:
    """Write the ranges as they are now on the nodes, for the records of the op table to read."""
    steps = {step.range.of: step.qparams() for step in module.modules() if isinstance(step, Step)}
    for node in module.graph.nodes:
        found = range_of(node)
        if found is not None and found.of in steps:
            node.meta["fxq.range"] = moved(found, steps[found.of])


def _compute_exactly(module: fx.GraphModule, inputs: Sequence[Any], watched: Collection[fx.Node] = ()) -> Any:
    """The outputs of a TRAINING graph, as the INTEGER graph that it becomes gives them.

    With `watched`, a pair: the outputs, and the real numbers of these nodes.
    """
    refresh(module)
    run = _Exact(module, watched)
    outputs = run.run(inputs)
    return (outputs, run.seen) if watched else outputs


# Steps are numbers of the graph, found anew at every step: nothing of it can be compiled for good.
compute_exactly = cast(Callable[..., Any], torch.compiler.disable(_compute_exactly))  # type: ignore[no-untyped-call]


class _Exact(Speller):
    """One forward pass: `values` has what each value is in integers, `reals` what it is to autograd.

    `seen` has what the nodes `watched` are, when all is done.
    """

    def __init__(self, module: fx.GraphModule, watched: Collection[fx.Node] = ()) -> None:
        super().__init__(module)
        self.reals: dict[fx.Node, Any] = {}
        self.watched, self.seen = watched, dict[fx.Node, Any]()
        self.learns = torch.is_grad_enabled() or bool(watched)

    def run(self, inputs: Sequence[Any]) -> Any:
        """All nodes in order, forgetting what nobody reads any more."""
        waiting = iter(inputs)
        last: dict[fx.Node, list[fx.Node]] = {}
        seen: set[fx.Node] = set()
        for node in reversed(self.module.graph.nodes):
            last[node] = [operand for operand in node.all_input_nodes if operand not in seen]
            seen.update(last[node])
        for node in self.module.graph.nodes:
            if node.op == "output":
                return fx.map_arg(node.args[0], self.number)
            if node.op == "placeholder":
                self._leave_real(node, next(waiting))
            else:
                self._follow(node)
            if node in self.watched:
                self.seen[node] = self.number(node)
            for operand in last[node]:
                self.reals.pop(operand, None)
                self.values.pop(operand, None)
        return None

    def _follow(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self._leave_real(node, _attribute(self.module, str(node.target)))
        elif node.op == "call_module":
            self._call(node, cast(Trained, self.module.get_submodule(str(node.target))))
        elif (rule := record(node)) is not None and self._has_integers(rule, node):
            self._spell(rule, node)
        else:
            self._leave_real(node, self._plainly(node))

    def _has_integers(self, rule: FloatOp, node: fx.Node) -> bool:
        """Whether its operands are integers: behind a live norm they are not."""
        return not any(isinstance(self.values.get(operand), Float) for operand in rule.operands(node))

    def _leave_real(self, node: fx.Node, value: Any) -> None:
        self.reals[node] = value
        if is_float(node):
            self.values[node] = Float(node)

    def _plainly(self, node: fx.Node) -> Any:
        if node.target is aten.sym_size.int:
            return self._size(node_arg(node, 0), int(argument(node, 1)))
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.number)
        return callee(node)(*args, **kwargs)

    def _size(self, operand: fx.Node, axis: int) -> int:
        value = self.values.get(operand)
        if operand in self.reals or not isinstance(value, (Int, Sum)):
            return int(self.number(operand).shape[axis])
        source = value.node if isinstance(value, Int) else value.terms[0].node
        return int(source.meta["val"].shape[axis])

    def number(self, node: fx.Node) -> Any:
        """What a value is to autograd; without gradients, what its integers stand for."""
        value = self.values.get(node)
        if node not in self.reals and isinstance(value, Int):
            self.reals[node] = dequantize(_held(value.node), value.qparams)
        return self.reals[node]

    def _call(self, node: fx.Node, module: Trained) -> None:
        source = node_arg(node, 0)
        if isinstance(module, Step):
            self._round(node, source, module)
        elif isinstance(module, WeightStep):
            self._round_weight(node, source, module)
        elif isinstance(module, LiveNorm) and module.normalizes:
            self._leave_real(node, module(*fx.map_arg(node.args, self.number)))
        else:
            self.values[node] = self.values[source]
            if source in self.reals:
                self.reals[node] = self.reals[source]

    def _round(self, node: fx.Node, source: fx.Node, step: Step) -> None:
        value, found = self.known(source), range_of(node)
        q = step.qparams() if found is None else found.qparams
        integers = quantize(self.reals[source], q) if isinstance(value, Float) else None
        if integers is None:
            integers = _held(self.rounded(value, q, source))
        self.values[node] = Int(_as_node(integers), q)
        if self.learns and isinstance(value, Int) and value.qparams == q and _moves(source):
            self.reals[node] = self.reals[source]  # which are these numbers already
        elif self.learns:
            self.reals[node] = step.straight(self.reals[source], dequantize(integers, q), q)

    def _round_weight(self, node: fx.Node, source: fx.Node, step: WeightStep) -> None:
        (layer,) = node.users
        bias = argument(layer, "bias")
        weight, known = self.reals[source], None if bias is None else self.tensor(bias)
        q = step.qparams(layer, weight.detach().cpu(), known)
        integers, scale = q.quantize(weight.detach()), torch.tensor(q.scale)
        self.values[node] = Weight(integers.cpu(), scale, step.scheme.narrow)
        if self.learns:
            channels = scale.to(weight.device).reshape(
                step.shaped(weight).shape if len(scale) > 1 else [1] * weight.ndim
            )
            self.reals[node] = step.straight(weight, q.dequantize(integers), channels)

    def _spell(self, rule: FloatOp, node: fx.Node) -> None:
        with rule.blamed("its speller", node):
            value = rule.spell(self, node)
        if not is_float(node):
            # A comparison: truths, which nothing rounds.
            self.reals[node] = _held(cast(Int, value).node).values
            return
        self.values[node] = value
        if self.learns:
            self.reals[node] = self._product(node, value) if node.target in PRODUCTS else self._plainly(node)

    def _product(self, node: fx.Node, value: Any) -> Tensor:
        """The real number that accumulators are, with the gradients of the product."""
        (term,) = cast(Sum, value).terms
        sums = _held(term.node).values.to(torch.float32)
        x, weight = (self.number(node_arg(node, place)) for place in range(2))
        bias = argument(node, "bias")
        real = sums * term.scale.to(sums.device, torch.float32)
        return product(node, x, weight, None if bias is None else self.number(bias), real)

    def tensor(self, argument: Any) -> Tensor:
        """The float constant behind an operand, on the CPU."""
        found: Tensor = self.reals[argument]
        return found.detach().cpu()

    def prove(self, weight: Tensor, *rest: Any) -> Any:
        """As ever, the weight being wherever it is."""
        return super().prove(weight.cpu(), *rest)

    def constant(self, tensor: Tensor, like: fx.Node, role: str) -> fx.Node:
        """Integers that the numbers of the graph give, where its values are."""
        return _as_node(held(tensor.contiguous()))

    def call(self, target: Any, *args: Any, like: fx.Node) -> fx.Node:
        """The integers that a primitive gives."""
        return _as_node(compute(target, tuple(self._operand(a, str(target)) for a in args)))

    def _operand(self, given: Any, target: str) -> Any:
        if isinstance(given, (list, tuple)):
            return [self._operand(each, target) for each in given]
        found = self.number(given) if isinstance(given, fx.Node) else given
        # A move's own tensors are where to move, no numbers that it moves.
        is_integers = isinstance(found, Tensor) and target.startswith("fxq.")
        return held(found) if is_integers else found


def _moves(node: fx.Node) -> bool:
    """Whether a value is made of nothing but its operands' numbers."""
    rule = record(node)
    return rule is not None and rule.range in (RangeRule.SHARED, RangeRule.JOINED)


def _held(node: Any) -> Held:
    """What a speller takes for a node of a graph, here."""
    if not isinstance(node, Held):
        raise TypeError(f"{describe(node) if isinstance(node, fx.Node) else node} was not computed")
    return node


def _as_node(integers: Held) -> fx.Node:
    return cast(fx.Node, integers)


def _attribute(module: torch.nn.Module, path: str) -> Any:
    owner, _, leaf = path.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)
