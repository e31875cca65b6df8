"""The folder that `export` makes: what stands in it, that C compilers take it, and that nothing half-made is left."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fxquant
from fxquant import targets
from fxquant.cli import app
from fxquant.errors import BudgetError, FxquantError, InputError, LoweringError, StageError, TargetError
from fxquant.target import Toolchain
from fxquant.targets.standalone.check import examine
from fxquant.targets.standalone.export import standalone
from tests.targets.standalone.made import network, quantized, small, unknown

NEEDS_GCC = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
STRICT = ["-std=c99", "-O1", "-Wall", "-Wextra", "-pedantic", "-Werror"]


def test_a_static_library_is_self_contained(tmp_path: Path) -> None:
    made = fxquant.export(network("ds_cnn"), "cortex-m4", tmp_path / "fw", name="kws")
    names = {"kws.h", "libkws.a", "kws_selftest.c", "main.c", "CMakeLists.txt", "report.json"}
    assert {p.name for p in (tmp_path / "fw").iterdir()} == names == set(made.files)
    report = json.loads((tmp_path / "fw/report.json").read_text())
    assert report == made.report and report["macs"] == sum(layer["macs"] for layer in report["layers"]) > 2_000_000
    assert report["flash_bytes"] == report["code_bytes"] + report["constant_bytes"]
    library = made.files["libkws.a"]
    assert isinstance(library, bytes) and library.startswith(b"!<arch>\n")
    facts = examine(library[library.index(b"\x7fELF") :])
    assert set(facts.missing) <= {"memcpy", "memset", "memmove"} and facts.writable == 0
    assert facts.exported == ("kws_run",)
    header = (tmp_path / "fw/kws.h").read_text()
    assert f"#define KWS_ARENA {report['arena_bytes']} " in header
    assert "int kws_run(const int8_t *x, int8_t *output, uint8_t *arena);" in header and len(header.splitlines()) < 80


def test_layers_of_equal_shape_share_code() -> None:
    made = standalone(fxquant.integer_ports(network("mobilenet_v1")), targets.get("cortex-m4"), "net")
    assert len({layer["function"] for layer in made.report["layers"]}) == made.report["kernels"] < 24


# Activations that live at once where every layer writes new memory: what a planner needs that only looks at lifetimes.
ACTIVATIONS = {"resnet8": 49_152, "ds_cnn": 16_000, "mobilenet_v1": 55_296, "autoencoder": 768}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_arena_is_little_more_than_activations(name: str) -> None:
    made = standalone(fxquant.integer_ports(network(name)), targets.get("c"), "net")
    assert made.report["arena_bytes"] <= ACTIVATIONS[name] * 1.1
    assert name != "resnet8" or made.report["arena_bytes"] <= 34_000, "residual additions are not in place"


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m55", "aarch64-neon"])
def test_linear_layers_read_their_operand_where_it_lies(target: str) -> None:
    """The autoencoder's largest neighbours between its input and its output are 128 elements each."""
    made = standalone(fxquant.integer_ports(network("autoencoder")), targets.get(target), "net")
    assert made.report["arena_bytes"] <= 2 * 128 + 16


@pytest.mark.parametrize(("target", "most"), [("cortex-m4", 12_000), ("cortex-m55", 10_000)])
def test_convolutions_take_the_memory_of_their_operands(target: str, most: int) -> None:
    """DS-CNN's blocks: one image of 8,000 bytes and scratch memory, where a planner of lifetimes needs two images."""
    made = standalone(fxquant.integer_ports(network("ds_cnn")), targets.get(target), "net")
    assert made.report["arena_bytes"] <= most


@NEEDS_GCC
def test_two_models_in_one_program(tmp_path: Path) -> None:
    for name, graph in (("one", small()), ("two", network("autoencoder"))):
        fxquant.export(graph, "c", tmp_path, name=name)
    (tmp_path / "both.c").write_text(
        textwrap.dedent("""
        #include "one.h"
        #include "two.h"
        static int64_t a[ONE_ARENA / 8 + 1], b[TWO_ARENA / 8 + 1];
        int main(void) { return one_selftest((uint8_t *)a) + two_selftest((uint8_t *)b); }
        """)
    )
    sources = ["both.c", "one.c", "two.c", "one_selftest.c", "two_selftest.c"]
    subprocess.run(["gcc", *STRICT, "-o", "both", *sources], cwd=tmp_path, check=True, timeout=120)
    assert subprocess.run([str(tmp_path / "both")], timeout=60).returncode == 0


