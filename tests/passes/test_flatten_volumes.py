"""FlattenVolumes: three axes of space as two, with one sum for each result."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.ops.table import TABLE
from fxquant.passes import FlattenVolumes, FoldBatchNorm, RemoveIdentities
from tests.passes.graphs import Net, assert_same, data, drawn, shown, traced

aten = torch.ops.aten


def test_convolution(golden: Callable[[str], None]) -> None:
    net = drawn(Net(lambda m, x: torch.relu(m.norm(m.conv(x))), conv=nn.Conv3d(2, 3, 3), norm=nn.BatchNorm3d(3)))
    inputs = data((2, 2, 4, 5, 3))
    before = RemoveIdentities()(traced(net, *inputs))
    after = FlattenVolumes()(FoldBatchNorm()(before))
    golden(shown(before, after))
    assert_same(net, after, *inputs)


FORMS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "settings": ("nn.Conv3d(2, 4, (2, 3, 1), (2, 1, 2), (1, 0, 2), (1, 2, 1), 2)", lambda x: x),
    "pointwise": ("nn.Conv3d(2, 4, 1, bias=False)", lambda x: x),
    "norm": ("nn.BatchNorm3d(2)", lambda x: x),
    "max": ("nn.Identity()", lambda x: F.max_pool3d(x, (2, 3, 2), (1, 2, 2), (1, 1, 0), (1, 1, 2), ceil_mode=True)),
    "avg": ("nn.Identity()", lambda x: F.avg_pool3d(x, (2, 3, 1), (1, 2, 2), (1, 1, 0), divisor_override=3)),
    "adaptive": ("nn.Identity()", lambda x: F.adaptive_avg_pool3d(x, (2, 1, 3))),
    "uneven": ("nn.Identity()", lambda x: F.adaptive_avg_pool3d(x, (3, 2, 4))),
    "inside": ("nn.Identity()", lambda x: F.avg_pool3d(x, 3, 2, 1, count_include_pad=False)),
    "cut": ("nn.Identity()", lambda x: F.avg_pool3d(x, (3, 2, 2), (2, 2, 1), (1, 1, 0), ceil_mode=True)),
    "cut_inside": ("nn.Identity()", lambda x: F.avg_pool3d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)),
    "transposed": (
        "nn.ConvTranspose3d(2, 4, (3, 2, 1), (2, 1, 2), (1, 0, 0), (1, 0, 1), 2, True, (1, 2, 1))",
        lambda x: x,
    ),
    "transposed_small": ("nn.ConvTranspose3d(2, 3, 1, bias=False)", lambda x: x),
    "trilinear": ("nn.Identity()", lambda x: F.interpolate(x, (7, 3, 9), mode="trilinear")),
    "trilinear_corners": ("nn.Identity()", lambda x: F.interpolate(x, (3, 9, 1), mode="trilinear", align_corners=True)),
    "trilinear_factors": ("nn.Identity()", lambda x: F.interpolate(x, scale_factor=(1.6, 2, 0.7), mode="trilinear")),
    "global": ("nn.Identity()", lambda x: F.adaptive_avg_pool3d(x, 1)),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_has_code_and_the_same_values(name: str) -> None:
    layer, form = FORMS[name]
    net = drawn(Net(lambda m, x: form(m.layer(x)), layer=eval(layer, {"nn": nn})))
    inputs = data((2, 2, 4, 5, 6))
    before = RemoveIdentities()(traced(net, *inputs))
    after = FlattenVolumes()(FoldBatchNorm()(before))
    assert {n.target for n in after.graph.nodes if n.op == "call_function"} <= set(TABLE)
    assert_same(net, after, *inputs)


def test_windows_of_several_sizes_with_a_divisor_stay() -> None:
    inputs = data((2, 2, 4, 5, 5))
    net = Net(lambda m, x: F.avg_pool3d(x, 2, 2, ceil_mode=True, divisor_override=3))
    after = FlattenVolumes()(traced(net, *inputs))
    assert aten.avg_pool3d.default in {n.target for n in after.graph.nodes}
