"""view, inspect and compare from the shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fxquant.cli import app

SCRIPT = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))

model = Net().eval()
example_inputs = torch.zeros(2, 2, 6, 6)
loader = [torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(i)) for i in range(3)]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a script, its .fxgraph and its .fxq file."""
    folder = tmp_path_factory.mktemp("view")
    (folder / "net.py").write_text(SCRIPT)
    net, data = f"{folder}/net.py:model", f"{folder}/net.py:loader"
    assert run("quantize", net, "--calibrate", data, "-o", f"{folder}/net.fxgraph").exit_code == 0
    assert run("compile", f"{folder}/net.fxgraph", "-o", f"{folder}/net.fxq").exit_code == 0
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def failed(*arguments: object) -> str:
    done = run(*arguments)
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    return done.output


def twin(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_view_of_a_script_holds_the_whole_run(place: Path, tmp_path: Path) -> None:
    net, data = f"{place}/net.py:model", f"{place}/net.py:loader"
    done = run("view", net, "--calibrate", data, "--target", "c", "--other", "avx2", "-o", tmp_path / "net.json")
    assert done.exit_code == 0, done.output
    assert "24 stages" in done.output
    found = json.loads((tmp_path / "net.json").read_text())
    assert [run["label"] for run in found["runs"]] == [net, "avx2"]
    assert all(run["samples"] == 12 and run["memory"][0]["target"] == "c" for run in found["runs"])


def test_view_of_files(place: Path, tmp_path: Path) -> None:
    net, data = f"{place}/net.py:model", f"{place}/net.py:loader"
    stored = run("view", place / "net.fxgraph", "--against", net, "--data", data, "-o", tmp_path / "a.json", "--json")
    assert stored.exit_code == 0, stored.output
    assert json.loads(stored.stdout) == twin(tmp_path / "a.json")
    fxq = run("view", place / "net.fxq", "-o", tmp_path / "b.json")
    assert fxq.exit_code == 0, fxq.output
    graphs = [twin(tmp_path / f"{name}.json")["runs"][0] for name in "ab"]  # type: ignore[index]
    assert [n["id"] for n in graphs[0]["pool"]] == [n["id"] for n in graphs[1]["pool"]]
    assert graphs[0]["measured"] and not graphs[1]["measured"]
    # A page by its name's end.
    assert run("view", net, "-o", tmp_path / "net.html").exit_code == 0
    assert (tmp_path / "net.html").read_text().startswith("<!doctype html>")


def test_costs_are_measured_by_layer(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    done = run("view", place / "net.fxgraph", "--target", "native", "--measure", "-o", path)
    assert done.exit_code == 0, done.output
    steps = twin(path)["runs"][0]["memory"][0]["steps"]  # type: ignore[index]
    assert steps and all(step["microseconds"] > 0 for step in steps)


@pytest.mark.cortex_m4
def test_instructions_are_counted_by_layer(place: Path, tmp_path: Path) -> None:
    from fxquant import targets
    from fxquant.tools.emulate.programs import EmulationError, require

    try:
        require(targets.get("cortex-m4"))
    except EmulationError as error:
        pytest.skip(str(error))
    path = tmp_path / "net.json"
    done = run("view", place / "net.fxgraph", "--target", "cortex-m4", "--measure", "-o", path)
    assert done.exit_code == 0, done.output
    steps = twin(path)["runs"][0]["memory"][0]["steps"]  # type: ignore[index]
    convolution = next(step for step in steps if step["node"].startswith("conv"))
    # 36 pixels, 4 channels, 18 products: some instructions for each product, not thousands.
    assert convolution["macs"] == 36 * 4 * 18
    assert convolution["code_bytes"] > 100
    assert 0.2 < convolution["instructions"] / convolution["macs"] < 30


def test_inspect(place: Path) -> None:
    done = run("inspect", place / "net.fxgraph", "--where", "requantize bits=8", "--json")
    found = json.loads(done.stdout)
    assert found and all(node["operation"] == "fxq.requantize" for node in found)
    table = run("inspect", place / "net.fxgraph", "--sort", "macs").output
    assert table.index("conv") < table.index("linear") and "net.py:" in table
    assert "nothing is called 'colour'" in failed("inspect", place / "net.fxgraph", "--where", "colour>1")


def test_compare(place: Path, tmp_path: Path) -> None:
    net, data = f"{place}/net.py:model", f"{place}/net.py:loader"
    plain = run("compare", net, place / "net.fxgraph", "--data", data, "--json", "-o", tmp_path / "net.html")
    assert plain.exit_code == 0, plain.output
    found = json.loads(plain.stdout)
    assert found["samples"] == 12 and found["layers"] and found["recovery"] is None
    assert (tmp_path / "net.html").stat().st_size > 10_000
    goal = found["output_db"][0] + 5
    searched = run("compare", net, "--calibrate", data, "--data", data, "--bisect", "--json", "--goal", "1.01")
    assert searched.exit_code == 0, searched.output
    recovery = json.loads(searched.stdout)["recovery"]
    assert recovery["measure"] == "agreement" and recovery["goal"] == 1.01 and goal > 0
    # Nothing can reach that: told, not claimed.
    shown = run("compare", net, "--calibrate", data, "--data", data, "--bisect", "--goal", "1.01").output
    assert "still short of it" in shown and "keep_float" in shown


def test_errors_say_what_to_do(place: Path, tmp_path: Path) -> None:
    net, data = f"{place}/net.py:model", f"{place}/net.py:loader"
    assert "name one with --against" in failed("view", place / "net.fxgraph", "--data", data)
    # No option is taken and then left unused.
    for option in (("--target", "c"), ("--measure",), ("--recipe", "avx2"), ("--calibrate", data), ("--data", data)):
        assert "is compiled, and is what it is" in failed("view", place / "net.fxq", *option)
    for option in (("--target", "c"), ("--measure",), ("--recipe", "avx2"), ("--data", data), ("--other", "avx2")):
        assert "is a float model: give --calibrate" in failed("view", net, *option)
    assert "is quantized already" in failed("view", place / "net.fxgraph", "--recipe", "avx2")
    assert "give --data, too" in failed("view", place / "net.fxgraph", "--against", net)
    assert "give --bisect, too" in failed("compare", net, place / "net.fxgraph", "--data", data, "--goal", "0.9")
    untold = failed("view", place / "net.fxgraph", "--measure", "-o", tmp_path / "a.html")
    assert "costs are measured on a target" in untold
    assert "unknown target" in failed("view", place / "net.fxgraph", "--target", "c64", "-o", tmp_path / "a.html")
    assert "there is no folder" in failed("view", place / "net.fxgraph", "-o", tmp_path / "none" / "a.html")
    assert "ends in none of" in failed("view", place / "net.fxgraph", "-o", tmp_path / "a.pdf")
    assert "name the data to compare on" in failed("compare", net, place / "net.fxgraph")
    assert "give --calibrate" in failed("compare", net, place / "net.fxgraph", "--data", data, "--bisect")
    (place / "cut.fxq").write_bytes((place / "net.fxq").read_bytes()[:200])
    assert "cut.fxq" in failed("view", place / "cut.fxq", "-o", tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []
