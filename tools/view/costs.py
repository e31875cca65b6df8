"""Measured costs of a run's steps: microseconds on this machine, instructions under emulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from fxquant import targets as known
from fxquant.errors import TargetError
from fxquant.graph import placeholders, sample_shape
from fxquant.passes import IntegerPorts
from fxquant.target import Target
from fxquant.tools.view.document import Memory, Run

ROUNDS = 10


def with_measured_costs(run: Run, quantized: fx.GraphModule, targets: Sequence[str | Target]) -> Run:
    """The run, its memory plans having measured costs by step.

    Raises TargetError where a target neither runs here nor has an emulator, EmulationError where that fails.
    """
    if not targets:
        raise TargetError("costs are measured on a target: name one, for example native or cortex-m4")
    return replace(run, memory=tuple(_measured(memory, quantized) for memory in run.memory))


def _measured(memory: Memory, quantized: fx.GraphModule) -> Memory:
    target = known.get(memory.target)
    if target.form == "hosted":
        times = zip(memory.steps, _microseconds(quantized, target), strict=True)
        return replace(memory, steps=tuple(replace(step, microseconds=time) for step, time in times))
    from fxquant.targets.standalone.export import standalone
    from fxquant.tools.emulate.measured import measured

    plain = IntegerPorts()(quantized)
    report = measured(standalone(plain, target, "model"), plain).report
    if report["instructions"] is None:
        raise TargetError(f"nothing counts instructions for {target.name}: its code runs on this machine itself")
    found = zip(memory.steps, report["layers"], strict=True)
    steps = (replace(s, instructions=x["instructions"], code_bytes=x["code_bytes"]) for s, x in found)
    return replace(memory, steps=tuple(steps))


def _microseconds(quantized: fx.GraphModule, target: Target) -> list[float]:
    from fxquant.targets.hosted.profile import profile

    inputs = tuple(_example(node) for node in placeholders(quantized.graph))
    found = profile(quantized, inputs, target=target, threads=1, rounds=ROUNDS)
    return [layer.median for layer in found.layers]


def _example(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    shape = sample_shape(value)
    if not value.dtype.is_floating_point:
        return torch.zeros(shape, dtype=value.dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=value.dtype)
