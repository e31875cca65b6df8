"""RewriteWindows: pooling, extremes and borders of every spelling become those that have integer code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.ops.table import TABLE
from fxquant.passes import RemoveIdentities, RewriteMoves, RewriteWindows
from tests.passes.graphs import Net, assert_same, data, shown, traced

aten = torch.ops.aten


def _windows(m: Net, x: Tensor) -> tuple[Tensor, ...]:
    return F.adaptive_max_pool2d(x, (2, 3)), x.max(1)[0], F.lp_pool2d(x, 2, 2), F.pad(x, (1, 0), value=0.5)


def test_windows(golden: Callable[[str], None]) -> None:
    inputs = data((2, 3, 5, 4))
    before = RemoveIdentities()(traced(Net(_windows), *inputs))
    after = RewriteWindows()(before)
    golden(shown(before, after))
    assert_same(before, after, *inputs)


FORMS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: F.adaptive_max_pool2d(x, 1),
    lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    lambda x: F.adaptive_max_pool1d(x.flatten(2), 7),
    lambda x: F.max_pool2d(x, 2, 1, 1, dilation=2, ceil_mode=True, return_indices=True)[0],
    lambda x: x.min(-1, keepdim=True)[0],
    lambda x: x.amin((1, 3)),
    lambda x: F.pad(x, (1, 0, 0, 2, 1, 1), value=-2.0),
    lambda x: F.max_pool2d(F.pad(x, (1, 0, 0, 1), value=-torch.inf), 2),
)


@pytest.mark.parametrize("number", range(len(FORMS)))
def test_every_form_has_code_and_the_same_values(number: int) -> None:
    inputs = data((2, 3, 5, 4))
    before = RemoveIdentities()(traced(Net(lambda m, x: FORMS[number](x)), *inputs))
    after = RewriteMoves()(RewriteWindows()(before))
    called = {n.target for n in after.graph.nodes if n.op == "call_function"} - {aten.sym_size.int}
    assert called <= set(TABLE)
    assert_same(before, after, *inputs, atol=0.0)


def test_places_that_somebody_reads_stay() -> None:
    inputs = data((2, 3, 4, 4))
    after = RewriteWindows()(traced(Net(lambda m, x: x.max(1)), *inputs))
    assert aten.max.dim in {n.target for n in after.graph.nodes}


def test_a_border_that_fills_a_window_is_not_lost() -> None:
    """Its windows are minus infinity, which no code is."""
    inputs = data((2, 3, 4, 4))
    net = Net(lambda m, x: F.max_pool2d(F.pad(x, (2, 2, 2, 2), value=-torch.inf), 2))
    after = RewriteWindows()(traced(net, *inputs))
    assert_same(net, after, *inputs)
