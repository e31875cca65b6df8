"""Training on the device itself: a step of it as an INTEGER graph, and what it keeps between two steps.

    outputs, new state = step(inputs, label, state)

A trained tensor is two values of the state, its `codes`, which the network computes with, and the `rest` of them: what
the last update left when it was rounded to codes, in fractions of one, and which the next update takes up (error
feedback). So no step is lost, however small, and no random number is drawn. The pass TrainOnDevice makes the graph;
here it runs in PyTorch, which is the reference for every target, to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.errors import InputError
from fxquant.graph import outputs, placeholders
from fxquant.qparams import QParams

# On an input of a step: its `State`. On an output: the name of the input that it is the next value of.
STATE, NEXT = "fxq.state", "fxq.next"
LABEL = "fxq.classes"

# Of stochastic gradient descent, in real numbers; any positive one does.
DEVICE_RATE = 2.0**-6
# Fractional bits of the rest of a weight: codes of 8 bits and these make 24.
FRACTION = 16
# Of a bias, whose unit is much finer than that of the results; fewer where the bias is large.
BIAS_FRACTION = 8
# Probabilities, and so errors, are multiples of 1 / 256.
ONE = 256


@dataclass(frozen=True)
class State:
    """A tensor that lives between steps: `constant` is the buffer of the graph that it starts from, "" for zeros."""

    layer: str
    constant: str
    initial: Tensor


StateValues = Mapping[str, Tensor]


def state_of(node: fx.Node) -> State | None:
    """What the node holds of the state, if it is an input that does."""
    found = node.meta.get(STATE)
    return found if isinstance(found, State) else None


def states(module: fx.GraphModule) -> dict[str, State]:
    """The state of a step by the names of its inputs, in order; empty for any other graph."""
    found = {str(node.target): state_of(node) for node in placeholders(module.graph)}
    return {name: state for name, state in found.items() if state is not None}


def next_state(module: fx.GraphModule, found: Sequence[Tensor]) -> dict[str, Tensor]:
    """The state among what a step gives, in the order of its inputs."""
    pairs = zip(outputs(module.graph), found, strict=True)
    by_name = {str(node.meta[NEXT]): value for node, value in pairs if NEXT in node.meta}
    return {name: by_name[name] for name in states(module)}


class DeviceTraining:
    """A step on the device, in Python: what `fxquant.export(..., train=...)` compiles, on the same integers.

    `graph` is the step: inputs as integers, the label, the state; outputs (computed before the update), the new state.
    """

    def __init__(self, quantized: fx.GraphModule, graph: fx.GraphModule) -> None:
        self.quantized, self.graph = quantized, graph

    def start(self) -> dict[str, Tensor]:
        """The state before the first step: the weights as they are in the network."""
        return {name: state.initial.clone() for name, state in states(self.graph).items()}

    def step(self, inputs: Tensor | tuple[Tensor, ...], label: int, state: StateValues) -> tuple[list[Tensor], Any]:
        """The integer outputs for one sample, and the state after one update; `state` itself is not changed.

        Real inputs are quantized as the device's caller does it. Raises InputError for a label that is no class.
        """
        ports = placeholders(self.graph.graph)
        classes = next(int(node.meta[LABEL]) for node in ports if LABEL in node.meta)
        if not 0 <= label < classes:
            raise InputError(f"the label {label} is none of the {classes} classes, which count from 0")
        given = (inputs,) if isinstance(inputs, Tensor) else inputs
        taken = [_as_port(x, node) for x, node in zip(given, ports, strict=False)]
        with torch.no_grad():
            found = self.graph(*taken, torch.tensor([label], dtype=torch.int32), *state.values())
        return list(found[: len(found) - len(state)]), next_state(self.graph, found)

    def restored(self, content: bytes, report: Mapping[str, Any]) -> dict[str, Tensor]:
        """The state whose bytes a device holds, whose places `report["training"]["tensors"]` of its export tells.

        Raises InputError for bytes of another network.
        """
        told = report["training"]
        if len(content) != told["state_bytes"] or [t["name"] for t in told["tensors"]] != list(states(self.graph)):
            raise InputError(f"{len(content)} bytes are no state of this network, whose report tells others")
        return {
            t["name"]: torch.frombuffer(
                bytearray(content), dtype=getattr(torch, t["dtype"]), count=prod(t["shape"]), offset=t["offset"]
            ).reshape(t["shape"])
            for t in told["tensors"]
        }

    def quantize(self, x: Tensor, number: int = 0) -> Tensor:
        """Real numbers as input `number` takes them, any number of samples."""
        return _as_port(x, placeholders(self.graph.graph)[number])

    def trained(self, state: StateValues) -> fx.GraphModule:
        """The INTEGER graph with these weights: what the device computes from then on."""
        result = copy.deepcopy(self.quantized)
        for name, found in states(self.graph).items():
            if found.constant:
                result.get_buffer(found.constant).copy_(state[name])
        return result


def _as_port(x: Tensor, node: fx.Node) -> Tensor:
    port = node.meta.get("fxq.port")
    return port.quantize(x) if x.dtype.is_floating_point and isinstance(port, QParams) else x
