"""Checks what a caller passes and finds its memory: numpy arrays and CPU torch tensors, without importing torch.

A small network takes some tens of microseconds, so that a few of Python's steps more or less are felt here.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from fxquant.errors import InputError
from fxquant.runtime.artifact import Port

_pointer_at = ctypes.c_void_p.from_address
# CPython's id is the object's address, and an array's first field where its elements lie (NumPy's PyArrayObject).
_DATA = object.__basicsize__


class NumpyBinding:
    """One port seen from numpy. `model` is the name for messages; dimension 0 is free where `batched`."""

    def __init__(self, port: Port, model: str, batched: bool) -> None:
        self.port, self._model, self._batched = port, model, batched
        self._dtype = np.dtype(port.dtype)
        self._shape, self._tail = port.shape, port.shape[1:]

    def accept(self, value: Any) -> tuple[Any, int, int]:
        """The array to read from (a copy if `value` is not contiguous), its address and its number of samples."""
        if not isinstance(value, np.ndarray):
            kind = type(value).__name__
            raise InputError(f"{self.where} is a {kind}; pass a numpy array or a torch tensor on the CPU")
        if value.dtype != self._dtype:
            raise InputError(f"{self.where} is {value.dtype}, not {self.port.dtype}; convert it explicitly")
        samples = self.count(value.shape)
        if not value.flags.carray:  # contiguous, aligned, and writeable, which need not be
            value = np.require(value, requirements=("C", "A"))
        return value, array_address(value), samples

    def allocate(self, samples: int) -> tuple[Any, int]:
        """A new array for `samples` samples, and its address."""
        array = np.empty(self._shape if samples == 1 or not self._batched else (samples, *self._tail), self._dtype)
        return array, array_address(array)

    def count(self, shape: tuple[int, ...]) -> int:
        """Samples in an array of `shape`; `InputError` if the shape is not the port's."""
        if shape == self._shape:
            return 1
        if not (self._batched and len(shape) == len(self.port.shape) and shape[1:] == self._tail):
            wanted = ", ".join(["N" if self._batched else str(self.port.shape[0]), *map(str, self._tail)])
            found = ", ".join(map(str, shape))
            raise InputError(f"{self.where} has shape ({found}), not ({wanted}); reshape it or compile for that shape")
        return shape[0]

    @property
    def where(self) -> str:
        """The port, for messages."""
        return f"input {self.port.name!r} of model {self._model!r}"


class TorchBinding(NumpyBinding):
    """One port seen from torch."""

    def __init__(self, port: Port, model: str, batched: bool, torch: Any) -> None:
        super().__init__(port, model, batched)
        self._torch = torch
        self._kind = getattr(torch, port.dtype)

    def accept(self, value: Any) -> tuple[Any, int, int]:
        """As for numpy; a gradient is not tracked."""
        if not isinstance(value, self._torch.Tensor):
            return super().accept(value)
        if value.dtype != self._kind:
            raise InputError(f"{self.where} is {value.dtype}, not {self._kind}; convert it explicitly")
        if not value.is_cpu or value.layout != self._torch.strided:
            kind = f"{value.layout} tensor on {value.device}"
            raise InputError(f"{self.where} is a {kind}; pass a dense tensor on the CPU")
        samples = self.count(tuple(value.shape))
        value = value.contiguous()
        return value, value.data_ptr(), samples

    def allocate(self, samples: int) -> tuple[Any, int]:
        """A new tensor for `samples` samples, and its address."""
        shape = (samples, *self._tail) if self._batched else self.port.shape
        tensor = self._torch.empty(shape, dtype=self._kind, device="cpu")
        return tensor, tensor.data_ptr()


def accept_all(bindings: Sequence[NumpyBinding], values: Sequence[Any]) -> tuple[list[int], list[Any], int]:
    """Addresses of all `values`, the objects that keep them valid, and the number of samples that they agree on."""
    if len(values) == 1:
        array, address, samples = bindings[0].accept(values[0])
        return [address], [array], samples
    addresses, alive, samples = [], [], -1
    for binding, value in zip(bindings, values, strict=True):
        array, address, count = binding.accept(value)
        addresses.append(address)
        alive.append(array)
        if samples not in (-1, count):
            raise InputError(f"{binding.where} has {count} samples, the inputs before it {samples}; make them equal")
        samples = count
    return addresses, alive, 1 if samples < 0 else samples


def torch_of(values: tuple[Any, ...]) -> Any:
    """The torch module if one of `values` is a tensor, else None. A program without torch cannot hold a tensor."""
    for value in values:
        if not isinstance(value, np.ndarray):
            torch = sys.modules.get("torch")
            if torch is not None and isinstance(value, torch.Tensor):
                return torch
    return None


def array_address(array: Any) -> int:
    """Where the elements of a contiguous array lie."""
    return _pointer_at(id(array) + _DATA).value or 0  # a fifth of the time of array.ctypes.data
