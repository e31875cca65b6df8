"""Layer normalization in vectors: the integers of the primitive, whatever the rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.targets.kernels.rows.layer_norm import LONGEST
from tests.endtoend.networks import runnable_targets


@pytest.mark.parametrize("target", runnable_targets())
@pytest.mark.parametrize(
    ("length", "eps"),
    [(1, 1e-5), (16, 1e-5), (48, 1e-5), (192, 1e-5), (192, 1.0), (LONGEST, 1e-5), (LONGEST + 32, 1e-5)],
)
def test_the_same_integers(target: str, length: int, eps: float) -> None:
    torch.manual_seed(length)
    model = nn.LayerNorm(length, eps=eps).eval()
    with torch.no_grad():
        model.weight.uniform_(-2, 2)
        model.bias.uniform_(-1, 1)
    x = torch.randn(2, 9, length) * torch.logspace(-2, 2, 9).reshape(1, 9, 1) + torch.linspace(-3, 3, 9).reshape(
        1, 9, 1
    )
    x[0, 3] = x[0, 3, 0]  # no variance at all
    x[1, 4, :] = 0.0
    x[1, 4, 0] = 300.0  # all of it in one element
    quantized = fxquant.quantize(fxquant.trace(model, x), [x], progress=False)
    with fxquant.compile(quantized, target, threads=2, against_float=False) as net, torch.no_grad():
        for inputs in (x, x * 50, torch.zeros_like(x), -x):
            assert torch.equal(net(inputs), quantized(inputs))
