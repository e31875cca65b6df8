"""Sensitivity and search: the noise is found where it is made, budgets are kept, and recipes give the points again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import AccuracyTargetError, CalibrationError, FxquantError, RecipeError
from fxquant.gains import gains_of
from fxquant.tools import accuracy_target
from fxquant.tools.search.records import Search
from tests.passes.graphs import Net, batches, data, drawn


def _forward(m: Net, x: Tensor) -> Tensor:
    y = x + m.a(x)
    out: Tensor = m.c(m.n(y + m.b(F.relu(y))))
    return out


def _net() -> Net:
    """A residual stream with one channel that is 60 times larger than the others."""
    net = drawn(Net(_forward, a=nn.Linear(16, 16), b=nn.Linear(16, 16), n=nn.LayerNorm(16), c=nn.Linear(16, 4)))
    with torch.no_grad():
        for layer in (net.a, net.b):
            layer.weight[3] *= 60
        net.b.weight[:, 3] /= 60
        net.n.weight[3] /= 60
    return net


(INPUTS,) = data((32, 16))
BATCHES = batches(INPUTS, 16)


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    return fxquant.trace(_net(), (INPUTS[:2],))


@pytest.fixture(scope="module")
def found(graph: fx.GraphModule) -> Search:
    return fxquant.search(graph, BATCHES, choices=("float", 16, 8, 4), most=8, progress=False)


def test_the_first_origins_are_measured(graph: fx.GraphModule) -> None:
    seen = fxquant.sensitivity(graph, BATCHES, verify=3, progress=False)
    first, *others = seen.origins
    assert (first.name, first.kind) == ("add", "value") and first.share > 0.4
    assert sum(o.share for o in seen.origins) == pytest.approx(1.0)
    assert [o.exact is None for o in seen.origins[:4]] == [False, False, False, True]
    assert first.exact is not None and all(first.exact < o.exact for o in others if o.exact is not None)
    assert {o.name for o in seen.origins if o.kind == "weights"} == {"a", "b", "c"}
    assert "add" in seen.text() and json.dumps(seen.to_json())


def test_points_have_less_loss_for_wide_values_and_less_bytes_for_few_bits(found: Search) -> None:
    plain = next(p for p in found.points if not (p.wide or p.weights or p.floats))
    assert plain.size == 16 * 16 * 2 + 16 * 4
    wide = min((p for p in found.points if p.wide and not p.weights), key=lambda p: p.loss)
    assert wide.loss < 0.3 * plain.loss and wide.time > plain.time and "add" in wide.wide
    few = [p for p in found.points if len(p.weights) == 3 and not p.floats]
    assert few and all(p.size == plain.size // 2 for p in few)
    assert found.best is min(found.points, key=lambda p: p.loss) and found.best in found.front
    for point in found.front:
        assert not any(o.loss < point.loss and o.size < point.size and o.ram < point.ram and o.time < point.time
                       for o in found.points)  # fmt: skip


def test_a_point_is_a_recipe(graph: fx.GraphModule, found: Search) -> None:
    point = min((p for p in found.points if p.wide and p.weights), key=lambda p: p.loss)
    again = fxquant.quantize(graph, BATCHES, recipe=point.recipe, progress=False)
    real, got = graph(INPUTS), again(INPUTS)
    assert float((real - got).square().sum() / real.square().sum()) < 0.3
    with fxquant.compile(again, threads=1, against_float=False) as compiled:
        assert torch.equal(compiled(INPUTS), got)


def test_budgets(graph: fx.GraphModule, found: Search) -> None:
    limits = {"size": 400, "loss": 50.0}
    few = fxquant.search(graph, BATCHES, budget=limits, choices=(8, 4), most=4, progress=False)
    assert few.best is not None and few.best.size <= 400
    none = fxquant.search(graph, BATCHES, budget={"size": 10}, choices=(8, 4), most=3, progress=False)
    assert none.best is None and "size <= 10" in none.text()


def test_it_is_shown_and_kept(found: Search, tmp_path: Path) -> None:
    found.save(tmp_path / "found.json")
    kept = json.loads((tmp_path / "found.json").read_text())
    assert len(kept["points"]) == len(found.points) and kept["points"][kept["best"]]["loss"] == found.best.loss  # type: ignore[union-attr]
    for across in ("size", "ram", "time"):
        found.save(tmp_path / "found.svg", across)
        assert (tmp_path / "found.svg").read_text().count("<circle") == len(found.points)
    assert "best" in found.text()
    with pytest.raises(FxquantError, match=r"saved as \.svg or \.json"):
        found.save(tmp_path / "found.png")
    with pytest.raises(FxquantError, match="drawn over size, ram, time"):
        found.picture("bytes")


def test_what_there_is_not(graph: fx.GraphModule) -> None:
    with pytest.raises(RecipeError, match="; 5 is none of these"):
        fxquant.search(graph, BATCHES, choices=(5,))
    with pytest.raises(RecipeError, match="a budget limits loss, size, ram, time, not 'watts'"):
        fxquant.search(graph, BATCHES, budget={"watts": 1.0})
    with pytest.raises(CalibrationError, match="a generator"):
        fxquant.sensitivity(graph, iter(BATCHES))


def _metric(real: Tensor) -> object:
    """Percent of the power that is right."""

    def worth(module: fx.GraphModule) -> float:
        return 100.0 * (1.0 - float((module(INPUTS) - real).square().sum() / real.square().sum()))

    return worth


def test_the_first_effort_that_is_good_enough_is_taken(graph: fx.GraphModule) -> None:
    metric = _metric(graph(INPUTS))
    found = fxquant.quantize(graph, BATCHES, accuracy_target=50.0, metric=metric, progress=False)  # type: ignore[arg-type]
    (gain,) = gains_of(found)
    assert gain.step == "accuracy_target" and gain.places == 1 and "fast loses" in gain.note
    found = fxquant.quantize(graph, BATCHES, accuracy_target=1.0, metric=metric, progress=False)  # type: ignore[arg-type]
    gain = gains_of(found)[-1]
    assert gain.places > 1 and gain.after <= 1.0 < gain.before


def test_it_is_said_why_none_is(graph: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_target, "IN_FLOAT", ())
    with pytest.raises(AccuracyTargetError, match=r"fast: .*(?s:.)*noise is made by add \(") as raised:
        fxquant.quantize(graph, BATCHES, accuracy_target=-1.0, metric=_metric(graph(INPUTS)), progress=False)  # type: ignore[arg-type]
    assert raised.value.best(INPUTS).shape == (32, 4)


def test_a_target_needs_a_metric(graph: fx.GraphModule) -> None:
    with pytest.raises(RecipeError, match="accuracy_target and metric go together"):
        fxquant.quantize(graph, BATCHES, accuracy_target=1.0)
