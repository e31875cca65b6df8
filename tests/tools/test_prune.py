"""Structured pruning: what is left computes what the whole graph does with the readers' weights at zero."""

from __future__ import annotations

import random
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import prune as masks

import fxquant as fxq
from fxquant.channels import Following, follow
from fxquant.errors import ArgumentError, PassError, PruningBudgetError
from fxquant.passes import Decompose, FoldConstants, RemoveChannels, RemoveIdentities
from fxquant.source import name_of
from fxquant.target import Target
from fxquant.tools.emulate import emulate
from tests import zoo
from tests.targets.standalone.made import emulated
from tests.zoo.shufflenet import DownUnit, Unit


class Drawn(nn.Module):
    """A random network of residual adds, concats, splits, shuffles, depthwise and grouped layers, gates, and norms."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.kinds, channels = [], 8
        self.parts = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1)])
        for _ in range(6):
            kind = draw.choice(
                ["plain", "residual", "concat", "depthwise", "grouped", "gate", "prelu", "shuffle", "split"]
            )
            made = {"depthwise": channels, "grouped": 2}.get(kind, 1)
            wide = channels if kind in ("residual", "depthwise", "gate", "split") else draw.choice([8, 12])
            taken = channels // 2 if kind == "split" else channels
            kernel = 1 if kind == "gate" else 3
            given = taken if kind == "split" else wide
            self.kinds.append(kind)
            self.parts.append(nn.Conv2d(taken, given, kernel, padding=kernel // 2, groups=made))
            self.parts.append(nn.BatchNorm2d(given))
            self.parts.append(nn.PReLU(given))
            channels = channels + wide if kind == "concat" else wide
        self.hidden, self.last = nn.Linear(channels * 4, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 4, 4) to (N, 5)."""
        x = self.parts[0](x)
        for place, kind in enumerate(self.kinds):
            conv, norm, slope = self.parts[3 * place + 1 : 3 * place + 4]
            if kind == "gate":
                x = x * torch.sigmoid(norm(conv(x.mean((2, 3), keepdim=True))))
            elif kind == "split":
                a, b = x.chunk(2, 1)
                x = torch.cat([a, torch.relu(norm(conv(b)))], 1)
            else:
                y = norm(conv(x))
                y = slope(y) if kind == "prelu" else torch.relu(y)
                x = x + y if kind == "residual" else torch.cat([x, y], 1) if kind == "concat" else y
                if kind == "shuffle":
                    n, c, h, w = x.shape
                    x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = nn.functional.max_pool2d(x, 2)
        found: Tensor = self.last(torch.relu(self.hidden(torch.flatten(x, 1))))
        return found


def _graph(model: nn.Module, *x: Tensor) -> fx.GraphModule:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return fxq.trace(model.eval(), x)


def _plain(graph: fx.GraphModule) -> fx.GraphModule:
    for step in (RemoveIdentities(), Decompose(), FoldConstants()):
        graph = step(graph)
    return graph


def _zeroed(plain: fx.GraphModule, found: Following, groups: set[int]) -> None:
    """The readers' weights of removed channels at zero, in place."""
    for layer in found.layers:
        weight = attrgetter(layer.weight)(plain).detach()
        axis = 0 if "transpose" in str(layer.node.target) else 1
        gone = found.removed(layer.columns, groups)
        groups_of = len(layer.columns) // weight.shape[axis]
        if groups_of < len(layer.columns) or len(layer.columns) == 1:  # depthwise layers read their own channel only
            weight.index_fill_(axis, torch.nonzero(gone[: weight.shape[axis]]).flatten(), 0.0)


