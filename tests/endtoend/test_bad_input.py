"""Bad input of every kind gives the named error, with the place and what to do, and never a wrong answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import passes
from fxquant.calibration import calibrate
from fxquant.errors import (
    AccumulatorOverflowError,
    CalibrationError,
    InputError,
    LoweringError,
    PassError,
    PassOrderError,
    RecipeError,
    StageError,
    TargetError,
    TraceError,
    UnsupportedOpError,
)
from fxquant.passmanager import Pass, Pipeline
from fxquant.stage import Stage
from tests.passes.graphs import Net, data, drawn, run


class Small(nn.Module):
    """A network of a few lines, for messages that quote them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        y = torch.erfinv(torch.tanh(y) * 0.5)
        out: Tensor = self.fc(y.mean((2, 3)))
        return out


IMAGES = data((4, 3, 6, 6))


def observed(net: nn.Module | None = None, *inputs: Tensor) -> fx.GraphModule:
    """An OBSERVED graph without data."""
    return fxquant.prepare(fxquant.trace(net or Small(), inputs or IMAGES))


# Tracing.


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_control_flow_on_data_names_the_line() -> None:
    with pytest.raises(TraceError) as error:
        fxquant.trace(Branching(), IMAGES)
    message = str(error.value)
    assert "Branching cannot be captured as one graph" in message and "test_bad_input.py" in message
    assert "Rewrite data-dependent control flow with tensor operations" in message


