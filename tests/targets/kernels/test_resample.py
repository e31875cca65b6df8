"""Bilinear interpolation with its rounding: the same integers, whatever channels, sizes, layouts and what is fused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import fxquant
from tests.endtoend.networks import runnable_targets


class Resized(nn.Module):
    """An image of `channels`, resized, and used in one of several ways."""

    def __init__(self, channels: int, use: str, **how: Any) -> None:
        super().__init__()
        self.before, self.beside = nn.Conv2d(4, channels, 1), nn.Conv2d(4, channels, 1)
        self.after = nn.Conv2d(channels * 2 if use == "concat" else channels, 8, 3, padding=1)
        self.use, self.how = use, how

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4, H, W)."""
        y = interpolate(self.before(x), mode="bilinear", **self.how)
        if self.use == "concat":
            y = torch.cat([interpolate(self.beside(x), y.shape[2:]), y], 1)
        elif self.use == "add":
            y = y + interpolate(torch.relu(self.beside(x)), y.shape[2:])
        elif self.use == "table":
            y = torch.sigmoid(y)
        return y if self.use == "returned" else self.after(y)


def kernels(model: nn.Module, x: Tensor, target: str) -> set[str]:
    """Check the integers, and name the kernels."""
    quantized = fxquant.quantize(fxquant.trace(model.eval(), x), [x], progress=False)
    with fxquant.compile(quantized, target, threads=2, against_float=False) as net, torch.no_grad():
        assert torch.equal(net(x), quantized(x))
        assert torch.equal(net(x * 40), quantized(x * 40)), "far beyond what was calibrated"
        return {str(layer["kernel"]).rpartition("_")[0] for layer in net.report["layers"]}


@pytest.mark.parametrize("target", runnable_targets())
@pytest.mark.parametrize("channels", [1, 3, 8, 21, 32, 40])
def test_any_channels(target: str, channels: int) -> None:
    torch.manual_seed(channels)
    for use in ("returned", "convolved"):
        assert "fxq_resample" in kernels(Resized(channels, use, scale_factor=4), torch.randn(2, 4, 5, 6) * 3, target)


@pytest.mark.parametrize("target", runnable_targets())
@pytest.mark.parametrize(("use", "channels"), [("concat", 5), ("concat", 24), ("add", 3), ("add", 24), ("table", 21)])
def test_what_is_done_with_it(target: str, use: str, channels: int) -> None:
    torch.manual_seed(channels)
    assert "fxq_resample" in kernels(Resized(channels, use, scale_factor=2), torch.randn(2, 4, 9, 7) * 3, target)


@pytest.mark.parametrize("target", runnable_targets())
def test_sizes(target: str) -> None:
    torch.manual_seed(0)
    for size, corners in (((3, 4), False), ((20, 5), True), ((1, 1), True), ((7, 30), False), ((40, 8), False)):
        found = kernels(Resized(6, "returned", size=size, align_corners=corners), torch.randn(2, 4, 8, 7) * 3, target)
        assert "fxq_resample" in found
    column = Resized(6, "returned", size=(9, 9))
    assert "fxq_resample" in kernels(column, torch.randn(2, 4, 1, 1) * 3, target)


@pytest.mark.parametrize("target", runnable_targets())
def test_signals(target: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 10, 3), nn.Upsample(scale_factor=3, mode="linear"), nn.Conv1d(10, 4, 3))
    assert "fxq_resample" in kernels(model, torch.randn(2, 4, 15) * 3, target)
