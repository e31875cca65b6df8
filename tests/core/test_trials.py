"""Samples to fit to and to judge by, and graphs run node by node."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.errors import CalibrationError
from fxquant.trials import JUDGES, Trials, as_trials
from fxquant.walk import Walk
from tests.passes.graphs import Net, batches, data, drawn, run


def _net() -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = F.relu(m.a(x))
        out: Tensor = m.b(y) + y.mean()
        return out

    return drawn(Net(forward, a=nn.Conv2d(2, 3, 1), b=nn.Conv2d(3, 2, 1)))


def _numbered(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 2, 3, 3).contiguous()


def _numbers(trials: Trials) -> tuple[list[int], list[int]]:
    fit, judge = ([int(x) for batch in part for x in batch[0][:, 0, 0, 0]] for part in (trials.fit, trials.judge))
    return fit, judge


@pytest.mark.parametrize("samples", [8, 30, 100])
def test_the_choice_does_not_depend_on_how_the_loader_cuts(samples: int) -> None:
    graph = fxquant.trace(_plain(), (_numbered(2),))
    found = [_numbers(as_trials(graph, batches(_numbered(50), size), samples)) for size in (1, 7, 50)]
    assert found[0] == found[1] == found[2]
    fit, judge = found[0]
    assert len(fit) + len(judge) == min(samples, 50) and not set(fit) & set(judge)
    assert len(judge) == min(samples, 50) // JUDGES and fit == sorted(fit)


def _plain() -> nn.Module:
    return drawn(Net(lambda m, x: m.a(x), a=nn.Conv2d(2, 3, 1)))


def test_every_sample_has_its_chance() -> None:
    graph = fxquant.trace(_plain(), (_numbered(2),))
    fit, judge = _numbers(as_trials(graph, batches(_numbered(400), 50), 40))
    assert max(fit + judge) > 300 and min(fit + judge) < 100


def test_one_sample_is_too_few() -> None:
    graph = fxquant.trace(_plain(), (_numbered(2),))
    with pytest.raises(CalibrationError, match="1 calibration inputs are too few"):
        as_trials(graph, [_numbered(1)])
    with pytest.raises(CalibrationError, match=r"calibration input 0: inputs_0 has shape \(2, 3\)"):
        as_trials(graph, [torch.zeros(2, 3)])


def test_a_fixed_batch_stays_whole() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return x - x.mean(0)

    graph = fxquant.trace(Net(forward), (torch.zeros(4, 2),))
    trials = as_trials(graph, [torch.full((4, 2), float(n)) for n in range(5)])
    assert [batch[0].shape[0] for batch in trials.all] == [4] * 5


def test_a_walk_gives_what_a_run_gives_and_drops_what_nobody_reads() -> None:
    net, several = _net(), [list(data((2, 2, 4, 4), seed=seed)) for seed in (1, 2)]
    graph = fxquant.trace(net, tuple(several[0]))
    walk, most = Walk(graph, several), 0
    for _ in walk:
        most = max(most, len([node for node in walk.values if node.op == "call_function"]))
    (found,) = walk.outputs()
    assert most <= 3 < len([node for node in graph.graph.nodes if node.op == "call_function"])
    for got, batch in zip(found, several, strict=True):
        torch.testing.assert_close(got, run(net, *batch)[0])
