"""FoldAffine and FoldBatchConstants: affine functions per channel are one; what no sample changes is a constant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.passes import FoldAffine, FoldBatchConstants, FoldBatchNorm, FoldConstants, RemoveIdentities
from tests.passes.graphs import Net, assert_same, data, drawn, run, shown, traced

aten = torch.ops.aten
PER_CHANNEL = torch.tensor([0.5, 0.25, 2.0]).reshape(3, 1, 1)


def _camera(m: Net, image: Tensor) -> Tensor:
    return m.conv((image / 4 - m.mean) / m.deviation)  # type: ignore[no-any-return]


def _camera_net() -> Net:
    net = drawn(Net(_camera, conv=nn.Conv2d(3, 2, 3, padding=1)))
    net.register_buffer("mean", PER_CHANNEL + 1)
    net.register_buffer("deviation", PER_CHANNEL)
    return net


def test_an_image_that_the_model_normalizes(golden: Callable[[str], None]) -> None:
    net, inputs = _camera_net(), data((2, 3, 4, 4))
    before = FoldConstants()(RemoveIdentities()(traced(net, *inputs)))
    after = FoldBatchNorm()(FoldAffine()(before))
    golden(shown(before, after))
    assert_same(net, after, *inputs)


FORMS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "behind a convolution": lambda m, x: m.conv(x) * m.scale[:2] + 1,
    "from the right": lambda m, x: torch.sub(m.scale, x, alpha=2) * m.scale,
    "of signals": lambda m, x: x.flatten(2) * m.scale.flatten(1) - 0.5,
    "one of several readers": lambda m, x: (x * m.scale) * (x * m.scale + 1),
}


@pytest.mark.parametrize("name", FORMS)
def test_it_is_one_batch_norm(name: str) -> None:
    net = drawn(Net(FORMS[name], conv=nn.Conv2d(3, 2, 3)))
    net.register_buffer("scale", PER_CHANNEL)
    inputs = data((2, 3, 4, 4))
    after = FoldAffine()(FoldConstants()(RemoveIdentities()(traced(net, *inputs))))
    assert aten.batch_norm.default in {n.target for n in after.graph.nodes}
    assert_same(net, after, *inputs)


def test_bytes_come_in_as_they_are() -> None:
    net = Net(lambda m, image: _camera(m, image.float()), **dict(_camera_net().named_children()))
    net.register_buffer("mean", PER_CHANNEL * 64)
    net.register_buffer("deviation", PER_CHANNEL * 32)
    batches = [torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8) for _ in range(2)]
    integer = fxquant.quantize(fxquant.trace(net.eval(), batches[0]), batches, progress=False)
    assert fxquant.report(integer).is_fully_integer
    with fxquant.compile(integer, threads=1, against_float=False) as compiled:
        for batch in batches:
            assert torch.equal(compiled(batch), integer(batch))
            assert (run(integer, batch)[0] - run(net, batch)[0]).abs().max() < 0.05 * run(net, batch)[0].abs().max()


@pytest.mark.parametrize(
    "form",
    [
        lambda x: torch.zeros_like(x)[:, :2],
        lambda x: x.new_full((x.shape[0], 4), 0.5) * 2,
        lambda x: torch.arange(3.0).expand(x.shape[0], 3).cumsum(1),
        lambda x: torch.empty_like(x).fill_(2.0),
    ],
)
def test_what_is_the_same_for_all_samples_is_a_constant(form: Callable[[Tensor], Tensor]) -> None:
    inputs = data((2, 3))
    before = traced(Net(lambda m, x: (form(x), x + 1)), *inputs)
    after = FoldBatchConstants()(FoldConstants()(RemoveIdentities()(before)))
    called = [n.target for n in after.graph.nodes if n.op == "call_function"]
    assert called.count(aten.expand.default) == 1 and set(called) <= {
        aten.expand.default,
        aten.sym_size.int,
        aten.add.Tensor,
    }
    assert_same(before, after, *data((5, 3)))


def test_what_counts_the_samples_is_none() -> None:
    net = Net(lambda m, x: x + torch.arange(x.shape[0]).unsqueeze(1))
    inputs = data((2, 3))
    before = fxquant.trace(net, inputs, dynamic_batch=True)
    after = FoldBatchConstants()(before)
    assert_same(before, after, *data((2, 3)))
