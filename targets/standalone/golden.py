"""Golden vectors: inputs, and what the integer graph in Python gives for them, as the C code's memory holds both.

Of a network that trains they are steps from one state to the next, and the bytes of the state behind the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxquant.graph import calls, placeholders
from fxquant.indices import index_bounds
from fxquant.targets.standalone.header import PortFacts, is_port
from fxquant.targets.standalone.network import Network
from fxquant.training.device import LABEL, next_state, states

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
    rows = max((index_bounds(n)[1] + 1 for n in calls(module.graph, torch.ops.aten.embedding.default)), default=1)
    ports = list(zip(placeholders(module.graph), inputs, strict=True))
    examples = [[_example(node, facts, rows, generator) for node, facts in ports] for _ in range(count)]
    return tuple(vector(module, inputs, outputs, batched) for batched in examples)


@dataclass(frozen=True)
class Lesson:
    """Steps of training from the first state on, each with the outputs before its update; then a run, and the state."""

    steps: tuple[Vector, ...]
    last: Vector
    state: bytes


def lesson(
    module: fx.GraphModule, net: Network, inputs: Sequence[PortFacts], outputs: Sequence[PortFacts], count: int
) -> Lesson:
    """`count` steps over inputs as `golden` makes them, and labels at random."""
    generator, learning = torch.Generator().manual_seed(1), net.program.learning
    nodes = [node for node in placeholders(module.graph) if is_port(node)]
    state, steps = {name: found.initial for name, found in states(module).items()}, []
    for _ in range(count + 1):
        given = [
            torch.randint(learning.classes, (1,), generator=generator, dtype=torch.int32) if LABEL in node.meta
            else _example(node, facts, 1, generator)
            for node, facts in zip(nodes, inputs, strict=True)
        ]  # fmt: skip
        with torch.no_grad():
            found = module(*given, *state.values())
        pairs = tuple((facts, in_memory(x, facts)) for x, facts in zip(given, inputs, strict=True))
        results = tuple((facts, in_memory(y, facts)) for y, facts in zip(found, outputs, strict=False))
        steps.append(Vector(pairs, results))
        state, before = next_state(module, found), state
    return Lesson(tuple(steps[:-1]), steps[-1], _state_bytes(net, before))


def _state_bytes(net: Network, state: Mapping[str, Tensor]) -> bytes:
    held = bytearray(net.plan.state_bytes)
    for name, tensor in net.program.learning.states.items():
        content = state[name].numpy().tobytes()
        start = net.plan.offset(tensor.buffer)
        held[start : start + len(content)] = content
    return bytes(held)


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


def _example(node: fx.Node, facts: PortFacts, rows: int, generator: torch.Generator) -> Tensor:
    """Indices reach beyond both ends of the largest table, which has so many `rows`."""
    dtype = node.meta["val"].dtype
    low, high = (facts.low, facts.high) if facts.scale else (0, 1) if dtype == torch.bool else (-1, rows)
    sizes = [1 if isinstance(size, torch.SymInt) else int(size) for size in node.meta["val"].shape]
    return torch.randint(low, high + 1, sizes, generator=generator).to(dtype)


def in_memory(x: Tensor, facts: PortFacts) -> list[int]:
    """The elements of what one call computes, in the order of the C array."""
    array = x.detach().numpy().reshape(facts.shape)
    moved = np.moveaxis(array, -3, -1) if facts.is_channels_last else array
    # C has no words for Python's True and False.
    found: list[int] = moved.reshape(-1).astype(np.int64).tolist()
    return found
