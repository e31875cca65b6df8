"""EqualizeTables: the graph computes what it did, and small columns beside large ones keep their codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxquant
from fxquant.gains import gains_of
from fxquant.graph import calls
from fxquant.passes import EqualizeTables, WidenValues
from tests.passes.graphs import Net, assert_same, drawn, run, traced

aten = torch.ops.aten


def _forward(m: Net, places: Tensor) -> Tensor:
    x = m.e(places)
    out: Tensor = m.n(x + m.a(m.n(x)))
    return out


def _net(factor: float) -> Net:
    net = drawn(Net(_forward, e=nn.Embedding(50, 16), a=nn.Linear(16, 16), n=nn.LayerNorm(16)))
    with torch.no_grad():
        net.e.weight[:, 3] *= factor
        net.n.weight[3] /= factor
    return net


def _places(seed: int) -> Tensor:
    return torch.randint(0, 50, (16, 6), generator=torch.Generator().manual_seed(seed))


def test_columns_of_unlike_size_keep_their_codes() -> None:
    net, places, fresh = _net(60.0), _places(0), _places(1)
    graph = traced(net, places)
    after = EqualizeTables()(graph)
    assert_same(net, after, places, atol=1e-4)
    (gain,) = gains_of(after)
    assert (gain.places, gain.kept) == (1, 1) and gain.after > gain.before + 3
    noise, pipeline = [], fxquant.prepare_pipeline(None)
    # Tables stay 8 bits; what is made of them, and added to it, has 16.
    for steps, wide in ((pipeline, ["add"]), (pipeline.before("Annotate", EqualizeTables()), ["e", "add"])):
        observed = fxquant.calibrate(steps(graph), [places], progress=False)
        found = fxquant.convert(WidenValues(dict.fromkeys(wide, "a test"))(observed))
        noise.append(float((run(found, fresh)[0] - run(net, fresh)[0]).square().mean()))
        assert next(calls(found.graph, aten.embedding.default)).meta["val"].dtype is torch.int8
    assert noise[1] < 0.2 * noise[0]
    with fxquant.compile(found, threads=1, against_float=False) as compiled:
        assert torch.equal(compiled(fresh), found(fresh))


def test_columns_of_like_size_are_left_alone_and_told() -> None:
    after = EqualizeTables()(traced(_net(1.0), _places(0)))
    (gain,) = gains_of(after)
    assert (gain.places, gain.kept) == (1, 0) and "more than 4 times as large as the median one" in str(gain)


def test_no_table() -> None:
    (gain,) = gains_of(EqualizeTables()(traced(nn.Linear(3, 3), torch.randn(2, 3))))
    assert "no table occurs" in str(gain)
