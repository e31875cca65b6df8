"""Measured before flashing: `export(measure=True)`, and `fxquant bench --target`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fxquant
from fxquant import targets
from fxquant.cli import app
from fxquant.errors import BudgetError
from fxquant.target import Target
from fxquant.tools.emulate import measured as module
from fxquant.tools.emulate.programs import EmulationError
from fxquant.tools.emulate.run import emulate
from tests.targets.standalone.made import emulated, network


@pytest.mark.parametrize("target", emulated("cortex-m4"))
def test_the_report_tells_what_was_measured(target: Target, tmp_path: Path) -> None:
    made = fxquant.export(network("autoencoder"), target, tmp_path / "fw", measure=True)
    report: Mapping[str, Any] = json.loads((tmp_path / "fw" / "report.json").read_text())
    assert report == made.report
    counts = [layer["instructions"] for layer in report["layers"]]
    # The layers are all that a run does, but for some instructions around them.
    assert all(counts) and 0.9 < sum(counts) / report["instructions"] < 1.1
    assert 1.5 < report["instructions"] / report["macs"] < 1.9
    assert 64 <= report["stack_bytes"] < 1024
    plain = fxquant.export(network("autoencoder"), target, tmp_path / "plain")
    assert plain.report["instructions"] is None and plain.report["stack_bytes"] is None
    library = "libmodel.a"
    assert (tmp_path / "fw" / library).read_bytes() == (tmp_path / "plain" / library).read_bytes()


@pytest.mark.parametrize("target", emulated("cortex-m4"))
def test_a_budget_counts_the_measured_stack(target: Target, tmp_path: Path) -> None:
    arena = fxquant.export(network("autoencoder"), target, tmp_path / "fw").report["arena_bytes"]
    limit = f"ram={arena + 16}"
    fxquant.export(network("autoencoder"), target, tmp_path / "fw", fits=limit)
    before = (tmp_path / "fw" / "report.json").read_text()
    with pytest.raises(
        BudgetError, match=rf"\({arena} of arena, \d+ of stack\) and {arena + 16} allowed; layer '12' has"
    ):
        fxquant.export(network("autoencoder"), target, tmp_path / "fw", fits=limit, measure=True)
    assert (tmp_path / "fw" / "report.json").read_text() == before


@pytest.mark.parametrize("target", emulated("c"))
def test_what_nobody_can_count_stays_open(target: Target, tmp_path: Path) -> None:
    report = fxquant.export(network("autoencoder"), target, tmp_path / "fw", measure=True).report
    assert report["instructions"] is None and all(layer["instructions"] is None for layer in report["layers"])
    assert 64 <= report["stack_bytes"] < 4096


@pytest.mark.parametrize("target", emulated("cortex-m4"))
def test_wrong_integers_are_refused(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = emulate

    def broken(*arguments: Any) -> Any:
        return replace(honest(*arguments), wrong=3)

    monkeypatch.setattr(module, "emulate", broken)
    with pytest.raises(EmulationError, match="3 elements that model computes for cortex-m4 differ from Python's"):
        fxquant.export(network("autoencoder"), target, tmp_path / "fw", measure=True)
    assert not (tmp_path / "fw").exists()


@pytest.mark.parametrize("target", emulated("riscv32imc"))
def test_bench_counts_a_network_of_the_users(target: Target, tmp_path: Path) -> None:
    script = tmp_path / "net.py"
    script.write_text(
        "import torch\nmodel = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())\n"
        "example_inputs = torch.randn(1, 8)\n"
    )
    bench = ["bench", f"{script}:model", "--target", target.name]
    done = CliRunner().invoke(app, [*bench, "--json"])
    assert done.exit_code == 0, done.output
    (report,) = json.loads(done.stdout)
    assert report["name"] == "net.py:model" and report["macs"] == 32
    # Every product is at least a load, a multiplication and an addition on a core without vectors.
    assert 3 * 32 < sum(x["instructions"] for x in report["layers"]) < 100 * 32
    shown = CliRunner().invoke(app, [*bench, "--profile"]).output
    assert f"{report['instructions']:,}" in shown and "layer" in shown
    lines = CliRunner().invoke(app, [*bench, "--markdown"]).output.splitlines()
    assert [line.count("|") for line in lines] == [9, 9, 9]


def test_bench_refuses_what_it_cannot_count() -> None:
    for name, words in (("native", "is timed, not emulated"), ("cortex-m5", "unknown target 'cortex-m5'")):
        done = CliRunner().invoke(app, ["bench", "resnet8", "--target", name])
        assert done.exit_code == 1 and words in done.output


def test_measuring_is_for_standalone_targets(tmp_path: Path) -> None:
    spec = ["compile", "net.fxgraph", "-o", f"{tmp_path}/x.fxq", "--target", "x86-avx2", "--measure"]
    done = CliRunner().invoke(app, spec)
    assert done.exit_code == 1 and "--measure are for standalone targets" in done.output


def test_a_missing_emulator_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulationError, match=r"cannot emulate cortex-m4: .* not found: apt-get install"):
        fxquant.export(network("autoencoder"), targets.get("cortex-m4"), tmp_path / "fw", measure=True)
    assert not (tmp_path / "fw").exists()
