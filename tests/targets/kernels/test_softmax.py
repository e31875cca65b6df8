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


class Tokens(nn.Module):
    """Attention of many tokens, each of which has a small part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(48, 3 * 48)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, 48)."""
        query, key, value = self.project(x).unflatten(2, (3, 48)).unbind(2)
        found: Tensor = (query @ key.transpose(1, 2) / 48**0.5).softmax(-1) @ value
        return found


@pytest.mark.parametrize("target", runnable_targets())
def test_small_probabilities_of_long_rows_count(target: str) -> None:
    """With 256 steps this is 15 dB."""
    torch.manual_seed(0)
    model, x = Tokens().eval(), torch.randn(2, 600, 48)
    quantized = fxquant.quantize(fxquant.trace(model, x), [x], progress=False)
    with fxquant.compile(quantized, target, threads=2, against_float=False) as net, torch.no_grad():
        for inputs in (x, x * 100, -x):
            assert torch.equal(net(inputs), quantized(inputs))
        error = (quantized(x) - model(x)).square().mean() / model(x).square().mean()
    assert -10 * float(error.log10()) > 27


@pytest.mark.parametrize(
    ("length", "bits", "off"), [(255, 8, 0.3), (256, 8, 0.005), (5000, 8, 0.02), (5000, 16, 0.003)]
)
def test_rows_sum_to_one(length: int, bits: int, off: float) -> None:
    """Also one of 16 bits that is so long that its quotient has fewer."""
    torch.manual_seed(0)
    x = torch.randn(4, length)
    recipe = {"activation": {"bits": bits}}
    quantized = fxquant.quantize(fxquant.trace(nn.Softmax(-1), x), [x], recipe=recipe, progress=False)
    with fxquant.compile(quantized, runnable_targets()[0], against_float=False) as net:
        assert torch.equal(net(x), quantized(x))
    assert float((quantized(x).sum(-1) - 1).abs().max()) < off
