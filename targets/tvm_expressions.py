"""TIR expressions as the records of `fxquant.targets.verify.accesses`, and which memory a buffer of TIR is."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from tvm.ir import Call, TensorLoad, Var
from tvm.tirx import expr as tir

from fxquant.errors import MemorySafetyError
from fxquant.targets.verify.accesses import Element, Expression, Interval, Loop, Memory, Number, Operation, Unknown

BINARY = {
    tir.Add: "add", tir.Sub: "sub", tir.Mul: "mul", tir.FloorDiv: "floordiv", tir.FloorMod: "floormod",
    tir.Div: "truncdiv", tir.Mod: "truncmod", tir.Min: "min", tir.Max: "max", tir.LT: "lt", tir.LE: "le",
    tir.EQ: "eq", tir.NE: "ne", tir.And: "and", tir.Or: "or", tir.BitwiseAnd: "bitand", tir.BitwiseOr: "bitor",
    tir.BitwiseXor: "bitxor", tir.LShift: "shl", tir.RShift: "shr",
}  # fmt: skip
_TURNED = {tir.GT: "lt", tir.GE: "le"}
_FLOAT = (-(1 << 1100), 1 << 1100)  # beyond all floats
_INDEX = (-(1 << 62), 1 << 62)
IF = "prim.if_then_else"


@lru_cache
def limits_of(dtype: str) -> Interval:
    """The least and greatest number of a type, or of an element of a vector; of floats nothing is known."""
    name = dtype.partition("x")[0]
    if name == "bool":
        return 0, 1
    if name.startswith(("int", "uint")):
        info = np.iinfo(name)
        return int(info.min), int(info.max)
    return _FLOAT


class Expressions:
    """The values of one function's variables, and the memory behind its buffers, as far as they have been read.

    Objects of TIR are known by `hash`, which is their address: the function keeps them alive. (That of a number is the
    number.)
    """

    def __init__(self) -> None:
        self._interned: dict[tuple[Any, ...], Expression] = {}
        self._read_before: dict[int, Expression] = {}
        self._values: dict[int, Expression] = {}
        # Where the elements of a buffer are: those of some memory, from an index on.
        self._places: dict[int, tuple[Memory, Expression | None]] = {}
        self._sizes: dict[int, list[list[Expression]]] = {}
        # Nodes with more in them than arithmetic on numbers, and how often such were met.
        self._opaque: set[int] = set()
        self._met = 0

    def define(self, var: Any, value: Expression) -> None:
        """A variable from here on."""
        if hash(var) in self._values:  # one variable in two places: what was read with it means something else now
            self._read_before.clear()
            self._opaque.clear()
        self._values[hash(var)] = value

    def new_memory(self, buffer: Any, position: int | None, loops: frozenset[Loop]) -> Memory:
        """Memory of its own that is the elements of `buffer`."""
        kind, name = buffer.ty, str(buffer.name)
        if kind.strides or not all(isinstance(n, tir.IntImm) for n in kind.shape):
            raise MemorySafetyError(f"{name} has strides of its own, or a size that is not known")
        dtype, _, lanes = str(kind.dtype).partition("x")
        elements = int(np.prod([int(n) for n in kind.shape], dtype=np.int64)) * int(lanes or 1)
        memory = Memory(name, dtype, elements, int(kind.data_alignment), position, loops)
        self._places[hash(buffer)] = (memory, None)
        return memory

    def is_pointer(self, var: Any) -> bool:
        """Whether a variable is a buffer, or an address in one."""
        return hash(var) in self._places

    def point(self, var: Any, address: Any) -> None:
        """A pointer variable, or another name of a buffer: elements of the same size from an address on."""
        if isinstance(address, Call):
            element = address.args[0]
            place: tuple[Memory, Expression | None] = self.at(element.source, element.indices)
        elif self.is_pointer(address):
            place = self._places[hash(address)]
        else:
            raise MemorySafetyError(f"{var.name} is a pointer from nowhere")
        dtype = getattr(var.ty, "dtype", None)
        if dtype is not None and np.dtype(str(dtype).partition("x")[0]).itemsize != place[0].itemsize:
            raise MemorySafetyError(f"{var.name} has elements of another size than {place[0].name}")
        self._places[hash(var)] = place

    def at(self, buffer: Any, indices: Any) -> tuple[Memory, Expression]:
        """The memory and the flat index of an element of `buffer`, row-major."""
        if not self.is_pointer(buffer):
            raise MemorySafetyError(f"{buffer.name} is a pointer from nowhere")
        memory, found = self._places[hash(buffer)]
        for index, later in zip(indices[:], self._later_sizes(buffer), strict=True):
            term = self.of(index)
            for size in later:
                term = self.operation("mul", term, size)
            found = term if found is None else self.operation("add", found, term)
        return memory, self.number(0) if found is None else found

    def _later_sizes(self, buffer: Any) -> list[list[Expression]]:
        """For each axis the sizes of those behind it."""
        key = hash(buffer)
        if key not in self._sizes:
            sizes = [self.number(int(n)) for n in buffer.ty.shape]
            self._sizes[key] = [sizes[axis + 1 :] for axis in range(len(sizes))]
        return self._sizes[key]

    def number(self, value: int) -> Expression:
        """A constant."""
        return self._interned.setdefault(("number", value), Number((value, value), value))

    def operation(self, name: str, *operands: Expression, limits: Interval = _INDEX) -> Expression:
        """Without `limits` an index, which never wraps around."""
        key = (name, limits, *map(id, operands))
        return self._interned.setdefault(key, Operation(limits, name, operands))

    def scalar(self, node: Any) -> Expression:
        """What might become an index: one integer. Vectors and floats are not followed."""
        dtype = node.ty.dtype
        limits = limits_of(dtype)
        return self.of(node) if dtype.lanes == 1 and limits is not _FLOAT else Unknown(limits)

    def of(self, node: Any) -> Expression:
        """An expression of TIR."""
        if type(node) is tir.IntImm:
            return self.number(int(node.value))
        key = hash(node)
        found = self._read_before.get(key)
        if found is None:
            before = self._met
            found = self._read_before[key] = self._read(node)
            if self._met > before:
                self._opaque.add(key)
        elif key in self._opaque:
            self._met += 1
        return found

    def is_arithmetic(self, node: Any) -> bool:
        """Whether a number or a vector of places holds no loads, calls or pointers, and is all followed."""
        before, dtype = self._met, node.ty.dtype
        if type(node) is not tir.Ramp and (dtype.lanes > 1 or limits_of(dtype) is _FLOAT):
            return False
        self.of(node)
        return self._met == before

    def _read(self, node: Any) -> Expression:
        kind = type(node)
        limits = limits_of(node.ty.dtype)
        if kind is Var and hash(node) in self._values:
            return self._values[hash(node)]
        if kind in BINARY:
            return self._applied(BINARY[kind], limits, node.a, node.b)
        if kind in _TURNED:
            return self._applied(_TURNED[kind], limits, node.b, node.a)
        if kind not in _ARITHMETIC:
            self._met += 1
        reader = _READERS.get(kind)
        return reader(self, node, limits) if reader else Unknown(limits)

    def _applied(self, name: str, limits: Interval, *operands: Any) -> Expression:
        return self.operation(name, *map(self.of, operands), limits=limits)

    def _call(self, node: Any, limits: Interval) -> Expression:
        if node.op.name == IF:
            return self._applied("select", limits, *node.args)
        return self.of(node.args[0]) if node.op.name == "prim.likely" else Unknown(limits)

    def _ramp(self, node: Any, limits: Interval) -> Expression:
        """From the first lane to the last."""
        reach = self.operation("mul", self.of(node.stride), self.number(int(node.lanes) - 1))
        return self.operation("hull", self.of(node.base), reach)

    def _element(self, node: Any, limits: Interval) -> Expression:
        return Element(limits, *self.at(node.source, node.indices))

    def _select(self, node: Any, limits: Interval) -> Expression:
        return self._applied("select", limits, node.condition, node.true_value, node.false_value)


_READERS: dict[type, Callable[[Expressions, Any, Interval], Expression]] = {
    Call: Expressions._call,
    TensorLoad: Expressions._element,
    tir.Ramp: Expressions._ramp,
    tir.Select: Expressions._select,
    tir.Broadcast: lambda known, node, limits: known.of(node.value),
    tir.Cast: lambda known, node, limits: known.operation("cast", known.of(node.value), limits=limits),
    tir.Not: lambda known, node, limits: known.operation("not", known.of(node.a), limits=limits),
}
_ARITHMETIC = frozenset({tir.Ramp, tir.Select, tir.Broadcast, tir.Cast, tir.Not})
