"""effort="balanced": better outputs on new inputs, the same integers compiled, and everything told."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.errors import CalibrationError, RecipeError
from fxquant.gains import gains_of
from fxquant.recipe import Recipe
from tests.passes.graphs import Net, batches, data, drawn

STEPS = ["FitRanges", "EqualizeLayers", "WidenValues", "EqualizeTables", "CorrectBiases"]
COARSE = Recipe.from_dict({"rules": [{"match": "*", "weight": {"bits": 4}}]})


def _net() -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = F.relu(m.b(F.relu(m.a(x))))
        out: Tensor = m.fc((F.relu(m.c(y)) + y).mean((2, 3)))
        return out

    parts = {"a": nn.Conv2d(3, 8, 3, padding=1), "b": nn.Conv2d(8, 8, 3, padding=1, groups=8), "c": nn.Conv2d(8, 8, 1)}
    net = drawn(Net(forward, **parts, fc=nn.Linear(8, 5)))
    with torch.no_grad():
        factors = torch.logspace(-1.5, 1.2, 8)
        net.a.weight.mul_(factors.reshape(-1, 1, 1, 1))
        net.a.bias.mul_(factors)
    return net


def _noise(found: nn.Module, net: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        return float((found(inputs) - net(inputs)).square().mean())


@pytest.mark.parametrize("recipe", [Recipe(), COARSE], ids=["8 bits", "4 bits"])
def test_balanced_is_better_on_new_inputs_and_exact(recipe: Recipe) -> None:
    net = _net()
    (inputs,), (fresh,) = data((64, 3, 8, 8)), data((48, 3, 8, 8), seed=7)
    graph = fxquant.trace(net, (inputs[:2],))
    fast, better = (
        fxquant.quantize(graph, batches(inputs, 16), recipe=recipe, effort=effort) for effort in ("fast", "balanced")
    )
    assert _noise(better, net, fresh) < 0.6 * _noise(fast, net, fresh)
    assert not gains_of(fast)
    gains = gains_of(better)
    assert [gain.step for gain in gains] == STEPS
    assert all(gain.after >= gain.before for gain in gains) and fxquant.report(better).gains == gains
    with fxquant.compile(better, threads=1, against_float=False) as compiled:
        assert torch.equal(compiled(fresh), better(fresh))


def _small() -> Net:
    return drawn(Net(lambda m, x: m.fc(F.relu(m.a(x)).mean((2, 3))), a=nn.Conv2d(3, 4, 3), fc=nn.Linear(4, 2)))


def test_the_result_does_not_depend_on_the_loaders_batch() -> None:
    (inputs,) = data((64, 3, 8, 8))
    graph = fxquant.trace(_small(), (inputs[:2],))
    found = [fxquant.quantize(graph, batches(inputs, size), effort="balanced") for size in (4, 32)]
    assert torch.equal(found[0](inputs), found[1](inputs))


def test_a_generator_is_refused_with_the_remedy() -> None:
    (inputs,) = data((8, 3, 8, 8))
    graph = fxquant.trace(_small(), (inputs[:2],))
    with pytest.raises(CalibrationError, match="a generator, used up after one turn"):
        fxquant.quantize(graph, iter(batches(inputs, 4)), effort="balanced")


def test_an_effort_that_there_is_not() -> None:
    (inputs,) = data((8, 3, 8, 8))
    with pytest.raises(RecipeError, match="there is no effort 'most'; there are: fast, balanced, max"):
        fxquant.quantize(fxquant.trace(_small(), (inputs,)), [inputs], effort="most")  # type: ignore[arg-type]


def test_ranges_of_run_time_leave_nothing_to_fit() -> None:
    (inputs,) = data((8, 3, 8, 8))
    found = fxquant.quantize(fxquant.trace(_small(), (inputs,)), recipe="dynamic", effort="balanced")
    assert "nothing to fit" in str(gains_of(found)[0])


def test_labels_are_dropped_by_transform() -> None:
    (inputs,) = data((16, 3, 8, 8))
    graph = fxquant.trace(_small(), (inputs[:2],))
    pairs = [(x, torch.zeros(len(x))) for x in batches(inputs, 8)]
    found = fxquant.quantize(graph, pairs, transform=lambda batch: batch[0], effort="balanced")
    assert gains_of(found)


def test_outputs_of_any_kind() -> None:
    """Numbers, classes and truths; of several inputs, one of them integers."""

    def forward(m: Net, x: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        y = m.fc(F.relu(m.a(x)).mean((2, 3)) + m.table(places))
        return y, y.argmax(1), y > 0

    net = drawn(Net(forward, a=nn.Conv2d(3, 4, 3), fc=nn.Linear(4, 2), table=nn.Embedding(5, 4)))
    inputs = (*data((32, 3, 6, 6)), torch.arange(32) % 5)
    graph = fxquant.trace(net, inputs)
    found = fxquant.quantize(graph, [inputs], effort="balanced")
    assert [gain.step for gain in gains_of(found)] == STEPS
    assert float((found(*inputs)[0] - net(*inputs)[0]).detach().abs().max()) < 0.1


def test_few_inputs_are_warned_of() -> None:
    (inputs,) = data((40, 3, 8, 8))
    graph = fxquant.trace(_small(), (inputs[:2],))
    with pytest.warns(UserWarning, match="has 8 calibration inputs, of which 2 judge what is kept.*give 32 and more"):
        fxquant.quantize(graph, batches(inputs[:8], 4), effort="balanced", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fxquant.quantize(graph, batches(inputs, 8), effort="balanced", progress=False)
