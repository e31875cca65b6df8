"""What accumulators can become, whatever the input: what overflow checks and exact kernels are proven with."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Bounds = tuple[Array, Array]  # least and greatest accumulator by output channel, int64


def sum_bounds(weight: Array, bias: Array, zero_point: int, low: int, high: int) -> Bounds:
    """Of bias + sum of weight * (q - zero_point).

    `low` and `high` bound the input's values q; padding, which holds the zero point, is allowed for.
    """
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    below, above = min(low - zero_point, 0), max(high - zero_point, 0)
    positive, negative = np.maximum(flat, 0).sum(1), np.minimum(flat, 0).sum(1)
    offset = bias.astype(np.int64)
    return offset + positive * below + negative * above, offset + positive * above + negative * below
