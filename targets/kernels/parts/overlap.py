"""How far a result may lie over its operand in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fxquant.targets.kernels.contract.problem import ConvProblem


def lead(problem: ConvProblem, unread: Callable[[int], int]) -> int:
    """Bytes by which the result must begin before x, so that what is written never reaches what is still to be read.

    Rows of the result are written in order; when row r is, the rows of x before `unread(r)` were read for good.
    """
    (count, rows, columns), (_, down, across) = problem.out.shape, problem.out.strides
    size, most = np.dtype(problem.out.dtype).itemsize, problem.x.shape[1]
    line = problem.x.strides[1] * np.dtype(problem.x.dtype).itemsize
    waits = [(row, max(0, unread(row))) for row in range(rows - 1)]
    ends = {row: (row * down + (columns - 1) * across + count) * size for row, _ in waits}
    return max([0, *(ends[row] - first * line for row, first in waits if first < most)])
