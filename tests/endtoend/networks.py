"""A random network as a record that can be printed, pasted and built again, and what must be true of it.

The network is the source text of an `nn.Module`; everything else that the outcome depends on (extreme weights, wrong
ranges, recipe, seed) stands beside it. `check` carries it through the whole road.
"""

from __future__ import annotations

import copy
import linecache
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, fx, nn

import fxquant
from fxquant import targets
from fxquant.errors import (
    AccumulatorOverflowError,
    CalibrationError,
    FxquantError,
    LoweringError,
    RecipeError,
    TraceError,
)
from fxquant.graph import outputs
from fxquant.observers import observers_of
from fxquant.passmanager import Pass
from fxquant.runtime.host import host_features, host_machine
from fxquant.stage import Stage
from tests.endtoend.following import exposed, follow, is_close, is_island
from tests.endtoend.meaning import step_errors
from tests.guarded import run_guarded

Shape = tuple[int, ...]
Kind = tuple[str, int]

# Special values that a quantized input must survive like any other: beyond the range, infinite, not a number.
SPECIALS = (math.inf, -math.inf, math.nan, 1e38, -1e38, 1e-45, -0.0)


@dataclass(frozen=True)
class Network:
    """`source` defines a class `Network`; `inputs` are its inputs' shapes without the batch.

    `kinds` has the inputs that are not float32: the dtype, and what their whole numbers are below. Only a network that
    `has_islands` may have operations that are not integer.

    `weights` names for a submodule how its weight and its bias are drawn (keys of WEIGHTS and BIASES). `stretch` holds
    factors and shifts, in turn for the observers, that make a calibrated range wrong: (factor, shift) gives
    [factor * low + shift * width, factor * high + shift * width]. `amplitude` scales and `offset` moves the inputs.
    """

    source: str
    inputs: tuple[Shape, ...]
    weights: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    stretch: tuple[tuple[float, float], ...] = ((1.0, 0.0),)
    amplitude: float = 1.0
    offset: float = 0.0
    recipe: Mapping[str, Any] = field(default_factory=dict)
    dynamic: bool = True
    kinds: Mapping[int, Kind] = field(default_factory=dict)
    has_islands: bool = False
    target: str = "native"
    seed: int = 0

    def __repr__(self) -> str:
        """A text to paste: the source as it is read, then the rest."""
        rest = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "source"}
        lines = "".join(f"    {name}={value!r},\n" for name, value in rest.items())
        return f'Network(\n    source="""{self.source}""",\n{lines})'

    @property
    def is_tame(self) -> bool:
        """Whether ranges fit the values and no weight is extreme: then integers follow the float arithmetic closely."""
        kinds = {kind for pair in self.weights.values() for kind in pair}
        return self.stretch == ((1.0, 0.0),) and kinds <= {"normal", "equal", "lowest", "signs", "zero"}

    def build(self) -> nn.Module:
        """The module in eval mode, with its weights."""
        name = f"<network {hash(self.source) & 0xFFFFFFFF:08x}>"
        # So that messages can quote the source line.
        linecache.cache[name] = (len(self.source), None, self.source.splitlines(True), name)
        space: dict[str, Any] = {"torch": torch, "nn": nn, "F": nn.functional}
        exec(compile(self.source, name, "exec"), space)
        generator = Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model: nn.Module = space["Network"]()
        with torch.no_grad():
            for path, module in model.named_modules():
                _fill(module, *self.weights.get(path, ("normal", "normal")), generator)
        return model.eval()

    def data(self, batch: int, seed: int, specials: bool = False) -> tuple[Tensor, ...]:
        """Inputs for `batch` samples; `specials` puts a few values in that are no ordinary numbers."""
        generator = Generator().manual_seed(1000 * self.seed + seed)
        made = []
        for number, shape in enumerate(self.inputs):
            if number in self.kinds:
                dtype, below = self.kinds[number]
                made.append(torch.randint(below, (batch, *shape), generator=generator).to(getattr(torch, dtype)))
                continue
            x = torch.randn(batch, *shape, generator=generator) * self.amplitude + self.offset * self.amplitude
            if specials:
                places = torch.randint(x.numel(), (len(SPECIALS),), generator=generator)
                x.view(-1)[places] = torch.tensor(SPECIALS)
            made.append(x)
        return tuple(made)


