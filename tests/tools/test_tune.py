"""`export(tune=True)`: tiles searched under emulation, the same every time, never worse, and kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from typer.testing import CliRunner

import fxquant
from fxquant import targets
from fxquant.cli import app
from fxquant.errors import TargetError
from fxquant.target import Target
from fxquant.targets.kernels.choosing import Choose, modelled
from fxquant.targets.kernels.contract.template import Candidate
from fxquant.targets.kernels.convolution.strip.tile import Tile
from fxquant.targets.standalone.export import standalone
from fxquant.targets.standalone.network import network
from fxquant.tools.emulate import emulate
from fxquant.tools.emulate.programs import EmulationError
from fxquant.tools.emulate.run import ModelRun
from fxquant.tools.tuning import Database, counted, tuned
from fxquant.tools.tuning import instructions as module
from fxquant.tools.tuning.instructions import Instructions
from fxquant.tools.tuning.search import Recorder
from tests.targets.standalone.made import emulated, quantized


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    """A stem, a 3x3, a 1x1 and a linear layer, all with several tiles to choose from."""
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 1), nn.ReLU(), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(32, 12),
    )  # fmt: skip
    return fxquant.integer_ports(quantized(model, torch.randn(4, 3, 7, 7)))


@pytest.fixture(scope="module")
def few() -> fx.GraphModule:
    """Two layers with tiles to choose from, for searches whose counts are made up."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 36, 4))
    return fxquant.integer_ports(quantized(model, torch.randn(4, 4, 6, 6)))


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every search is made, unless a test says where it is kept."""
    monkeypatch.setenv("FXQUANT_CACHE", "off")


def made_up(_files: Any, _name: str, report: Any, _on: Target) -> ModelRun:
    """Counts as they may be, without a machine that makes them: products, and more of them for a larger tile."""
    layers = [
        1000 + layer["macs"] + (sum(layer["tile"].values()) if layer["tile"] else 0) for layer in report["layers"]
    ]
    return ModelRun(0, sum(layers), tuple(layers), 0)


def instructions(graph: fx.GraphModule, target: Target, choose: Choose) -> int:
    made = standalone(graph, target, "net", choose=choose)
    run = emulate(made.files, "net", made.report, target)
    assert run.wrong == 0 and run.instructions is not None
    return run.instructions


def found(graph: fx.GraphModule, target: Target) -> list[Candidate]:
    """What a search, or the cache, says of every layer."""
    choose, seen = counted(graph, target, progress=False), Recorder(modelled)
    network(graph, target, "net", seen)
    return [choose(offer) for offer, _ in seen.picked]


@pytest.mark.parametrize("target", emulated("cortex-m4", "cortex-m55", "aarch64-dotprod"))
def test_never_worse(target: Target, graph: fx.GraphModule) -> None:
    known = Database(target)
    tuned(Instructions(graph, target), known, progress=False)
    assert len(known) == 4
    assert instructions(graph, target, known.choose) <= instructions(graph, target, modelled)


@pytest.mark.parametrize("target", emulated("cortex-m55"))
def test_always_the_same(target: Target) -> None:
    graph = fxquant.integer_ports(quantized(nn.Conv2d(3, 16, 3, padding=1), torch.randn(4, 3, 7, 7)))
    first, again = (found(graph, target) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("target", emulated("cortex-m4"))
def test_the_least_of_all_trials_is_found(target: Target, few: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer's counts are made up: the tile with the least of them is picked."""
    seen: list[Tile] = []

    def fake(files: Any, name: str, report: Any, on: Target) -> ModelRun:
        run = made_up(files, name, report, on)
        tile = Tile(**report["layers"][0]["tile"])
        seen.append(tile)
        cost = 10 if len(seen) > 2 and tile == seen[2] else 10_000_000
        assert run.layers is not None
        return replace(run, layers=(cost, *run.layers[1:]))

    monkeypatch.setattr(module, "emulate", fake)
    tiles = [candidate.tile for candidate in found(few, target)]
    assert seen[2] in tiles and seen[2] != seen[0]


@pytest.mark.parametrize("target", emulated("cortex-m4"))
def test_what_was_found_is_kept(
    target: Target, few: fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FXQUANT_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "emulate", made_up)
    first = found(few, target)
    (kept,) = (tmp_path / "tiles").iterdir()

    def forbidden(*_: Any) -> None:
        raise AssertionError("searched again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "emulate", forbidden)
        assert found(few, target) == first
        kept.write_text("{")
        with pytest.raises(AssertionError, match="searched again"):
            found(few, target)
    assert found(few, target) == first
    (tiles,) = json.loads(kept.read_text())["tiles"].values()
    assert len(tiles) == 2
    kept.unlink()
    (tmp_path / "tiles").rmdir()
    (tmp_path / "tiles").write_text("in the way")
    with pytest.warns(UserWarning, match="tiles are not kept"):
        assert found(few, target) == first


@pytest.mark.parametrize("target", emulated("cortex-m4"))
def test_wrong_integers_are_refused(target: Target, few: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> ModelRun:
        return replace(made_up(*arguments), wrong=3)

    monkeypatch.setattr(module, "emulate", wrong)
    with pytest.raises(EmulationError, match="3 elements that these tiles compute for cortex-m4"):
        counted(few, target, progress=False)


def test_what_cannot_be_counted_is_refused(graph: fx.GraphModule, tmp_path: Path) -> None:
    for name in ("c", "x86-64", "x86-avx2"):
        with pytest.raises(TargetError, match=f"nobody counts those of {name}"):
            counted(graph, targets.get(name), progress=False)
    with pytest.raises(TargetError, match="leave tune or emit away"):
        fxquant.export(
            quantized(nn.Linear(4, 4), torch.randn(2, 4)), "cortex-m4", tmp_path / "out", emit="c", tune=True
        )
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, ["bench", "resnet8", "--tune"])
    assert done.exit_code == 1 and "name one with --target" in done.output


@pytest.mark.parametrize("target", emulated("cortex-m4"))
def test_the_report_tells_the_tiles(target: Target, few: fx.GraphModule, tmp_path: Path) -> None:
    made = fxquant.export(few, target, tmp_path / "fw", tune=True, measure=True)
    tiles = [Tile(**layer["tile"]) for layer in made.report["layers"] if layer["tile"] is not None]
    assert len(tiles) == 2 and tiles[0].pixels * tiles[0].channels > 1
    assert made.report["instructions"] > 0
