"""Models that are unusual but right: whatever weights and form, the answer is exact and the model untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import LoweringError, TraceError
from tests.endtoend.networks import Network, check
from tests.passes.graphs import Net, data, drawn, run

CONV = """class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(5, 9, 3, padding=1)
        self.second = nn.Conv2d(9, 9, 3, padding=1, groups=9)
        self.last = nn.Linear(9, 4)

    def forward(self, x0):
        y = F.relu(self.first(x0))
        z = self.second(y) + y
        return z, self.last(z.mean((2, 3)))
"""
WEIGHTS = {
    "zero channels": {"first": ("zero channels", "zero"), "second": ("zero channels", "normal")},
    "huge": {"first": ("huge", "normal"), "last": ("huge", "large")},
    "denormal bias": {"first": ("normal", "denormal"), "second": ("normal", "denormal")},
    "equal": {"first": ("equal", "zero"), "second": ("lowest", "large")},
    "largest sums": {"first": ("signs", "large"), "second": ("signs", "zero")},
    "uneven": {"first": ("uneven", "large"), "second": ("uneven", "normal"), "last": ("uneven", "large")},
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_unusual_weights(case: str) -> None:
    check(Network(CONV, ((5, 7, 6),), WEIGHTS[case]))


@pytest.mark.parametrize("kind", ["zero", "denormal"])
def test_layers_without_weights(kind: str) -> None:
    check(Network(CONV, ((5, 7, 6),), {"first": (kind, "normal"), "last": (kind, "zero")}))


def test_inputs_that_are_always_the_same() -> None:
    """Ranges of no width, at zero and elsewhere."""
    for value in (0.0, 3.0, -1e-3):
        net = drawn(Net(lambda m, x: m.conv(x), conv=nn.Conv2d(3, 4, 3)))
        x = torch.full((2, 3, 5, 5), value)
        quantized = fxquant.quantize(fxquant.trace(net, (x,)), [x], progress=False)
        with fxquant.compile(quantized, threads=1) as compiled:
            assert torch.equal(compiled(x), run(quantized, x)[0])
        real, found = run(net, x)[0], run(quantized, x)[0]
        assert float((found - real).abs().max()) <= 0.02 * float(real.abs().max())


class Shared(nn.Module):
    """One module under two names, called three times; one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.block
        self.tied = nn.Conv2d(4, 4, 3, padding=1)
        self.tied.weight = self.block.weight
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.block(x)))
        y = F.relu(self.norm(self.again(y)))
        out: Tensor = self.tied(y) + self.block(y)
        return out


def quantized_exactly(model: nn.Module, *inputs: Tensor, batch: int = 3) -> fx.GraphModule:
    """The INTEGER graph, compared with its compiled code."""
    quantized = fxquant.quantize(fxquant.trace(model, inputs), [inputs], progress=False)
    with fxquant.compile(quantized, threads=2) as compiled, torch.no_grad():
        x = tuple(torch.cat([i] * batch)[:batch] for i in inputs)
        found, wanted = compiled(*x), run(quantized, *x)
        for a, b in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
            assert torch.equal(a, b)
    return quantized


def test_shared_modules_and_weights() -> None:
    model = Shared().eval()
    inputs = data((2, 4, 6, 6))
    quantized = quantized_exactly(model, *inputs)
    real, found = run(model, *inputs)[0], run(quantized, *inputs)[0]
    assert float((real - found).abs().max()) < 0.1


def test_the_model_is_not_changed() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    model.train()
    model[1].eval()
    state, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    gradients = [p.requires_grad for p in model.parameters()]
    random = torch.get_rng_state()
    inputs = data((2, 3, 6, 6))
    quantized_exactly(model, *inputs)
    assert [m.training for m in model.modules()] == flags and [p.requires_grad for p in model.parameters()] == gradients
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # the quantized graph must not notice


def test_the_graphs_are_not_changed_either() -> None:
    model = drawn(Net(lambda m, x: F.relu(m.conv(x)), conv=nn.Conv2d(3, 4, 3)))
    inputs = data((2, 3, 6, 6))
    traced = fxquant.trace(model, inputs)
    before, real = str(traced.graph), run(traced, *inputs)[0]
    observed = fxquant.prepare(traced)
    fxquant.calibrate(observed, [inputs], progress=False)
    kept = str(observed.graph)
    fxquant.convert(observed)
    assert str(traced.graph) == before and str(observed.graph) == kept
    assert torch.equal(run(traced, *inputs)[0], real)