Draw = Callable[[Tensor, Generator], Tensor]


def _normal(w: Tensor, g: Generator) -> Tensor:
    return torch.randn(w.shape, generator=g) / math.sqrt(max(w[0].numel(), 1))


def _some_zero(w: Tensor, g: Generator) -> Tensor:
    kept = torch.rand(w.shape[0], generator=g) < 0.5
    return _normal(w, g) * kept.reshape(-1, *[1] * (w.ndim - 1))


def _signs(w: Tensor, g: Generator) -> Tensor:
    return (torch.randint(2, w.shape, generator=g) * 2.0 - 1.0) * 0.5


def _uneven(w: Tensor, g: Generator) -> Tensor:
    powers = torch.randint(-20, 6, (w.shape[0],), generator=g)
    return _normal(w, g) * (2.0**powers).reshape(-1, *[1] * (w.ndim - 1))


# Weights of a layer: `signs` are all at the ends of the integer range, so that sums are as large as they can be.
WEIGHTS: dict[str, Draw] = {
    "normal": _normal,
    "huge": lambda w, g: _normal(w, g) * 1e6,
    "denormal": lambda w, g: _normal(w, g) * 1e-41,
    "equal": lambda w, g: torch.full(w.shape, 0.25),
    "lowest": lambda w, g: torch.full(w.shape, -0.25),
    "zero": lambda w, g: torch.zeros(w.shape),
    "zero channels": _some_zero,
    "signs": _signs,
    "uneven": _uneven,
}
BIASES: dict[str, Draw] = {
    "normal": lambda b, g: torch.randn(b.shape, generator=g) * 0.1,
    "zero": lambda b, g: torch.zeros(b.shape),
    "large": lambda b, g: torch.randn(b.shape, generator=g) * 1e3,
    "denormal": lambda b, g: torch.full(b.shape, 1e-40),
}


def _fill(module: nn.Module, weight: str, bias: str, generator: Generator) -> None:
    own = dict(module.named_parameters(recurse=False))
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
        own["weight"].copy_(torch.randn(own["weight"].shape, generator=generator).exp())
        own["bias"].copy_(BIASES[bias](own["bias"], generator))
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.get_buffer("running_mean").normal_(0.0, 0.3, generator=generator)
            module.get_buffer("running_var").uniform_(0.1, 2.0, generator=generator)
        return
    for name, parameter in own.items():
        parameter.copy_(BIASES[bias](parameter, generator) if name == "bias" else WEIGHTS[weight](parameter, generator))


@dataclass(frozen=True)
class Stages:
    """A network on its way: the model itself and its graphs."""

    model: nn.Module
    traced: fx.GraphModule
    quantized: fx.GraphModule
    integer: fx.GraphModule


def stages(network: Network) -> Stages:
    """The network calibrated, its ranges made wrong as it asks, and converted."""
    model = network.build()
    traced = fxquant.trace(model, network.data(2, 0), dynamic_batch=network.dynamic)
    observed = fxquant.prepare(traced, network.recipe)
    fxquant.calibrate(observed, [network.data(2, i) for i in (0, 1)], progress=False)
    for number, (_, observer) in enumerate(observers_of(observed)):
        factor, shift = network.stretch[number % len(network.stretch)]
        if (factor, shift) != (1.0, 0.0):
            move = shift * (observer.high - observer.low)
            observer.low, observer.high = factor * observer.low + move, factor * observer.high + move
    kept: dict[str, fx.GraphModule] = {}

    def keep(step: Pass, module: fx.GraphModule) -> None:
        if step.gives is Stage.QUANTIZED:
            kept["quantized"] = copy.deepcopy(module)

    integer = fxquant.convert(observed, observe=keep)
    return Stages(model, traced, kept["quantized"], integer)


