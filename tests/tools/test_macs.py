"""Multiply-accumulates of everything that multiplies, counted by hand beside what the report says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxquant as fxq
from fxquant.tools.macs import is_uncounted, macs

F = nn.functional


class Call(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*self.parts, *inputs)


X = (1, 3, 8)
CASES: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "conv1d": (nn.Conv1d(3, 4, 3), X, 4 * 6 * 9),
    "conv2d": (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 8, 8), 6 * 36 * 18),
    "conv3d": (nn.Conv3d(2, 4, 3), (1, 2, 5, 5, 5), 4 * 27 * 54),
    "conv_transpose3d": (nn.ConvTranspose3d(2, 4, 3), (1, 2, 3, 3, 3), 54 * 4 * 27),
    "lstm": (Call(lambda m, x: m(x)[0], nn.LSTM(8, 5)), (3, 1, 8), 3 * 20 * (8 + 5)),
    "bidirectional": (
        Call(lambda m, x: m(x)[0], nn.LSTM(8, 5, 2, bidirectional=True)),
        (3, 1, 8),
        2 * 3 * 20 * (8 + 5) + 2 * 3 * 20 * (10 + 5),
    ),
    "gru": (Call(lambda m, x: m(x)[0], nn.GRU(8, 5)), (3, 1, 8), 3 * 15 * (8 + 5)),
    "gru cell": (nn.GRUCell(8, 5), (1, 8), 15 * (8 + 5)),
    "einsum": (Call(lambda x: torch.einsum("bij,bkj->bik", x, x)), X, 3 * 3 * 8),
    "attention": (Call(lambda x: F.scaled_dot_product_attention(x, x, x)), (1, 2, 5, 8), 2 * 2 * 5 * 5 * 8),
    "addmm": (Call(lambda m, x: torch.addmm(m.bias, x, m.weight.T), nn.Linear(8, 4)), (3, 8), 4 * 8),
    "mv": (Call(lambda x: torch.mv(x, x[0])), (3, 8), 24),
    "dot": (Call(lambda x: torch.dot(x[0], x[1])), (3, 8), 8),
    "cdist": (Call(lambda x: torch.cdist(x, x)), X, 3 * 3 * 8),
    "nothing": (Call(lambda x: torch.cumsum(x, 1).softmax(-1)), X, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_products_are_counted(name: str) -> None:
    model, shape, wanted = CASES[name]
    graph = fxq.trace(model.eval(), torch.randn(shape))
    assert sum(macs(node) for node in graph.graph.nodes) == wanted
    assert not any(is_uncounted(node) for node in graph.graph.nodes)


def test_what_nobody_can_count_is_told() -> None:
    graph = fxq.trace(Call(lambda x: torch.nonzero_static(x, size=4).float()).eval(), torch.ones(1, 6))
    (node,) = [n for n in graph.graph.nodes if "nonzero" in str(n.target)]
    node.target = torch.ops.aten.nonzero.default  # its result has as many rows as there are numbers: nothing to run
    node.kwargs = {}
    assert is_uncounted(node) and macs(node) == 0
