"""How far the integers of a graph are from the float values they stand for, node by node.

SQNR = 10 log10( sum(x^2) / sum((x - q)^2) ) dB,   x the float value, q the dequantized one
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxquant import passes
from fxquant.calibration import arrange
from fxquant.capture import trace
from fxquant.equalized import Divided, equalized
from fxquant.errors import FxquantError
from fxquant.gains import decibels
from fxquant.graph import placeholders
from fxquant.passmanager import Pipeline
from fxquant.plan import range_of
from fxquant.progress import track
from fxquant.recipe import Recipe
from fxquant.source import name_of
from fxquant.stage import Stage
from fxquant.tools.agreement import Agreeing, Agreement

# A value that keeps fewer codes is as good as lost, whatever the error of what it is a part of.
ENOUGH_CODES = 16


@dataclass(frozen=True)
class Fidelity:
    """SQNR in dB by integer node, since the input and of the operation alone; of every output; equal decisions.

    `codes` are how many different integers a node gave, where they are few and tell fewer values apart than there were.
    """

    cumulative: Mapping[str, float] = field(default_factory=dict)
    local: Mapping[str, float] = field(default_factory=dict)
    outputs: tuple[float, ...] = ()
    agreement: float | None = None
    agreement_told: str = ""
    samples: int = 0
    codes: Mapping[str, int] = field(default_factory=dict)


# Sees an integer node, the real values that it stands for, and its integers.
Watch = Callable[[fx.Node, Tensor, Tensor], None]
# Sees a node that computes sums of faithful integers: its arguments, the real values by name, and the sums.
WatchSums = Callable[[fx.Node, Sequence[Any], Mapping[str, Tensor], Tensor], None]


def measure(
    quantized: fx.GraphModule,
    model: nn.Module | fx.GraphModule,
    data: Any | Iterable[Any],
    *,
    watch: Watch | None = None,
    sums: WatchSums | None = None,
    agreement: Agreement | None = None,
    progress: bool = False,
) -> Fidelity:
    """Run both on `data` and compare, in memory that does not grow with the number of inputs.

    `watch` sees every value that is compared, `sums` what is computed of faithful ones; `agreement` says what of the
    first output is a decision. Raises FxquantError if there is no data, or if their outputs differ in number.
    """
    batches = iter(track([data] if is_one_input(quantized, data) else data, "comparing", progress))
    first = next(batches, None)
    if first is None:
        raise FxquantError("no data to measure on: the iterable gave nothing")
    reference = canonical(model, first)
    cumulative: defaultdict[str, Ratio] = defaultdict(Ratio)
    local: defaultdict[str, Ratio] = defaultdict(Ratio)
    outputs: defaultdict[int, Ratio] = defaultdict(Ratio)
    agreeing, samples = Agreeing(agreement), 0
    for number, batch in enumerate(chain([first], batches)):
        inputs = arrange(quantized, batch, f"data input {number}")
        truth = _Recorder(reference, _wanted(quantized), equalized(quantized))
        with torch.no_grad():
            expected = flat(truth.run(*inputs))
            got = flat(_Comparer(quantized, truth.values, cumulative, restart=False, watch=watch).run(*inputs))
            _Comparer(quantized, truth.values, local, restart=True, sums=sums).run(*inputs)
        if len(expected) != len(got):
            raise FxquantError(f"the float model gives {len(expected)} outputs, the integer graph {len(got)}")
        for position, (real, close) in enumerate(zip(expected, got, strict=True)):
            outputs[position].add(real, close)
        agreeing.add(expected[0], got[0])
        samples += len(inputs[0]) if inputs and inputs[0].ndim else 1
    return Fidelity(
        {name: ratio.db for name, ratio in cumulative.items()},
        {name: ratio.db for name, ratio in local.items()},
        tuple(outputs[position].db for position in sorted(outputs)),
        agreeing.share,
        agreeing.told,
        samples,
        {name: len(r.codes) for name, r in cumulative.items() if len(r.codes) < min(ENOUGH_CODES, len(r.reals))},
    )


class Ratio:
    """Signal and noise power, summed up over batches; and how many different values there were, up to ENOUGH_CODES."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.codes: set[float] = set()
        self.reals: set[float] = set()

    def add(self, real: Tensor, close: Tensor) -> None:
        if len(self.codes) < ENOUGH_CODES:
            self.codes |= _different(close)
            self.reals |= _different(real)
        self.signal += float(real.double().square().sum())
        self.noise += float((real.double() - close.double()).square().sum())

    @property
    def db(self) -> float:
        """At most EXACT_DB, at least its negative: no infinities."""
        return decibels(self.signal, self.noise)


