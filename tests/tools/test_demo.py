"""The demo, and the script that it leaves: one run of it, and what it wrote."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fxquant
from fxquant.cli import app
from fxquant.errors import FxquantError
from fxquant.tools import demo

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def found(folder: Path) -> Any:
    result = CliRunner().invoke(app, ["demo", "--json", "-o", str(folder)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_python_and_compiled_agree_and_are_as_good_as_float(found: Any) -> None:
    assert found["is_identical"] is True
    assert found["held_out"] == 450
    assert found["float_accuracy"] > 0.95
    assert found["compiled_accuracy"] == found["python_accuracy"]
    assert found["compiled_accuracy"] > found["float_accuracy"] - 0.02
    assert found["floats"] == []


def test_sizes_and_times_are_given(found: Any) -> None:
    assert found["float_bytes"] > 3 * found["weight_bytes"]
    assert found["float_seconds"] > 0 and found["compiled_seconds"] > 0
    assert Path(found["model"]).stat().st_size == found["artifact_bytes"]


def test_the_model_it_leaves_runs(found: Any) -> None:
    with fxquant.load(found["model"]) as net:
        assert net(np.zeros((3, 1, 8, 8), np.float32)).shape == (3, 10)


def test_the_script_it_leaves_is_the_example_and_runs(
    found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(found["script"])
    assert script.read_text() == (ROOT / "examples" / "digits.py").read_text()
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    text = capsys.readouterr().out
    assert "same integers: True" in text
    assert f"int8 compiled   accuracy {found['compiled_accuracy']:.2%}" in text
    assert (tmp_path / "digits.fxq").exists()


def test_the_table_says_what_the_numbers_are(found: Any) -> None:
    shown = demo.Demo(**{**found, "floats": ()})
    from rich.console import Console

    console = Console(record=True, width=120)
    console.print(shown)
    text = console.export_text()
    assert "agree bit for bit: yes" in text
    assert "stayed float: nothing" in text
    assert f"{found['compiled_accuracy']:.2%}" in text


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.delitem(sys.modules, "fxquant.tools.digits", raising=False)
    monkeypatch.delattr("fxquant.tools.digits", raising=False)
    with pytest.raises(FxquantError, match=r'pip install "fxquant\[demo\]"'):
        demo.run_demo(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FxquantError, match="there is no folder"):
        demo.run_demo(tmp_path / "none")
