"""How fast this CPU can sum exact 8-bit products: the rate that a layer's GOPS are a share of.

What is timed is the inner loop of a matrix product with everything in registers or the first-level cache, so no layer of
plain products can be faster. Winograd layers can: they do fewer products than they are credited with.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np

from fxquant import targets
from fxquant.runtime.elf import Library
from fxquant.runtime.team import allocate
from fxquant.targets.kernels.simd import ISAS, Isa, argument, broadcast_quad, dot_quads, load, prim_func
from fxquant.targets.tvm_api import I, PrimFunc, build_object

# The register tile, 12 accumulators of 16 registers, and the length of its sums: 24 KiB with AVX2.
_ROWS, _VECTORS, _QUADS = 6, 2, 256
_REPEATS, _TRIALS = 200, 30


@cache
def ceiling(target: str = "native") -> float:
    """Billions of operations per second, two for each multiply-accumulate, on one thread: the best of some trials.

    Raises TargetError for a target that this machine does not know.
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
    """`void ceiling(int32 repeats, x, w, out)`: out += the products of x (rows, quads) and w (quads, vectors), repeated."""
    width = _VECTORS * isa.lanes
    with prim_func("ceiling") as finish:
        repeats = I.arg("repeats", I.int32())
        x = argument("x", 4 * _ROWS * _QUADS, "uint8")
        w = argument("w", 4 * width * _QUADS, "int8")
        out = argument("out", _ROWS * width, "uint32")
        places = [(row, vector, row * width + vector * isa.lanes) for row in range(_ROWS) for vector in range(_VECTORS)]
        with I.sblock("tile"):
            I.reads()
            I.writes()
            acc = I.sblock_alloc_buffer((_ROWS * width,), "uint32", scope="local")
            for _, _, at in places:
                I.buffer_store(acc, load(out, at, isa.lanes), [_lanes(at, isa)])
            with I.serial(0, repeats), I.serial(0, _QUADS) as quad:
                weights = [I.Bind(load(w, 4 * (quad * width + v * isa.lanes), 4 * isa.lanes)) for v in range(_VECTORS)]
                for row, vector, at in places:
                    if vector == 0:
                        left = I.Bind(broadcast_quad(x, 4 * (row * _QUADS + quad), isa.lanes))
                    sums = dot_quads(isa, load(acc, at, isa.lanes), left, weights[vector])
                    I.buffer_store(acc, sums, [_lanes(at, isa)])
            for _, _, at in places:
                I.buffer_store(out, load(acc, at, isa.lanes), [_lanes(at, isa)])
    return finish()
