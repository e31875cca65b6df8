"""How fast this CPU can sum exact 8-bit products: the rate that a layer's GOPS are a share of.

What is timed is the inner loop of a matrix product in the fastest form that the kernels have, with everything in
registers or the first-level cache, so no layer of plain products can be faster. Winograd layers can: they do fewer
products than they are credited with.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fxquant import targets
from fxquant.runtime.elf import Library
from fxquant.runtime.memory import allocate
from fxquant.targets.kernels.words.tir import argument, load, prim_func
from fxquant.targets.kernels.words.x86 import ISAS, Isa, broadcast_quad, dot_quads, pair_sums, sum_pairs
from fxquant.targets.tvm_api import I, PrimFunc, build_object

# Register tiles (rows, vectors), of which those that fit are tried, and the number of quads that they sum.
_TILES, _QUADS = ((8, 1), (6, 1), (4, 2), (12, 1), (4, 4), (14, 2), (8, 3), (6, 4)), 128
_REPEATS, _TRIALS = 400, 20


@cache
def ceiling(target: str = "native") -> float:
    """Billions of operations per second, two for each multiply-accumulate, on one thread: the best tile's best trial.

    Raises TargetError for an unknown target, ObjectCodeError for one of another machine.
    """
    found = targets.get(target)
    isa = ISAS[found.isa]
    tiles = [tile for tile in _TILES if _registers(isa, *tile) <= isa.registers]
    functions = {f"ceiling_{rows}_{vectors}": _products(isa, rows, vectors) for rows, vectors in tiles}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ceiling.o"
        build_object(functions, dict(found.tvm)).write_to_file(str(path))
        library = Library(path.read_bytes())
    return max(_rate(library, isa, *tile) for tile in tiles)


def _registers(isa: Isa, rows: int, vectors: int) -> int:
    """Accumulators, weights and one activation; with "maddubs" two of each operand and the sums of both."""
    return rows * vectors + (vectors + 1 if isa.exact_quads else 2 * vectors + 4)


def _rate(library: Library, isa: Isa, rows: int, vectors: int) -> float:
    function = library.function(f"ceiling_{rows}_{vectors}", None, [ctypes.c_int32, *[ctypes.c_void_p] * 3])
    sizes = (4 * rows * _QUADS, 4 * vectors * isa.lanes * _QUADS, 4 * rows * vectors * isa.lanes)
    memory = [allocate(size, zero=True) for size in sizes]
    seconds = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        function(_REPEATS, *(m.ctypes.data for m in memory))
        seconds.append(time.perf_counter() - started)
    macs = 4 * isa.lanes * rows * vectors * _QUADS * _REPEATS
    return float(2e-9 * macs / np.min(seconds))


def _products(isa: Isa, rows: int, vectors: int) -> PrimFunc:
    """`void ceiling(int32 repeats, x, w, out)`: out += x (rows, quads) times w (quads, channels), several times."""
    width, together = vectors * isa.lanes, 1 if isa.exact_quads else 2
    with prim_func(f"ceiling_{rows}_{vectors}") as finish:
        repeats: Any = I.arg("repeats", I.int32())
        x = argument("x", 4 * rows * _QUADS, "uint8")
        w = argument("w", 4 * width * _QUADS, "int8")
        out = argument("out", rows * width, "uint32")
        with I.sblock("tile"):
            I.reads()
            I.writes()
            acc = I.sblock_alloc_buffer((rows * width,), "uint32", scope="local")
            lanes = [I.ramp(at, 1, isa.lanes) for at in range(0, rows * width, isa.lanes)]
            for lane in lanes:
                I.buffer_store(acc, out[lane], [lane])
            with I.serial(0, repeats), I.serial(0, _QUADS // together) as step:
                quads = [step * together + i for i in range(together)]
                weights = [
                    [I.Bind(load(w, 4 * (q * width + v * isa.lanes), 4 * isa.lanes)) for q in quads]
                    for v in range(vectors)
                ]
                for row in range(rows):
                    left = [I.Bind(broadcast_quad(x, 4 * (row * _QUADS + q), isa.lanes)) for q in quads]
                    for vector in range(vectors):
                        lane = lanes[row * vectors + vector]
                        I.buffer_store(acc, _summed(isa, acc[lane], left, weights[vector]), [lane])
            for lane in lanes:
                I.buffer_store(out, acc[lane], [lane])
    return finish()


def _summed(isa: Isa, acc: Any, activations: list[Any], weights: list[Any]) -> Any:
    """`acc` and the products of the quads: one by `vpdpbusd`, or two that are added in s16 first."""
    if isa.exact_quads:
        return dot_quads(isa, acc, activations[0], weights[0])
    first, second = (pair_sums(isa, a, w) for a, w in zip(activations, weights, strict=True))
    return acc + sum_pairs(isa, first + second)
