"""The sweep over foreign architectures: what it says of a network of ours, of one with a fault, of one that dies."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import models
from benchmarks.foreign.architecture import Architecture, images, installed
from benchmarks.foreign.children import Limits, judged
from benchmarks.foreign.from_torchvision import register_operators
from benchmarks.foreign.judge import Judge
from benchmarks.foreign.row import Row
from benchmarks.foreign.table import document
from tests.passes.graphs import Net


def _layers() -> dict[str, nn.Module]:
    return {"conv": nn.Conv2d(3, 8, 3), "norm": nn.BatchNorm2d(8), "fc": nn.Linear(8, 4)}


def _small(m: Net, x: Tensor) -> Any:
    return m.fc(m.norm(m.conv(x)).relu().mean((2, 3)))


def _dying(m: Net, x: Tensor) -> Tensor:
    os._exit(3)


MODELS: dict[str, tuple[Callable[..., Any], str]] = {
    "small": (_small, "done"),
    "island": (lambda m, x: torch.fft.rfft(m.fc(m.conv(x).mean((2, 3)))).abs(), "compile"),
    "refused": (lambda m, x: m.fc(m.conv(x).mean((2, 3))) * x.max().item(), "compile"),
    "dying": (_dying, "done"),
}


def find(name: str) -> Architecture:
    forward, _ = MODELS[name]
    return Architecture(name, "torch", lambda: Net(forward, **_layers()), images(8))


def _row(name: str) -> Row:
    found: dict[str, Any] = {}
    Judge(find(name), found.update, MODELS[name][1]).judge()
    return Row.of({"name": name, "package": "torch", **found})


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {name: _row(name) for name in ("small", "island", "refused")}


def test_a_good_network_has_no_fault(rows: dict[str, Row]) -> None:
    row = rows["small"]
    assert (row.stage, row.faults, row.differs, row.islands) == ("done", [], 0.0, {})
    assert row.sqnr is not None and row.ideal is not None and row.sqnr > 25 and abs(row.sqnr - row.ideal) < 3
    assert row.off < 1e-5 and row.integer_share == 1.0 and row.macs == 8 * 27 * 36 + 8 * 4


def test_islands_and_refusals_are_told(rows: dict[str, Row]) -> None:
    assert "float islands" in rows["island"].faults and any("fft" in reason for reason in rows["island"].islands)
    refused = rows["refused"]
    assert refused.refused and refused.faults == ["refused in trace"] and "aten.item" in refused.error


def test_the_page_counts_them(rows: dict[str, Row]) -> None:
    page = document(list(rows.values()))
    assert (
        "| are traced | 2 of 3, 66.7 % |" in page
        and "| are fully integer between input and output, of those | 1 of 2, 50.0 % |" in page
    )
    assert "| stayed float | architectures |" in page and "| small | " in page


def test_a_model_that_dies_is_a_row() -> None:
    row = judged("dying", "torch", find, "trace", 2, Limits(60.0, 8.0))
    assert (row.stage, row.error) == ("build", "the process died (3)")


@pytest.mark.parametrize("name", models.CHOSEN)
def test_foreign_architectures(name: str) -> None:
    """`FXQUANT_MODELS=1 python -m pytest tests/endtoend/test_models.py`, with the packages of `fxquant[models]`."""
    if not os.environ.get("FXQUANT_MODELS"):
        pytest.skip("all of them take minutes: set FXQUANT_MODELS=1")
    register_operators()
    if not installed(package := models.find(name).package):
        pytest.skip(f"{package} is not installed: pip install 'fxquant[models]'")
    found: dict[str, Any] = {}
    Judge(models.find(name), found.update).judge()
    row = Row.of({"name": name, "package": package, **found})
    # How long it takes and how fast it is depend on what else the machine does.
    assert row.stage == "done", row.error
    assert not [fault for fault in row.faults if "slow" not in fault]
