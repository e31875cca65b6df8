"""The emulation rig itself, on models written by hand whose answers, instructions and stack are known."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fxquant import targets
from fxquant.target import Target, Toolchain
from fxquant.tools.emulate import ModelRun, emulate
from fxquant.tools.emulate.programs import EmulationError, missing, plugin

HEADER = """#include <stdint.h>
#define NET_ARENA {arena}
#define NET_IN0_SIZE 1
#define NET_OUT0_SIZE 1
int net_run(const int8_t *in0, int8_t *out0, uint8_t *arena);
int net_selftest(uint8_t *arena);
void net_mark(int32_t layer);
"""
# Two layers: a loop of `turns` and one of twice as many, each turn storing to the arena; a stack of `stack` bytes.
SOURCE = """#include "net.h"
int net_run(const int8_t *in0, int8_t *out0, uint8_t *arena) {{
  volatile uint8_t deep[{stack}], *at = arena;
  for (int i = 0; i < {stack}; i += 32) deep[i] = 1;
  net_mark(0);
  for (int i = 0; i < {turns}; ++i) at[0] = 1;
  net_mark(1);
  for (int i = 0; i < 2 * {turns}; ++i) at[0] = 2;
  out0[0] = (int8_t)(in0[0] + deep[0]);
  return 0;
}}
"""
SELFTEST = """#include "net.h"
int net_selftest(uint8_t *arena) {{
  int8_t in = 6, out = 0;
  net_run(&in, &out, arena);
  return out != {expected};
}}
"""
PORT = {"dtype": "int8"}
REPORT = {"layers": [{}, {}], "inputs": [PORT], "outputs": [PORT]}
BARE = ["cortex-m0", "cortex-m4", "cortex-m55", "cortex-m85", "riscv32imc"]
LINUX = ["aarch64-dotprod", "armv7-neon"]


def run(name: str, *, arena: int = 64, stack: int = 64, turns: int = 100, expected: int = 7) -> ModelRun:
    target = targets.get(name)
    if missing(target):
        pytest.skip(missing(target))
    made = {
        "net.h": HEADER.format(arena=arena),
        "net.c": SOURCE.format(stack=stack, turns=turns),
        "net_selftest.c": SELFTEST.format(expected=expected),
    }
    return emulate(made, "net", REPORT, target)


@pytest.mark.parametrize("name", [*BARE, *LINUX])
def test_a_wrong_element_is_seen(name: str) -> None:
    assert run(name).wrong == 0
    assert run(name, expected=8).wrong == 1


@pytest.mark.parametrize("name", [*BARE, *LINUX])
def test_instructions_follow_the_work_layer_by_layer(name: str) -> None:
    """Whatever a turn costs, 50 more turns cost 50 times as much, and the second layer has two for each."""
    few, many = run(name, turns=50), run(name, turns=100)
    assert few.layers is not None and many.layers is not None
    first, second = (more - less for more, less in zip(many.layers, few.layers, strict=True))
    assert first % 50 == 0 and first >= 2 * 50, "a turn stores and branches"
    assert abs(second - 2 * first) <= 8, "the loops are alike but for what stands before and after them"


@pytest.mark.parametrize("name", [*BARE, *LINUX])
def test_the_stack_is_measured(name: str) -> None:
    for size in (64, 4096, 20_000):
        assert size <= run(name, stack=size).stack_bytes < size + 200


@pytest.mark.parametrize(
    ("name", "limit"), [*((bare, 31_744) for bare in BARE), *((linux, 261_120) for linux in LINUX)]
)
def test_a_stack_too_deep_to_measure_is_an_error(name: str, limit: int) -> None:
    with pytest.raises(EmulationError, match=f"the stack is deeper than the {limit} bytes that can be measured"):
        run(name, stack=limit + 8192)


@pytest.mark.parametrize("name", ["cortex-m4", "cortex-m55"])
def test_an_arena_that_leaves_no_room_for_a_stack_is_an_error(name: str) -> None:
    """It would be overwritten by the paint, and the depth measured would be wrong."""
    with pytest.raises(EmulationError, match="too little RAM for this arena and a stack"):
        run(name, arena=500 * 1024)


def test_missing_programs_are_named() -> None:
    tools = Toolchain("no-such-gcc", emulator=("no-such-qemu",), debian=("gcc-no-such", "qemu-no-such"))
    absent: Target = replace(targets.get("cortex-m4"), toolchain=tools)
    with pytest.raises(EmulationError, match=r"no-such-gcc and no-such-qemu not found: apt-get install gcc-no-such"):
        emulate({}, "net", REPORT, absent)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_plugin_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = plugin()
    made = first.stat().st_mtime_ns
    assert plugin() == first and first.stat().st_mtime_ns == made
    assert [p.name for p in (tmp_path / "fxquant").iterdir()] == [first.name]
