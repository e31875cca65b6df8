"""Is it faster than float? Compiled layers beside PyTorch's float32 of the same shapes, on this CPU and one thread.

First the whole compiled network is timed, and beside it only the products of the float one: what is faster than these
alone is faster than the float network, and nothing more is measured. Otherwise the network is profiled, and every layer
is put beside its float counterpart: a product by PyTorch, everything else as no more than a copy of its float result.
Of all times the best of some runs counts, so that a busy machine does not raise alarm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxquant.arguments import node_arg
from fxquant.graph import calls, placeholders
from fxquant.names import label_of
from fxquant.primitives import primitives_with
from fxquant.runtime.artifact import Artifact
from fxquant.runtime.host import host_features, host_machine
from fxquant.runtime.model import CompiledModel
from fxquant.target import Target
from fxquant.targets.batch import sample_values
from fxquant.targets.hosted.profile import Stamped
from fxquant.targets.lowering import lower

RUNS = 5
MOST_NAMED = 5

aten, fxq = torch.ops.aten, torch.ops.fxq
_PRODUCTS = primitives_with(lambda facts: facts.macs)


@dataclass(frozen=True)
class LayerSpeed:
    """Microseconds of one layer, compiled and in float."""

    name: str
    compiled: float
    in_float: float


@dataclass(frozen=True)
class Speed:
    """Microseconds of the compiled network, and of what float takes at least; layers only where that is less."""

    compiled: float
    in_float: float
    layers: tuple[LayerSpeed, ...] = ()

    @property
    def is_slower(self) -> bool:
        """Whether float would have been faster."""
        return self.compiled > self.in_float

    @property
    def responsible(self) -> list[LayerSpeed]:
        """The layers that float is faster at, those first that lose most."""
        losing = [layer for layer in self.layers if layer.compiled > layer.in_float]
        return sorted(losing, key=lambda layer: layer.in_float - layer.compiled)

    def __str__(self) -> str:
        """A sentence, with the layers that are to blame."""
        times = f"{self.compiled / 1e3:.3g} ms compiled, {self.in_float / 1e3:.3g} ms in PyTorch's float32"
        if not self.is_slower:
            return f"{times} for the products alone"
        worst = ", ".join(
            f"{layer.name} ({layer.compiled:.3g} us, float {layer.in_float:.3g})"
            for layer in self.responsible[:MOST_NAMED]
        )
        return f"slower than float: {times}, on one thread; layers responsible: {worst}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "is_slower": self.is_slower, "responsible": [x.name for x in self.responsible]}


def measure_speed(quantized: fx.GraphModule, artifact: Artifact, target: Target) -> Speed | None:
    """Time what was compiled of an INTEGER graph against float; None where this CPU does not run the target.

    Layers, where they are measured, are those of the cost model, also where the artifact's were tuned.
    """
    if host_machine() != target.machine or not set(target.cpu_features) <= host_features():
        return None
    values = sample_values(quantized)
    inputs = [_noise(values[node]) for node in placeholders(quantized.graph)]
    arrays = [tensor.numpy() for tensor in inputs]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), CompiledModel(artifact.unchecked(), 1) as alone:
            best = _best(lambda: alone(*arrays))
            floats = _products(quantized, values)
            speed = Speed(best, sum(floats.values()))
            return _by_layer(quantized, target, arrays, floats) if speed.is_slower else speed
    finally:
        torch.set_num_threads(threads)


def _by_layer(quantized: fx.GraphModule, target: Target, arrays: Sequence[Any], floats: dict[str, float]) -> Speed:
    program = lower(quantized, target)
    with Stamped(program, target, 1) as stamped:
        ticks, second = stamped.run(arrays, RUNS)
    spent = ticks.min(axis=0) * 1e6 / second
    layers, copies = [], dict[int, float]()
    for call, own in zip(stamped.calls, spent, strict=True):
        size = call.result.spec.size if call.result is not None else 0
        if call.label in floats:
            in_float = floats[call.label]
        else:
            in_float = copies[size] = copies.get(size) or _best(torch.empty(max(size, 1)).clone)
        layers.append(LayerSpeed(call.label, float(own), in_float))
    return Speed(sum(x.compiled for x in layers), sum(x.in_float for x in layers), tuple(layers))


def _products(quantized: fx.GraphModule, values: dict[fx.Node, Any]) -> dict[str, float]:
    """Microseconds of every product in float; those of equal shapes are timed once."""
    known: dict[Any, float] = {}
    found: dict[str, float] = {}
    for node in calls(quantized.graph, *_PRODUCTS):
        settings = tuple(tuple(a) if isinstance(a, list) else a for a in node.args if not isinstance(a, fx.Node))
        operands = [tuple(values[a].shape) if isinstance(a, fx.Node) else None for a in node.args]
        key = (node.target, tuple(operands), settings)
        if key not in known:
            known[key] = _best(_in_float(node, values))
        found[label_of(node)] = known[key]
    return found


# A recurrence by the layer that it is a part of.
_LAYERS: dict[Any, Callable[..., Any]] = {
    fxq.lstm.default: torch.lstm, fxq.gru.default: torch.gru, fxq.rnn.default: torch.rnn_tanh,
}  # fmt: skip


def _layer_in_float(node: fx.Node, values: dict[fx.Node, Any]) -> Callable[[], Any]:
    """The layer with an input of one value, which costs next to nothing."""
    (count, steps, rows), size = values[node_arg(node, "gates")].shape, values[node].shape[-1]
    x, state = torch.ones(count, steps, 1), torch.zeros(1, count, size)
    weights = [torch.full((rows, n), 0.1) for n in (1, size)]
    states = (state, state) if node.target is fxq.lstm.default else state
    return lambda: _LAYERS[node.target](x, states, weights, False, 1, 0.0, False, False, True)


def _in_float(node: fx.Node, values: dict[fx.Node, Any]) -> Callable[[], Any]:
    if node.target in _LAYERS:
        return _layer_in_float(node, values)
    own = torch.Generator().manual_seed(0)  # the caller's random numbers stay what they are
    tensors = [torch.randn(tuple(values[a].shape), generator=own) for a in node.args if isinstance(a, fx.Node)]
    rest: list[Any] = [a for a in node.args if not isinstance(a, fx.Node) and a is not None]
    x, w = tensors[:2]
    if node.target is fxq.matmul.default:
        return lambda: torch.matmul(x, w)
    bias = tensors[2] if len(tensors) > 2 else None
    if node.target is fxq.linear.default:
        return lambda: torch.nn.functional.linear(x, w, bias)
    stride, padding, *others = rest[1:]
    flat = len(stride) == 1
    if node.target is fxq.conv.default:
        dilation, groups = others
        conv: Any = torch.conv1d if flat else torch.conv2d
        return lambda: conv(x, w, bias, stride, padding, dilation, groups)
    extra, dilation, groups = others
    transposed: Any = torch.conv_transpose1d if flat else torch.conv_transpose2d
    return lambda: transposed(x, w, bias, stride, padding, extra, groups, dilation)


def _best(run: Callable[[], Any]) -> float:
    """Microseconds of the best of some runs, after one that warms up."""
    run()
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e6 * min(times)


def _noise(value: Tensor) -> Tensor:
    if value.dtype.is_floating_point:
        rng = np.random.default_rng(0)
        return torch.from_numpy(rng.standard_normal(prod(value.shape)).astype(np.float32)).reshape(value.shape)
    return torch.zeros(value.shape, dtype=value.dtype)
