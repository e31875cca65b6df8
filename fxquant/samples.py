"""Whether the samples of a batch are independent of each other, as compiled code with a free batch takes them to be.

It computes one sample; a batch is a loop. A model that normalizes over the batch, flips it or multiplies its samples
with each other is none that may be compiled so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, fx

from fxquant.graph import placeholders
from fxquant.wide import is_close, run_wide

# Of the largest output, in float64: kernels may sum in another order when the batch has another size.
TOLERANCE = 1e-6
# Where an operator knows no float64.
NARROW_TOLERANCE = 1e-3


def mixing(module: fx.GraphModule, inputs: Sequence[Tensor]) -> str | None:
    """Why the samples of the traced `module` depend on each other, or None if they do not.

    It is run on a batch of two made from the example `inputs`, different from each other, and on each of them alone.
    """
    if len(inputs) != len(placeholders(module.graph)) or not all(x.ndim for x in inputs):
        return None
    generator = torch.Generator().manual_seed(0)
    pairs = [_pair(x, generator) for x in inputs]
    try:
        return _mixing(partial(run_wide, module), pairs, TOLERANCE)
    except RuntimeError:  # an operator of the user's own that takes float32 only, say
        return _mixing(partial(_outputs, module), pairs, NARROW_TOLERANCE)


def _mixing(run: Callable[[list[Tensor]], list[Tensor]], pairs: list[Tensor], tolerance: float) -> str | None:
    together = run(pairs)
    alone = [run([x[i : i + 1] for x in pairs]) for i in (0, 1)]
    for number, whole in enumerate(together):
        parts = [outputs[number] for outputs in alone]
        if whole.ndim == 0 or whole.shape[0] != 2 or any(p.shape != whole[:1].shape for p in parts):
            return f"output {number} does not have the batch as its first axis"
        if not is_close(torch.cat(parts), whole, tolerance):
            return f"a sample of output {number} depends on the other samples of its batch"
    return None


def _pair(x: Tensor, generator: torch.Generator) -> Tensor:
    """Two samples like the first ones of `x`; floating ones with noise, others turned around to differ."""
    first, second = x[:1], x[-1:]
    if not x.is_floating_point():
        return torch.cat([first, second.flip(-1)])
    pair = torch.cat([first, second])
    noise = torch.randn(pair.shape, generator=generator).to(pair)
    return pair + noise * pair.std(correction=0).clamp(min=0.1)


def _outputs(module: fx.GraphModule, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        found = module(*inputs)
    return [x for x in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(x, Tensor)]
