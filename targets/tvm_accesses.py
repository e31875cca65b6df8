"""Reads what a TIR function does to memory into the records of `fxquant.targets.verify.accesses`.

Functions are read as the kernel templates (and TVM's legalizer) build them, before TVM lowers them. Nothing is passed
over in silence: a pointer that goes anywhere but into a load, a store or a prefetch is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import tvm_ffi
from tvm.ir import Call, TensorLoad, Var
from tvm.s_tir import stmt as s_tir
from tvm.tirx import buffer as tir_buffer
from tvm.tirx import expr as tir
from tvm.tirx import stmt

from fxquant.errors import MemorySafetyError
from fxquant.targets.tvm_api import PrimFunc
from fxquant.targets.verify.accesses import (
    Access,
    Accesses,
    Element,
    Expression,
    Interval,
    Loop,
    Memory,
    Number,
    Operation,
    Unknown,
)

_BINARY = {
    tir.Add: "add", tir.Sub: "sub", tir.Mul: "mul", tir.FloorDiv: "floordiv", tir.FloorMod: "floormod",
    tir.Div: "truncdiv", tir.Mod: "truncmod", tir.Min: "min", tir.Max: "max", tir.LT: "lt", tir.LE: "le",
    tir.EQ: "eq", tir.NE: "ne", tir.And: "and", tir.Or: "or", tir.BitwiseAnd: "bitand", tir.BitwiseOr: "bitor",
    tir.BitwiseXor: "bitxor", tir.LShift: "shl", tir.RShift: "shr",
}  # fmt: skip
_TURNED = {tir.GT: "lt", tir.GE: "le"}
_BOOL = (0, 1)
# Calls that may have effects, but on no memory of a kernel's.
_HARMLESS = frozenset({"tirx.prefetch"})
# Calls that could do anything to memory, and say nothing about it.
_OPAQUE = frozenset({
    "tirx.call_extern", "tirx.call_llvm_intrin", "tirx.call_packed", "tirx.call_cpacked", "tirx.tvm_access_ptr",
})  # fmt: skip


def accesses_of(func: PrimFunc, tasks: int) -> Accesses:
    """All loads and stores of a kernel `void f(int32 task, buffers...)` of so many tasks.

    Raises MemorySafetyError where a pointer goes out of sight.
    """
    return _Reader(func, tasks).read()


@lru_cache
def _limits(dtype: str) -> Interval:
    """The least and greatest number of a type; of floats nothing is known."""
    name = dtype.partition("x")[0]
    if name == "bool":
        return _BOOL
    if name.startswith(("int", "uint")):
        info = np.iinfo(name)
        return int(info.min), int(info.max)
    return -(1 << 1100), 1 << 1100


class _Reader:
    """One function being read: variables in scope, and the loops and conditions around the place."""

    def __init__(self, func: PrimFunc, tasks: int) -> None:
        self.func = func
        self.interned: dict[tuple[Any, ...], Expression] = {}
        self.read_before: dict[int, Expression] = {}
        self.values: dict[int, Expression] = {}
        # Where the elements of a buffer are: those of some memory, from an index on.
        self.places: dict[int, tuple[Memory, Expression | None]] = {}
        self.accesses: list[Access] = []
        self.loops: list[Loop] = []
        self.guards: list[Expression] = []
        self.task = Loop(_limits("int32"), "task", self._number(0), self._number(tasks))
        self.callbacks = [
            (stmt.For, self._for), (stmt.Bind, self._bind), (stmt.BufferStore, self._store),
            (TensorLoad, self._load), (stmt.IfThenElse, self._if), (stmt.AllocBuffer, self._alloc),
            (stmt.DeclBuffer, self._decl), (s_tir.SBlockRealize, self._realize), (s_tir.SBlock, self._block),
            (Call, self._call), (tir.Select, self._select), (Var, self._stray),
        ]  # fmt: skip

    def read(self) -> Accesses:
        """The records of the whole function."""
        task, *buffers = self.func.params
        self.values[hash(task)] = self.task
        self.loops.append(self.task)
        parameters = []
        for position, buffer in enumerate(buffers):
            self._require(tir_buffer.is_buffer_var(buffer), f"parameter {buffer.name} is no buffer")
            memory = self._memory(buffer, position)
            parameters.append(memory)
        self._visit(self.func.body)
        return Accesses(tuple(parameters), self.task, tuple(self.accesses))

    def _visit(self, node: Any) -> None:
        tvm_ffi.structural_visit(node, self.callbacks)

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise MemorySafetyError(what)

    # Memory

    def _memory(self, buffer: Any, position: int | None = None) -> Memory:
        """New memory that is the elements of `buffer`."""
        kind = buffer.ty
        self._require(not kind.strides, f"{buffer.name} has strides of its own")
        self._require(all(isinstance(n, tir.IntImm) for n in kind.shape), f"{buffer.name} has a free size")
        elements = 1
        for n in kind.shape:
            elements *= int(n)
        dtype = str(kind.dtype)
        lanes = int(dtype.partition("x")[2] or 1)
        name = str(buffer.name)
        memory = Memory(
            name, dtype.partition("x")[0], elements * lanes, int(kind.data_alignment), position, frozenset(self.loops)
        )
        self.places[hash(buffer)] = (memory, None)
        return memory

    def _at(self, buffer: Any, indices: Any) -> tuple[Memory, Expression]:
        """The memory and the flat index of an element of `buffer`, row-major."""
        found = self.places.get(hash(buffer))
        if found is None:
            raise MemorySafetyError(f"{buffer.name} is a pointer from nowhere")
        memory, start = found
        shape = buffer.ty.shape
        at: Expression | None = start
        for axis, index in enumerate(indices):
            term = self._expression(index)
            for n in shape[axis + 1 :]:
                term = self._operation("mul", term, self._number(int(n)))
            at = term if at is None else self._operation("add", at, term)
        return memory, self._number(0) if at is None else at

    def _access(self, buffer: Any, indices: Any, is_store: bool) -> Memory:
        memory, index = self._at(buffer, indices)
        self.accesses.append(Access(memory, index, is_store, tuple(self.loops), tuple(self.guards)))
        return memory

    # Statements

    def _for(self, loop: Any, visitor: Any) -> None:
        first = self._expression(loop.min)
        self._require(loop.step is None or int(loop.step) == 1, "a loop has steps")
        extent = loop.extent
        if isinstance(extent, tir.Sub) and self._expression(extent.b) is first:
            end = self._expression(extent.a)
        else:
            end = self._operation("add", first, self._expression(extent))
        visitor.visit(loop.min)
        visitor.visit(extent)
        variable = Loop(_limits(loop.loop_var.ty.dtype), str(loop.loop_var.name), first, end)
        with self._scope(loop.loop_var, variable):
            visitor.visit(loop.body)

    @contextmanager
    def _scope(self, var: Any, variable: Loop) -> Iterator[None]:
        self._define(var, variable)
        self.loops.append(variable)
        yield
        self.loops.pop()

    def _define(self, var: Any, value: Expression) -> None:
        if hash(var) in self.values:  # one variable in two places: what was read with it means something else now
            self.read_before.clear()
        self.values[hash(var)] = value

    def _bind(self, bind: Any, visitor: Any) -> None:
        value = bind.value
        if isinstance(value, Call) and value.op.name == "tirx.address_of":
            self.places[hash(bind.var)] = self._address(value, visitor)
            return
        visitor.visit(value)
        self._define(bind.var, self._scalar(value))

    def _address(self, call: Any, visitor: Any) -> tuple[Memory, Expression]:
        element = call.args[0]
        for index in element.indices:
            visitor.visit(index)
        return self._at(element.source, element.indices)

    def _decl(self, decl: Any, visitor: Any) -> None:
        """Another name for memory: elements of the same size from an address on."""
        buffer, data = decl.buffer, decl.data
        if isinstance(data, Call) and data.op.name == "tirx.address_of":
            place: Any = self._address(data, visitor)
        else:
            place = self.places.get(hash(data))
        self._require(place is not None, f"{buffer.name} is a pointer from nowhere")
        same = np.dtype(str(buffer.ty.dtype).partition("x")[0]).itemsize == place[0].itemsize
        self._require(same, f"{buffer.name} has elements of another size than {place[0].name}")
        self.places[hash(buffer)] = place

    def _alloc(self, alloc: Any, visitor: Any) -> None:
        self._memory(alloc.buffer)

    def _store(self, store: Any, visitor: Any) -> None:
        visitor.visit(store.value)
        for index in store.indices:
            visitor.visit(index)
        memory = self._access(store.buffer, store.indices, True)
        if memory.position is None:
            memory.stores.append(self._scalar(store.value))

    def _if(self, branch: Any, visitor: Any) -> None:
        visitor.visit(branch.condition)
        self._either(branch.condition, branch.then_case, branch.else_case, visitor.visit)

    def _either(self, condition: Any, then: Any, other: Any, visit: Callable[[Any], Any]) -> None:
        held = self._expression(condition)
        self.guards.append(held)
        visit(then)
        self.guards.pop()
        if other is not None:
            self.guards.append(self._operation("not", held))
            visit(other)
            self.guards.pop()

    def _realize(self, realize: Any, visitor: Any) -> None:
        block = realize.block
        for axis, value in zip(block.iter_vars, realize.iter_values, strict=True):
            visitor.visit(value)
            self._define(axis.var, self._expression(value))
        visitor.visit(realize.predicate)
        self.guards.append(self._expression(realize.predicate))
        visitor.visit(block)
        self.guards.pop()

    def _block(self, block: Any, visitor: Any) -> None:
        self._require(not block.match_buffers, f"block {block.name_hint} matches buffers")
        for buffer in block.alloc_buffers:
            self._memory(buffer)
        if block.init is not None:
            visitor.visit(block.init)
        visitor.visit(block.body)

    # Expressions that hold loads

    def _load(self, load: Any, visitor: Any) -> None:
        for index in load.indices:
            visitor.visit(index)
        self._access(load.source, load.indices, False)

    def _select(self, select: Any, visitor: Any) -> None:
        """Both sides are computed, but for a scalar load that might not be allowed: TVM then makes a branch of it."""
        visitor.visit(select.condition)
        if select.ty.dtype.lanes > 1:
            visitor.visit(select.true_value)
            visitor.visit(select.false_value)
        else:
            self._either(select.condition, select.true_value, select.false_value, visitor.visit)

    def _call(self, call: Any, visitor: Any) -> None:
        name = call.op.name
        if name in _HARMLESS:
            return
        self._require(name not in _OPAQUE, f"{name} could do anything to memory")
        if name == "prim.if_then_else":
            visitor.visit(call.args[0])
            self._either(*call.args, visitor.visit)
            return
        visitor.default_visit(call)

    def _stray(self, var: Any, visitor: Any) -> None:
        """A variable outside of loads and stores: a number, not a pointer."""
        self._require(hash(var) not in self.places, f"the address of {var.name} goes out of sight")

    # Records of expressions

    def _number(self, value: int) -> Expression:
        key = ("number", value)
        return self.interned.setdefault(key, Number((value, value), value))

    def _operation(self, name: str, *operands: Expression, limits: Interval | None = None) -> Expression:
        """Without `limits` a number that is as large as need be: an index, not a value of the machine's."""
        held = limits or (-(1 << 62), (1 << 62))
        key = (name, held, *map(id, operands))
        return self.interned.setdefault(key, Operation(held, name, operands))

    def _expression(self, node: Any) -> Expression:
        key = hash(node)
        found = self.read_before.get(key)
        if found is None:
            found = self.read_before[key] = self._read(node)
        return found

    def _scalar(self, node: Any) -> Expression:
        """What might be an index: one integer. Vectors and floats are not followed."""
        dtype = node.ty.dtype
        return self._expression(node) if dtype.lanes == 1 and dtype.type_code < 2 else Unknown(_limits(dtype))

    def _read(self, node: Any) -> Expression:
        kind = type(node)
        if kind is tir.IntImm:
            return self._number(int(node.value))
        if kind is Var:
            return self.values.get(hash(node)) or self._unknown(node)
        limits = _limits(node.ty.dtype)
        if kind in _BINARY:
            return self._operation(_BINARY[kind], *map(self._expression, (node.a, node.b)), limits=limits)
        if kind in _TURNED:
            return self._operation(_TURNED[kind], *map(self._expression, (node.b, node.a)), limits=limits)
        reader = self._OTHERS.get(kind)
        return reader(self, node, limits) if reader else self._unknown(node)

    def _unknown(self, node: Any) -> Expression:
        return Unknown(_limits(node.ty.dtype))

    def _read_call(self, node: Any, limits: Interval) -> Expression:
        if node.op.name == "prim.if_then_else":
            return self._operation("select", *map(self._expression, node.args), limits=limits)
        if node.op.name == "prim.likely":
            return self._expression(node.args[0])
        return Unknown(limits)

    def _read_cast(self, node: Any, limits: Interval) -> Expression:
        return self._operation("cast", self._expression(node.value), limits=limits)

    def _read_select(self, node: Any, limits: Interval) -> Expression:
        parts = (node.condition, node.true_value, node.false_value)
        return self._operation("select", *map(self._expression, parts), limits=limits)

    def _read_ramp(self, node: Any, limits: Interval) -> Expression:
        reach = self._operation("mul", self._expression(node.stride), self._number(int(node.lanes) - 1))
        return self._operation("hull", self._expression(node.base), reach)

    def _read_element(self, node: Any, limits: Interval) -> Expression:
        memory, index = self._at(node.source, node.indices)
        return Element(limits, memory, index)

    def _read_not(self, node: Any, limits: Interval) -> Expression:
        return self._operation("not", self._expression(node.a), limits=limits)

    def _read_broadcast(self, node: Any, limits: Interval) -> Expression:
        return self._expression(node.value)

    _OTHERS = {
        Call: _read_call, tir.Cast: _read_cast, tir.Select: _read_select, tir.Ramp: _read_ramp,
        TensorLoad: _read_element, tir.Not: _read_not, tir.Broadcast: _read_broadcast,
    }  # fmt: skip
