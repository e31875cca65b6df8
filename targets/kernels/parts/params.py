"""The constant arguments of a kernel: one record declares and packs each, so that order, types and sizes cannot differ.

params = [Param("bias", 16, "int32", lambda layer: layer.bias), ...]
declare(params)         in the function that is being built: its buffers by name
pack(params, layer)     what is kept beside the code: arrays by name, in the same order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxquant.targets.kernels.words.tir import argument

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Param:
    """A constant argument of `elements`, or fewer where `is_most`; `values` makes its numbers of what `pack` is given.

    A kernel may see bytes as wider elements: then `dtype` is that of the kernel. `align` is in bytes.
    """

    name: str
    elements: int
    dtype: str
    values: Callable[..., Array]
    align: int = 64
    is_most: bool = False

    def packed(self, *given: Any) -> Array:
        """The numbers, flat. Raises ValueError where they are not what the kernel is told."""
        found = np.ascontiguousarray(self.values(*given)).reshape(-1)
        kinds, size = {"int8", self.dtype}, self.elements * np.dtype(self.dtype).itemsize
        if str(found.dtype) not in kinds or found.nbytes > size or (found.nbytes < size and not self.is_most):
            raise ValueError(
                f"the constant {self.name} has {found.size} elements of {found.dtype}, and its kernel takes "
                f"{self.elements} of {self.dtype}"
            )
        return found


def declare(params: Sequence[Param]) -> dict[str, Any]:
    """Declare the arguments in the function being built: their buffers by name."""
    return {param.name: argument(param.name, param.elements, param.dtype, param.align) for param in params}


def pack(params: Sequence[Param], *given: Any) -> dict[str, Array]:
    """The arguments' numbers by name and in order."""
    return {param.name: param.packed(*given) for param in params}
