"""The proof that a compiled network's kernels get, for kernels that a test runs by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.kernel import Kernel
from fxquant.targets.tvm_accesses import accesses_of
from fxquant.targets.verify.reach import Allowed, prove

Array = np.ndarray[Any, Any]


def require_proven(kernel: Kernel, buffers: Sequence[Array], constants: Sequence[Array] = (), slack: int = 0) -> None:
    """Every access lies in the buffers that the kernel is given; `slack` bytes behind each may be read.

    Those that are `constants` are looked into. Raises MemorySafetyError.
    """
    accesses = accesses_of(kernel.func, kernel.tasks)
    pairs = list(zip(accesses.parameters, buffers, strict=True))
    tables = {
        position: buffer
        for position, (parameter, buffer) in enumerate(pairs)
        if any(buffer is constant for constant in constants) and str(buffer.dtype) == parameter.dtype
    }
    allowed = {
        position: Allowed(
            (0, (buffer.nbytes + slack) // parameter.itemsize - 1), (0, buffer.nbytes // parameter.itemsize - 1)
        )
        for position, (parameter, buffer) in enumerate(pairs)
    }
    prove(accesses, allowed, {p: t for p, t in tables.items() if t.dtype.kind in "iu"})
