"""The command line: the whole road through files, JSON for scripts, errors in one line, and answers at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import fxquant
from fxquant.cli import app
from fxquant.tensor_file import read_tensors

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

class Odd(Net):
    def forward(self, x):
        return super().forward(torch.cumsum(x, 3))

class TwoInputs(Net):
    def forward(self, left, right):
        return super().forward(left + right), left - right

model = Net()
two_inputs = TwoInputs()
example_inputs = torch.zeros(2, 2, 6, 6)
loader = [torch.randn(4, 2, 6, 6) for _ in range(3)]
number = 3

def broken():
    raise OSError("no weights here")
"""


@dataclass(frozen=True)
class Place:
    """A folder with a script, data, and what the commands made of them."""

    folder: Path

    def __getattr__(self, name: str) -> str:
        """The path of a file, by its name with an underscore for the dot."""
        stem, _, suffix = name.rpartition("_")
        return str(self.folder / f"{stem}.{suffix}")

    def run(self, *arguments: str, status: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def error(self, *arguments: str) -> str:
        result = self.run(*arguments, status=1)
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.stderr
        return result.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    found = Place(tmp_path_factory.mktemp("road"))
    Path(found.net_py).write_text(SCRIPT)
    samples = np.random.default_rng(0).standard_normal((12, 2, 6, 6), dtype=np.float32)
    np.save(found.x_npy, samples)
    np.savez(found.x_npz, x=samples)
    np.savez(found.pair_npz, right=samples, left=samples * 0.5)
    np.save(found.wide_npy, samples[:, :, :, :5])
    np.save(found.nan_npy, samples * np.nan)
    np.save(found.double_npy, samples.astype(np.float64))
    np.save(found.objects_npy, np.array([{}]), allow_pickle=True)
    Path(found.text_npz).write_text("not numbers")
    Path(found.junk_fxgraph).write_text("not a graph")
    return found


@pytest.fixture(scope="module")
def quantized(place: Place) -> Any:
    return place.json("quantize", f"{place.net_py}:model", "--calibrate", place.x_npz, "-o", place.net_fxgraph)


@pytest.fixture(scope="module")
def compiled(place: Place, quantized: Any) -> Any:
    return place.json("compile", place.net_fxgraph, "-o", place.net_fxq)


def test_trace_shows_the_graph_with_its_source(place: Place) -> None:
    found = place.json("trace", f"{place.net_py}:model")
    assert found["stage"] == "FLOAT"
    assert found["batch"] == "dynamic"
    (conv,) = (node for node in found["nodes"] if node["op"] == "aten.conv2d")
    assert "net.py:12" in conv["source"]
    shown = place.run("trace", f"{place.net_py}:Net", "--inputs", place.x_npy).stdout.splitlines()
    *lines, batch = (line.partition("#") for line in shown)
    assert "\n".join(line.rstrip() for line, _, _ in lines) == found["text"]
    names = {line.split()[0]: name.strip() for line, _, name in lines}
    assert (names["%conv_weight"], names["%linear"], names["return"]) == ("conv.weight", "head", "")
    assert "".join(batch) == "# batch: dynamic"


def test_quantize_writes_a_graph_and_says_what_became_of_it(place: Place, quantized: Any) -> None:
    assert quantized["output"] == place.net_fxgraph
    assert quantized["report"]["is_fully_integer"]
    assert quantized["report"]["macs"] == 4 * 36 * 18 + 12
    assert quantized["report"]["batch"] == "dynamic"


def test_compile_writes_one_file(place: Place, compiled: Any) -> None:
    assert Path(place.net_fxq).stat().st_size == compiled["bytes"]
    assert compiled["inputs"] == ["x: float32[N, 2, 6, 6]"]
    assert compiled["weight_bytes"] > 0


def test_python_and_machine_code_give_the_same_integers(place: Place, compiled: Any) -> None:
    place.run("run", place.net_fxq, "--inputs", place.x_npz, "-o", place.compiled_npy, "--threads", "2")
    found = place.json("run", place.net_fxgraph, "--inputs", place.x_npy, "-o", place.python_npz)
    ours = np.load(place.compiled_npy)
    with np.load(place.python_npz) as arrays:
        assert np.array_equal(ours, arrays[found["outputs"][0]["name"]])
    assert found["outputs"][0]["shape"] == [12, 3]
    assert found["outputs"][0]["max"] == pytest.approx(float(ours.max()))


def test_compile_goes_from_the_script_in_one_step(place: Place, compiled: Any) -> None:
    place.run(
        "compile", f"{place.net_py}:model", "--calibrate", place.x_npz, "-o", place.direct_fxq, "--target", "native"
    )
    place.run("run", place.direct_fxq, "--inputs", place.x_npy, "-o", place.direct_npy)
    place.run("run", place.net_fxq, "--inputs", place.x_npy, "-o", place.staged_npy)
    assert np.array_equal(np.load(place.direct_npy), np.load(place.staged_npy))


def test_inputs_go_by_name_and_outputs_have_names(place: Place) -> None:
    two = f"{place.net_py}:two_inputs"
    found = place.json("quantize", two, "--calibrate", place.pair_npz, "-o", place.two_fxgraph)
    assert [text.partition(":")[0] for text in found["report"]["inputs"]] == ["left", "right"]
    run = place.json("run", place.two_fxgraph, "--inputs", place.pair_npz, "-o", place.two_npz)
    assert [output["shape"] for output in run["outputs"]] == [[12, 3], [12, 2, 6, 6]]
    with np.load(place.two_npz) as arrays, np.load(place.pair_npz) as given:
        difference = arrays[run["outputs"][1]["name"]]
        assert np.abs(difference - (given["left"] - given["right"])).max() < 0.05
    assert "write an .npz" in place.error("run", place.two_fxgraph, "--inputs", place.pair_npz, "-o", place.two_npy)
    assert "holds one array without a name; the model takes left, right" in place.error(
        "run", place.two_fxgraph, "--inputs", place.x_npy
    )


def test_report_of_a_graph_file_measures_against_its_model(place: Place, quantized: Any) -> None:
    bare = place.json("report", place.net_fxgraph)
    assert bare["accuracy"] is None
    assert "/net.py:12" in next(n["source"] for n in bare["nodes"] if n["primitive"] == "fxq.conv")
    measured = place.json("report", place.net_fxgraph, "--data", place.x_npy, "--against", f"{place.net_py}:model")
    assert measured["accuracy"]["samples"] == 12
    assert measured["accuracy"]["output_sqnr_db"][0] > 25
    same = ("report", f"{place.net_py}:model", "--calibrate", place.x_npz, "--data", place.x_npy)
    assert place.json(*same) == measured


def test_report_explains_one_value(place: Place, quantized: Any) -> None:
    assert "aten.relu gives [0, inf]" in place.run("report", place.net_fxgraph, "--why", "relu").stdout


def test_report_of_a_compiled_model_lists_its_layers(place: Place, compiled: Any) -> None:
    found = place.json("report", place.net_fxq)
    assert found["name"] == "net"
    assert found["target"] == compiled["target"]
    assert any("conv" in layer["name"] for layer in found["layers"])
    assert found["layers"][0]["name"] in place.run("report", place.net_fxq).stdout


def test_recipes_come_from_json_and_toml(place: Place) -> None:
    Path(place.recipe_json).write_text(json.dumps({"rules": [{"match": "head", "keep_float": True}]}))
    Path(place.recipe_toml).write_text("[[rules]]\nmatch = 'head'\nkeep_float = true\n")
    model = f"{place.net_py}:model"
    for recipe in (place.recipe_json, place.recipe_toml):
        found = place.json("quantize", model, "--calibrate", place.x_npz, "--recipe", recipe, "-o", place.kept_fxgraph)
        assert [item["operation"] for item in found["report"]["floats"]] == ["aten.linear"]
    text = place.run("quantize", model, "--calibrate", place.x_npz, "--recipe", recipe, "-o", place.kept_fxgraph).stdout
    assert "the recipe keeps 'head' in float" in text


def test_recipes_come_by_name(place: Place) -> None:
    spec = ("quantize", f"{place.net_py}:model", "--calibrate", place.x_npz, "-o", place.named_fxgraph, "--recipe")
    for name in ("avx2", "native"):
        place.json(*spec, name)
        assert "fxq.conv" in str(fxquant.load_graph(place.named_fxgraph).graph)
    place.json("quantize", f"{place.net_py}:model", "-o", place.named_fxgraph, "--recipe", "dynamic")
    assert "fxq.quantize_dynamic" in str(fxquant.load_graph(place.named_fxgraph).graph)
    told = place.error(*spec, "avx")
    assert "no recipe is called 'avx'; there are default, avx2, vnni, dynamic, auto, native" in told


def test_calibration_takes_a_loader_of_the_script_and_resumes(place: Place) -> None:
    spec = (f"{place.net_py}:model", "--calibrate", f"{place.net_py}:loader", "--checkpoint", place.state_ckpt)
    first = place.json("quantize", *spec, "-o", place.loader_fxgraph)
    assert read_tensors(place.state_ckpt, "calibration", 1)[0]["inputs_seen"] == 3
    assert place.json("quantize", *spec, "-o", place.loader_fxgraph) == first


def test_effort_tells_what_each_pass_gained(place: Place) -> None:
    spec = ("quantize", f"{place.net_py}:model", "--calibrate", f"{place.net_py}:loader", "-o", place.better_fxgraph)
    steps = [gain["step"] for gain in place.json(*spec, "--effort", "balanced")["report"]["gains"]]
    assert steps == ["FitRanges", "EqualizeLayers", "WidenValues", "EqualizeTables", "CorrectBiases"]
    told = place.json("report", place.better_fxgraph)
    assert [gain["step"] for gain in told["gains"]] == steps


def test_passes_are_listed_with_stages_and_options(place: Place) -> None:
    found = place.json("passes")
    by_name = {row["name"]: row for row in found}
    assert by_name["FoldQDQ"]["gives"] == "INTEGER"
    assert (by_name["InsertObservers"]["needs"], by_name["InsertObservers"]["gives"]) == ("FLOAT", "OBSERVED")
    assert by_name["Annotate"]["options"] == {"recipe": "Recipe = Recipe()"}
    assert all(row["summary"].endswith(".") for row in found)
    assert "FoldBatchNorm" in place.run("passes").stdout


def test_targets_say_which_run_here(place: Place) -> None:
    found = place.json("targets")
    assert sum(row["native"] for row in found) <= 1
    assert all(row["runs_here"] == (not row["missing"]) for row in found)
    assert all(row["name"] in place.run("targets").stdout for row in found)


def test_version_names_what_it_stands_on(place: Place) -> None:
    assert place.json("version")["torch"].startswith("2.")
    assert "fxquant" in place.run("version").stdout
    assert place.run("--version").stdout.startswith("fxquant 0.")


@pytest.mark.parametrize(("value", "coloured"), [("1", False), ("", True)])
def test_no_color_holds_for_errors(place: Place, value: str, coloured: bool) -> None:
    result = CliRunner().invoke(app, ["trace", "nothing.py:model"], color=True, env={"NO_COLOR": value})
    assert ("\x1b[" in result.stderr) is coloured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trace", "nothing.py:model"), "there is no script"),
        (("trace", "{net_py}:modle"), "has no attribute 'modle'; it has model"),
        (("trace", "{net_py}"), "is not of the form script.py:attribute"),
        (("trace", "{net_py}:number"), "is of type int; it must be an nn.Module"),
        (("trace", "{net_py}:broken"), "OSError: no weights here"),
        (("quantize", "{net_py}:model"), "is a float model: give --calibrate"),
        (("quantize", "{net_py}:model", "--calibrate", "{none_npz}"), "there is no file"),
        (("quantize", "{net_py}:model", "--calibrate", "{text_npz}"), "is not an .npy or .npz file"),
        (
            ("quantize", "{net_py}:model", "--calibrate", "{objects_npy}"),
            "is not an .npy or .npz file of plain numbers",
        ),
        (("quantize", "{net_py}:model", "--calibrate", "{nan_npy}"), "calibration input 0"),
        (("quantize", "{net_py}:model", "--calibrate", "{wide_npy}", "--inputs", "{x_npy}"), "has shape (12, 2, 6, 5)"),
        (("quantize", "{net_py}:model", "--calibrate", "{double_npy}", "--inputs", "{x_npy}"), "is torch.float64"),
        (("quantize", "{net_py}:model", "--calibrate", "{x_npy}", "--recipe", "{none_json}"), "there is no recipe"),
        (("quantize", "{net_py}:Odd", "--calibrate", "{x_npy}", "--strict"), "aten.cumsum has no integer spelling"),
        (("quantize", "{net_py}:model", "--calibrate", "{x_npy}", "-o", "nowhere/net.fxgraph"), "there is no folder"),
        (("quantize", "{net_py}:model", "--calibrate", "{x_npy}", "-o", "net.bin"), "does not end in .fxgraph"),
        (
            ("quantize", "{net_py}:model", "--calibrate", "{x_npy}", "-o", "net.pt2"),
            "graphs are kept in .fxgraph files",
        ),
        (("report", "net.pt2"), "graphs are kept in .fxgraph files now, .pt2 is not read; quantize again"),
        (("report", "{junk_fxgraph}"), "is no graph of fxquant; 'quantize' makes such a file from the model\n"),
        (("compile", "{none_fxgraph}"), "there is no file"),
        (("compile", "{net_py}:model", "--calibrate", "{x_npy}", "--target", "x86-avx3"), "Did you mean 'x86-avx2'?"),
        (("run", "{none_fxq}", "--inputs", "{x_npy}"), "there is no file"),
        (("run", "{x_npy}", "--inputs", "{x_npy}"), "not an fxquant artifact"),
        (("report", "{x_npy}"), "is neither script.py:attribute nor a .fxgraph file"),
    ],
)
def test_errors_are_one_message_and_status_one(place: Place, arguments: tuple[str, ...], message: str) -> None:
    names = ("net_py", "x_npy", "none_npz", "text_npz", "objects_npy", "nan_npy", "wide_npy", "double_npy")
    paths = {name: getattr(place, name) for name in (*names, "none_json", "none_fxgraph", "none_fxq", "junk_fxgraph")}
    assert message in place.error(*(argument.format(**paths) for argument in arguments))


