"""Files for aarch64, loaded and run by an arm64 Python under emulation: Python's integers, whatever the threads."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx

import fxquant
from fxquant.errors import TargetError, WrongMachineError
from tests import zoo
from tests.runtime.emulated_arm import needs_arm64, run
from tests.targets.standalone.made import Small, network, quantized

TARGETS = ("aarch64-neon", "aarch64-dotprod", "aarch64-i8mm")

# Prints a line for each file and number of threads; nothing but numpy is there to import.
LOAD = """
import sys
import numpy as np
import fxquant
data = np.load(sys.argv[1])
inputs = [data[name] for name in sorted(data.files) if name.startswith("x")]
wanted = [data[name] for name in sorted(data.files) if name.startswith("y")]
for path in sys.argv[2:]:
    for threads in (1, 2):
        with fxquant.load(path, threads=threads) as net:
            for size in (len(inputs[0]), 1):
                found = net(*(x[:size] for x in inputs))
                found = found if isinstance(found, tuple) else (found,)
                assert all(np.array_equal(f, w[:size]) for f, w in zip(found, wanted, strict=True)), (path, threads)
    print("equal", net.artifact.target["name"])
"""


def saved(graph: fx.GraphModule, inputs: tuple[torch.Tensor, ...], folder: Path, *targets: str) -> list[str]:
    """Inputs with Python's results, and the network compiled for each target."""
    with torch.no_grad():
        found = graph(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    arrays = {f"x{i}": x.numpy() for i, x in enumerate(inputs)} | {f"y{i}": y.numpy() for i, y in enumerate(found)}
    np.savez(folder / "data.npz", **arrays)
    paths = [str(folder / "data.npz")]
    for target in targets:
        model = fxquant.compile(graph, target, against_float=False)
        paths.append(str(model.save(folder / f"{target}.fxq")))
    return paths


@needs_arm64
def test_one_of_everything_is_exact(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(3, 3, 9, 7), torch.randn(3, 8, 9, 7))
    done = run(LOAD, *saved(quantized(Small(), *inputs), inputs, tmp_path, *TARGETS))
    assert done.stdout.split("\n")[:-1] == [f"equal {target}" for target in TARGETS], done.stderr


@needs_arm64
@pytest.mark.parametrize(
    ("name", "target"),
    [("resnet8", "aarch64-dotprod"), ("mobilenet_v1", "aarch64-neon"), ("bert_embedded", "aarch64-i8mm")],
)
def test_networks_of_the_zoo_are_exact(name: str, target: str, tmp_path: Path) -> None:
    inputs = zoo.inputs(name, 2, 7)
    graph = network(name)
    model = fxquant.compile(graph, target, against_float=False)
    # Convolutions, too, are cut into tasks where there are enough products.
    assert name == "mobilenet_v1" or any(layer["tasks"] > 1 for layer in model.report["layers"])
    done = run(LOAD, *saved(graph, inputs, tmp_path, target))
    assert done.stdout == f"equal {target}\n", done.stderr


@needs_arm64
def test_a_cpu_without_the_instructions_refuses_by_name(tmp_path: Path) -> None:
    inputs = (torch.randn(2, 4),)
    paths = saved(quantized(torch.nn.Linear(4, 4), *inputs), inputs, tmp_path, "aarch64-dotprod")
    done = run(LOAD, *paths, cpu="cortex-a53")
    assert done.returncode == 1
    assert "WrongMachineError" in done.stderr and "needs the CPU features asimddp, which this CPU lacks" in done.stderr


@needs_arm64
def test_native_is_the_best_that_the_cpu_has() -> None:
    script = "from fxquant import targets; print(targets.native().name, targets.native().form)"
    found = [run(script, cpu=cpu).stdout.strip() for cpu in ("max,sve=off", "cortex-a76", "cortex-a53")]
    assert found == [f"{name} hosted" for name in ("aarch64-i8mm", "aarch64-dotprod", "aarch64-neon")]


@pytest.mark.skipif(platform.machine() == "aarch64", reason="this is the other machine")
def test_a_model_for_another_machine_is_looked_at_and_saved_and_not_called(tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    model = fxquant.compile(quantized(torch.nn.Linear(4, 4), x), "aarch64-neon", against_float=False)
    assert "for aarch64 (asimd), to be saved" in repr(model) and model.inputs[0].shape == (1, 4)
    with pytest.raises(WrongMachineError, match="compiled for aarch64, this machine is"):
        model(x)
    path = model.save(tmp_path / "net.fxq")
    with pytest.raises(WrongMachineError, match=r"net\.fxq is compiled for aarch64"):
        fxquant.load(path)
    assert os.path.getsize(path) > 0
    with pytest.raises(TargetError, match=r"cortex-m4 code runs without fxquant's runtime: use fxquant\.export"):
        fxquant.compile(quantized(torch.nn.Linear(4, 4), x), "cortex-m4")


@needs_arm64
def test_one_file_has_code_for_several_cpus(tmp_path: Path) -> None:
    """Each CPU loads the best that it can run; one that can run none says what there is."""
    inputs = (torch.randn(3, 3, 8, 8),)
    graph = quantized(torch.nn.Conv2d(3, 8, 3), *inputs)
    several = fxquant.compile(graph, TARGETS[::-1], name="net", against_float=False)
    data, _ = saved(graph, inputs, tmp_path, TARGETS[0])
    path = str(several.save(tmp_path / "net.fxq"))
    for cpu, target in (("max,sve=off", "i8mm"), ("cortex-a76", "dotprod"), ("cortex-a53", "neon")):
        done = run(LOAD, data, path, cpu=cpu)
        assert done.stdout == f"equal aarch64-{target}\n", done.stderr
