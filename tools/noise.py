"""How much each rounding adds to the noise of the outputs: one pass of gradients times quantization error.

    noise of v  =  E[ |J e|^2 ],  e = rounded(v) - v,  J the outputs' derivative by v
                =  E[ (r J . e)^2 ] over random signs r

A row r J is what one backward pass gives, for all values at a time: so Hutchinson's estimator (1990) ranks every value
and weight of a network for the cost of a few of its runs. It is of first order: what errors do together, and what
saturates behind them, only running the integers tells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import scheme as schemes
from fxquant.graph import constant_value, is_float, outputs, placeholders
from fxquant.ops.table import RangeRule
from fxquant.passes.insert_qdq import weight_qparams
from fxquant.passes.narrow_operands import is_product
from fxquant.passes.propagate_ranges import SET, PropagateRanges
from fxquant.passmanager import Pipeline
from fxquant.plan import is_integer, is_quantized, range_of, record, required_plan
from fxquant.scheme import Scheme
from fxquant.source import name_of
from fxquant.trials import Batch

# What is rounded: values, those that products read, and weights with so many bits (0: as planned).
Kind = str | int
VALUES, NARROWED = "values", "narrowed"
Sums = defaultdict[Kind, defaultdict[str, float]]
# By constant: the layer that reads it, and what rounding to so many bits changes of it.
WeightErrors = dict[fx.Node, tuple[str, dict[Kind, Tensor]]]

# Samples that are run at a time: their values are all held.
CHUNK = 4
# Samples that are looked at, and backward passes for each, along other random signs.
SAMPLES, ROWS = 24, 2


@dataclass
class Noise:
    """Noise of the outputs by its origin, each output as a share of its own signal.

    `values` is that of values that share a range, by the name of the first of them, and `narrowed` what is left of it
    where products alone read the rounded values; `weights` is that of layers' weights, and `by_bits` what it would be
    with so many bits. `ranged` is the graph with its ranges.
    """

    ranged: fx.GraphModule
    values: dict[str, float] = field(default_factory=dict)
    narrowed: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    by_bits: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """All of it, as if no two errors had to do with each other."""
        return sum(self.values.values()) + sum(self.weights.values())


def output_noise_of(observed: fx.GraphModule, batches: Sequence[Batch], *, bits: Sequence[int] = ()) -> Noise:
    """Of a calibrated OBSERVED graph, over these batches; weights also with so many `bits`.

    Without noise where no output is a float.
    """
    ranged = Pipeline((PropagateRanges(),))(observed)
    found = Noise(ranged)
    if not any(is_float(node) for node in outputs(ranged.graph)):
        return found
    chunks, errors = _chunks(ranged, batches), weight_errors(ranged, bits)
    generator = torch.Generator().manual_seed(0)
    sums: Sums = defaultdict(lambda: defaultdict(float))
    for chunk in chunks:
        run = _Probed(ranged, errors)
        with torch.enable_grad():
            returned = run.run(*chunk)
        floats = [x for x in flat(returned) if x.is_floating_point() and x.requires_grad]
        for _ in range(ROWS if floats else 0):
            _add(run, floats, generator, sums)
    shares = {kind: {name: value / ROWS / len(chunks) for name, value in by.items()} for kind, by in sums.items()}
    found.values, found.narrowed = shares.get(VALUES, {}), shares.get(NARROWED, {})
    found.weights, found.by_bits = shares.get(0, {}), {count: shares.get(count, {}) for count in bits}
    return found


def _chunks(ranged: fx.GraphModule, batches: Sequence[Batch]) -> list[Batch]:
    """A few samples at a time; whole batches of graphs whose batch is fixed."""
    values = [node.meta["val"] for node in placeholders(ranged.graph)]
    if not all(value.ndim and isinstance(value.shape[0], torch.SymInt) for value in values):
        return list(batches[:SAMPLES])
    starts = [(batch, at) for batch in batches for at in range(0, len(batch[0]), CHUNK)]
    return [[x[at : at + CHUNK] for x in batch] for batch, at in starts[: SAMPLES // CHUNK]]


def _add(run: _Probed, floats: list[Tensor], generator: torch.Generator, sums: Sums) -> None:
    """What one row of random signs says."""
    loss = torch.zeros(())
    for output in floats:
        signs = torch.randint(0, 2, output.shape, generator=generator).to(output.dtype) * 2 - 1
        power = float(output.detach().square().sum()) or 1.0
        loss = loss + (signs * output).sum() / power**0.5 / len(floats) ** 0.5
    grads = torch.autograd.grad(loss, [p.at for p in run.probes], retain_graph=True, allow_unused=True)
    moved: dict[tuple[Kind, str], Tensor] = {}
    for probe, grad in zip(run.probes, grads, strict=True):
        for kind, error in probe.errors.items() if grad is not None else ():
            product = grad * error
            is_by_sample = isinstance(kind, str) and product.ndim > 0 and len(product) == run.samples
            row = product.flatten(1).sum(1) if is_by_sample else product.sum()
            key = kind, probe.name
            moved[key] = moved[key] + row if key in moved else row
    for (kind, name), row in moved.items():
        sums[kind][name] += float(row.square().sum())


@dataclass(frozen=True)
class _Probe:
    """A zero that was added to a value, and what rounding changes of that, by kind."""

    at: Tensor
    name: str
    errors: Mapping[Kind, Tensor]


class _Probed(fx.Interpreter):
    """Runs the graph with a zero added to every value that is rounded, and to every operand of a product."""

    def __init__(self, module: fx.GraphModule, weights: WeightErrors) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.weights = weights
        self.probes: list[_Probe] = []
        self.samples = 0

    def run_node(self, n: fx.Node) -> Any:
        """A value with its probe."""
        result = super().run_node(n)
        if n.op == "placeholder" and not self.samples and isinstance(result, Tensor) and result.ndim:
            self.samples = len(result)
        if n in self.weights:
            return self._probed(result, *self.weights[n])
        found = range_of(n) if is_rounded(n) else None
        if found is None or not isinstance(result, Tensor):
            return result
        known = result.detach()
        return self._probed(result, str(n.meta[SET]), {VALUES: found.qparams.rounded(known) - known})

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An observer's result is its operand."""
        return args[0]

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Constants have no gradients but by their probes."""
        found = super().get_attr(target, args, kwargs)
        return found.detach() if isinstance(found, Tensor) else found

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a product reads has probes of its own: that is what would stay if all others read 16 bits."""
        if not is_product(n):
            return super().fetch_args_kwargs_from_env(n)
        given: dict[fx.Node, Any] = {}
        for operand in record_operands(n):
            found, value = range_of(operand), self.env[operand]
            if found is not None:
                error = found.qparams.rounded(value.detach()) - value.detach()
                given[operand] = self._probed(value, str(operand.meta[SET]), {NARROWED: error})
        args, kwargs = fx.map_arg((n.args, n.kwargs), lambda a: given.get(a, self.env[a]))
        return args, kwargs

    def _probed(self, value: Tensor, name: str, errors: Mapping[Kind, Tensor]) -> Tensor:
        self.probes.append(_Probe(torch.zeros_like(value, requires_grad=True), name, errors))
        return value + self.probes[-1].at