class Counting(nn.Module):
    """State that changes in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        return x * 2


TRACE_ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "no module": (lambda: fxquant.trace(math.sin, IMAGES), "takes an nn.Module, .* not builtin_function"),  # type: ignore[arg-type]
    "no inputs": (lambda: fxquant.trace(Small()), "needs example inputs: a tensor, a tuple or a dict"),
    "state": (
        lambda: fxquant.trace(Counting(), IMAGES),
        r"changes its own state or inputs in forward \(calls\): give the new value back as an output",
    ),
    "a script": (
        lambda: fxquant.trace(torch.jit.script(Branching()), IMAGES),
        "Branching is a ScriptModule, .* trace the nn.Module that it was made from",
    ),
    "a selection": (
        lambda: fxquant.trace(Net(lambda m, x: x[x.flatten(1).sum(1) > 0]), IMAGES),
        "index = aten.index.Tensor at .*self.body.* makes a size or a number out of values",
    ),
    "a number of values": (
        lambda: fxquant.trace(Net(lambda m, x: x * x.max().item()), IMAGES),
        "item = aten.item at .*self.body.* makes a size or a number out of values",
    ),
    "writes its input": (
        lambda: fxquant.trace(Net(lambda m, x: x.add_(1)), IMAGES),
        "changes its own state or inputs in forward",
    ),
    "wrong shape": (lambda: fxquant.trace(Small(), data((2, 5, 6, 6))), "Small cannot be captured .* channels"),
    "float64": (
        lambda: fxquant.trace(Small().double(), (IMAGES[0].double(),)),
        r"input x is torch.float64: .* call .float\(\) on model and inputs",
    ),
    "bfloat16": (lambda: fxquant.trace(Small().bfloat16(), (IMAGES[0].bfloat16(),)), "input x is torch.bfloat16"),
    "a number": (
        lambda: fxquant.trace(Net(lambda m, x, n: x * n), (*IMAGES, 2.0)),
        "is a float, not a tensor: fix it in",
    ),
    "returns nothing": (lambda: fxquant.trace(Net(lambda m, x: None), IMAGES), "the model returns no tensor"),
    "returns a size": (lambda: fxquant.trace(Net(lambda m, x: (x, x.shape[0])), IMAGES), "output 1 .* is a size"),
}


@pytest.mark.parametrize("case", TRACE_ERRORS)
def test_what_cannot_be_traced(case: str) -> None:
    action, message = TRACE_ERRORS[case]
    with pytest.raises(TraceError, match=message):
        action()


MIXING: dict[str, Callable[..., Tensor]] = {
    "normalizes over the batch": lambda m, x: x - x.mean(0, keepdim=True),
    "turns the batch around": lambda m, x: torch.flip(x, [0]),
    "multiplies samples": lambda m, x: x.flatten(1) @ x.flatten(1).t(),
    "moves the batch": lambda m, x: x.permute(1, 0, 2, 3),
    "joins samples": lambda m, x: torch.cat([x, x + 1], 0),
}


@pytest.mark.parametrize("case", MIXING)
def test_samples_that_depend_on_each_other_are_compiled_together(case: str) -> None:
    """A free batch would give another answer for every size of it: the batch is fixed, and the graph says why."""
    graph = fxquant.trace(Net(MIXING[case]), IMAGES)
    assert graph.meta["fxq.batch"].startswith("static: ")
    quantized = fxquant.quantize(graph, [IMAGES], progress=False)
    with fxquant.compile(quantized, threads=1) as net:
        assert torch.equal(net(*IMAGES), run(quantized, *IMAGES)[0])
        with pytest.raises(InputError, match=r"has shape \(1, 3, 6, 6\), not \(4, 3, 6, 6\)"):
            net(IMAGES[0][:1])


def test_a_program_exported_with_a_free_batch_that_mixes_samples() -> None:
    net = Net(lambda m, x: x - x.flip(0))
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(net, IMAGES, dynamic_shapes={"inputs": ({0: batch},)})
    with pytest.raises(TraceError, match="a sample of output 0 depends on the other samples"):
        fxquant.trace(program)


# Calibration.


def poisoned(value: float) -> Tensor:
    """Images with one bad value."""
    x = IMAGES[0].clone()
    x[1, 2, 3, 4] = value
    return x


CALIBRATION_ERRORS: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "NaN": (
        lambda: [IMAGES[0], poisoned(math.nan)],
        "calibration input 1: 1 of 432 values are NaN or infinite at x = ",
    ),
    "infinity": (lambda: [poisoned(-math.inf)], "calibration input 0: 1 of 432 values are NaN or infinite at x = "),
    "nothing": (list, "no calibration data: the iterable gave nothing"),
    "shape": (lambda: [torch.zeros(4, 3, 6, 7)], r"x has shape \(4, 3, 6, 7\), the model takes \(batch, 3, 6, 6\)"),
    "rank": (lambda: [torch.zeros(3, 6, 6)], r"x has shape \(3, 6, 6\), the model takes \(batch, 3, 6, 6\)"),
    "dtype": (lambda: [IMAGES[0].byte()], "x is torch.uint8, the model was traced with torch.float32"),
    "device": (lambda: [IMAGES[0].to("meta")], "x is on meta; move it to the CPU"),
    "count": (lambda: [(IMAGES[0], IMAGES[0])], "calibration input 0 has 2 tensors; the model takes 1: x"),
    "names": (lambda: [{"y": IMAGES[0]}], "calibration input 0 lacks x; the model takes x"),
    "an array": (lambda: [(IMAGES[0].numpy(),)], "x is a ndarray, not a tensor"),
    "an empty batch": (lambda: [torch.zeros(0, 3, 6, 6)], "no value was observed at x = placeholder x"),
}


@pytest.mark.parametrize("case", CALIBRATION_ERRORS)
def test_bad_calibration(case: str) -> None:
    action, message = CALIBRATION_ERRORS[case]
    with pytest.raises(CalibrationError, match=message):
        fxquant.quantize(fxquant.trace(Small(), IMAGES), action(), progress=False)


def test_an_overflow_inside_of_the_model_is_named_where_it_happens() -> None:
    net = Net(lambda m, x: torch.relu(m.fc(x)), fc=nn.Linear(3, 2))
    with torch.no_grad():
        net.fc.weight.fill_(3e38)
    with pytest.raises(CalibrationError, match=r"NaN or infinite at relu = aten.relu at .*overflow in the model"):
        fxquant.quantize(fxquant.trace(net, data((2, 3))), [torch.full((2, 3), 2.0)], progress=False)


def test_a_generator_that_was_used_up() -> None:
    batches: Iterator[Any] = iter([IMAGES[0]])
    graph = fxquant.trace(Small(), IMAGES)
    fxquant.quantize(graph, batches, progress=False)
    with pytest.raises(CalibrationError, match="a generator can be used only once"):
        fxquant.quantize(graph, batches, progress=False)


def test_calibrate_wants_an_observed_graph() -> None:
    with pytest.raises(CalibrationError, match="needs an OBSERVED graph, this one is FLOAT: run prepare first"):
        calibrate(fxquant.trace(Small(), IMAGES), [IMAGES], progress=False)


def test_converting_without_calibration() -> None:
    with pytest.raises(CalibrationError, match="no value was observed at x = placeholder x"):
        fxquant.convert(observed())


# Recipes and targets.

RECIPES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "key": ({"activations": {}}, RecipeError, "unknown key 'activations' in a recipe; .* Did you mean 'activation'"),
    "scheme key": ({"weight": {"qmaxx": 3}}, RecipeError, "unknown key 'qmaxx' in weight"),
    "rule key": ({"rules": [{"match": "*", "float": True}]}, RecipeError, "unknown key 'float' in rule"),
    "range": (
        {"activation": {"qmin": 5, "qmax": 5}},
        RecipeError,
        r"activation of a recipe: empty integer range \[5, 5\]",
    ),
    "storage": ({"activation": {"qmax": 70000}}, RecipeError, r"activation of a recipe: .*none of int8, uint8, int16"),
    "affine weights": ({"weight": {"symmetric": False}}, RecipeError, "weights are quantized symmetrically"),
    "channels of activations": ({"activation": {"axis": 1}}, RecipeError, "activations are quantized per tensor"),
    "share limit": ({"share_limit": 0.5}, RecipeError, "share_limit must be at least 1"),
    "observer": (
        {"activation": {"observer": "minmx"}},
        RecipeError,
        "activation of a recipe: unknown observer 'minmx', did you mean 'minmax'",
    ),
    "no match": ({"rules": [{"match": "cnov"}]}, RecipeError, "the rule 'cnov' matches no module.*did you mean conv"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_bad_recipes(case: str) -> None:
    recipe, kind, message = RECIPES[case]
    with pytest.raises(kind, match=message):
        fxquant.quantize(fxquant.trace(Small(), IMAGES), [IMAGES], recipe=recipe, progress=False)


def test_an_unsupported_operation_is_refused_under_strict() -> None:
    with pytest.raises(UnsupportedOpError) as error:
        fxquant.prepare(fxquant.trace(Small(), IMAGES), {"strict": True})
    message = str(error.value)
    assert "erfinv = aten.erfinv at" in message and '"y = torch.erfinv(torch.tanh(y) * 0.5)"' in message
    assert "aten.erfinv has no integer spelling in the op table" in message


def test_an_unsupported_operation_is_a_reported_island_otherwise() -> None:
    model = drawn(
        Net(lambda m, x: m.fc(torch.sinc(m.conv(x)).mean((2, 3))), conv=nn.Conv2d(3, 4, 3), fc=nn.Linear(4, 2))
    )
    quantized = fxquant.quantize(fxquant.trace(model, IMAGES), [IMAGES], progress=False)
    assert [node.name for node in quantized.graph.nodes if node.meta.get("fxq.island")] == ["sinc"]
    assert float((run(quantized, *IMAGES)[0] - run(model, *IMAGES)[0]).abs().max()) < 0.1
    assert "aten.sinc has no integer spelling" in fxquant.report(quantized).text(200)


def test_code_that_nobody_can_write_names_the_operation() -> None:
    quantized = fxquant.quantize(fxquant.trace(Small(), IMAGES), [IMAGES], progress=False)
    with pytest.raises(LoweringError, match=r"erfinv = aten.erfinv at .* cannot be compiled in float: .*Remedy: "):
        fxquant.compile(quantized)


def quantized_small() -> fx.GraphModule:
    """An INTEGER graph."""
    net = drawn(Net(lambda m, x: m.fc(x), fc=nn.Linear(3, 2)))
    return fxquant.quantize(fxquant.trace(net, data((4, 3))), [data((4, 3))], progress=False)


def test_unknown_targets() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'x86-avx3'; known: native, .* Did you mean 'x86-avx2'\?"):
        fxquant.compile(quantized_small(), "x86-avx3")


def test_only_integer_graphs_are_compiled() -> None:
    with pytest.raises(StageError, match="compile needs an INTEGER graph, this one is FLOAT: quantize it first"):
        fxquant.compile(fxquant.trace(Small(), IMAGES))


def test_a_graph_of_unknown_origin() -> None:
    with pytest.raises(StageError, match=r"give it to fxquant\.trace"):
        fxquant.prepare(fx.symbolic_trace(Small()))


def test_a_model_that_is_not_traced() -> None:
    for step in (fxquant.quantize, fxquant.compile):
        with pytest.raises(StageError, match=r"this Small has no stage: give it to fxquant\.trace"):
            step(Small())  # type: ignore[arg-type]


# Passes.


def test_the_order_of_passes_is_checked_before_anything_runs() -> None:
    with pytest.raises(PassOrderError, match="Annotate needs a FLOAT graph, but FoldQDQ before it gives INTEGER"):
        Pipeline((passes.FoldQDQ(), passes.Annotate()))
    with pytest.raises(PassOrderError, match="PropagateRanges needs a OBSERVED graph and got a FLOAT one"):
        passes.PropagateRanges()(fxquant.trace(Small(), IMAGES))
    with pytest.raises(PassOrderError, match="RemoveIdentities needs a FLOAT graph and got a INTEGER one"):
        fxquant.quantize(quantized_small(), [data((4, 3))], progress=False)
    with pytest.raises(PassOrderError, match="no pass called FoldBatchnorm here; there are: RemoveIdentities, "):
        fxquant.prepare_pipeline().after("FoldBatchnorm", passes.FuseOps())


class AddFloat(Pass):
    """A pass of a user's that leaves a float operation in an INTEGER graph."""

    needs = gives = Stage.INTEGER

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """x => sin(x)"""
        output = module.graph.output_node()
        with module.graph.inserting_before(output):
            node = module.graph.call_function(torch.ops.aten.sin.default, (output.args[0],))
        node.meta["val"] = output.args[0].meta["val"]  # type: ignore[union-attr]
        output.args = (node,)
        return module


