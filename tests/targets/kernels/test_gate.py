"""A channel's factor times every pixel: one kernel where channels fill it, the same integers everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from tests.endtoend.networks import runnable_targets


class Gated(nn.Module):
    """An image times a factor for each channel, in either order, and a convolution that wants a border after it."""

    def __init__(self, channels: int, gate_first: bool, limit: float) -> None:
        super().__init__()
        self.squeeze, self.after = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, 8, 3, padding=1)
        self.gate_first, self.limit = gate_first, limit

    def forward(self, x: Tensor) -> Tensor:
        """The factor comes from the image's mean."""
        factor = nn.functional.hardtanh(self.squeeze(x.mean((2, 3), keepdim=True)), -self.limit, self.limit)
        product = factor * x if self.gate_first else x * factor
        result: Tensor = self.after(product)
        return result


@pytest.mark.parametrize("target", runnable_targets())
@pytest.mark.parametrize(("channels", "gate_first"), [(32, True), (40, False), (96, True), (33, False), (16, False)])
def test_the_same_integers(target: str, channels: int, gate_first: bool) -> None:
    for limit, dynamic in ((3.0, True), (1e-3, True), (3.0, False)):
        torch.manual_seed(channels)
        model, x = Gated(channels, gate_first, limit).eval(), torch.randn(2, channels, 7, 5) * 3
        quantized = fxquant.quantize(fxquant.trace(model, x, dynamic_batch=dynamic), [x], progress=False)
        with fxquant.compile(quantized, target, threads=2, against_float=False) as net, torch.no_grad():
            assert torch.equal(net(x), quantized(x))
            kernels = {str(layer["kernel"]).rpartition("_")[0] for layer in net.report["layers"]}
            assert ("fxq_gate" in kernels) == (channels >= 32)
