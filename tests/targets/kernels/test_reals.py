"""Curves, softmax and norms of floats in vectors: Python's bits, on every instruction set, in whatever order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from tests.endtoend.networks import SPECIALS, runnable_targets

LENGTH = 53


class Everything(nn.Module):
    """Each function of rows and values, of rows as they come and of such that are columns in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(LENGTH)
        self.mean_square = nn.RMSNorm(LENGTH, eps=1e-6)
        for part in (self.norm, self.mean_square):
            nn.init.normal_(part.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, rows, length)."""
        columns, whole = x.transpose(1, 2), x[:, :, :32]
        return (
            self.norm(x), self.mean_square(x), F.layer_norm(columns, [9]), F.layer_norm(whole, [32]),
            x.softmax(-1), columns.softmax(-1), whole.softmax(-1), x[:, :, :1].softmax(-1),
            F.gelu(x), F.gelu(columns, approximate="tanh"), F.silu(whole), torch.tanh(x[:, 1:8:2, :3]),
            torch.sigmoid(x), torch.erf(x), F.hardswish(x), F.hardsigmoid(x),
        )  # fmt: skip


def _inputs() -> list[Tensor]:
    x = torch.randn(2, 9, LENGTH)
    strange = x.clone()
    strange.view(-1)[:: 2 * LENGTH][: len(SPECIALS)] = torch.tensor(SPECIALS)
    strange[1, 3] = -torch.inf
    return [x, x * 30, x * 1e-30, x * 1e30, x * 0, strange]


def test_the_same_bits() -> None:
    torch.manual_seed(0)
    batches = _inputs()
    quantized = fxquant.quantize(fxquant.trace(Everything().eval(), batches[0]), recipe="dynamic")
    islands = {str(node.target) for node in quantized.graph.nodes if node.meta.get("fxq.island")}
    assert {"fxq.real_curve.default", "fxq.real_norm.default", "fxq.real_softmax.default"} <= islands
    assert not [name for name in islands if name.startswith(("aten.gelu", "aten.softmax", "aten.layer_norm"))]
    for target in runnable_targets():
        with fxquant.compile(quantized, target, threads=2, against_float=False) as net, torch.no_grad():
            for x in batches:
                for found, wanted in zip(net(x), quantized(x), strict=True):
                    assert torch.equal(found.isnan(), wanted.isnan())
                    assert torch.equal(found.nan_to_num(0.5), wanted.nan_to_num(0.5))
