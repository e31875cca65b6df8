"""Tiny networks as real object code: built with TVM once per test run, run without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fxquant.runtime import Artifact, Port
from fxquant.runtime.needs import Needs
from fxquant.targets.hosted.threads import spmd_functions, tasks
from fxquant.targets.tvm_api import I, IRBuilder, T, build_object

ROWS, COLUMNS, RING = 16, 32, 12
TARGET = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "core-avx2"}


def object_bytes(functions: dict[str, Any], target: dict[str, Any] = TARGET) -> bytes:
    """The object file of some PrimFuncs."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "code.o")
        build_object(functions, target).write_to_file(str(path))
        return path.read_bytes()


@contextmanager
def run_function(ports: dict[str, tuple[str, int]]) -> Iterator[tuple[list[Any], Callable[[], Any]]]:
    """Open a `run` over flat `ports` (name: dtype, elements); gives its arguments and, afterwards, the function."""
    memory = {"sync": ("int32", 64), "arena": ("int32", 1024), "scratch": ("int32", 64), "weights": ("int32", 64)}
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name("run")
            arguments: list[Any] = [I.arg(name, I.int32()) for name in ("tid", "threads")]
            for name, (dtype, size) in (memory | ports).items():
                arguments.append(I.arg(name, I.buffer((size,), dtype)))
            yield arguments, builder.get


@cache
def mirror_code(needs: Needs) -> bytes:
    """Two layers over rows: `arena = x + weights` by way of scratch, then `y = 3 * (arena upside down)`.

    The second layer reads rows that other threads wrote in the first, so it is wrong if it starts too early.
    """
    with run_function({"x": ("int32", ROWS * COLUMNS), "y": ("int32", ROWS * COLUMNS)}) as (arguments, get):
        _, _, sync, arena, scratch, weights, x, y = arguments
        with tasks(sync, 0, ROWS) as row, I.serial(0, COLUMNS) as j:
            I.buffer_store(scratch, weights[j], [0])
            I.buffer_store(arena, x[row * COLUMNS + j] + scratch[0], [row * COLUMNS + j])
        with tasks(sync, 1, ROWS) as row, I.serial(0, COLUMNS) as j:
            I.buffer_store(y, arena[(ROWS - 1 - row) * COLUMNS + j] * 3, [row * COLUMNS + j])
    return object_bytes({"run": get(), **spmd_functions(needs)})


def mirror(make: Callable[[Needs], bytes] = mirror_code, **changes: Any) -> Artifact:
    """The artifact of the code that is made for what it needs, or is given; with weights 0, 10, 20, ..."""
    port = Port("x", "int32", (1, ROWS, COLUMNS))
    fields: dict[str, Any] = {
        "name": "mirror",
        "target": TARGET,
        "cpu_features": ("avx2",),
        "machine": "x86_64",
        "versions": {"fxquant": "0.1.0"},
        "inputs": (port,),
        "outputs": (Port("y", "int32", (1, ROWS, COLUMNS), 0.5, -3, -128, 127),),
        "batched": True,
        "arena_bytes": 4 * ROWS * COLUMNS,
        "scratch_bytes": 256,
        "sync_words": 64,
        "code": b"",
        "weights": (10 * np.arange(COLUMNS, dtype=np.int32)).tobytes(),
        "report": {"layers": ["add", "flip"]},
    }
    described = Artifact(**(fields | changes))
    return described if "code" in changes else replace(described, code=make(described.needs))


