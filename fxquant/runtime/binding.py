"""Checks what a caller passes and finds its memory: numpy arrays and CPU torch tensors, without importing torch.

A small network takes some tens of microseconds, so that a few of Python's steps more or less are felt here.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from fxquant.errors import InputError, OutOfMemoryError
from fxquant.runtime.artifact import Port

_pointer_at = ctypes.c_void_p.from_address
# CPython's id is the object's address, and an array's first field where its elements lie (NumPy's PyArrayObject).
_DATA = object.__basicsize__

# Beyond it, the counters of the thread team would overflow.
MOST_SAMPLES = (1 << 31) - 4096


class NumpyBinding:
    """One port seen from numpy. `model` is the name for messages; dimension 0 is free where `batched`."""

    def __init__(self, port: Port, model: str, batched: bool) -> None:
        self.port, self._model, self._batched = port, model, batched
        self._dtype = np.dtype(port.dtype)
        self._shape, self._tail = port.shape, port.shape[1:]

    def accept(self, value: Any) -> tuple[Any, int, int]:
        """The array to read from (a copy if `value` is not contiguous), its address and its number of samples."""
        if type(value) is not np.ndarray:
            value = self._plain_array(value)
        if value.dtype != self._dtype:
            raise InputError(
                f"{self.where} is {value.dtype}, not {self.port.dtype}; convert it explicitly, with "
                f".astype({self.port.dtype!r}) if that is what you mean"
            )
        samples = self.count(value.shape)
        if not value.flags.carray:  # contiguous, aligned, and writeable, which need not be
            try:
                value = np.require(value, requirements=("C", "A"))
            except MemoryError as error:
                raise OutOfMemoryError(
                    f"no memory for a contiguous copy of {self.where}; pass fewer samples"
                ) from error
        return value, array_address(value), samples

    def allocate(self, samples: int) -> tuple[Any, int]:
        """A new array for `samples` samples, and its address."""
        shape = self._shape if samples == 1 or not self._batched else (samples, *self._tail)
        try:
            array = np.empty(shape, self._dtype)
        except (MemoryError, ValueError) as error:
            raise self._no_memory(samples) from error
        return array, array_address(array)

    def count(self, shape: tuple[int, ...]) -> int:
        """Samples in an array of `shape`; `InputError` if the shape is not the port's."""
        if shape == self._shape:
            return 1
        if not (self._batched and len(shape) == len(self.port.shape) and shape[1:] == self._tail):
            wanted = ", ".join(map(str, ("N", *self._tail) if self._batched else self._shape))
            found = ", ".join(map(str, shape))
            raise InputError(f"{self.where} has shape ({found}), not ({wanted}); reshape it or compile for that shape")
        if shape[0] > MOST_SAMPLES:
            raise InputError(f"{self.where} has {shape[0]} samples, of {MOST_SAMPLES} at most; pass them in parts")
        return shape[0]

    @property
    def where(self) -> str:
        """The port, for messages."""
        return f"input {self.port.name!r} of model {self._model!r}"

    @property
    def _output(self) -> str:
        """The port where it is an output, for messages."""
        return f"output {self.port.name!r} of model {self._model!r}"

    def _plain_array(self, value: Any) -> Any:
        """An array of a class derived from numpy's, as numpy's own."""
        kind = type(value).__name__
        if not isinstance(value, np.ndarray):
            raise InputError(f"{self.where} is a {kind}; pass a numpy array or a torch tensor on the CPU")
        if isinstance(value, np.ma.MaskedArray):
            raise InputError(f"{self.where} is a {kind}, and masks are not computed with; pass its .filled(value)")
        return np.ndarray.view(value, np.ndarray)

    def _no_memory(self, samples: int) -> OutOfMemoryError:
        return OutOfMemoryError(f"no memory for {samples} samples of {self._output}; pass fewer at a time")


class TorchBinding(NumpyBinding):
    """One port seen from torch."""

    def __init__(self, port: Port, model: str, batched: bool, torch: Any) -> None:
        super().__init__(port, model, batched)
        self._torch, self._tensor = torch, torch.Tensor
        self._kind = getattr(torch, port.dtype)

    def accept(self, value: Any) -> tuple[Any, int, int]:
        """As for numpy; a gradient is not tracked."""
        if type(value) is not self._tensor:
            if not isinstance(value, self._tensor):
                return super().accept(value)
            value = self._plain_tensor(value)
        if value.dtype != self._kind:
            raise InputError(f"{self.where} is {value.dtype}, not {self._kind}; convert it explicitly")
        if not value.is_cpu or value.layout != self._torch.strided:
            kind = f"{value.layout} tensor on {value.device}"
            raise InputError(f"{self.where} is a {kind}; pass a dense tensor on the CPU")
        try:
            samples = self.count(value.shape)
            if value.is_neg():  # its memory holds the negative of its values
                value = value.resolve_neg()
            value = value.contiguous()
            address = value.data_ptr()
            if not address and value._is_zerotensor():
                value = self._torch.zeros(value.shape, dtype=self._kind)
                address = value.data_ptr()
            return value, address or self._no_address(value, self.where), samples
        except RuntimeError as error:  # of wrappers within torch's transformations, and nested tensors
            reason = str(error).partition("\n")[0]
            raise InputError(f"{self.where} has no plain values ({reason}); pass a dense tensor on the CPU") from error

    def allocate(self, samples: int) -> tuple[Any, int]:
        """A new tensor for `samples` samples, and its address."""
        shape = (samples, *self._tail) if self._batched else self.port.shape
        try:
            tensor = self._torch.empty(shape, dtype=self._kind, device="cpu")
            return tensor, tensor.data_ptr() or self._no_address(tensor, self._output)
        except RuntimeError as error:
            raise self._no_memory(samples) from error

    def _no_address(self, tensor: Any, where: str) -> int:
        """0 for a tensor without elements; `InputError` for one that has some and no memory for them."""
        if tensor.numel():
            raise InputError(
                f"{where} has a shape and no memory, as fake tensors, freed ones and those within torch's "
                "transformations have none; call the model with and among tensors that hold their values"
            )
        return 0

    def _plain_tensor(self, value: Any) -> Any:
        """A tensor of a class derived from torch's, as torch's own, if its memory is all there is to it."""
        kind = type(value)
        if kind.__torch_dispatch__ is not self._tensor.__torch_dispatch__:
            raise InputError(f"{self.where} is a {kind.__name__}; pass a plain torch.Tensor with its values")
        with self._torch._C.DisableTorchFunctionSubclass():
            return value.as_subclass(self._tensor)


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