def _some(found: Following, seed: int) -> set[int]:
    """About half of the groups of each layer that may go, not all."""
    draw, gone = random.Random(seed), set[int]()
    for layer in found.layers:
        free = sorted(set(found.roots[layer.rows].tolist()) - set(found.kept))
        if not gone & set(free):
            gone.update(draw.sample(free, len(free) // 2))
    for layer in found.layers:
        for labels in (layer.rows, layer.columns):
            if (groups := set(found.roots[labels].tolist())) <= gone:
                gone.remove(min(groups))
    return gone


def _check(graph: fx.GraphModule, x: tuple[Tensor, ...], seed: int = 0) -> tuple[int, int]:
    """How many rows of weights there were, and how many went."""
    plain = _plain(graph)
    found = follow(plain)
    groups = _some(found, seed)
    gone = {name_of(x.node): torch.nonzero(found.removed(x.rows, groups)).flatten().tolist() for x in found.layers}
    pruned = RemoveChannels({name: tuple(some) for name, some in gone.items() if some})(plain)
    _zeroed(plain, found, groups)
    with torch.no_grad():
        torch.testing.assert_close(pruned(*x), plain(*x), rtol=1e-3, atol=1e-4)
    return sum(len(x.rows) for x in found.layers), sum(len(some) for some in gone.values())


@pytest.mark.parametrize("seed", range(6))
def test_pruned_is_the_whole_graph_without_what_went(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(2, 3, 4, 4)
    rows, gone = _check(_graph(Drawn(seed), x), (x,), seed)
    assert gone >= 0.15 * rows


# The share of channels that go where half of what may go is asked for.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "resnet8": (lambda: zoo.build("resnet8"), (1, 3, 32, 32), 0.25),
    "ds_cnn": (lambda: zoo.build("ds_cnn"), (1, 1, 49, 10), 0.4),
    "shufflenet": (lambda: nn.Sequential(DownUnit(8, 24), Unit(24), Unit(24), nn.Conv2d(24, 4, 1)), (1, 8, 8, 8), 0.1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    make, shape, share = NETWORKS[name]
    torch.manual_seed(0)
    x = torch.randn(shape)
    rows, gone = _check(_graph(make(), x), (x,))
    assert gone >= share * rows, (rows, gone)


def _small() -> tuple[fx.GraphModule, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()]
    x = torch.randn(4, 3, 8, 8)
    return _graph(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 36, 5)), x), x


def test_a_share_goes_and_the_graph_given_stays() -> None:
    graph, x = _small()
    before = graph(x)
    pruned = fxq.prune(graph, 0.5)
    report = fxq.pruning_report(pruned)
    assert [layer.channels for layer in report.layers] == [(16, 8), (16, 8), (5, 5)]
    assert report.macs == (16 * 27 * 64 + 16 * 144 * 36 + 5 * 576, 8 * 27 * 64 + 8 * 72 * 36 + 5 * 288)
    assert report.layers[-1].kept == "it is an output of the model" and "kept whole" in str(report)
    assert torch.equal(graph(x), before) and pruned(x).shape == (4, 5)


def test_budgets_are_met_or_named() -> None:
    graph, _ = _small()
    macs, size = (fxq.pruning_report(fxq.prune(graph, budget={"macs": 0.5, "weight_bytes": 3000})).__getattribute__(n)
                  for n in ("macs", "weight_bytes"))  # fmt: skip
    assert 0.2 * macs[0] < macs[1] <= 0.5 * macs[0] and size[1] <= 3000
    with pytest.raises(PruningBudgetError, match="cannot be met") as refused:
        fxq.prune(graph, budget={"macs": 100})
    assert fxq.pruning_report(fxq.prune(graph, budget={"macs": refused.value.nearest})).macs[1] == refused.value.nearest


def test_taylor_keeps_what_the_loss_needs() -> None:
    graph, x = _small()
    state = graph.state_dict()
    state["3.weight"][:, :8] = 0  # nothing reads these channels, though their own weights are the largest
    state["0.weight"][:8] *= 10
    labels = torch.arange(4)
    pruned = fxq.prune(graph, 0.5, by="taylor", data=[(x, labels)], loss=nn.functional.cross_entropy)
    assert torch.equal(pruned.state_dict()["0.weight"], state["0.weight"][8:])
    assert not torch.equal(fxq.prune(graph, 0.5).state_dict()["0.weight"], state["0.weight"][8:])


def test_what_comes_out_trains() -> None:
    graph, x = _small()
    pruned = fxq.prune(graph, 0.5)
    optimizer = torch.optim.Adam(pruned.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(pruned(x), torch.arange(4))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def _on_device(graph: fx.GraphModule, x: Tensor, target: Target, path: Path) -> tuple[int, int]:
    """Bytes of flash, and instructions of one run."""
    made = fxq.export(fxq.quantize(graph, [x], progress=False), target, path, name="net")
    run = emulate(made.files, "net", made.report, target)
    assert run.wrong == 0 and run.instructions is not None
    return made.report["flash_bytes"], run.instructions


@pytest.mark.parametrize("target", emulated("cortex-m4"))
def test_flash_and_instructions_shrink_with_the_multiply_accumulates(target: Target, tmp_path: Path) -> None:
    """Instructions follow MACs, but for what a run costs whatever the channels are: loops, inputs, requantizing.

    Less than half of the MACs may cost 0.6 of the instructions where any number of channels may stay (tiles have rests
    then); where multiples of 4 stay, they cost hardly more than their share.
    """
    graph, x = _small()
    whole = _on_device(graph, x, target, tmp_path / "whole")
    halved = fxq.prune(graph, budget={"macs": 0.5}, multiple=1)
    even = fxq.prune(graph, 0.5)
    shares = [after / before for before, after in (fxq.pruning_report(g).macs for g in (halved, even))]
    assert 0.4 < shares[0] <= 0.5
    some, less = (_on_device(g, x, target, tmp_path / str(k)) for k, g in enumerate((halved, even)))
    assert some[0] < whole[0] and some[1] < 0.6 * whole[1]
    assert less[0] < 0.8 * whole[0] and less[1] < (shares[1] + 0.05) * whole[1]


def test_bad_use_is_named() -> None:
    graph, _ = _small()
    wrong: list[dict[str, Any]] = [{}, {"amount": 1.0}, {"budget": {"ram": 1}}, {"amount": 0.5, "by": "taylor"},
             {"amount": 0.5, "by": "size"}, {"amount": 0.5, "multiple": 0}]  # fmt: skip
    for options in wrong:
        with pytest.raises(ArgumentError):
            fxq.prune(graph, **options)
    with pytest.raises(ArgumentError, match="not made by"):
        fxq.pruning_report(graph)
    with pytest.raises(PassError, match="has to stay: it is an output"):
        RemoveChannels({"6": (0,)})(_plain(graph))
    with pytest.raises(PassError, match="would have no channel left"):
        RemoveChannels({"0": tuple(range(16))})(_plain(graph))
    with pytest.raises(PassError, match="no layer 'x'"):
        RemoveChannels({"x": (0,)})(_plain(graph))
    with pytest.raises(PassError, match="channels 0 to 15"):
        RemoveChannels({"0": (16,)})(_plain(graph))


def _masked() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    for layer in (model[0], model[3]):
        masks.l1_unstructured(layer, "weight", 0.6)  # type: ignore[no-untyped-call]
    return model, torch.randn(4, 3, 8, 8)


def _zeros(integer: fx.GraphModule, model: nn.Module) -> list[bool]:
    masked = [module.weight_mask == 0 for module in model.modules() if hasattr(module, "weight_mask")]
    weights = [w for name, w in integer.named_buffers() if name.endswith("_weight")]
    assert len(weights) == len(masked)
    return [bool((w[m] == 0).all()) and bool((w != 0).any()) for w, m in zip(weights, masked, strict=True)]


def test_masks_are_exact_zeros_in_the_integer_graph() -> None:
    model, x = _masked()
    assert all(_zeros(fxq.quantize(fxq.trace(model, x), [x]), model))
