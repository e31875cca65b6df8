"""Shapes of one sample: the graph is run on fake tensors with a batch of one."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from fxquant.errors import LoweringError
from fxquant.graph import placeholders


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
