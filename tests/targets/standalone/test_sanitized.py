"""C sources of every primitive leave nothing undefined: GCC's sanitizers watch them compute extreme inputs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import fxquant
from fxquant import targets
from fxquant.graph import placeholders
from fxquant.primitives.registry import PRIMITIVES
from fxquant.targets.standalone.export import standalone
from fxquant.targets.standalone.folder import render
from fxquant.targets.standalone.golden import vector
from fxquant.targets.standalone.header import port_facts
from fxquant.targets.standalone.network import network as program
from tests.endtoend.low_bits import few_bits
from tests.targets.standalone.made import quantized, small
from tests.targets.standalone.test_exact import recurrent

CLEAN = [
    "gcc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-fsanitize=undefined,address",
    "-fno-sanitize-recover=all",
]  # fmt: skip
# What gives or takes floats: ranges of run time and what lies between them have no place behind integer ports.
FLOAT = {
    "quantize", "dequantize", "dequantize_channels", "dynamic_scale", "quantize_dynamic", "dequantize_dynamic",
    "rescale_real", "scale_product", "join", "real_curve", "real_softmax", "real_norm",
}  # fmt: skip
SIXTEEN = {"activation": {"qmin": -32768, "qmax": 32767}}


class Function(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: torch.Tensor) -> Any:
        """Whatever the function takes."""
        return self.function(*x)


def _pools(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 1, 1), F.adaptive_avg_pool2d(x, (3, 4)), x.mean(1)


def _sizes(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return F.interpolate(x, scale_factor=2, mode="bilinear"), F.interpolate(x, scale_factor=2), F.pad(x, (1, 2, 0, 1))


def _moves(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.cat([x, x.flip(-1), 3 * x], 1), x.permute(0, 3, 1, 2)[:, ::2], x.softmax(-1), F.gelu(x)


def _values(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    slopes = torch.tensor([0.5, -0.25, 0.125])
    return torch.where(a > b, a, b), a / (b.abs() + 1), F.prelu(a, slopes), torch.where(a >= b, 2 * a, b)


def _rows(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return x.logsumexp(-1), F.rms_norm(x, (10,)), x.amax((2, 3)), x.amin(-1), F.group_norm(x, 1)


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v)


R = torch.randn
# Recipes, models and inputs: together every primitive, shifts of every size, and 16-bit activations.
NETWORKS: dict[str, Callable[[], fx.GraphModule]] = {
    "small": small,
    "transposed": lambda: quantized(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), R(2, 4, 5, 6)),
    "attention": lambda: quantized(Function(_attention), *(R(2, 3, 5, 8) for _ in range(3))),
    "products": lambda: quantized(Function(lambda a, b: a * b - a), R(2, 3, 5, 8), 100 * R(2, 3, 5, 8)),
    "far sum": lambda: quantized(Function(torch.add), R(2, 3, 5, 8), 700 * R(2, 3, 5, 8)),
    "far difference": lambda: quantized(Function(torch.sub), 0.001 * R(2, 3, 5, 8), R(2, 3, 5, 8)),
    "norm": lambda: quantized(nn.LayerNorm(33), R(4, 7, 33)),
    "pools": lambda: quantized(Function(_pools), R(2, 3, 9, 10)),
    "sizes": lambda: quantized(Function(_sizes), R(2, 3, 9, 10)),
    "moves": lambda: quantized(Function(_moves), R(2, 3, 9, 10)),
    "values": lambda: quantized(Function(_values), R(2, 3, 5, 8), 2 * R(2, 3, 5, 8)),
    "rows": lambda: quantized(Function(_rows), R(2, 3, 9, 10)),
    "tiny result": lambda: quantized(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Hardtanh(-1e-3, 1e-3)), 1e3 * R(2, 4, 5, 6)),
    "recurrent": recurrent,
    "few bits": lambda: few_bits(4, 2),
    "sixteen bits": lambda: sixteen(nn.Sequential(nn.AvgPool2d(2), nn.Sigmoid()), R(2, 3, 8, 8)),
    "sixteen bits sum": lambda: sixteen(Function(torch.add), R(2, 3, 8), 9 * R(2, 3, 8)),
}


@lru_cache
def built(name: str) -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[name]()


def sixteen(model: nn.Module, *x: torch.Tensor) -> fx.GraphModule:
    return fxquant.quantize(fxquant.trace(model.eval(), x), [x], recipe=SIXTEEN, progress=False)


def extremes(module: fx.GraphModule, inputs: list[Any]) -> list[list[torch.Tensor]]:
    """Inputs of nothing but lowest and highest codes: all of one, alternating both ways, and at random."""
    shapes = [node.meta["val"] for node in placeholders(module.graph)]
    sizes = [[1 if isinstance(n, torch.SymInt) else int(n) for n in val.shape] for val in shapes]
    generator = torch.Generator().manual_seed(1)

    def picked(size: list[int], pattern: str) -> torch.Tensor:
        count = torch.Size(size).numel()
        if pattern == "random":
            return torch.randint(0, 2, size, generator=generator)
        return {"low": torch.zeros(count), "high": torch.ones(count), "even": torch.arange(count) % 2,
                "odd": (torch.arange(count) + 1) % 2}[pattern].long().reshape(size)  # fmt: skip

    return [
        [
            torch.where(picked(size, pattern) == 0, facts.low, facts.high).to(val.dtype)
            for size, facts, val in zip(sizes, inputs, shapes, strict=True)
        ]
        for pattern in ("low", "high", "even", "odd", "random", "random")
    ]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_undefined(tmp_path: Path, name: str) -> None:
    module = fxquant.integer_ports(built(name))
    made = standalone(module, targets.get("c"), "net")
    inputs, outputs = port_facts(module, program(module, targets.get("c"), "net"))
    vectors = [vector(module, inputs, outputs, batched) for batched in extremes(module, inputs)]
    facts = {"name": "net", "inputs": inputs, "outputs": outputs, "vectors": vectors, "lesson": None}
    for file, content in {**made.files, "net_selftest.c": render("selftest.c.j2", facts)}.items():
        (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
    subprocess.run([*CLEAN, "-o", "net", "net.c", "net_selftest.c", "main.c"], cwd=tmp_path, check=True, timeout=120)
    done = subprocess.run([str(tmp_path / "net")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "0 elements" in done.stdout, done.stdout + done.stderr


def test_the_networks_cover_every_integer_primitive() -> None:
    used = {node.target for name in NETWORKS for node in built(name).graph.nodes}
    assert {name for name, op in PRIMITIVES.items() if op in used} >= set(PRIMITIVES) - FLOAT
