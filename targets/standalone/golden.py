"""Golden vectors: inputs, and what the integer graph in Python gives for them, as the C code's memory holds both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxquant.graph import placeholders
from fxquant.targets.standalone.header import PortFacts

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Vector:
    """One run: the flat elements of each port, in the order of memory."""

    inputs: tuple[tuple[PortFacts, list[int]], ...]
    outputs: tuple[tuple[PortFacts, list[int]], ...]


def golden(
    module: fx.GraphModule, inputs: Sequence[PortFacts], outputs: Sequence[PortFacts], count: int, seed: int = 0
) -> tuple[Vector, ...]:
    """`count` vectors of integers that spread over the whole range of each input."""
    generator = torch.Generator().manual_seed(seed)
    nodes = placeholders(module.graph)
    examples = [
        [_example(node, facts, generator) for node, facts in zip(nodes, inputs, strict=True)] for _ in range(count)
    ]
    return tuple(vector(module, inputs, outputs, batched) for batched in examples)


def vector(
    module: fx.GraphModule, inputs: Sequence[PortFacts], outputs: Sequence[PortFacts], batched: Sequence[Tensor]
) -> Vector:
    """What the graph computes for one sample of each input, or for the whole of a fixed batch."""
    with torch.no_grad():
        result = module(*batched)
    flat = [result] if isinstance(result, Tensor) else list(result)
    return Vector(
        tuple((facts, in_memory(x, facts)) for x, facts in zip(batched, inputs, strict=True)),
        tuple((facts, in_memory(y, facts)) for y, facts in zip(flat, outputs, strict=True)),
    )


def _example(node: fx.Node, facts: PortFacts, generator: torch.Generator) -> Tensor:
    dtype = node.meta["val"].dtype
    low, high = (facts.low, facts.high) if facts.scale else (0, 1)
    sizes = [1 if isinstance(size, torch.SymInt) else int(size) for size in node.meta["val"].shape]
    return torch.randint(low, high + 1, sizes, generator=generator).to(dtype)


def in_memory(x: Tensor, facts: PortFacts) -> list[int]:
    """The elements of what one call computes, in the order of the C array."""
    array = x.detach().numpy().reshape(facts.shape)
    moved = np.moveaxis(array, -3, -1) if facts.is_channels_last else array
    found: list[int] = moved.reshape(-1).tolist()
    return found
