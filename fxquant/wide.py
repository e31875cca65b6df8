"""A float graph run in float64, so that the order of sums is no difference that anybody could see.

Whether two graphs, or a sample alone and in its batch, give the same is a question about the computation. In float32
its answer drowns in rounding: a deep network tells apart kernels that sum in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.observers.base import Observer


def run_wide(module: fx.GraphModule, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs, flat, every float32 value of the graph being float64; observers do not look."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = _Wide(module).run(*map(_widened, inputs))
    return [x for x in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(x, Tensor)]


def is_close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Whether floats differ by at most `tolerance` of the largest one; other values must be equal."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if not wanted.is_floating_point():
        return torch.equal(found, wanted)
    finite = wanted[wanted.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(found, wanted, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


class _Wide(fx.Interpreter):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Conversions to float32 are conversions to float64, and so is what becomes float32 by itself."""
        return _widened(super().call_function(target, *fx.node.map_aggregate((args, kwargs), _wide_dtype)))

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An observer's result is its operand."""
        found = self.fetch_attr(target)
        return args[0] if isinstance(found, Observer) else found(*args, **kwargs)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Constants become wide where they are read."""
        return _widened(super().get_attr(target, args, kwargs))


def _wide_dtype(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


def _widened(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype is torch.float32 else value