def record_operands(node: fx.Node) -> list[fx.Node]:
    """The values that an integer call takes."""
    found = record(node)
    return [] if found is None else [a for a in found.operands(node) if is_float(a)]


def is_rounded(node: fx.Node) -> bool:
    """Whether the value is rounded where it is made: not moved, nor joined, from what has been."""
    if node.op == "call_module" or SET not in node.meta or not is_quantized(node):
        return False
    found = record(node)
    return found is None or found.range not in (RangeRule.SHARED, RangeRule.JOINED)


def weight_errors(ranged: fx.GraphModule, bits: Sequence[int] = ()) -> WeightErrors:
    """By constant: the layer that reads it, and what rounding changes of it; 0 stands for the bits of its plan."""
    found: WeightErrors = {}
    for node in ranged.graph.nodes:
        rule = record(node)
        constant = None if rule is None or rule.weight is None else node.args[rule.weight]
        if rule is not None and isinstance(constant, fx.Node) and constant.op == "get_attr" and is_integer(node):
            weight, plan = constant_value(ranged, constant).float(), required_plan(node)
            schemes = {0: plan.weight, **{count: with_bits(plan.weight, count) for count in bits}}
            found[constant] = (
                name_of(node),
                {
                    count: weight_qparams(ranged, node, rule, weight, scheme).rounded(weight) - weight
                    for count, scheme in schemes.items()
                },
            )
    return found


def with_bits(weight: Scheme, bits: int) -> Scheme:
    """A weight's scheme with so many bits."""
    usual = schemes.weight(bits)
    return weight.with_(qmin=usual.qmin, qmax=usual.qmax)


def flat(returned: Any) -> list[Tensor]:
    """The tensors that a graph returned."""
    several = returned if isinstance(returned, (list, tuple)) else [returned]
    return [x for x in several if isinstance(x, Tensor)]
