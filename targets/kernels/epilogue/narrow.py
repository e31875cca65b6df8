"""The epilogue's narrow form: 32-bit lanes hold the product of an accumulator and its multiplier.

    M = m * 2^(32 - e)   =>   (acc * M + C) >> 32 = (acc * m + c) >> e       c = 2^(e - 1) + (zero point + bias) * 2^e

Three instructions in the place of seven on x86, of five on NEON. It is exact where no step leaves 32 bits for any
accumulator that the weights allow, and multipliers are seldom so short by chance: a recipe makes them so
(`fxquant.ops.fixed_point`).

Constant argument: `multiplier` s32[3 * channels], the channels' m, then their c, then their e.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fxquant.bounds import Bounds
from fxquant.targets.kernels.words.tir import bits, get
from fxquant.targets.tvm_api import T

Array = np.ndarray[Any, Any]
_LIMIT = 1 << 31


@dataclass(frozen=True)
class NarrowArguments:
    """The constants of the epilogue inside a function being built, for so many channels."""

    lanes: int
    channels: int
    constants: Any

    def scaled(self, accumulators: Any, channel: Any) -> Any:
        """Rounded accumulators with the zero point added, as s32 lanes, not clamped yet."""
        lanes = self.lanes
        m, c, e = (get(self.constants, channel + part * self.channels, lanes) for part in range(3))
        if lanes == 1:
            return T.shift_right(accumulators * m + c, e)
        # TIR lets no signed lane wrap, and those beyond the channels may hold anything.
        acc, m, c = (bits(vector, f"uint32x{lanes}") for vector in (accumulators, m, c))
        return T.shift_right(bits(acc * m + c, f"int32x{lanes}"), e)


def fits(multiplier: Array | int, offset: int, bounds: Bounds) -> bool:
    """Whether the form is exact for these multipliers and accumulators; `offset` is the zero point as it is stored."""
    m, c, _ = (numbers.astype(object) for numbers in _numbers(np.asarray(multiplier, np.int64), offset))
    if not _in_range(c):
        return False
    sides = [bound.astype(object) * m for bound in bounds]  # Python's integers, which do not wrap
    return all(_in_range(side) and _in_range(side + c) for side in sides)


def _in_range(numbers: Array) -> bool:
    return bool(-_LIMIT <= numbers.min() and numbers.max() < _LIMIT)


def packed(multiplier: Array, offset: int) -> Array:
    """The constant argument; a channel that has multiplier 0 gives the zero point. ValueError unless it is s32."""
    m, c, e = _numbers(multiplier.astype(np.int64), offset)
    if not _in_range(c):
        raise ValueError("epilogue: these multipliers have too many bits for the narrow form")
    return np.concatenate([m, c, e]).astype(np.int32)


def _numbers(multiplier: Array, offset: int) -> tuple[Array, Array, Array]:
    """m, c and e."""
    lowest = np.where(multiplier > 0, multiplier & -multiplier, 1 << 31)
    e = 32 - np.log2(lowest).astype(np.int64)
    return multiplier // lowest, (1 << (e - 1)) + (offset << e), e