def test_a_graph_module_and_an_exported_program_give_what_the_module_gives() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    inputs = data((2, 3, 6, 6))
    program = torch.export.export(model, inputs, dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    forms = fxquant.trace(model, inputs), fxquant.trace(fx.symbolic_trace(model), inputs), fxquant.trace(program)
    outputs = [run(fxquant.quantize(form, [inputs], progress=False), *inputs)[0] for form in forms]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


class Nested(nn.Module):
    """Keyword arguments, an optional one left out, and a dictionary returned."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, *, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        y = self.fc(x)
        return {"y": y if mask is None else y * mask, "twice": y * 2}


def test_keyword_arguments_and_structured_results() -> None:
    (x,) = data((2, 3))
    graph = fxquant.trace(Nested(), {"x": x})
    quantized = fxquant.quantize(graph, [{"x": x}], progress=False)
    with fxquant.compile(quantized, threads=1) as compiled:
        y, twice = compiled(x)
    assert torch.equal(y, run(quantized, x)[0]) and torch.equal(twice, run(quantized, x)[1])


ODD: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "nothing to do": (lambda m, x: x, ((2, 3),)),
    "one value returned twice": (lambda m, x: (lambda y: (y, y, x))(F.relu(x)), ((2, 3),)),
    "an input that nobody reads": (lambda m, x, y: F.relu(x), ((2, 3), (2, 4))),
    "one element": (lambda m, x: F.gelu(x) * x, ((1, 1),)),
    "a vector of samples": (lambda m, x: F.relu(x - 0.5), ((4,),)),
    "five axes": (lambda m, x: F.hardswish(x) + x, ((2, 2, 3, 2, 3),)),
    "the input many times": (lambda m, x: torch.cat([x, x, x], 1) * torch.cat([x, -x, x], 1), ((2, 3, 2, 2),)),
    "all of one value": (lambda m, x: x - x, ((2, 5),)),
    "indices of the largest": (lambda m, x: F.relu(x).argmax(1), ((2, 5),)),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_forms(case: str) -> None:
    forward, shapes = ODD[case]
    quantized_exactly(drawn(Net(forward)), *data(*shapes))


SAME: dict[str, nn.Module] = {
    "same": nn.Conv2d(3, 4, (3, 5), padding="same", dilation=(2, 1)),
    "same and even": nn.Conv2d(3, 4, (2, 4), padding="same"),
    "valid": nn.Conv2d(3, 4, 3, padding="valid", stride=2),
    "channel shuffle": nn.ChannelShuffle(3),
    "pixel shuffle": nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2)),
    "pixel unshuffle": nn.PixelUnshuffle(2),
}


@pytest.mark.parametrize("case", SAME)
def test_composite_layers_have_no_island(case: str) -> None:
    model = drawn(Net(lambda m, x: m.layer(x), layer=SAME[case]))
    inputs = data((2, 3, 6, 8))
    quantized = quantized_exactly(model, *inputs)
    assert not [node.name for node in quantized.graph.nodes if node.meta.get("fxq.island")]
    real, found = run(model, *inputs)[0], run(quantized, *inputs)[0]
    assert float((real - found).abs().max()) <= 0.03 * float(real.abs().max())


CODES: dict[str, dict[str, Any]] = {
    "256": {},
    "16": {"qmin": -8, "qmax": 7},
    "128, symmetric": {"qmin": -127, "symmetric": True},
    "198": {"qmin": 3, "qmax": 200},
    "65536": {"qmin": -32768, "qmax": 32767},
}


@pytest.mark.parametrize("codes", CODES)
def test_a_softmax_reaches_one_in_any_codes(codes: str) -> None:
    (x,) = data((4, 5))
    graph = fxquant.trace(drawn(Net(lambda m, x: F.softmax(x * 30, -1))), x)
    quantized = fxquant.quantize(graph, [x], recipe={"activation": CODES[codes]}, progress=False)
    (found,) = run(quantized, x)
    step = 1 / min(len(range(CODES[codes].get("qmin", -128), CODES[codes].get("qmax", 127))), 256)
    assert float(found.amax()) > 1 - 1.5 * step and float(found.sum(-1).sub(1).abs().max()) < 5 * step
    with fxquant.compile(quantized, threads=1, against_float=False) as compiled:
        assert torch.equal(compiled(x), found)


def test_a_tiny_value_is_above_a_constant_zero() -> None:
    """Its scale is below 2^-32 of that of zeros."""
    (x,) = data((4, 5))
    net = Net(lambda m, x: torch.where(x > m.zero, x, m.zero), zero=torch.zeros(5))
    graph = fxquant.trace(net.eval(), x * 1e-20)
    quantized = fxquant.quantize(graph, [x * 1e-20], progress=False)
    (found,) = run(quantized, x * 1e-20)
    assert torch.allclose(found * 1e20, x.clamp(min=0), atol=0.02)
    with fxquant.compile(quantized, threads=1, against_float=False) as compiled:
        assert torch.equal(compiled(x * 1e-20), found)


def test_infinite_results_are_no_mixed_samples() -> None:
    """A trial of samples together and alone decides whether they mix: there, too, infinity is infinity."""
    (x,) = data((4, 5))
    graph = fxquant.trace(drawn(Net(lambda m, x: (torch.reciprocal(F.relu(x)), F.relu(x) > 0.5))), x)
    quantized = fxquant.quantize(graph, [x], progress=False)
    with fxquant.compile(quantized, threads=1, against_float=False) as compiled:
        for found, wanted in zip(compiled(x), run(quantized, x), strict=True):
            assert torch.equal(found, wanted)


def test_places_picked_by_two_lists_are_right_or_refused() -> None:
    (x,) = data((2, 3, 6))
    graph = fxquant.trace(drawn(Net(lambda m, x: F.relu(x[:, [2, 0], [1, 5]]))), x)
    quantized = fxquant.quantize(graph, [x], progress=False)
    try:
        compiled = fxquant.compile(quantized, threads=1, against_float=False)
    except LoweringError as error:
        assert "TVM computes something else in float" in str(error)
        return
    with compiled:
        assert torch.equal(compiled(x), run(quantized, x)[0])


def test_no_samples_at_all() -> None:
    model = drawn(Net(lambda m, x: m.fc(x), fc=nn.Linear(3, 2)))
    quantized = fxquant.quantize(fxquant.trace(model, data((2, 3))), [data((2, 3))], progress=False)
    with fxquant.compile(quantized, threads=1) as compiled:
        assert tuple(compiled(torch.zeros(0, 3)).shape) == (0, 2)


def test_a_layer_norm_of_nearly_constant_input_stays_float_and_says_why() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(4, 8) * 1e-9 for _ in range(3)]
    net = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    graph = fxquant.trace(net, inputs[0])
    quantized = fxquant.quantize(graph, inputs, progress=False)
    (island,) = fxquant.report(quantized).floats
    assert "its results are so much smaller than its gamma or beta" in island.reason
    assert torch.allclose(run(quantized, inputs[0])[0], run(net, inputs[0])[0], atol=1e-2)
    with pytest.raises(
        fxquant.FxquantError,
        match=r"strict, and 0 = aten\.layer_norm at module 0, of class LayerNorm would stay in float",
    ):
        fxquant.quantize(graph, inputs, recipe={"strict": True}, progress=False)


# Empty parts of the others' shape, and those with one axis, which torch joins to anything.
EMPTY: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "of the same axes": lambda m, x: torch.cat([x.new_zeros(x.shape[0], 0, 4), x], 1),
    "before": lambda m, x: torch.cat([x.new_zeros(0), x], 1),
    "behind": lambda m, x: torch.cat([x, torch.tensor([])], -2),
    "between": lambda m, x: torch.cat([x, torch.zeros(0), x], -1)[..., 2:6],
    "of another type": lambda m, x: torch.cat([torch.zeros(0, dtype=torch.int64), x], 1),
    "by another name": lambda m, x: torch.concat([x.new_zeros(0), x], 1),
    "and by a third": lambda m, x: torch.concatenate([x, x.new_zeros(0), x], dim=1),
}


@pytest.mark.parametrize("form", EMPTY)
def test_parts_without_elements_join_nothing(form: str) -> None:
    inputs = data((2, 5, 4))
    net = drawn(Net(lambda m, x: m.fc(EMPTY[form](m, x)), fc=nn.Linear(4, 3)))
    quantized = fxquant.quantize(fxquant.trace(net, inputs), [inputs], progress=False)
    assert fxquant.report(quantized).is_fully_integer
    with fxquant.compile(quantized, threads=1) as compiled:
        assert torch.equal(compiled(*inputs), run(quantized, *inputs)[0])


@pytest.mark.parametrize("parts", [lambda x: x.split(2, -1)[0], lambda x: x.chunk(2, -1)[1], lambda x: x.unbind(-1)[0]])
def test_writing_into_a_part_of_an_input_is_refused(parts: Callable[[Tensor], Tensor]) -> None:
    net = Net(lambda m, x: (parts(x).mul_(0.5), x + x.flip(1)))
    with pytest.raises(TraceError, match="changes its own state or inputs"):
        fxquant.trace(net.eval(), torch.randn(2, 6))
