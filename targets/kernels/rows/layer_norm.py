"""Layer normalization on x86, in vectors: `void f(int32 task, x, multiplier, offset, numbers, out)`, one row per task.

`numbers` are qmin and qmax, and about zero the zero point; the arithmetic is that of `fxquant.primitives.normalize`, to
the bit. Sums are over the bytes as they lie in memory: what is added to all elements cancels. Products are 32 x 32 bits
(`vpmuldq`).
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

from fxquant.primitives.normalize import NORM_FRACTION
from fxquant.targets.kernels.contract.kernel import Choice, Kernel, TensorSpec
from fxquant.targets.kernels.contract.operations import Norm
from fxquant.targets.kernels.contract.template import Maker
from fxquant.targets.kernels.words.numbers import clamp, wide
from fxquant.targets.kernels.words.pieces import offset, position
from fxquant.targets.kernels.words.tir import argument, bits, load, prim_func, splat
from fxquant.targets.kernels.words.x86 import Isa, dot_pairs, sign_extend
from fxquant.targets.tvm_api import I, T, tirx

# Then 32 bits hold the sum of the squares of bytes.
LONGEST = 1 << 14
# Added before a logical shift, since AVX2 has no arithmetic one of 64 bits: more than any product is below zero.
ABOVE = 1 << 62


def takes(x: TensorSpec, out: TensorSpec, isa: Isa) -> bool:
    """Whether `vector_norm_kernel` is for these: bytes, dense rows of whole vectors."""
    length = x.shape[-1]
    dense = x.strides[-1] == out.strides[-1] == 1
    return dense and x.dtype == out.dtype == "uint8" and length % (2 * isa.lanes) == 0 and 0 < length <= LONGEST


def vectors(isa: Isa) -> Maker:
    """The template."""

    def make(problem: Norm, _numbers: None) -> Choice | None:
        if not takes(problem.x, problem.out, isa):
            return None
        return Choice("layer_norm", None, partial(vector_norm_kernel, problem, isa), {})

    return make


def vector_norm_kernel(norm: Norm, isa: Isa) -> Kernel:
    """The kernel for what it `takes`."""
    x, out = norm.x, norm.out
    *batch, length = x.shape
    with prim_func("layer_norm") as finish:
        task: Any = I.arg("task", I.int32())
        source = argument("x", x.extent, "uint8", 1)
        multiplier = argument("multiplier", length, "int32", 4)
        shift = argument("offset", length, "int64", 8)
        numbers = argument("numbers", norm.numbers, "int32", 4)
        target = argument("out", out.extent, "uint8", 1)
        index = position(task, batch)
        start, base = I.Bind(offset(index, x.strides[:-1])), I.Bind(offset(index, out.strides[:-1]))
        total, squares = _sums(source, start, length, isa)
        spread = wide(squares) * _i64(length) - wide(total) * wide(total)
        if norm.about_zero:
            # As memory holds it; what is about the mean is moved there.
            centre = I.Bind((numbers[2] + x.bias) * length)
            spread = spread + wide(total - centre) * wide(total - centre)
            total = centre
        variance = I.shift_left(spread, _i64(2 * norm.half)) + _i64(norm.epsilon)
        reciprocal, exponent = _inverse_sqrt(I.max(variance, _i64(1)))
        drop = I.Bind(_i64(61 - NORM_FRACTION - norm.half) - exponent)
        one_half = I.shift_left(_i64(1), drop - _i64(1))
        lanes = isa.lanes // 2
        factor, right = (I.Bind(T.broadcast(value, lanes)) for value in (reciprocal, drop))
        added = I.Bind(T.broadcast(one_half + _i64(ABOVE), lanes))
        taken = I.Bind(T.broadcast(I.shift_right(_i64(ABOVE), drop), lanes))
        low, high = (I.Bind(T.broadcast(numbers[k], lanes)) for k in (0, 1))
        with I.serial(0, length // lanes) as step:
            i = step * lanes
            value = T.cast(load(source, start + i, lanes), f"int32x{lanes}") * splat(length, "int32", lanes)
            centred = T.cast(value - T.broadcast(total, lanes), f"int64x{lanes}")
            moved = bits(centred * sign_extend(factor, 2 * lanes) + added, f"uint64x{lanes}")
            normal = bits(T.shift_right(moved, bits(right, f"uint64x{lanes}")), f"int64x{lanes}") - taken
            scaled = sign_extend(normal, 2 * lanes) * T.cast(load(multiplier, i, lanes), f"int64x{lanes}")
            rounded = scaled + load(shift, i, lanes) + splat(1 << 31, "int64", lanes)
            result = T.cast(T.shift_right(rounded, splat(32, "int64", lanes)), f"int32x{lanes}")
            stored = clamp(result, low, high) + splat(out.bias, "int32", lanes)
            I.buffer_store(target, T.cast(stored, f"uint8x{lanes}"), [I.ramp(base + i, 1, lanes)])
    return Kernel(finish(), prod(batch))


def _sums(source: Any, start: Any, length: int, isa: Isa) -> tuple[Any, Any]:
    """The sum of a row's bytes, and that of their squares, s32."""
    lanes = isa.lanes
    sums = I.alloc_buffer((2 * lanes,), "uint32")
    both = [I.ramp(k * lanes, 1, lanes) for k in (0, 1)]
    for place in both:
        I.buffer_store(sums, splat(0, "uint32", lanes), [place])
    with I.serial(0, length // (2 * lanes)) as step:
        wide = I.Bind(T.cast(load(source, start + step * (2 * lanes), 2 * lanes), f"int16x{2 * lanes}"))
        for place, other in zip(both, (splat(1, "int16", 2 * lanes), wide), strict=True):
            I.buffer_store(sums, dot_pairs(isa, sums[place], wide, other), [place])
    found = []
    for k in (0, 1):
        total: Any = sums[k * lanes]
        for lane in range(1, lanes):
            total = total + sums[k * lanes + lane]
        found.append(I.Bind(T.cast(total, "int32")))
    return found[0], found[1]


def _inverse_sqrt(number: Any) -> tuple[Any, Any]:
    """`fxquant.primitives.normalize.inverse_sqrt`, without a branch: the hardware's root, mended, as it is done there.

    What is computed step by step stands in memory: TVM would put expressions into each other, ever larger ones.
    """
    state = I.alloc_buffer((3,), "int64")  # the normalized number, its shift, the root
    I.buffer_store(state, number, [0])
    I.buffer_store(state, _i64(0), [1])
    for step in (16, 8, 4, 2, 1):
        many = I.Bind(tirx.Select(state[0] < _i64(1 << (62 - 2 * step)), _i64(step), _i64(0)))
        I.buffer_store(state, state[1] + many, [1])
        I.buffer_store(state, I.shift_left(state[0], many + many), [0])
    I.buffer_store(state, T.cast(T.sqrt(T.cast(state[0], "float64")), "int64"), [2])
    I.buffer_store(state, tirx.Select(state[2] * state[2] > state[0], state[2] - _i64(1), state[2]), [2])
    above = I.Bind(state[2] + _i64(1))
    I.buffer_store(state, tirx.Select(above * above <= state[0], above, state[2]), [2])
    return I.Bind(I.min(tirx.truncdiv(_i64(1 << 61), state[2]), _i64((1 << 31) - 1))), state[1]


def _i64(value: int) -> Any:
    return tirx.const(value, "int64")