def test_wrong_inputs_of_a_run_are_named(place: Place, compiled: Any) -> None:
    assert "x" in place.error("run", place.net_fxq, "--inputs", place.wide_npy)
    assert "float64" in place.error("run", place.net_fxq, "--inputs", place.double_npy)
    assert "holds left" in place.error("run", place.net_fxq, "--inputs", place.pair_npz).replace("right, left", "left")


def test_a_script_that_fails_says_how(place: Place) -> None:
    Path(place.bad_py).write_text("import torch\nmodel = torch.nn.Linaer(3, 4)\n")
    assert "AttributeError" in place.error("trace", f"{place.bad_py}:model")


def test_debug_shows_the_traceback_wherever_it_stands(place: Place) -> None:
    for arguments in (["trace", "nothing.py:model", "--debug"], ["--debug", "trace", "nothing.py:model"]):
        result = CliRunner().invoke(app, arguments)
        assert type(result.exception).__name__ == "CommandError"


def _python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


HEAVY = """
import sys
sys.argv[0] = "fxquant"
from fxquant.cli import main
try:
    main()
except SystemExit:
    pass
found = [name for name in ("torch", "tvm", "sklearn", "numpy", "rich.console") if name in sys.modules]
print("imported:", *found, file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], *([c, "--help"] for c in ("quantize", "compile", "demo", "bench"))])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    result = _python(HEAVY.replace("sys.argv[0] =", f"sys.argv[1:] = {arguments!r}; sys.argv[0] ="))
    assert "Usage: fxquant" in result.stdout
    assert result.stderr.strip() == "imported:"


def test_completion_offers_commands_and_targets_and_imports_nothing_heavy() -> None:
    first = _python(HEAVY, _FXQUANT_COMPLETE="complete_bash", COMP_WORDS="fxquant compi", COMP_CWORD="1")
    assert first.stdout.split() == ["compile"]
    assert first.stderr.strip() == "imported:"
    target = _python(
        HEAVY, _FXQUANT_COMPLETE="complete_bash", COMP_WORDS="fxquant compile --target x86-avx2", COMP_CWORD="3"
    )
    assert target.stdout.split() == ["x86-avx2"]
    assert target.stderr.strip() == "imported:"


def test_help_answers_at_once() -> None:
    """Half a second is promised on an idle machine; three are allowed here, of the best of three."""
    times = []
    for _ in range(3):
        start = perf_counter()
        _python(HEAVY.replace("sys.argv[0] =", "sys.argv[1:] = ['--help']; sys.argv[0] ="))
        times.append(perf_counter() - start)
    assert min(times) < 3.0


def test_a_compiled_model_runs_without_torch_and_tvm(place: Place, compiled: Any) -> None:
    arguments = ["run", place.net_fxq, "--inputs", place.x_npy, "-o", place.alone_npy, "--json"]
    result = _python(HEAVY.replace("sys.argv[0] =", f"sys.argv[1:] = {arguments!r}; sys.argv[0] ="))
    assert json.loads(result.stdout)["outputs"][0]["shape"] == [12, 3]
    assert result.stderr.strip() == "imported: numpy"


def test_a_signed_model_is_run_by_those_who_have_the_key(place: Place, quantized: Any, compiled: Any) -> None:
    for path, key in ((place.our_key, b"k" * 32), (place.their_key, b"t" * 32), (place.short_key, b"k")):
        Path(path).write_bytes(key)
    place.run("compile", place.net_fxgraph, "-o", place.signed_fxq, "--key", place.our_key)
    inputs = ("--inputs", place.x_npy)
    place.run("run", place.signed_fxq, *inputs, "--trusted", place.our_key)
    assert "another key" in place.error("run", place.signed_fxq, *inputs, "--trusted", place.their_key)
    assert "not signed" in place.error("run", place.net_fxq, *inputs, "--trusted", place.our_key)
    assert "has 1 bytes" in place.error("run", place.signed_fxq, *inputs, "--trusted", place.short_key)
    assert "cannot read the key" in place.error("compile", place.net_fxgraph, "--key", place.no_key)
    assert "nothing signs" in place.error("run", place.net_fxgraph, *inputs, "--trusted", place.our_key)
    assert "--key are for hosted" in place.error("compile", place.net_fxgraph, "--target", "c", "--key", place.our_key)


def test_no_samples_are_no_error(place: Place, compiled: Any) -> None:
    np.save(place.none_npy, np.zeros((0, 2, 6, 6), np.float32))
    found = place.json("run", place.net_fxq, "--inputs", place.none_npy)["outputs"][0]
    assert (found["shape"], found["min"]) == ([0, 3], None)
    place.run("run", place.net_fxq, "--inputs", place.none_npy)
    Path(place.cut_npz).write_bytes(Path(place.x_npz).read_bytes()[:-100])
    assert "plain numbers" in place.error("run", place.net_fxq, "--inputs", place.cut_npz)
