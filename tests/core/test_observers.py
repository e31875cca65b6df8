"""What all observers have in common, and how a scheme names one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from fxquant.errors import CalibrationError, SchemeError
from fxquant.observers import OBSERVERS, MeanStd, MinMax, MovingAverage, Observer, Percentile, make, register
from fxquant.scheme import Scheme, activation, weight

NAMES = sorted(OBSERVERS)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_forward_returns_its_input_and_counts(name: str) -> None:
    observer = make(activation(observer=name))
    x = torch.randn(2, 3, 4, 5)
    assert observer.empty
    assert observer(x) is x
    assert observer.count == x.numel() and not observer.empty
    observer.enabled = False
    observer(x)
    assert observer.count == x.numel()


def test_range_is_within_the_data_and_feeds_qparams(name: str) -> None:
    observer = make(activation(observer=name))
    x = torch.randn(4, 1000)
    observer(x)
    low, high = observer.range()
    assert low.dtype == high.dtype == torch.float64 and low.shape == high.shape == (1,)
    assert float(x.min()) <= float(low) < 0 < float(high) <= float(x.max())
    q = observer.qparams()
    error = (q.dequantize(q.quantize(x.clamp(float(low), float(high)))) - x.clamp(float(low), float(high))).abs()
    assert float(error.max()) <= q.one_scale * 0.5001


def test_per_channel_equals_one_observer_per_channel(name: str) -> None:
    if "histogram" in dict(make(activation(observer=name)).named_children()):
        pytest.skip("the histogram has fewer bins per channel")
    x = torch.randn(5, 3, 7) * torch.tensor([1.0, 10.0, 1e-3])[:, None]
    channels = make(weight(axis=1, observer=name))
    channels(x)
    for index in range(3):
        one = make(weight(axis=None, observer=name))
        one(x[:, index])
        assert channels.range()[0][index] == one.range()[0][0]
        assert channels.range()[1][index] == one.range()[1][0]
    assert channels.qparams().axis == 1 and len(channels.qparams().scale) == 3


def test_clipping_per_channel_is_close_to_one_per_channel() -> None:
    x = torch.randn(3, 20000) * torch.tensor([1.0, 100.0, 1e-3])[:, None]
    for name in ("mse", "percentile", "entropy"):
        channels = make(weight(axis=0, observer=name))
        channels(x)
        for index in range(3):
            one = make(weight(axis=None, observer=name))
            one(x[index])
            assert channels.range()[1][index] == pytest.approx(float(one.range()[1][0]), rel=0.15)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused_by_name(name: str, bad: float) -> None:
    observer = make(activation(observer=name), "conv1 (model.py:12)")
    x = torch.ones(2, 5)
    x[0, 3] = x[1, 1] = bad
    with pytest.raises(CalibrationError, match=r"2 of 10 values are NaN or infinite at conv1 \(model.py:12\)"):
        observer(x)
    assert observer.empty


def test_nothing_observed(name: str) -> None:
    observer = make(activation(observer=name), "add_1")
    observer(torch.empty(0, 3))
    with pytest.raises(CalibrationError, match="no value was observed at add_1"):
        observer.qparams()


def test_only_floating_point_is_observed() -> None:
    observer = make(activation())
    with pytest.raises(CalibrationError, match=r"cannot observe torch\.int64"):
        observer(torch.arange(3))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        observer(torch.tensor([0.5, -2.0], dtype=dtype))
    assert observer.range()[0].item() == -2.0


def test_channel_axis_and_count_are_checked() -> None:
    observer = make(weight(axis=2), "w")
    with pytest.raises(CalibrationError, match=r"no channel axis 2 in a tensor of shape \(4, 3\) at w"):
        observer(torch.ones(4, 3))
    observer(torch.ones(1, 1, 6))
    with pytest.raises(CalibrationError, match="5 channels after 6 channels at w"):
        observer(torch.ones(1, 1, 5))


def test_memory_layout_does_not_matter(name: str) -> None:
    x = torch.randn(2, 8, 5, 5)
    for scheme in (activation(observer=name), weight(axis=1, observer=name)):
        plain, last, strided = make(scheme), make(scheme), make(scheme)
        plain(x)
        last(x.to(memory_format=torch.channels_last))
        strided(torch.stack([x, x], dim=-1)[..., 0])
        for key, value in plain.state().items():
            assert torch.equal(value, last.state()[key]) and torch.equal(value, strided.state()[key])


def test_state_restores_into_a_fresh_observer(name: str) -> None:
    for scheme in (activation(observer=name), weight(observer=name)):
        observer = make(scheme)
        observer(torch.randn(4, 50))
        resumed, loaded = make(scheme), make(scheme)
        resumed.load_state(observer.state())
        loaded.load_state_dict(observer.state_dict())
        more = torch.randn(4, 30) * 3
        for one in (observer, resumed, loaded):
            one(more)
        assert observer.qparams() == resumed.qparams() == loaded.qparams()
        assert observer.count == resumed.count == loaded.count == 320


def test_a_state_is_a_copy_and_is_checked() -> None:
    observer = make(activation())
    state = observer.state()
    observer(torch.ones(3))
    assert int(state["seen"]) == 0
    with pytest.raises(CalibrationError, match="no state of a MinMax"):
        observer.load_state({"low": torch.zeros(1)})


def test_an_observer_lives_in_a_graph_and_is_copied_with_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.observer = make(activation(observer="mse"))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.observer(x).relu()
            return result

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, Observer)

    net = Net()
    module = fx.GraphModule(net, Tracer().trace(net))
    twin = copy.deepcopy(module)
    twin(torch.randn(10))
    assert isinstance(twin.observer, Observer) and twin.observer.count == 10
    assert isinstance(module.observer, Observer) and module.observer.empty
    assert "MSE" in str(twin.observer) and "seen=10" in repr(twin)


@pytest.mark.parametrize(
    ("text", "kind", "options"),
    [
        ("minmax", MinMax, {}),
        ("moving_average", MovingAverage, {"decay": 0.9}),
        ("moving_average:decay=0.99", MovingAverage, {"decay": 0.99}),
        ("percentile:99.5", Percentile, {"p": 99.5}),
        ("percentile: p = 99.5", Percentile, {"p": 99.5}),
        ("mean_std:k=3", MeanStd, {"k": 3.0}),
    ],
)
def test_make_reads_names_and_options(text: str, kind: type[Observer], options: dict[str, float]) -> None:
    observer = make(activation(observer=text), "here")
    assert type(observer) is kind and observer.options == options and observer.where == "here"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minmaks", r"unknown observer 'minmaks', did you mean 'minmax'\? known: entropy, mean_std, minmax"),
        ("", "unknown observer '';"),
        ("moving_average:dekay=0.5", r"unknown option 'dekay' .* did you mean 'decay'\?"),
        ("minmax:3", "unknown option '3' of observer 'minmax'; known: none"),
        ("percentile:p=99,p=98", "option given twice 'p'"),
        ("percentile:high", "option 'p' of observer 'percentile' takes a float, not 'high'"),
        ("percentile:101", r"percentile 101.0 must be in \(50, 100\]"),
        ("percentile:nan", "percentile nan must be"),
        ("moving_average:1", r"decay 1.0 of a moving average must be in \[0, 0.999\]"),
        ("mean_std:k=-1", "must be a positive number"),
    ],
)
def test_make_refuses_what_it_does_not_know(text: str, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        make(Scheme(observer=text))


def test_register_adds_an_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxquant.observers.registry.OBSERVERS", dict(OBSERVERS))

    @register("fixed")
    class Fixed(Observer):
        def __init__(self, scheme: Scheme, where: str = "", *, top: int = 6) -> None:
            super().__init__(scheme, where)
            self.top = top

        def bounds(self) -> tuple[Tensor, Tensor]:
            return torch.zeros(1, dtype=torch.float64), torch.full((1,), float(self.top), dtype=torch.float64)

    observer = make(activation(observer="fixed:3"))
    observer(torch.randn(4))
    assert observer.range()[1].item() == 3.0
    with pytest.raises(SchemeError, match="named 'fixed' exists already: Fixed"):
        register("fixed")(MinMax)
