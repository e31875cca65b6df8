"""What a caller or a machine can get wrong is a number that `<name>_run` returns before it computes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import fxquant
from fxquant import targets
from fxquant.errors import TargetError
from fxquant.target import Target, Toolchain
from fxquant.targets.standalone.check import examine
from fxquant.targets.standalone.cpu import required_features
from fxquant.targets.standalone.export import Standalone, standalone
from fxquant.tools.emulate import emulate
from fxquant.tools.emulate.programs import EmulationError, missing
from tests.targets.standalone.made import emulated, quantized, small, unknown

NEEDS_GCC = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
# In place of the golden vectors: the number of wrong answers to wrong calls, of which none may write.
WRONG_CALLS = """#include "net.h"
#define X(n) static union { int8_t at[NET_IN##n##_SIZE]; int64_t align; } x##n;
#define Y(n) static union { int8_t at[NET_OUT##n##_SIZE]; int64_t align; } y##n;
X(0) X(1) Y(0) Y(1)
int net_selftest(uint8_t *arena) {
  int wrong = 0;
  for (int i = 0; i < NET_OUT1_SIZE; ++i) y1.at[i] = 99;
  for (int off = 1; off < 16; ++off) wrong += net_run(x0.at, x1.at, y0.at, y1.at, arena + off) != NET_BAD_ARENA;
  wrong += net_run(x0.at, x1.at, y0.at, y1.at, 0) != NET_BAD_ARENA;
  wrong += net_run(0, x1.at, y0.at, y1.at, arena) != NET_BAD_PORT;
  wrong += net_run(x0.at, 0, y0.at, y1.at, arena) != NET_BAD_PORT;
  wrong += net_run(x0.at, x1.at, 0, y1.at, arena) != NET_BAD_PORT;
  wrong += net_run(x0.at, x1.at, y0.at, 0, arena) != NET_BAD_PORT;
  for (int i = 0; i < NET_OUT1_SIZE; ++i) wrong += y1.at[i] != 99;
  return wrong + (net_run(x0.at, x1.at, y0.at, y1.at, arena) != NET_OK);
}
"""


def made_for(target: Target, model: torch.fx.GraphModule | None = None) -> Standalone:
    return standalone(fxquant.integer_ports(small() if model is None else model), target, "net")


@pytest.mark.parametrize("target", emulated())
def test_wrong_pointers_are_refused(target: Target) -> None:
    made = made_for(target)
    assert emulate({**made.files, "net_selftest.c": WRONG_CALLS}, "net", made.report, target).wrong == 0


@pytest.mark.parametrize("target", emulated("c", "cortex-m0", "x86-64"))
def test_a_port_of_words_is_aligned_to_words(target: Target) -> None:
    recipe = {"activation": {"qmin": -32768, "qmax": 32767}}
    graph = fxquant.trace(nn.Sigmoid(), torch.randn(2, 5))
    made = made_for(target, fxquant.quantize(graph, [torch.randn(2, 5)], recipe=recipe, progress=False))
    assert made.report["inputs"][0]["dtype"] == "int16"
    calls = """#include "net.h"
