"""Results as people meet them: print(), a notebook's cell, a terminal of 80 columns."""

from __future__ import annotations

import io
import os
from html import unescape

import pytest
import torch
from rich.console import Console
from torch import nn

import fxquant as fxq
from fxquant.tools.compare.records import Comparison, Recovery
from fxquant.tools.report_records import Report
from fxquant.tools.shown import Column, Fitted, Shown, numbers

Everything = tuple[Report, Comparison, Recovery]


@pytest.fixture(scope="module")
def results() -> Everything:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    data = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    graph = fxq.trace(model, data[0])
    quantized = fxq.quantize(graph, data, progress=False)
    found = fxq.compare(graph, quantized, data, progress=False)
    return fxq.report(quantized, graph, data), found, fxq.recover(graph, data, data, found, goal=0.0, progress=False)


def test_print_and_the_cell_show_the_tables(results: Everything, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback: os.terminal_size(fallback))
    for found in results:
        console = Console(file=io.StringIO(), width=140, color_system=None)
        console.print(found)
        assert isinstance(console.file, io.StringIO)
        shown = [line.rstrip() for line in console.file.getvalue().rstrip().splitlines()]
        assert str(found).rstrip().splitlines() == shown
        assert unescape(found._repr_html_()) == f"<pre>{found}</pre>"
        assert type(found).__name__ + "(" not in str(found)


def test_print_is_as_wide_as_the_terminal(results: Everything, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert str(results[1]) == results[1].text(80) != results[1].text(140)


def test_eighty_columns_keep_what_matters_and_say_what_they_leave_out(results: Everything) -> None:
    report, comparison, _ = results
    for found in (report, comparison):
        lines = found.text(80).splitlines()
        assert max(map(len, lines)) <= 80
        assert any("left out at this width" in line for line in lines)
        assert not any("left out at this width" in line for line in found.text(200).splitlines())
    narrow = comparison.text(80)
    for layer in comparison.layers:
        assert f"  {layer.name} " in narrow and f"{layer.local_db:.1f}" in narrow


@pytest.mark.parametrize("width", range(20, 130, 7))
def test_columns_are_left_out_by_rank_before_any_is_squeezed(width: int) -> None:
    class Table(Shown):
        def tables(self) -> list[Fitted]:
            columns = [Column("name"), Column("why", folds=True), Column("place", 2), *numbers("size", rank=1)]
            table = Fitted("things [not markup]", columns)
            table.add("a" * 20, "because " * 8, "p" * 30, "12345678 [bytes]")
            return [table]

    text = Table().text(width)
    assert "things [not markup]" in " ".join(text.split())
    if width >= 41:
        assert "a" * 20 in text and "because" in text
    if width >= 60:
        assert "12345678 [bytes]" in text
    assert ("p" * 30 in text) == (width >= 93) == ("place" not in text.partition("left out")[2])


def test_graphs_show_their_nodes_at_every_stage() -> None:
    x = torch.randn(2, 3)
    graph = fxq.trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval(), x)
    observed = fxq.prepare(graph)
    quantized = fxq.convert(fxq.calibrate(observed, [x], progress=False))
    for found, stage, operation in (
        (graph, "FLOAT", "aten.linear"),
        (observed, "OBSERVED", "observe["),
        (quantized, "INTEGER", "fxq.requantize"),
    ):
        assert str(found).startswith(f"# {stage} graph, batch: dynamic\n%")
        assert operation in str(found) and str(found).splitlines()[-1].startswith("return ")
        assert unescape(found._repr_html_()) == f"<pre>{found}</pre>"  # type: ignore[operator]
