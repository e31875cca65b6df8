"""16 bits between integer operations: what is widened, what products read of it, and that all of it is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import passes
from fxquant.arguments import node_arg
from fxquant.errors import UnknownNameError
from fxquant.graph import calls
from fxquant.passes import WidenValues
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate import emulate
from fxquant.tools.noise import output_noise_of
from fxquant.tools.times import network_time
from fxquant.tools.widths import LEAST_NOISE, candidates_of, choose_widths
from tests.passes.graphs import Net, batches, data, drawn
from tests.targets.standalone.made import emulated

fxq = torch.ops.fxq
SHAPE = (6, 6)
WIDE = {"activation": {"bits": 16}, "operand": {"bits": 8}}


def _forward(m: Net, x: Tensor) -> Tensor:
    y = F.gelu(m.a(x))
    y = m.p(torch.cat([y, m.b(y)], 1)) + m.c(F.max_pool2d(y, 3, 1, 1))
    out: Tensor = m.d(m.n(y.flatten(2).transpose(1, 2))).sigmoid()
    return out


def _net() -> Net:
    parts = {"a": nn.Conv2d(3, 8, 3, padding=1), "b": nn.Conv2d(8, 8, 3, padding=1), "c": nn.Conv2d(8, 16, 1)}
    return drawn(Net(_forward, **parts, p=nn.PReLU(16), n=nn.LayerNorm(16), d=nn.Linear(16, 4)))


def _noise(found: nn.Module, net: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        return float((found(inputs) - net(inputs)).square().mean())


@pytest.fixture(scope="module")
def wide() -> fx.GraphModule:
    """All of the network in 16 bits, but what products read."""
    (x,) = data((16, 3, *SHAPE))
    return fxquant.quantize(fxquant.trace(_net(), (x,)), [x], recipe=WIDE, progress=False)


def test_products_read_bytes_and_all_else_16_bits(wide: fx.GraphModule) -> None:
    (x,) = data((16, 3, *SHAPE))
    for product in calls(wide.graph, fxq.conv.default, fxq.linear.default):
        assert node_arg(product, 0).meta["val"].dtype is torch.int8
    (first,) = calls(wide.graph, fxq.quantize.default)
    assert first.meta["val"].dtype is torch.int8  # nothing else reads the input
    norm, *_ = calls(wide.graph, fxq.layer_norm.default)
    added = node_arg(norm, 0)
    assert added.meta["val"].dtype is torch.int16
    assert len(list(calls(wide.graph, fxq.curve.default))) == 2  # GELU and sigmoid: knots, not 64 K entries
    narrow = fxquant.quantize(fxquant.trace(_net(), (x,)), [x], progress=False)
    (fresh,) = data((32, 3, *SHAPE), seed=5)
    assert _noise(wide, _net(), fresh) < 0.7 * _noise(narrow, _net(), fresh)


def test_compiled_is_exact(wide: fx.GraphModule) -> None:
    (fresh,) = data((3, 3, *SHAPE), seed=5)
    with fxquant.compile(wide, threads=1, against_float=False) as compiled:
        assert torch.equal(compiled(fresh * 4), wide(fresh * 4))


@pytest.mark.parametrize("target", emulated("cortex-m4", "aarch64-dotprod"))
def test_emulated_is_exact(target: Any, wide: fx.GraphModule) -> None:
    made = standalone(fxquant.integer_ports(wide), target, "net")
    assert emulate(made.files, "net", made.report, target).wrong == 0


def _residual(m: Net, x: Tensor) -> Tensor:
    y = x + m.a(x)
    y = y + m.b(F.relu(m.first(y)))
    out: Tensor = m.c(m.n(y))
    return out


def _outlying() -> Net:
    """A residual stream with one channel that is 60 times larger than the others."""
    norms = {"first": nn.LayerNorm(16), "n": nn.LayerNorm(16)}
    net = drawn(Net(_residual, a=nn.Linear(16, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 4), **norms))
    with torch.no_grad():
        for layer in (net.a, net.b):
            layer.weight[3] *= 60
        for norm in (net.first, net.n):
            norm.weight[3] /= 60
    return net


def _observed(net: Net) -> tuple[fx.GraphModule, list[Tensor]]:
    (x,) = data((64, 16))
    inputs = batches(x, 16)
    return fxquant.calibrate(fxquant.prepare(fxquant.trace(net, (x,))), inputs, progress=False), inputs


def test_noise_is_what_is_measured() -> None:
    """The estimate, of first order, against the outputs of the integers: within a factor of two."""
    net = _outlying()
    observed, inputs = _observed(net)
    noise = output_noise_of(observed, [[x] for x in inputs])
    (fresh,) = data((64, 16), seed=9)
    measured = _noise(passes.convert()(observed), net, fresh) / float(net(fresh).detach().square().mean())
    assert 0.5 < noise.total / measured < 2.0
    first = max(noise.values, key=lambda name: noise.values[name])
    assert first.startswith("add") and noise.values[first] > 0.2 * noise.total


def test_values_that_make_the_noise_are_found_widened_and_told() -> None:
    net = _outlying()
    observed, inputs = _observed(net)
    noise = output_noise_of(observed, [[x] for x in inputs])
    choice = choose_widths(noise, most=1.2)
    assert {"add", "add_1"} <= choice.values.keys() and 0 < choice.time < 1.2
    found = passes.convert()(WidenValues(choice.values, choice.whole)(observed))
    (fresh,) = data((64, 16), seed=9)
    assert _noise(found, net, fresh) < 0.25 * _noise(passes.convert()(observed), net, fresh)
    assert "; 16 bits: 8 would make" in fxquant.why(found, "add_1")
    reads = [product.all_input_nodes[0].meta["val"].dtype for product in calls(found.graph, fxq.linear.default)]
    assert reads == [torch.int8, torch.int8, torch.int16 if "n" in choice.whole else torch.int8]
    with fxquant.compile(found, threads=1, against_float=False) as compiled:
        assert torch.equal(compiled(fresh), found(fresh))


def test_no_time_leaves_all_at_8_bits() -> None:
    observed, inputs = _observed(_outlying())
    assert not choose_widths(output_noise_of(observed, [[x] for x in inputs]), most=0.0).values


def test_products_may_read_all_16_bits() -> None:
    observed, _ = _observed(_outlying())
    found = passes.convert()(WidenValues({"relu": "wanted"}, frozenset({"relu"}))(observed))
    read = [product.all_input_nodes[0].meta["val"].dtype for product in calls(found.graph, fxq.linear.default)]
    assert read.count(torch.int8) == 2 and read.count(torch.int16) == 1


def test_a_name_that_there_is_not() -> None:
    observed, _ = _observed(_outlying())
    with pytest.raises(UnknownNameError, match=r"no value called 'ad' begins a range.*did you mean add"):
        WidenValues({"ad": "wanted"})(observed)


def test_time_that_may_be_added_is_spent_on_the_most_gain_for_it() -> None:
    """Never more than there is; first of all what gains the most for its time, of those that fit."""
    observed, inputs = _observed(_outlying())
    noise = output_noise_of(observed, [[x] for x in inputs])
    whole, found = network_time(noise.ranged.graph), candidates_of(noise)
    spent = []
    for share in (0.5, 1.0, 3.0):
        most = share * found[0].cost / whole
        choice = choose_widths(noise, most)
        assert choice.time <= most and choice.shares.keys() == choice.values.keys()
        assert choice.time == pytest.approx(sum(time for _, time in choice.shares.values()))
        first = next((c.name for c in found if c.cost / whole <= most and c.gain >= LEAST_NOISE * noise.total), None)
        assert next(iter(choice.values), None) == first
        assert all(f"{name} (" in str(choice) and "more time)" in str(choice) for name in choice.values)
        spent.append(choice.time)
    assert spent == sorted(spent) and spent[0] < spent[-1]


def test_functions_of_16_bits_are_dear_and_sums_are_cheap() -> None:
    """A table that a product takes up becomes lines between knots: a function's operand costs many times a sum's."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.b(F.gelu(m.a(x)))
        out: Tensor = m.c(y) + y
        return out

    parts = {name: nn.Conv2d(8, 8, 3, padding=1) for name in "abc"}
    (x,) = data((16, 8, *SHAPE))
    observed = fxquant.calibrate(
        fxquant.prepare(fxquant.trace(drawn(Net(forward, **parts)), (x,))), [x], progress=False
    )
    found = {c.name: c for c in candidates_of(output_noise_of(observed, [[x]])) if not c.whole}
    assert found["a"].cost > 4 * found["b"].cost > 0