static union { int8_t at[2 * NET_IN0_SIZE + 1]; int64_t align; } x;
static union { int8_t at[2 * NET_OUT0_SIZE + 1]; int64_t align; } y;
int net_selftest(uint8_t *arena) {
  return (net_run((const int16_t *)(const void *)(x.at + 1), (void *)y.at, arena) != NET_BAD_PORT)
       + (net_run((const int16_t *)(const void *)x.at, (void *)(y.at + 1), arena) != NET_BAD_PORT)
       + (net_run((const int16_t *)(const void *)x.at, (void *)y.at, arena) != NET_OK);
}
"""
    assert emulate({**made.files, "net_selftest.c": calls}, "net", made.report, target).wrong == 0


@pytest.mark.parametrize("target", emulated("cortex-m0"))
def test_small_networks_run_on_a_real_m0(target: Target) -> None:
    """The micro:bit has the one Cortex-M0 of QEMU; what its 16 KiB do not hold runs on an M3, which knows no less."""
    made = made_for(target)
    assert emulate(made.files, "net", made.report, target).machine == "microbit"
    large = made_for(target, quantized(nn.Conv2d(8, 8, 3, padding=1), torch.randn(2, 8, 32, 32)))
    assert emulate(large.files, "net", large.report, target).machine == "mps2-an385"


# A CPU of QEMU without what the target's code is made of.
OLDER = [
    ("aarch64-dotprod", "cortex-a53"), ("aarch64-i8mm", "cortex-a76"), ("aarch64-dotprod", "cortex-a57"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "cpu"), OLDER)
def test_a_cpu_without_the_instructions_is_refused(name: str, cpu: str) -> None:
    (case,) = emulated(name)
    (target,) = case.values
    assert isinstance(target, Target) and target.toolchain is not None
    if missing(target):
        pytest.skip(missing(target))
    older = tuple(cpu if part.startswith("max") else part for part in target.toolchain.emulator)
    there = replace(target, toolchain=replace(target.toolchain, emulator=older))
    made = made_for(target)
    with pytest.raises(EmulationError, match=r"refuses to run on this machine: it returned 3 \(see its header\)"):
        emulate(made.files, "net", made.report, there)
    assert "#define NET_BAD_CPU 3" in str(made.files["net.h"])


@NEEDS_GCC
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-user")
def test_an_x86_without_the_instructions_is_refused(tmp_path: Path) -> None:
    level = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}
    made = made_for(unknown(tvm=level, toolchain=Toolchain("gcc")))
    for file, content in made.files.items():
        (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
    link = ["main.c", "net_selftest.c", "libnet.so", "-Wl,-rpath,$ORIGIN", "-o", "main"]
    subprocess.run(["gcc", "-std=c99", *link], cwd=tmp_path, check=True, timeout=60)
    done = subprocess.run(["qemu-x86_64", "-cpu", "Nehalem", "./main"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "net_run refuses: see status 3 in net.h" in done.stdout, done


@NEEDS_GCC
def test_the_loader_refuses_by_name(tmp_path: Path) -> None:
    """A library whose CPU says no, beside the loader of a target that needs AVX2; and one that is called wrongly."""
    level = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64", "mattr": ["+avx2"]}
    made = made_for(unknown(tvm=level, toolchain=Toolchain("gcc")))
    for answer, words in (
        (0, "net is compiled for CPUs with avx2, and this one lacks some"),
        (1, "the arena is NULL or"),
    ):
        code = f"int net_supported(void) {{ return {answer}; }} int net_run(void) {{ return 1; }}"
        where = tmp_path / str(answer)
        where.mkdir()
        (where / "net.py").write_text(str(made.files["net.py"]))
        (where / "fake.c").write_text(code)
        subprocess.run(["gcc", "-shared", "-o", "libnet.so", "fake.c"], cwd=where, check=True, timeout=60)
        call = "import numpy as np, net; net.run(np.zeros((3, 9, 7), 'int8'), np.zeros((8, 9, 7), 'int8'))"
        done = subprocess.run([sys.executable, "-c", call], cwd=where, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and words in done.stderr, done.stderr


def test_what_libraries_need_of_a_cpu_is_known() -> None:
    assert required_features(targets.get("x86-64")) == ()
    assert required_features(targets.get("aarch64-neon")) == ("asimd",)
    assert required_features(targets.get("armv7-neon")) == ("neon",), "a Cortex-A9 does not divide"
    assert {"asimddp", "i8mm"} < set(required_features(targets.get("aarch64-i8mm")))
    strange = unknown(tvm={"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver4"})
    with pytest.raises(TargetError, match=r"mine: what LLVM's 'znver4' needs .* name it in the target's cpu_features"):
        required_features(strange)
    assert required_features(replace(strange, cpu_features=("avx2",))) == ("avx2",)
    with pytest.raises(TargetError, match=r"cpu_features has 'avx9', which nobody here can ask for"):
        required_features(replace(strange, cpu_features=("avx9",)))


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="needs arm-none-eabi-gcc")
def test_a_big_endian_compiler_is_refused(tmp_path: Path) -> None:
    made = made_for(targets.get("c"))
    for file in ("net.c", "net.h"):
        (tmp_path / file).write_text(str(made.files[file]))
    check = ["arm-none-eabi-gcc", "-fsyntax-only", "net.c"]
    subprocess.run(check, cwd=tmp_path, check=True, timeout=60)
    done = subprocess.run([*check, "-mbig-endian"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode and "does not run on a big-endian machine" in done.stderr


@pytest.mark.parametrize("name", [n for n, t in targets.TARGETS.items() if t.form in ("static", "shared")])
def test_no_name_but_the_models_own_is_defined(name: str) -> None:
    """Not even the weak helpers that TVM adds to every module, which would replace a program's own."""
    target = targets.get(name)
    static = replace(target, form="static")
    library = made_for(static).files["libnet.a"]
    assert isinstance(library, bytes)
    facts = examine(library[library.index(b"\x7fELF") :])
    assert facts.exported == ("net_run",) and not [
        s for s in facts.missing if s.startswith(("net_", "__extend", "__tr"))
    ]
    if target.form == "shared" and target.toolchain and shutil.which(target.toolchain.compiler):
        shared = made_for(target).files["libnet.so"]
        assert isinstance(shared, bytes)
        assert examine(shared).exported == ("net_run", "net_supported")
