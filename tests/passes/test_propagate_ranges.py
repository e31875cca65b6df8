"""PropagateRanges: which values share a range, which keep their own, which mathematics knows; and why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import CalibrationError
from fxquant.passes import InsertObservers, InsertQDQ, PropagateRanges
from fxquant.passes.propagate_ranges import why
from fxquant.plan import Range, range_of
from fxquant.recipe import Recipe, Rule
from fxquant.scheme import Scheme, activation
from tests.passes.graphs import Net, assert_same, data, drawn, range_note, shown, traced, until


def solved(net: nn.Module, *inputs: Tensor, recipe: Recipe | None = None) -> fx.GraphModule:
    """The network on the standard road up to and with PropagateRanges."""
    return until(traced(net, *inputs), InsertQDQ, *inputs, recipe=recipe)


def ranges(module: fx.GraphModule) -> dict[str, Range]:
    """Ranges by node name."""
    return {node.name: found for node in module.graph.nodes if (found := range_of(node)) is not None}


def _moved(m: Any, x: Tensor) -> Tensor:
    y = F.max_pool2d(F.pad(m.conv(x), (1, 1)), 2).permute(0, 2, 3, 1)
    return F.interpolate(y.flatten(1).reshape(-1, 4, 6)[:, 1:], scale_factor=2.0)


def test_an_observer_that_is_a_bad_choice_is_told() -> None:
    net = drawn(Net(lambda m, x: m.b(F.relu(m.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 4)))
    (x,) = data((4000, 4))
    x[7] = 60.0
    recipe = Recipe(activation=activation(observer="mean_std"))
    with pytest.warns(
        UserWarning, match=r"the range of inputs_0 cuts .* reach 43 standard .* 2 more values; take .*mse"
    ):
        found = solved(net, x, recipe=recipe)
    assert "mean_std is for bell-shaped data" in why(next(iter(found.graph.find_nodes(op="placeholder"))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solved(net, x, recipe=Recipe(activation=activation(observer="mse")))


def test_values_that_only_move_share_a_range(golden: Callable[[str], None]) -> None:
    net = drawn(Net(_moved, conv=nn.Conv2d(3, 4, 1)))
    inputs = data((2, 3, 4, 4))
    before = until(traced(net, *inputs), PropagateRanges, *inputs)
    after = PropagateRanges()(before)
    golden(shown(before, after, range_note))
    assert_same(net, after, *inputs, atol=0)


def _known(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    return torch.sigmoid(x), torch.tanh(x), F.hardsigmoid(x), torch.softmax(x, -1), F.relu6(x * 9), x.clamp(-0.5, 0.25)


def test_ranges_that_mathematics_knows(golden: Callable[[str], None]) -> None:
    inputs = tuple(8 * x for x in data((2, 3, 4)))
    before = until(traced(Net(_known), *inputs), PropagateRanges, *inputs)
    golden(shown(before, PropagateRanges()(before), range_note))


@pytest.mark.parametrize("curve", [torch.sigmoid, torch.tanh, F.hardsigmoid])
def test_where_far_less_was_seen_than_mathematics_knows(curve: Callable[[Tensor], Tensor]) -> None:
    """Values of a hundredth keep their 8 bits; bounds cut what an observer would add."""
    inputs = tuple(x / 128 for x in data((2, 3, 4)))
    net = Net(lambda m, x: curve(x))
    kept, seen = ranges(solved(net, *inputs))[curve.__name__], curve(inputs[0])
    assert (kept.low, kept.high) == pytest.approx((min(0.0, seen.min().item()), seen.max().item()))
    quantized = fxquant.quantize(traced(net, *inputs), [inputs], progress=False)
    assert float((quantized(*inputs) - net(*inputs)).abs().max()) < 0.01 * seen.abs().max()


def _joined(factor: float) -> Callable[..., Any]:
    return lambda m, x, y: torch.cat([F.relu(x), F.relu(y) * factor], 1) * 2  # what only outputs read need not share


def test_a_concat_joins_ranges_that_are_alike(golden: Callable[[str], None]) -> None:
    inputs = data((2, 3), (2, 3))
    before = until(traced(Net(_joined(1.5)), *inputs), PropagateRanges, *inputs)
    golden(shown(before, PropagateRanges()(before), range_note))


def test_a_concat_leaves_a_narrow_part_its_precision(golden: Callable[[str], None]) -> None:
    inputs = data((2, 3), (2, 3))
    before = until(traced(Net(_joined(20.0)), *inputs), PropagateRanges, *inputs)
    golden(shown(before, PropagateRanges()(before), range_note))


@settings(max_examples=25, deadline=None)
@given(
    factor=st.sampled_from([0.1, 0.3, 0.6, 1.0, 1.4, 1.9, 2.1, 5.0]), limit=st.sampled_from([1.0, 1.5, 2.0, 4.0, 100.0])
)
def test_sharing_never_costs_more_than_the_limit(factor: float, limit: float) -> None:
    inputs = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    recipe = Recipe(share_limit=limit)
    after = solved(Net(lambda m, x, y: torch.cat([x, y * factor], 1) * 2), *inputs, recipe=recipe)
    found = ranges(after)
    cat = found["cat"]
    widest = max(1.0, factor)
    assert cat.high == pytest.approx(widest)
    for name, own in (("inputs_0", 1.0), ("mul", factor)):
        shares = found[name].qparams == cat.qparams
        assert shares == (widest / own <= limit)
        if not shares:
            assert found[name].high == pytest.approx(own)
            assert f"as cat would widen it {widest / own:.3g} times" in found[name].reason
    folded = InsertQDQ()(after)
    pairs = [n for n in folded.graph.nodes if n.target is torch.ops.fxq.quantize.default]
    assert ("inputs_0" in {str(n.args[0]) for n in pairs}) and sum(
        "requantized for cat" in n.meta["fxq.range"].reason for n in pairs
    ) == sum(found[name].qparams != cat.qparams for name in ("inputs_0", "mul"))


def test_sets_unify_through_chains_of_concats() -> None:
    """x is joined with y, y's pooled copy with z: all three share one range."""

    def forward(m: Any, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.cat([x, y], 1)
        second = torch.cat([F.max_pool2d(y, 2), z[:, :, :1, :1]], 1)
        return first, second

    inputs = data((2, 3, 2, 2), (2, 3, 2, 2), (2, 3, 2, 2))
    found = ranges(solved(Net(forward), *inputs, recipe=Recipe(share_limit=100.0)))
    values = [f for name, f in found.items()]
    assert len({f.qparams for f in values}) == 1
    whole = torch.cat([x.flatten() for x in inputs])
    assert values[0].low == pytest.approx(whole.min().item()) and values[0].high == pytest.approx(whole.max().item())


def test_a_part_that_is_joined_twice_is_joined_once() -> None:
    inputs = data((2, 3))
    found = ranges(solved(Net(lambda m, x: torch.cat([x, x, x[:, :1]], 1)), *inputs))
    assert found["cat"].qparams == found["inputs_0"].qparams


def test_every_range_has_a_reason() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return torch.sigmoid(torch.cat([m.fc(x), x], 1)), torch.cat([x, m.weight.expand(len(x), 6)], 1)

    net = drawn(Net(forward, fc=nn.Linear(3, 3), weight=torch.ones(6)))
    after = solved(net, *(8 * x for x in data((2, 3))))
    sentences = {node.name: why(node) for node in after.graph.nodes}
    assert "minmax over 6 values" in sentences["linear"] and "joined by cat over fc" in sentences["linear"]
    known = "sigmoid: [0, 1] (known: aten.sigmoid gives [0, 1]) -> [-128,127] scale=0.00392157 zp=-128"
    assert sentences["sigmoid"] == known
    assert any("a constant's own values" in sentence for sentence in sentences.values())
    assert sentences["output"].endswith("has no range: it is not quantized")


def test_the_scheme_of_a_rule_is_its_value_s_own() -> None:
    recipe = Recipe(rules=(Rule("aten.linear", activation=Scheme(0, 255)), Rule("aten.tanh", activation=activation(4))))
    net = drawn(Net(lambda m, x: torch.tanh(m.fc(x)), fc=nn.Linear(3, 3)))
    found = ranges(solved(net, *data((2, 3)), recipe=recipe))
    assert (found["linear"].qparams.qmin, found["linear"].qparams.qmax) == (0, 255)
    assert (found["tanh"].qparams.qmin, found["tanh"].qparams.qmax) == (-8, 7)
    assert (found["inputs_0"].qparams.qmin, found["inputs_0"].qparams.qmax) == (-128, 127)


def test_an_uncalibrated_observer_is_named() -> None:
    net = drawn(Net(lambda m, x: m.fc(x), fc=nn.Linear(3, 3)))
    inputs = data((2, 3))
    module = InsertObservers()(until(traced(net, *inputs), InsertObservers, *inputs))
    with pytest.raises(CalibrationError, match="no value was observed at inputs_0"):
        PropagateRanges()(module)


class Attending(nn.Module):
    """Every token's mean over all, by likeness."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, 8)."""
        return torch.softmax(x @ x.transpose(1, 2), -1) @ x


@pytest.mark.parametrize(("tokens", "bits"), [(255, 8), (256, 16)])
def test_long_rows_of_a_softmax_say_why_they_have_more_bits(tokens: int, bits: int) -> None:
    x = torch.randn(1, tokens, 8)
    told = fxquant.why(fxquant.quantize(fxquant.trace(Attending(), x), [x], progress=False), "softmax")
    assert (f"16 bits: in rows of {tokens} the mean value is no more than a step of 8 bits" in told) == (bits == 16)
    assert ("[-4095,4095]" in told) == (bits == 16)
