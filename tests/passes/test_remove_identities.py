"""RemoveIdentities: clones, dropout and conversions that convert nothing are gone; what converts stays."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from fxquant import graph
from fxquant.passes import RemoveIdentities
from tests.passes.graphs import Net, assert_same, data, drawn, shown, traced


def test_identities(golden: Callable[[str], None]) -> None:
    net = Net(
        lambda m, x: m.drop(m.same(F.relu(x.clone()).contiguous())).detach() + x.to(torch.float32),
        drop=nn.Dropout(),
        same=nn.Identity(),
    ).eval()
    x = data((2, 3))
    before = traced(net, *x)
    after = RemoveIdentities()(before)
    golden(shown(before, after))
    assert_same(net, after, *x)


def test_a_real_conversion_stays(golden: Callable[[str], None]) -> None:
    net = drawn(Net(lambda m, x: F.relu(x.to(torch.float64)).to(torch.float32)))
    x = data((2, 3))
    before = traced(net, *x)
    after = RemoveIdentities()(before)
    golden(shown(before, after))
    assert_same(net, after, *x)


def test_an_output_that_is_an_input() -> None:
    after = RemoveIdentities()(traced(Net(lambda m, x: (x.clone(), x + 1)), *data((2, 3))))
    assert graph.text(after).splitlines()[-1] == "return [%inputs_0, %add]"
