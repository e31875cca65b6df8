"""Batch norms while training: live, frozen, folded; and the traps that users of other tools fell into."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import TrainingError
from fxquant.observers.base import Observer
from fxquant.training import LiveNorm, Step, WeightStep, fold_weight
from tests.training.models import DATA, traced, trained


def norms(model: nn.Module) -> list[LiveNorm]:
    return [part for part in model.modules() if isinstance(part, LiveNorm)]


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("exact", [True, False])
def test_a_live_norm_normalizes_as_the_models_own(exact: bool) -> None:
    plain = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 4, 3, groups=2), nn.BatchNorm2d(4)
    )
    graph = fxquant.trace(copy.deepcopy(plain).eval(), DATA[0])
    calibration = [DATA[0] * 8.0]  # the norms know no statistics yet
    model = fxquant.prepare_qat(graph, {"activation": {"bits": 16}}, calibration, exact=exact, progress=False)
    found, wanted = model(DATA[0]), plain.train()(DATA[0])
    assert float((found - wanted).detach().abs().max()) < 0.05
    own = dict(plain.named_buffers())
    for name, buffer in statistics(model).items():
        assert torch.allclose(buffer, own[name], atol=2e-3), name
    found.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.endswith("step"))


@pytest.mark.parametrize(
    "parts",
    [
        [nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)],
        [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4, affine=False)],
        [nn.Flatten(), nn.Linear(192, 6, bias=False), nn.BatchNorm1d(6)],
    ],
    ids=["first", "alone", "linear"],
)
def test_norms_in_other_places(parts: list[nn.Module]) -> None:
    graph = fxquant.trace(nn.Sequential(*parts).eval(), DATA[0])
    model = fxquant.prepare_qat(graph, {"weight": {"bits": 4}}, DATA, progress=False)
    assert len(norms(model)) == 1
    optimizer = torch.optim.SGD(fxquant.qat_parameters(model), lr=0.1)
    for x in DATA * 2:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    fxquant.freeze_norms(model)
    assert torch.equal(model(DATA[0]), fxquant.convert(model)(DATA[0]))


def test_frozen_on_schedule_or_by_call() -> None:
    model = fxquant.prepare_qat(traced(), None, DATA, freeze_after=2, progress=False)
    states = []
    for x in (*DATA, DATA[0]):
        model(x)
        states.append(statistics(model))
    assert not any(norm.live for norm in norms(model)), "after two batches"
    moved = [any(not torch.equal(a[n], b[n]) for n in a) for a, b in itertools.pairwise(states)]
    assert moved == [True, False], "the third batch moves nothing"
    assert torch.equal(model(DATA[0]), fxquant.convert(model)(DATA[0]))
    with pytest.raises(TrainingError, match="2 batch norms still go by the statistics of each batch"):
        fxquant.convert(trained(8, 0, live=True))


def test_nothing_moves_in_eval_mode_or_when_it_is_converted() -> None:
    """Statistics left in training mode after an export; ranges that move after the last step."""
    model = trained(4, steps=1, live=True).eval()
    before = copy.deepcopy(model.state_dict())
    first = model(DATA[0])
    model(DATA[1] * 100.0)
    assert torch.equal(model(DATA[0]), first)
    fxquant.freeze_norms(model)
    integers = [fxquant.convert(model) for _ in range(2)]
    assert torch.equal(integers[0](DATA[0]), first) and torch.equal(integers[1](DATA[0]), first)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) or name.endswith("norm._extra_state"), name


def test_what_is_rounded_is_folded_by_running_statistics() -> None:
    model = trained(8, steps=1, live=True)
    found: list[Tensor] = []
    step = model.get_submodule("conv2d_weight_step")
    assert isinstance(step, WeightStep)
    step.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach()))
    model.exact = False
    norm = dict(model.named_buffers())
    weight = fold_weight(
        model.get_parameter("stem.weight"),
        model.get_parameter("norm.weight"),
        norm["norm.running_var"].clone(),
        1e-5,
        0,
    )
    model(DATA[0] * 3.0)
    assert torch.equal(found[0], weight.detach())


def test_there_is_one_way_to_round() -> None:
    """x / s, not x * (1 / s), which differ by a code where x is halfway; and no observer is left to be on or off."""
    model = trained(8, 0)
    assert not any(isinstance(part, Observer) for part in model.modules())
    step = model.get_submodule("x_step")
    assert isinstance(step, Step)
    scale = torch.tensor(step.qparams().one_scale)
    halves = (torch.arange(-100, 92) + 0.5) * scale
    near = torch.cat([halves, halves.nextafter(torch.tensor(9e9)), halves.nextafter(torch.tensor(-9e9))])
    differ = torch.round(near / scale) != torch.round(near * (1 / scale))
    x = near[differ].repeat(20)[:192].reshape(1, 3, 8, 8)
    assert int(differ.sum()) > 10
    assert torch.equal(model(x), fxquant.convert(model)(x))