@cache
def prepared_code(needs: Needs) -> bytes:
    """`mirror_code` with a `prepare` that makes its s32 weights of bytes: ten times their values."""
    with run_function({"x": ("int32", ROWS * COLUMNS), "y": ("int32", ROWS * COLUMNS)}) as (arguments, get):
        _, _, sync, _, _, weights, x, y = arguments
        with tasks(sync, 0, ROWS) as row, I.serial(0, COLUMNS) as j:
            I.buffer_store(y, 3 * (x[(ROWS - 1 - row) * COLUMNS + j] + weights[j]), [row * COLUMNS + j])
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name("prepare")
            stored = I.arg("stored", I.buffer((COLUMNS,), "uint8", align=1))
            resident = I.arg("resident", I.buffer((COLUMNS,), "int32", align=64))
            with I.serial(0, COLUMNS) as j:
                I.buffer_store(resident, T.cast(stored[j], "int32") * 10, [j])
    return object_bytes({"run": get(), "prepare": builder.get(), **spmd_functions(needs)})


def prepared(**changes: Any) -> Artifact:
    """Computes what `mirror` does, from a quarter of the bytes and whatever follows them in the file."""
    weights = bytes(range(COLUMNS)) + bytes(1 << 14)
    return mirror(prepared_code, **({"weights": weights, "resident_bytes": 4 * COLUMNS} | changes))


def mirrored(x: Any) -> Any:
    """What `mirror` computes."""
    return 3 * (x + 10 * np.arange(COLUMNS, dtype=np.int32))[:, ::-1]


@cache
def pair_code(needs: Needs) -> bytes:
    """Two inputs, two outputs, the C library: `doubled = 2 * a` by way of memcpy, `grown = exp(b) + 0.5`."""
    ports = {"a": ("int32", 8), "b": ("float32", 4), "doubled": ("int32", 8), "grown": ("float32", 4)}
    with run_function(ports) as (arguments, get):
        _, _, sync, arena, _, _, a, b, doubled, grown = arguments
        with tasks(sync, 0, 1):
            I.evaluate(T.call_extern("int32", "memcpy", T.address_of(arena[0]), T.address_of(a[0]), 32))
            with I.serial(0, 8) as i:
                I.buffer_store(doubled, arena[i] * 2, [i])
            with I.serial(0, 4) as i:
                I.buffer_store(grown, T.exp(b[i]) + T.float32(0.5), [i])
    return object_bytes({"run": get(), **spmd_functions(needs)})


def pair(**changes: Any) -> Artifact:
    """The artifact of `pair_code`; not batched unless asked for."""
    fields: dict[str, Any] = {
        "name": "pair",
        "inputs": (Port("a", "int32", (1, 8)), Port("b", "float32", (1, 2, 2))),
        "outputs": (Port("doubled", "int32", (1, 8)), Port("grown", "float32", (1, 4))),
        "batched": False,
        "weights": b"",
    }
    return mirror(pair_code, **(fields | changes))


@cache
def ring_code(layers: int, work: int, needs: Needs) -> bytes:
    """`layers` layers of one task per element: each takes its right neighbour plus 1; `who` tells which thread did it.

    A task also spins through `work` steps of arithmetic.
    """
    with run_function({"x": ("int32", RING), "y": ("int32", RING), "who": ("int32", RING)}) as (arguments, get):
        tid, _, sync, arena, scratch, _, x, y, who = arguments
        source: Any = x
        for layer in range(layers):
            target = y if (layers - layer) % 2 else arena
            with tasks(sync, layer, RING) as task:
                with I.serial(0, work) as step:
                    I.buffer_store(scratch, (scratch[0] ^ (scratch[0] << 13)) + step, [0])
                I.buffer_store(arena, scratch[0], [RING + task])
                I.buffer_store(target, source[(task + 1) % RING] + 1, [task])
                I.buffer_store(who, tid, [task])
            source = target
    return object_bytes({"run": get(), **spmd_functions(needs)})


def ring(layers: int, work: int = 0) -> Artifact:
    """The artifact of `ring_code`."""
    x, y, who = (Port(name, "int32", (1, RING)) for name in ("x", "y", "who"))
    return mirror(
        partial(ring_code, layers, work),
        name="ring",
        inputs=(x,),
        outputs=(y, who),
        weights=b"",
        arena_bytes=4 * 2 * RING,
        sync_words=2 * layers,
    )
