"""Softmax in vectors: the integers of the primitive, for rows that vectors fill and that they do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from tests.endtoend.networks import runnable_targets


class Rows(nn.Module):
    """Softmax over the last axis, of what perhaps lies in another order."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed

    def forward(self, x: Tensor) -> Tensor:
        """(N, rows, columns)."""
        return torch.softmax(x.transpose(1, 2) if self.transposed else x, -1)


@pytest.mark.parametrize("target", runnable_targets())
@pytest.mark.parametrize("length", [1, 31, 32, 33, 100, 128, 197, 1000])
def test_the_same_integers(target: str, length: int) -> None:
    torch.manual_seed(length)
    for transposed in (False, True):
        shape = (2, length, 9) if transposed else (2, 9, length)
        x = torch.randn(*shape) * torch.logspace(-2, 2, 9).reshape((1, 1, 9) if transposed else (1, 9, 1))
        x[0].clamp_(max=0.5)  # rows whose largest element is met often
        quantized = fxquant.quantize(fxquant.trace(Rows(transposed).eval(), x), [x], progress=False)
        with fxquant.compile(quantized, target, threads=2, against_float=False) as net, torch.no_grad():
            for inputs in (x, x * 100, torch.zeros_like(x), -x):
                assert torch.equal(net(inputs), quantized(inputs))