def test_a_pass_that_breaks_an_invariant_is_blamed() -> None:
    with pytest.raises(StageError) as error:
        AddFloat()(quantized_small())
    message = str(error.value)
    assert "AddFloat gives INTEGER, but the graph is not" in message and "fc:sin = aten.sin" in message
    assert "must give an integer tensor; only dequantize, dynamic ranges and declared float islands may" in message


def test_a_pass_without_run() -> None:
    class Nothing(Pass):
        """A pass that does nothing at all."""

    with pytest.raises(PassError, match=r"Nothing must override run\(module\)"):
        Nothing()(fxquant.trace(Small(), IMAGES))


# Running.


@pytest.mark.parametrize("recipe", [{}, "dynamic"])
def test_nan_is_zero_and_infinity_the_end_of_the_range(recipe: Any) -> None:
    seen = torch.randn((64, 8), generator=torch.Generator().manual_seed(0))
    graph = fxquant.trace(drawn(Net(lambda m, x: m.fc(x), fc=nn.Linear(8, 3))), (seen,))
    quantized = fxquant.quantize(graph, [seen], recipe=recipe, progress=False)
    x = seen[:4].clone()
    x[0, 1], x[1, 2], x[2, 3], x[3] = math.nan, math.inf, -math.inf, math.nan
    same = x.nan_to_num(0.0, 1e30, -1e30)
    with fxquant.compile(quantized, against_float=False, threads=1) as net:
        for values in (x, x.numpy()):
            got = torch.as_tensor(net(values))
            assert torch.equal(got, quantized(x)) and got.isfinite().all()
            if not recipe:  # ranges of run time stretch to what is infinite or huge
                assert torch.equal(got, net(same))


# Overflow.


@pytest.mark.parametrize(
    ("recipe", "length", "message"),
    [
        ({}, 70_000, "fc = aten.linear at .*"),
        ({}, 70_000, "channel 0 can reach 2.267e+09, beyond the 32-bit accumulator; use fewer bits"),
    ],
)
def test_an_accumulator_that_could_overflow_is_refused(recipe: dict[str, Any], length: int, message: str) -> None:
    net = Net(lambda m, x: m.fc(x), fc=nn.Linear(length, 1))
    with torch.no_grad():
        net.fc.weight.fill_(1.0)
    x = torch.rand(2, length)
    with pytest.raises(AccumulatorOverflowError, match=message.replace("+", r"\+")):
        fxquant.quantize(fxquant.trace(net, (x,)), [x], recipe=recipe, progress=False)
