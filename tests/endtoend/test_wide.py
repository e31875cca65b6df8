"""Activations of 16 bits, compiled for this machine: sums that 32 bits do not hold, and products of two activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from tests.endtoend.networks import runnable_targets


class Attention(nn.Module):
    """q·k of 64 features, softmax, and the values."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """All (N, 2, 9, 64)."""
        return torch.softmax(q @ k.transpose(2, 3) / 8, -1) @ v


class Masked(nn.Module):
    """A signal times a mask of the same shape, and of one channel."""

    def forward(self, signal: torch.Tensor, mask: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """(N, 6, 30) twice, (N, 1, 30)."""
        return signal * mask + signal * gate


CASES: dict[str, tuple[nn.Module, list[tuple[int, ...]], str]] = {
    "conv": (nn.Conv2d(256, 8, 3), [(256, 5, 5)], "fxq.conv"),
    "transposed": (nn.ConvTranspose2d(160, 8, 3), [(160, 4, 4)], "fxq.conv_transpose"),
    "linear": (nn.Linear(700, 20), [(3, 700)], "fxq.linear"),
    "attention": (Attention(), [(2, 9, 64)] * 3, "fxq.matmul"),
    "mask": (Masked(), [(6, 30), (6, 30), (1, 30)], "fxq.mul"),
}


@pytest.mark.parametrize("name", CASES)
def test_exact_on_every_target(name: str) -> None:
    """Weights of one magnitude, so that sums are as large as they can be."""
    torch.manual_seed(0)
    model, shapes, primitive = CASES[name]
    for parameter in model.parameters():
        parameter.data = parameter.sign() * 0.02
    # Of a mask, whose zero is at the end of its codes, products are larger.
    x = tuple(torch.rand(3, *shape) * (1 if name == "mask" else 2) - int(name != "mask") for shape in shapes)
    graph = fxquant.quantize(fxquant.trace(model.eval(), x), [x], recipe={"activation": {"bits": 16}}, progress=False)
    assert {node.primitive for node in fxquant.report(graph).nodes if node.dropped} == {primitive}
    extreme = tuple(t.sign() for t in x)
    with torch.no_grad():
        wanted, real = graph(*x), model(*x)
        assert (wanted - real).abs().max() < 0.02 * real.abs().max()
        saturated = graph(*extreme)
    for target in runnable_targets():
        with fxquant.compile(graph, target, against_float=False) as net:
            assert torch.equal(net(*extreme), saturated) and torch.equal(net(*x), wanted)
