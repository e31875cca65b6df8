"""Up to OBSERVED no pass changes what a graph computes: each is held to the graph before it, on data."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import CalibrationError, FxquantError, PassError, TraceError
from fxquant.graph import calls
from fxquant.passmanager import Pass
from fxquant.stage import Stage
from tests.endtoend.attentions import ATTENTIONS, attention
from tests.endtoend.networks import Network
from tests.endtoend.strategy import networks
from tests.passes.graphs import Net, data, drawn, run

WANTED = int(os.environ.get("FXQUANT_FUZZ", "0"))


def hold(model: nn.Module, inputs: tuple[Tensor, ...], dynamic: bool = True) -> fx.GraphModule:
    """The OBSERVED graph, every pass on the way held to the graph before it, and the first one to the model."""
    graph = fxquant.trace(model, inputs, dynamic_batch=dynamic)
    with torch.no_grad():
        expected, found = model(*inputs), graph(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    return fxquant.prepare(graph, observe=fxquant.SameResults(graph, inputs))


@settings(
    max_examples=WANTED or 16,
    derandomize=not WANTED,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(network=networks())
def test_networks_of_the_fuzzer(network: Network) -> None:
    try:
        hold(network.build(), network.data(2, 5), network.dynamic)
    except TraceError as error:
        if "changes its own state or inputs" not in str(error):
            raise


@pytest.mark.parametrize("name", ATTENTIONS)
def test_all_forms_of_attention(name: str) -> None:
    """In float, and as integers: without islands, and without a loss of precision to the masks."""
    model, inputs = attention(name)
    observed = hold(model, inputs)
    fxquant.calibrate(observed, [inputs], progress=False)
    integer = fxquant.convert(observed)
    assert not [n.name for n in integer.graph.nodes if n.meta.get("fxq.island")]
    for real, found in zip(run(model, *inputs), run(integer, *inputs), strict=True):
        noise = float((real - found).square().mean().sqrt() / real.square().mean().sqrt())
        assert noise < 0.06, f"{noise:.3f} of the signal"


@pytest.mark.parametrize(
    "name", ["causal", "boolean buffer", "float buffer, lowest", "filled by hand", "grouped, causal"]
)
def test_what_is_hidden_has_no_weight_at_all(name: str) -> None:
    """Other values for the last token change nothing before it, not by one step."""
    model, inputs = attention(name)
    integer = fxquant.quantize(fxquant.trace(model, inputs), [inputs], progress=False)
    others = [inputs[0], *(x.clone() for x in inputs[1:])]
    for x in others[1:]:
        x[..., -1, :] = -3.0 * x[..., -1, :]
    first, second = run(integer, *inputs)[0], run(integer, *others)[0]
    assert torch.equal(first[..., :-1, :], second[..., :-1, :]) and not torch.equal(first, second)


@dataclass(frozen=True)
class Halve(Pass):
    """A pass that is wrong."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Every linear layer loses its bias."""
        for node in calls(module.graph, torch.ops.aten.linear.default):
            node.args = node.args[:2]
        return module


@dataclass(frozen=True)
class Clear(Pass):
    """A pass over integers that is wrong."""

    needs = gives = Stage.INTEGER

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Weights are gone."""
        for name, buffer in module.named_buffers():
            if name.endswith("_weight"):
                buffer.zero_()
        return module


def test_a_pass_that_changes_something_is_named() -> None:
    model, inputs = drawn(Net(lambda m, x: m.fc(x), fc=nn.Linear(4, 3))), data((2, 4))
    graph = fxquant.trace(model, inputs)
    same = fxquant.SameResults(graph, inputs)
    with pytest.raises(PassError, match=r"^Halve changes what the graph computes: the output fc = aten\.linear"):
        fxquant.prepare_pipeline().before("Annotate", Halve())(graph, same)
    observed = fxquant.prepare(graph)
    fxquant.calibrate(observed, [inputs], progress=False)
    pipeline = fxquant.convert_pipeline().after("FoldQDQ", Clear())
    with pytest.raises(PassError, match=r"^Clear changes what the graph computes: the output fc:dequantize = "):
        pipeline(observed, fxquant.SameResults(observed, inputs))


def test_observers_do_not_look_while_results_are_compared() -> None:
    model, inputs = drawn(Net(lambda m, x: F.relu(m.fc(x)), fc=nn.Linear(4, 3))), data((2, 4))
    observed = hold(model, inputs)
    with pytest.raises(FxquantError, match="no value was observed"):
        fxquant.convert(observed)


def test_inputs_that_do_not_fit_are_refused() -> None:
    graph = fxquant.trace(drawn(Net(lambda m, x: m.fc(x), fc=nn.Linear(4, 3))), data((2, 4)))
    with pytest.raises(CalibrationError, match="has shape"):
        fxquant.SameResults(graph, torch.zeros(2, 5))
