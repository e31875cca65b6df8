"""FoldQDQ: what lies between quantize and dequantize becomes integer primitives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.passes import FoldQDQ
from fxquant.stage import Stage, stage_of
from tests.passes.graphs import Net, assert_same, data, drawn, run, shown, traced, until


def _residual(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.first(x))
    return F.relu(m.second(y) + y)


FORMS: dict[str, Callable[..., Any]] = {
    "convolution": lambda m, x: F.relu6(m.first(x)),
    "residual": _residual,
    "curves": lambda m, x: torch.tanh(F.hardswish(x)) * 0.5,
    "pooling": lambda m, x: F.avg_pool2d(F.max_pool2d(x, 2), 2, padding=1, count_include_pad=False),
    "attention": lambda m, x: torch.softmax(x @ x.transpose(-2, -1), -1) @ x,
    "island": lambda m, x: m.second(torch.sinc(m.first(x))),
    "movement": lambda m, x: torch.cat([F.pad(x, (1, 1)), x[..., [0, 0]].repeat(1, 1, 1, 3)], 3).permute(0, 2, 1, 3),
}
ISLANDS = {"island": ["sinc"]}


@pytest.mark.parametrize("form", FORMS)
def test_spelling(form: str, golden: Callable[[str], None]) -> None:
    net = drawn(Net(FORMS[form], first=nn.Conv2d(4, 4, 1), second=nn.Conv2d(4, 4, 3, padding=1)))
    inputs = data((2, 4, 4, 4))
    before = until(traced(net, *inputs), FoldQDQ, *inputs)
    after = FoldQDQ()(before)
    golden(shown(before, after))
    assert stage_of(after) is Stage.INTEGER
    assert [n.name for n in after.graph.nodes if n.meta.get("fxq.island")] == ISLANDS.get(form, [])
    for found, wanted in zip(run(after, *inputs), run(before, *inputs), strict=True):
        step = float(torch.unique(wanted).diff().min())
        assert float((found - wanted).abs().max()) <= 1.01 * step


def test_the_caller_keeps_a_graph_that_still_runs() -> None:
    net = drawn(Net(FORMS["residual"], first=nn.Conv2d(4, 4, 1), second=nn.Conv2d(4, 4, 1)))
    inputs = data((2, 4, 4, 4))
    before = until(traced(net, *inputs), FoldQDQ, *inputs)
    wanted = run(before, *inputs)
    FoldQDQ()(before)
    assert stage_of(before) is Stage.QUANTIZED
    assert all(torch.equal(a, b) for a, b in zip(run(before, *inputs), wanted, strict=True))


def test_outputs_may_be_inputs_constants_and_repeated() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = F.relu(x)
        return x, y, y, y + 1

    net = drawn(Net(forward))
    inputs = data((2, 4))
    after = FoldQDQ()(until(traced(net, *inputs), FoldQDQ, *inputs))
    assert_same(net, after, *inputs, atol=0.03)
