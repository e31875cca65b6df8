"""FuseOps: which operation takes up which, before it is rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.passes import FuseOps
from tests.passes.graphs import Net, assert_same, data, drawn, fused_note, shown, traced, until


def _residual(m: Any, x: Tensor) -> Tensor:
    return F.relu(m.second(F.relu(m.first(x))) + x)


def _pair() -> dict[str, nn.Module]:
    return {"first": nn.Conv2d(3, 3, 1), "second": nn.Conv2d(3, 3, 1)}


def _twice(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.first(x)
    return F.relu(y) + y


FORMS: dict[str, Callable[..., Any]] = {
    "residual": _residual,
    "read_twice": _twice,
    "curves": lambda m, x: torch.clamp(-torch.sigmoid(x), -0.5, -0.25),
    "scaled": lambda m, x: F.relu6(m.first(x) * 0.5 / 2),
    "both_are_sums": lambda m, x: m.first(x) - m.second(x),
    "a_third_term": lambda m, x: (m.first(x) + x) * 0.5 - x.flip(1),
    "a_number_added": lambda m, x: (torch.sigmoid(x) + 0.5) * 2,
}


@pytest.mark.parametrize("form", FORMS)
def test_fusion(form: str, golden: Callable[[str], None]) -> None:
    net = drawn(Net(FORMS[form], **_pair()))
    inputs = data((2, 3, 4, 4))
    before = until(traced(net, *inputs), FuseOps, *inputs)
    after = FuseOps()(before)
    golden(shown(before, after, fused_note))
    assert_same(net, after, *inputs, atol=0)


def test_what_the_caller_gets_is_not_fused() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = m.first(x)
        return y, F.relu(y)

    net = drawn(Net(forward, **_pair()))
    inputs = data((2, 3, 4, 4))
    after = FuseOps()(until(traced(net, *inputs), FuseOps, *inputs))
    assert not [n.name for n in after.graph.nodes if "fxq.fused_into" in n.meta]
