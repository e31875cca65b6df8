"""A TRAINING graph as a module: how it is made, what it refuses, and what it converts to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import CalibrationError, PassOrderError, StageError, TrainingError
from fxquant.stage import Stage, stage_of
from fxquant.training import Step
from tests.training.models import DATA, Mixed, traced, trained


# More steps towards outputs of zero would leave 2 bits little else to give.
@pytest.mark.parametrize(("bits", "steps"), [(8, 2), (4, 2), (2, 1)])
def test_compiled_code_gives_what_training_saw(bits: int, steps: int) -> None:
    model = trained(bits, steps)
    integer = fxquant.convert(model)
    with fxquant.compile(integer, against_float=False) as net:
        for x in (*DATA, 3.0 * DATA[0]):
            seen = model(x)
            assert torch.equal(model.eval()(x), seen) and torch.equal(integer(x), seen) and torch.equal(net(x), seen)
            model.train()
    assert len(seen.unique()) > 2, "the outputs tell nothing"


def test_training_lowers_the_loss_and_moves_every_parameter() -> None:
    model = trained(4, steps=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = float(loss(model).detach())
    optimizer = torch.optim.Adam(fxquant.qat_parameters(model), lr=0.03)
    for _ in range(12):
        optimizer.zero_grad()
        loss(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss(model).detach()) < 0.7 * first
    still = [name for name, p in model.named_parameters() if torch.equal(p.detach(), before[name])]
    assert not still


def loss(model: nn.Module) -> Tensor:
    targets = torch.arange(len(DATA[0])) % 5
    return nn.functional.cross_entropy(model(DATA[0]), targets)


def test_the_model_is_not_changed_and_names_are_the_models_own() -> None:
    graph = traced()
    made = fxquant.prepare_qat(graph, None, DATA, progress=False)
    assert stage_of(graph) is Stage.FLOAT and not list(graph.parameters())
    own, found = set(dict(Mixed().named_parameters())), set(dict(made.named_parameters()))
    assert own <= found and all("step" in name for name in found - own)
    assert made.training and stage_of(made) is Stage.TRAINING


def test_an_observed_graph_that_is_calibrated_is_taken_as_it_is() -> None:
    observed = fxquant.prepare(traced(), {"weight": {"bits": 4}})
    fxquant.calibrate(observed, DATA, progress=False)
    made = fxquant.prepare_qat(observed)
    assert torch.equal(
        made.eval()(DATA[0]), fxquant.prepare_qat(traced(), {"weight": {"bits": 4}}, DATA).eval()(DATA[0])
    )
    with pytest.raises(StageError, match="prepared by a recipe already"):
        fxquant.prepare_qat(observed, {"weight": {"bits": 4}})


@pytest.mark.parametrize("exact", [True, False])
def test_modes_of_rounding_are_close_in_training_and_the_same_in_eval(exact: bool) -> None:
    model = fxquant.prepare_qat(traced(), None, DATA, exact=exact, freeze_after=0, progress=False)
    found, deployed = model(DATA[0]), fxquant.convert(model)(DATA[0])
    step = (deployed.max() - deployed.min()) / 255
    assert torch.equal(found, deployed) is exact
    assert float((found - deployed).detach().abs().max()) < 8 * float(step.detach())
    assert torch.equal(model.eval()(DATA[0]), deployed)


def test_what_cannot_be_trained_or_converted_says_what_to_call() -> None:
    with pytest.raises(CalibrationError, match="no calibration data"):
        fxquant.prepare_qat(traced())
    with pytest.raises(TrainingError, match="range that is found at run time"):
        fxquant.prepare_qat(traced(), "dynamic", DATA, progress=False)
    live = fxquant.prepare_qat(traced(), None, DATA, progress=False)
    with pytest.raises(TrainingError, match=r"call fxq.freeze_norms\(model\)"):
        fxquant.convert(live)
    with pytest.raises(PassOrderError, match="needs a FLOAT graph and got a INTEGER one"):
        fxquant.prepare_qat(fxquant.convert(trained(8, 0)), None, DATA)
    with pytest.raises(TrainingError, match=r"no TRAINING graph in it: make one of a traced model by fxq.prepare_qat"):
        fxquant.qat_parameters(nn.Linear(2, 2))
    lost = trained(8, 0)
    with torch.no_grad():
        next(lost.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"values of .* are nan or infinite: training has lost them"):
        fxquant.convert(lost)


def test_a_wrong_call_names_the_inputs() -> None:
    model: Any = trained(8, 0)
    assert torch.equal(model(x=DATA[0]), model(DATA[0]))
    with pytest.raises(TypeError, match="this graph takes x; given were 2 inputs"):
        model(DATA[0], DATA[0])


def test_steps_are_shared_where_ranges_are() -> None:
    model = trained(8, 0)
    called = [str(node.target) for node in model.graph.find_nodes(op="call_module")]
    assert max(called.count(name) for name in called) > 2, "the concat, its parts and the pool are one set"


def test_a_range_that_mathematics_knows_is_not_learned() -> None:
    graph = fxquant.trace(nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), torch.randn(2, 4))
    model = fxquant.prepare_qat(graph, None, [torch.randn(8, 4)], progress=False)
    known = {name for name, part in model.named_modules() if isinstance(part, Step) and not part.learned}
    assert known == {"softmax_step"} and not list(model.get_submodule("softmax_step").parameters())