@NEEDS_GCC
def test_the_selftest_finds_a_changed_weight(tmp_path: Path) -> None:
    fxquant.export(small(), "c", tmp_path, name="net")
    source = (tmp_path / "net.c").read_text()
    head, _, numbers = source.partition("constants = {{\n")
    first = numbers.split(",", 1)[0].strip()
    changed = str(int(first) ^ 64)
    (tmp_path / "net.c").write_text(f"{head}constants = {{{{\n{changed},{numbers.split(',', 1)[1]}")
    subprocess.run(["gcc", *STRICT, "-o", "net", "net.c", "net_selftest.c", "main.c"], cwd=tmp_path, check=True)
    done = subprocess.run([str(tmp_path / "net")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "net: 0 elements" not in done.stdout


@NEEDS_GCC
def test_the_header_quantizes_like_python(tmp_path: Path) -> None:
    made = fxquant.export(network("autoencoder"), "c", tmp_path, name="net")
    port = made.report["inputs"][0]
    scale, zero = port["scale"], port["zero_point"]
    halves = [(k + 0.5) * np.float32(scale) for k in range(-150, 150)]
    values = np.array([*halves, *np.linspace(-200, 200, 500) * scale, np.nan, np.inf, -np.inf, 1e30, 0.0], np.float32)
    text = ",".join(
        f"{v.hex()}" if np.isfinite(v) else str(v).replace("nan", "NAN").replace("inf", "INFINITY")
        for v in map(float, values)
    )
    (tmp_path / "q.c").write_text(
        '#include "net.h"\n#include <math.h>\n#include <stdio.h>\n'
        f"static const float x[] = {{{text}}};\n"
        'int main(void) { for (unsigned i = 0; i < sizeof x / sizeof *x; ++i) printf("%d ", net_quantize(x[i])); }\n'
    )
    subprocess.run(["gcc", "-O1", "-o", "q", "q.c"], cwd=tmp_path, check=True)
    found = [int(n) for n in subprocess.run([str(tmp_path / "q")], capture_output=True, text=True).stdout.split()]
    expected = torch.ops.fxq.quantize(torch.from_numpy(values), scale, zero, port["low"], port["high"])
    assert found == expected.tolist()


@NEEDS_GCC
def test_a_shared_library_runs_from_python_without_torch(tmp_path: Path) -> None:
    """A target of one's own: a record is all it takes."""
    mine = unknown(description="my server", toolchain=Toolchain("gcc"))
    graph = small()
    fxquant.export(graph, mine, tmp_path, name="net")
    x, y = torch.randn(1, 3, 9, 7), torch.randn(1, 8, 9, 7)
    expected = graph(x, y)
    np.savez(tmp_path / "data.npz", x=x.numpy()[0], y=y.numpy()[0])
    script = textwrap.dedent("""
        import sys, numpy as np, net
        data = np.load("data.npz")
        found = net.run(net.quantize(data["x"], 0), net.quantize(data["y"], 1))
        assert not {"torch", "tvm", "fxquant"} & set(sys.modules)
        np.savez("found.npz", *[net.dequantize(q, i) for i, q in enumerate(found)])
        try:
            net.run(data["x"], data["y"])
        except ValueError as error:
            assert "x is int8(3, 9, 7), got float32(3, 9, 7)" in str(error)
    """)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)
    found = np.load(tmp_path / "found.npz")
    for position, wanted in enumerate(expected):
        assert np.array_equal(found[f"arr_{position}"], wanted.numpy()[0])


@NEEDS_GCC
@pytest.mark.parametrize("batch", [None, 2])
def test_the_loader_keeps_axes_apart(tmp_path: Path, batch: int | None) -> None:
    """A cube, and a fixed batch: what a wrong layout would give is of the right shape all the same."""
    x = torch.randn(batch or 1, 6, 6, 6)
    graph = fxquant.trace(nn.Conv2d(6, 6, 3, padding=1).eval(), x, dynamic_batch=batch is None)
    graph = fxquant.quantize(graph, [x], progress=False)
    fxquant.export(graph, unknown(toolchain=Toolchain("gcc")), tmp_path, name="net")
    np.save(tmp_path / "x.npy", x.numpy() if batch else x.numpy()[0])
    script = "import numpy as np, net; np.save('y.npy', net.dequantize(net.run(net.quantize(np.load('x.npy')))[0]))"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)
    expected = graph(x).numpy()
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected if batch else expected[0])


