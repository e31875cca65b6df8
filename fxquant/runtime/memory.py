"""Memory of this process for files, weights and runs; too little of it is an error with a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fxquant.errors import OutOfMemoryError
from fxquant.runtime import abi

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]


def allocate(size: int, zero: bool = False) -> Bytes:
    """At least one and otherwise `size` bytes that start on a cache line. Raises OutOfMemoryError."""
    try:
        memory = (np.zeros if zero else np.empty)(max(size, 1) + abi.LINE, np.uint8)
    except MemoryError as error:
        raise OutOfMemoryError(f"the system has no {size} bytes of memory for the model; free some") from error
    start = -memory.ctypes.data % abi.LINE
    return memory[start : start + max(size, 1)]


def aligned(data: Bytes) -> Bytes:
    """`data`, or a copy of it where it does not start on a cache line."""
    if data.ctypes.data % abi.LINE == 0:
        return data
    copy = allocate(data.size)
    copy[: data.size] = data
    return copy
