"""The compiled network computes one sample after the other: the shapes of one, and whether the samples do not mix.

Shapes cannot prove that (a mean over the batch keeps them), so it is tried: two samples together must give what the
first one gives alone.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from fxquant.arguments import float_arg
from fxquant.errors import LoweringError
from fxquant.graph import placeholders
from fxquant.indices import clamp_indices
from fxquant.names import output_names

fxq = torch.ops.fxq

# Behind a float island the last bits may depend on the batch; in an all-integer graph nothing may.
ISLAND_TOLERANCE = 0.05


def sample_values(module: fx.GraphModule) -> dict[fx.Node, Any]:
    """The fake value of every node, all sizes plain integers; a symbolic batch becomes 1."""
    values: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        inputs = [_sample(node) for node in placeholders(module.graph)]
        Recorder(module, garbage_collect_values=False).run(*inputs)
    return values


def _sample(node: fx.Node) -> torch.Tensor:
    value = node.meta["val"]
    sizes = [1 if isinstance(size, torch.SymInt) else int(size) for size in value.shape]
    return torch.empty(sizes, dtype=value.dtype)


def is_batched(module: fx.GraphModule) -> bool:
    """Whether the graph takes any number of samples: every input's first axis is symbolic.

    Raises LoweringError where that is so of some inputs only.
    """
    free = {
        str(node.target): node.meta["val"].ndim > 0 and isinstance(node.meta["val"].shape[0], torch.SymInt)
        for node in placeholders(module.graph)
    }
    if len(set(free.values())) > 1:
        raise LoweringError(
            f"some inputs have a free batch and others none ({', '.join(n for n, f in free.items() if not f)}): "
            "trace with dynamic_batch=False"
        )
    return all(free.values())


def require_independent_samples(module: fx.GraphModule) -> None:
    """Raise LoweringError if a sample's result depends on the rest of its batch, or the batch is not axis 0."""
    generator = torch.Generator().manual_seed(0)
    pair = [_example(node, generator) for node in placeholders(module.graph)]
    with torch.no_grad():
        trial = _with_any_index(module)
        together, alone = _flat(trial(*pair)), _flat(trial(*(x[:1] for x in pair)))
    islands = any(node.meta.get("fxq.island") for node in module.graph.nodes)
    for name, both, one in zip(output_names(module), together, alone, strict=True):
        first = both[:1]
        same = first.shape == one.shape and (torch.equal(first, one) or (islands and _close(first, one)))
        if not same:
            raise LoweringError(
                f"the output {name} mixes the samples of a batch, and compiled code computes one sample at a "
                "time: trace with dynamic_batch=False to compile for one fixed batch"
            )


def _with_any_index(module: fx.GraphModule) -> fx.GraphModule:
    """The graph for indices that are made up: which are right, only its caller knows."""
    trial = fx.GraphModule(module, copy.deepcopy(module.graph))
    clamp_indices(trial.graph)
    trial.recompile()
    return trial


def _flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether floats are near each other; what is no number, or infinite, must be so in both."""
    real, spread = b.double(), b.double().abs()
    largest = float(spread[spread.isfinite()].amax()) if bool(spread.isfinite().any()) else 0.0
    return torch.allclose(a.double(), real, rtol=0.0, atol=ISLAND_TOLERANCE * largest, equal_nan=True)


def _example(node: fx.Node, generator: torch.Generator) -> Tensor:
    """Two samples that spread over what the input's quantize takes in; indices are 0 or 1."""
    value = node.meta["val"]
    sizes = (2, *(int(n) for n in value.shape[1:]))
    if not value.dtype.is_floating_point:
        return torch.randint(0, 2, sizes, generator=generator).to(value.dtype)
    scales = [float_arg(user, 1) for user in node.users if user.target is fxq.quantize.default]
    return torch.randn(sizes, generator=generator) * (40.0 * max(scales, default=0.025))
