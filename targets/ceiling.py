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
from fxquant.runtime.team import allocate
from fxquant.targets.kernels.simd import (
    ISAS,
    Isa,
    argument,
    broadcast_quad,
    dot_quads,
    load,
    pair_sums,
    prim_func,
    sum_pairs,
)
from fxquant.targets.tvm_api import I, PrimFunc, build_object

# The register tile, which leaves half of AVX2's registers for operands, and the number of quads that it sums.
_ROWS, _VECTORS, _QUADS = 8, 1, 128
_REPEATS, _TRIALS = 400, 60


@cache
def ceiling(target: str = "native") -> float:
    """Billions of operations per second, two for each multiply-accumulate, on one thread: the best of some trials.

    Raises TargetError for an unknown target, ObjectCodeError for one of another machine.
    """
    found = targets.get(target)
    isa = ISAS[found.isa]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ceiling.o"
        build_object({"ceiling": _products(isa)}, dict(found.tvm)).write_to_file(str(path))
        function = Library(path.read_bytes()).function("ceiling", None, [ctypes.c_int32, *[ctypes.c_void_p] * 3])
    sizes = (4 * _ROWS * _QUADS, 4 * _VECTORS * isa.lanes * _QUADS, 4 * _ROWS * _VECTORS * isa.lanes)
    memory = [allocate(size, zero=True) for size in sizes]
    seconds = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        function(_REPEATS, *(m.ctypes.data for m in memory))
        seconds.append(time.perf_counter() - started)
    macs = 4 * isa.lanes * _ROWS * _VECTORS * _QUADS * _REPEATS
    return float(2e-9 * macs / np.min(seconds))


def _products(isa: Isa) -> PrimFunc:
    """`void ceiling(int32 repeats, x, w, out)`: out += x (rows, quads) times w (quads, channels), several times."""
    width, together = _VECTORS * isa.lanes, 1 if isa.exact_quads else 2
    with prim_func("ceiling") as finish:
        repeats: Any = I.arg("repeats", I.int32())
        x = argument("x", 4 * _ROWS * _QUADS, "uint8")
        w = argument("w", 4 * width * _QUADS, "int8")
        out = argument("out", _ROWS * width, "uint32")
        with I.sblock("tile"):
            I.reads()
            I.writes()
            acc = I.sblock_alloc_buffer((_ROWS * width,), "uint32", scope="local")
            lanes = [I.ramp(at, 1, isa.lanes) for at in range(0, _ROWS * width, isa.lanes)]
            for lane in lanes:
                I.buffer_store(acc, out[lane], [lane])
            with I.serial(0, repeats), I.serial(0, _QUADS // together) as step:
                quads = [step * together + i for i in range(together)]
                weights = [
                    [I.Bind(load(w, 4 * (q * width + v * isa.lanes), 4 * isa.lanes)) for q in quads]
                    for v in range(_VECTORS)
                ]
                for row in range(_ROWS):
                    left = [I.Bind(broadcast_quad(x, 4 * (row * _QUADS + q), isa.lanes)) for q in quads]
                    for vector in range(_VECTORS):
                        lane = lanes[row * _VECTORS + vector]
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