def _different(values: Tensor) -> set[float]:
    """Different values, all of them where there are fewer than ENOUGH_CODES: a part of them mostly says that there are
    more."""
    flat = values.detach().flatten().numpy()
    found = np.unique(flat[:: max(1, flat.size // 2048)])
    found = found if len(found) >= ENOUGH_CODES else np.unique(flat)
    return set(found[:ENOUGH_CODES].tolist())


class _Recorder(fx.Interpreter):
    """Runs the float graph and keeps the values that integer nodes stand for, divided as those are."""

    def __init__(self, module: fx.GraphModule, wanted: frozenset[str], divided: Mapping[str, Divided]) -> None:
        super().__init__(module)
        self.wanted, self.divided = wanted, divided
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run, and keep."""
        result = super().run_node(n)
        if name_of(n) in self.wanted:
            divided = self.divided.get(name_of(n))
            self.values[name_of(n)] = result if divided is None else divided.of(result)
        return result


class _Comparer(fx.Interpreter):
    """Runs the integer graph beside the float values; with `restart`, every node works on faithful operands, so that
    only its own error is seen."""

    def __init__(
        self,
        module: fx.GraphModule,
        truth: Mapping[str, Tensor],
        ratios: defaultdict[str, Ratio],
        *,
        restart: bool,
        watch: Watch | None = None,
        sums: WatchSums | None = None,
    ) -> None:
        super().__init__(module)
        self.truth, self.ratios, self.restart, self.watch, self.sums = truth, ratios, restart, watch, sums

    def run_node(self, n: fx.Node) -> Any:
        """Run, compare, and hand on the result or the faithful integers."""
        result = super().run_node(n)
        real, found = self.truth.get(str(n.meta.get("fxq.origin"))), range_of(n)
        if self.sums is not None and found is None and real is not None:
            self.sums(n, self.fetch_args_kwargs_from_env(n)[0], self.truth, result)
        if found is None or real is None or real.shape != result.shape:
            return result
        self.ratios[name_of(n)].add(real, found.qparams.dequantize(result))
        if self.watch is not None:
            self.watch(n, real, result)
        return found.qparams.quantize(real) if self.restart else result


def is_one_input(module: fx.GraphModule, data: Any) -> bool:
    """A tuple is one input if it holds as many tensors as the model takes; `x.split(8)` is a tuple of inputs."""
    if isinstance(data, tuple):
        return len(data) == len(placeholders(module.graph)) and all(isinstance(x, Tensor) for x in data)
    return isinstance(data, (Tensor, Mapping))


def _wanted(quantized: fx.GraphModule) -> frozenset[str]:
    return frozenset(str(n.meta["fxq.origin"]) for n in quantized.graph.nodes if "fxq.origin" in n.meta)


def canonical(model: nn.Module | fx.GraphModule, batch: Any) -> fx.GraphModule:
    """The float graph as the quantizing passes saw it: batch norm folded, so that nodes stand for the same values."""
    if not isinstance(model, fx.GraphModule) or "fxq.stage" not in model.meta:
        model = trace(model, batch)
    if model.meta["fxq.stage"] != Stage.FLOAT.value:
        raise FxquantError(f"errors are measured against a FLOAT graph, this one is {model.meta['fxq.stage'].upper()}")
    steps = passes.prepare(Recipe()).passes
    names = [step.name for step in steps]
    return Pipeline(steps[: names.index("Annotate")])(model)


def flat(result: Any) -> list[Tensor]:
    """The tensors that a graph returned, in order."""
    several = result if isinstance(result, (list, tuple)) else [result]
    return [value for value in several if isinstance(value, Tensor)]
