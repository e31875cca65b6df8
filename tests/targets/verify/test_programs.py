"""Programs that the compiler makes are proven, in little time; every compilation of every other test proves its own."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import fxquant
from fxquant import targets
from fxquant.errors import MemorySafetyError
from fxquant.targets.hosted.compiler import build_artifact
from fxquant.targets.lowering import lower
from fxquant.targets.planner import plan_memory
from fxquant.targets.standalone.network import network as standalone_network
from fxquant.targets.verify.verifier import verify
from tests.targets.standalone.made import network, quantized
from tests.targets.verify.broken import chain, changed

NETWORKS = ("resnet8", "ds_cnn", "bert", "unet")


@pytest.mark.parametrize("target", ["x86-avx2", "x86-avxvnni", "x86-avx512vnni"])
@pytest.mark.parametrize("name", NETWORKS)
def test_hosted(name: str, target: str) -> None:
    made = targets.get(target)
    program = lower(network(name), made)
    verify(program, plan_memory(program))


@pytest.mark.parametrize(
    "target", ["cortex-m0", "cortex-m7", "cortex-m85", "armv7-neon", "aarch64-i8mm", "riscv64-rvv"]
)
@pytest.mark.parametrize("name", NETWORKS[:2])
def test_standalone(name: str, target: str) -> None:
    standalone_network(fxquant.integer_ports(network(name)), targets.get(target), "net")


def test_it_takes_no_longer_than_lowering() -> None:
    """Processor time: other processes must not count."""
    made = targets.get("x86-avx512vnni")
    graph = network("resnet8")
    begin = time.process_time()
    program = lower(graph, made)
    lowered = time.process_time()
    verify(program, plan_memory(program))
    assert time.process_time() - lowered < max(2 * (lowered - begin), 0.5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_float_islands_are_proven_too(dynamic: bool) -> None:
    class Islands(nn.Module):
        """Operations that stay float."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """(N, 4, 6, 6)."""
            padded = nn.functional.pad(x, (1, 2, 1, 0), mode="reflect")
            return torch.cumsum(padded, 2) * torch.exp(padded)

    torch.manual_seed(1)
    x = torch.randn(2, 4, 6, 6)
    graph = fxquant.quantize(fxquant.trace(Islands().eval(), x, dynamic_batch=dynamic), [x], progress=False)
    assert any(n.meta.get("fxq.island") for n in graph.graph.nodes)
    made = targets.get("x86-avx2")
    program = lower(graph, made)
    verify(program, plan_memory(program))


def test_nothing_is_compiled_that_is_not_proven() -> None:
    with pytest.raises(MemorySafetyError, match="is not safe to run"):
        other = chain().calls[1].arguments  # of a program whose calls nobody has made
        build_artifact(changed(chain(), 1, overwrites=(), arguments=other), targets.get("x86-avx2"), "x", False)


def test_a_layer_behind_a_flip() -> None:
    """What corrupted the heap: the result of an island is s8, and x86 kernels take u8."""
    torch.manual_seed(0)
    graph = quantized(nn.Sequential(_Flip(), nn.Linear(16, 96)), torch.randn(4, 16))
    made = targets.get("x86-avx2")
    for node in graph.graph.nodes:
        if "flip" in node.name:
            node.meta["fxq.island"] = True
    program = lower(graph, made)
    verify(program, plan_memory(program))
    assert "conv" in program.calls[-2].symbol


class _Flip(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C), the last feature first."""
        return torch.flip(x, [1])
