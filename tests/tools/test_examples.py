"""The examples run as they stand, and do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(folder)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_custom_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = run("custom_pass.py", tmp_path, monkeypatch, capsys)
    assert "FoldBatchNorm, ReplaceSilu, FlattenVolumes" in text
    assert "functions: aten.hardswish, aten.silu" in text
    assert "compiled gives the same integers: True" in text


def test_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = run("step_by_step.py", tmp_path, monkeypatch, capsys)
    for stage in ("FLOAT: traced", "OBSERVED: batch norm folded", "INTEGER: every value"):
        assert stage in text
    assert "ran FoldQDQ" in text
    assert "mse over" in text
    assert "compiled gives the same integers: True" in text
    assert (tmp_path / "step_by_step.fxgraph").exists()


def test_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run("levels.py", tmp_path, monkeypatch, capsys).splitlines()
    exact = [row for row in rows if row.endswith("exact: True")]
    assert len(exact) == 8 and not any("exact: False" in row for row in rows)
    eight, four, two = (next(row for row in exact if row.startswith(f"weights of {n} bits")).split() for n in (8, 4, 2))
    sizes = [int(row[row.index("bytes") - 1]) for row in (eight, four, two)]
    errors = [float(row[row.index("dB") - 1]) for row in (eight, four, two)]
    assert sizes[1] < 0.55 * sizes[0] and sizes[2] < 0.3 * sizes[0]
    assert errors[0] < errors[1] < errors[2]


def test_the_custom_pass_is_short() -> None:
    source = (EXAMPLES / "custom_pass.py").read_text()
    own = source[source.index("@dataclass") : source.index("def main")]
    assert len(own.strip().splitlines()) < 30