def check(network: Network) -> int:
    """All stages mean the same, and Python and compiled code give the same integers: for a batch and for one sample, by
    one thread and by two. Behind float islands they may differ by a step, see `following`.

    Returns how many different values the outputs hold, for the caller to see whether the network does anything.
    Raises AssertionError otherwise; errors of the library pass through.
    """
    made = stages(network)
    islands = [node for node in made.integer.graph.nodes if is_island(node)]
    reasons = {node.name: node.meta["fxq.plan"].reason for node in islands if "fxq.plan" in node.meta}
    # A layer norm whose result is next to nothing stays in float.
    unasked = {name: reason for name, reason in reasons.items() if "gamma or beta" not in reason}
    assert network.has_islands or not unasked, f"float islands {unasked}"
    _check_meaning(network, made)
    values: set[float] = set()
    subject = exposed(made.integer) if islands else made.integer
    compiled = fxquant.compile(subject, network.target, threads=2, against_float=False)
    with compiled as two, fxquant.CompiledModel(two.artifact, 1) as one:
        for batch in (3, 1) if network.dynamic else (2,):
            x = network.data(batch, 7, specials=not islands)
            for net in (one, two):
                where = f"batch {batch}, {net.threads} threads"
                values.update(_compare(made.integer, x, _tuple(net(*x)), where))
        _check_guarded(one, x)
    return len(values)


def _compare(integer: fx.GraphModule, x: tuple[Tensor, ...], found: tuple[Tensor, ...], where: str) -> set[float]:
    """Hold compiled results to those of Python; the values that the outputs have."""
    expected, returned = follow(integer, x, found), outputs(integer.graph)
    for number, wanted in enumerate(expected):
        if is_island(returned[number]):
            assert is_close(found[number], wanted), f"output {number}, {where}: island"
        else:
            _same(found[number], wanted, f"output {number}, {where}")
    return {value for output in expected for value in output.flatten().tolist()}


def _check_guarded(net: fxquant.CompiledModel, x: tuple[Tensor, ...]) -> None:
    """The same results where every byte beside the network's own memory is a crash."""
    for at_end in (True, False):
        results = run_guarded(net.artifact, [t.numpy() for t in x], at_end)
        for number, (found, wanted) in enumerate(zip(results, _tuple(net(*x)), strict=True)):
            _same(torch.from_numpy(found), wanted, f"output {number}, in guarded memory")


def is_refusal(error: FxquantError) -> bool:
    """Whether the library was right to refuse: sums that could overflow, weights so large that calibration gives
    infinity, a model that writes into a view of its input, a rule for a module that only dead code calls; for
    standalone code, an input that is handed through as a float."""
    if isinstance(error, TraceError):
        return "changes its own state or inputs" in str(error)
    if isinstance(error, LoweringError):
        return "float operations: standalone code" in str(error)
    if isinstance(error, RecipeError):
        return "matches no module" in str(error)
    return isinstance(error, AccumulatorOverflowError | CalibrationError)


def _check_meaning(network: Network, made: Stages) -> None:
    x = network.data(3 if network.dynamic else 2, 0)
    with torch.no_grad():
        for found, wanted in zip(_tuple(made.traced(*x)), _tuple(made.model(*x)), strict=True):
            assert is_close(found, wanted), "the traced graph is not the model"
    errors = step_errors(made.quantized, made.integer, x)
    assert not (network.is_tame and errors), f"integer and float arithmetic differ by more than a step: {errors}"


def _same(found: Tensor, wanted: Tensor, where: str) -> None:
    assert found.dtype == wanted.dtype and found.shape == wanted.shape, f"{where}: {found.shape} {wanted.shape}"
    differ = (found != wanted) & ~(found.isnan() & wanted.isnan())
    if bool(differ.any()):
        wrong = differ.nonzero()
        at = tuple(int(i) for i in wrong[0])
        raise AssertionError(
            f"{where}: {len(wrong)} of {wanted.numel()} values differ, first at {at}: "
            f"compiled {found[at]:.9g}, Python {wanted[at]:.9g}"
        )


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def runnable_targets() -> list[str]:
    """Registered hosted targets whose instructions this machine has."""
    machine, features = host_machine(), host_features()
    hosted = [t for t in targets.TARGETS.values() if t.form == "hosted" and t.machine == machine]
    return [t.name for t in hosted if set(t.cpu_features) <= features]