def test_a_budget_names_the_layer(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"ram: \d+ bytes are needed .* layer '.*' has \d+ bytes of activations"):
        fxquant.export(network("resnet8"), "cortex-m4", tmp_path / "fw", fits="flash=1m,ram=16k")
    with pytest.raises(BudgetError, match=r"layer 'blocks\.2\.body\.1\.0' .* is the first that finds no room"):
        fxquant.export(network("resnet8"), "cortex-m4", tmp_path / "fw", fits="flash=100000")
    with pytest.raises(InputError, match=r"'rom=4k' is no budget: say for example flash=256k,ram=64k"):
        fxquant.export(network("resnet8"), "cortex-m4", tmp_path / "fw", fits="rom=4k")
    assert not (tmp_path / "fw").exists()
    fxquant.export(network("resnet8"), "cortex-m4", tmp_path / "fw", fits="flash=256k,ram=64k")


class Island(nn.Module):
    """An operation without an integer spelling."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, 4)."""
        return torch.cumsum(torch.relu(x), 1)


@pytest.mark.parametrize(
    ("target", "name", "error", "message"),
    [
        ("cortex-m5", "net", TargetError, r"unknown target 'cortex-m5'; known: .*Did you mean 'cortex-m"),
        ("native", "net", TargetError, "runs under fxquant's runtime: use fxquant.compile, or one of"),
        ("cortex-m4", "my-net", InputError, r"'my-net' is no name for C functions.* try 'my_net'"),
        ("cortex-m4", "int", InputError, "try 'int_net'"),
    ],
)
def test_bad_wishes(tmp_path: Path, target: str, name: str, error: type[FxquantError], message: str) -> None:
    with pytest.raises(error, match=message):
        fxquant.export(small(), target, tmp_path / "out", name=name)
    assert not list(tmp_path.iterdir())


def test_float_operations_are_named(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"cumsum .*is float"):
        fxquant.export(quantized(Island(), torch.randn(4, 4)), "cortex-m4", tmp_path / "out")
    with pytest.raises(StageError, match="INTEGER"):
        fxquant.export(fxquant.trace(nn.ReLU(), torch.randn(2, 3)), "cortex-m4", tmp_path / "out")
    with pytest.raises(TargetError, match=r"use fxquant\.export"):
        fxquant.compile(small(), target="cortex-m4")
    assert not list(tmp_path.iterdir())


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    mine = unknown(toolchain=Toolchain("no-such-gcc", debian=("gcc-no-such",)))
    with pytest.raises(TargetError, match="needs no-such-gcc, which is not here: apt-get install gcc-no-such"):
        fxquant.export(small(), mine, tmp_path / "out")


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FxquantError, match="is a file: name a folder"):
        fxquant.export(small(), "c", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_same_from_the_shell(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\nmodel = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()\n"
        "example_inputs = torch.ones(2, 4)\nloader = [torch.randn(8, 4)]\n"
    )
    spec = ["compile", f"{tmp_path}/net.py:model", "--calibrate", f"{tmp_path}/net.py:loader", "--name", "tiny", "-o"]
    done = CliRunner().invoke(app, [*spec, f"{tmp_path}/fw", "--target", "cortex-m4", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["macs"] == 12 and "libtiny.a" in report["files"] and (tmp_path / "fw/tiny.h").exists()
    done = CliRunner().invoke(app, [*spec, f"{tmp_path}/c", "--target", "cortex-m4", "--emit", "c"])
    assert done.exit_code == 0 and "tiny.c" in done.stdout and (tmp_path / "c/tiny.c").exists()
    done = CliRunner().invoke(app, [*spec, f"{tmp_path}/big", "--target", "cortex-m4", "--fits", "flash=100"])
    assert done.exit_code == 1 and "tiny does not fit cortex-m4" in done.output and not (tmp_path / "big").exists()
    done = CliRunner().invoke(app, [*spec, f"{tmp_path}/x.fxq", "--fits", "ram=1k"])
    assert done.exit_code == 1 and "--fits and --measure are for standalone targets" in done.output
