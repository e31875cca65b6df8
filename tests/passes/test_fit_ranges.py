"""FitRanges: a range clips where those that read the value gain by it, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.gains import gains_of
from fxquant.observers import MinMax
from fxquant.observers.base import Observer, observers_of
from fxquant.passes import FitRanges
from tests.passes.graphs import Net, data, drawn


def _net(read: float) -> Net:
    """The layer reads the first feature by so much, and the others by their own weights."""
    net = drawn(Net(lambda m, x: m.fc(x), fc=nn.Linear(16, 4)))
    with torch.no_grad():
        net.fc.weight[:, 0] *= read
    return net


def _outlying() -> Tensor:
    """Inputs of one size, but for the first feature, which now and then is 60 times larger."""
    (inputs,) = data((64, 16))
    inputs[::2, 0] *= 60
    return inputs


def _observed(net: nn.Module, inputs: Tensor) -> fx.GraphModule:
    observed = fxquant.prepare(fxquant.trace(net, (inputs[:2],)))
    return fxquant.calibrate(observed, [inputs], progress=False)


def _of_input(module: fx.GraphModule) -> Observer:
    return next(observer for _, observer in observers_of(module))


def test_an_outlier_is_clipped_where_hardly_anybody_reads_it() -> None:
    net, inputs = _net(0.002), _outlying()
    before = _observed(net, inputs)
    after = FitRanges([inputs])(before)
    assert isinstance(_of_input(before), MinMax) and not isinstance(_of_input(after), MinMax)
    (gain,) = gains_of(after)
    assert gain.kept and gain.after > gain.before + 3
    fresh = _outlying().flip(0)
    with torch.no_grad():
        noise = [float((fxquant.convert(found)(fresh) - net(fresh)).square().mean()) for found in (before, after)]
    assert noise[1] < 0.5 * noise[0]


def test_an_outlier_that_is_read_is_kept() -> None:
    net, inputs = _net(5.0), _outlying()
    after = FitRanges([inputs])(_observed(net, inputs))
    assert float(_of_input(after).range()[1]) == pytest.approx(float(inputs.max()), rel=1e-3)


def test_the_recipes_own_observer_stays_where_none_is_better() -> None:
    (inputs,) = data((64, 16))
    inputs = inputs.clamp(-1, 1)
    after = FitRanges([inputs], among=("minmax",))(_observed(_net(1.0), inputs))
    assert str(gains_of(after)[0]).startswith("FitRanges: 0 of 2")
    assert all(isinstance(observer, MinMax) for _, observer in observers_of(after))


def test_a_graph_without_observers_is_told() -> None:
    (inputs,) = data((8, 16))
    observed = fxquant.prepare(fxquant.trace(_net(1.0), (inputs,)), "dynamic")
    (gain,) = gains_of(FitRanges([inputs])(observed))
    assert str(gain) == "FitRanges: 0 of 0; no value has a range that is observed"


def test_scores_and_masks_are_left_alone() -> None:
    """What softmax sees of them is a matter of mathematics."""

    def forward(m: Net, x: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax(m.fc(x) + mask, -1)

    inputs = (*data((16, 8)), torch.where(torch.arange(64).reshape(16, 4) % 3 == 0, -1e4, 0.0))
    observed = fxquant.prepare(fxquant.trace(drawn(Net(forward, fc=nn.Linear(8, 4))), inputs))
    fxquant.calibrate(observed, [inputs], progress=False)
    looks = sum(observer.look is not None for _, observer in observers_of(observed))
    every = sum(1 for _ in observers_of(observed))
    (gain,) = gains_of(FitRanges([inputs])(observed))
    assert looks and gain.places == every - looks
