"""Quantized networks for the tests of standalone code, those of the zoo made once for all processes."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import fx, nn

import fxquant
from fxquant import targets
from fxquant.target import Target
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate import emulate
from fxquant.tools.emulate.programs import missing
from tests import zoo
from tests.endtoend.networks import Network, stages

# Every instruction set and every way to link, once; the rest differ in nothing that is tested here.
EMULATED = (
    "c", "cortex-m0", "cortex-m4", "cortex-m7", "cortex-m55", "riscv32imc",
    "riscv64-rvv",
    "armv7-neon", "aarch64-neon", "aarch64-dotprod", "aarch64-i8mm", "x86-64",
)  # fmt: skip


def emulated(*names: str) -> list[ParameterSet]:
    """A parameter per target, marked with its name, skipped with the reason where its programs are missing."""
    found = []
    for name in names or EMULATED:
        reason = missing(targets.get(name))
        marks = [getattr(pytest.mark, name.replace("-", "_")), pytest.mark.skipif(bool(reason), reason=reason)]
        found.append(pytest.param(targets.get(name), marks=marks, id=name))
    return found


@lru_cache
def network(name: str) -> fx.GraphModule:
    """A network of the zoo at its small size, INTEGER; whichever process is first leaves it for the others."""
    shared = os.environ.get("FXQUANT_TESTS")
    path = None if shared is None else Path(shared) / f"{name}.fxgraph"
    if path is not None and path.exists():
        return fxquant.load_graph(path)
    made = quantized(zoo.build(name, shallow=True), *zoo.inputs(name, 4))
    if path is None:  # benchmarks
        return made
    fxquant.save_graph(made, path)
    return fxquant.load_graph(path)


def quantized(model: nn.Module, *x: torch.Tensor) -> fx.GraphModule:
    """A model quantized on one batch."""
    return fxquant.quantize(fxquant.trace(model.eval(), x), [x], progress=False)


class Small(nn.Module):
    """Two inputs, two outputs, a residual, odd sizes, a depthwise and a strided layer: one of everything, tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, (3, 5), padding=(1, 2))
        self.deep, self.down = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 5, 3, stride=2)
        self.last = nn.Linear(5, 7)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, 3, 9, 7) and (N, 8, 9, 7)."""
        a = torch.relu(self.first(x))
        b = torch.relu(self.second(a) + y)
        c = torch.sigmoid(self.down(self.deep(b)))
        return self.last(c.mean((2, 3))), b


@lru_cache
def small() -> fx.GraphModule:
    """The INTEGER graph of Small."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return quantized(Small(), torch.randn(4, 3, 9, 7), torch.randn(4, 8, 9, 7))


def wrong_on(target: Target, network: Network) -> int:
    """How many integers of a random network's golden vectors differ on a machine from those in Python."""
    plain = fxquant.integer_ports(stages(replace(network, target=target.name)).integer)
    made = standalone(plain, target, "net")
    return emulate(made.files, "net", made.report, target).wrong


def unknown(**changes: Any) -> Target:
    """A target of a user's own."""
    return Target(**{**targets.get("x86-64").__dict__, "name": "mine", **changes})
