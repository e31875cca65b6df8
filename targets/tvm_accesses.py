"""Reads what a TIR function does to memory into the records of `fxquant.targets.verify.accesses`.

Functions are read as the kernel templates (and TVM's legalizer) build them, before TVM lowers them. Nothing is passed
over in silence: a pointer that goes anywhere but into a load, a store or a prefetch is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm.ir import Call, StringImm, TensorLoad, Var
from tvm.s_tir import stmt as s_tir
from tvm.tirx import expr as tir
from tvm.tirx import stmt

from fxquant.errors import MemorySafetyError
from fxquant.targets.tvm_api import PrimFunc
from fxquant.targets.tvm_expressions import BINARY, IF, Expressions, limits_of
from fxquant.targets.verify.accesses import Access, Accesses, Expression, Loop
from fxquant.targets.verify.alike import ends_of

# What has nothing to it but its operands.
_PLAIN: dict[type, tuple[str, ...]] = {
    **dict.fromkeys((*BINARY, tir.GT, tir.GE), ("a", "b")), tir.Not: ("a",), tir.Cast: ("value",),
    tir.Broadcast: ("value",), tir.Ramp: ("base", "stride"), stmt.Evaluate: ("value",),
    tir.IntImm: (), tir.FloatImm: (), StringImm: (),
}  # fmt: skip
# Reads nothing that a program could notice, wherever it points.
_PREFETCH = "tirx.prefetch"
_ADDRESS = "tirx.address_of"
# Calls that could do anything to memory, whatever their arguments. (Of instructions the pointers among them tell.)
_OPAQUE = frozenset({"tirx.call_extern", "tirx.call_packed", "tirx.call_cpacked", "tirx.tvm_access_ptr"})


def accesses_of(func: PrimFunc, tasks: int) -> Accesses:
    """All loads and stores of a kernel `void f(int32 task, buffers...)` of so many tasks.

    Raises MemorySafetyError where a pointer goes out of sight.
    """
    try:
        return _Reader(func, tasks).read()
    except Exception as error:  # errors lose their class on their way through TVM, and what cannot be read is not safe
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise MemorySafetyError(f"what it does cannot be followed: {reason}") from error


class _Reader:
    """One function being read: the loops and conditions around the place, and what was found so far."""

    def __init__(self, func: PrimFunc, tasks: int) -> None:
        self.func, self.known = func, Expressions()
        self.accesses: list[Access] = []
        self.task = Loop(limits_of("int32"), "task", self.known.number(0), self.known.number(tasks))
        self.loops: list[Loop] = [self.task]
        self.guards: list[Expression] = []
        self.readers: dict[type, Callable[[Any], None]] = {
            stmt.For: self._for, stmt.Bind: self._bind, stmt.BufferStore: self._store,
            stmt.IfThenElse: self._if, stmt.AllocBuffer: self._alloc, stmt.DeclBuffer: self._decl,
            s_tir.SBlockRealize: self._realize, s_tir.SBlock: self._block,
            TensorLoad: self._load, Call: self._call, tir.Select: self._select, Var: self._stray,
        }  # fmt: skip

    def read(self) -> Accesses:
        """The records of the whole function."""
        task, *buffers = self.func.params
        self.known.define(task, self.task)
        parameters = [self.known.new_memory(b, position, frozenset()) for position, b in enumerate(buffers)]
        self._visit(self.func.body)
        return Accesses(tuple(parameters), self.task, ends_of(self.accesses))

    def _visit(self, node: Any) -> None:
        """A statement or an expression; of the usual kinds without the way from Python through TVM and back."""
        kind = type(node)
        if kind in self.readers:
            self.readers[kind](node)
        elif kind in _PLAIN:
            for name in _PLAIN[kind]:
                self._visit(getattr(node, name))
        elif kind is stmt.SeqStmt:
            for one in node.seq[:]:
                self._visit(one)
        else:
            tvm_ffi.structural_visit(node, [(k, lambda n, _, read=read: read(n)) for k, read in self.readers.items()])

    # Statements

    def _for(self, loop: Any) -> None:
        self._visit_index(loop.min)
        self._visit_index(loop.extent)
        _require(loop.step is None or int(loop.step) == 1, "a loop has steps")
        known, extent = self.known, loop.extent
        first = known.of(loop.min)
        # Between bounds that depend on the same things: not the first one plus a difference of intervals.
        ends_at_value = isinstance(extent, tir.Sub) and known.of(extent.b) is first
        end = known.of(extent.a) if ends_at_value else known.operation("add", first, known.of(extent))
        variable = Loop(limits_of(loop.loop_var.ty.dtype), str(loop.loop_var.name), first, end)
        known.define(loop.loop_var, variable)
        self.loops.append(variable)
        self._visit(loop.body)
        self.loops.pop()

    def _bind(self, bind: Any) -> None:
        value = bind.value
        if _is_address(value):
            self._visit_address(value)
            self.known.point(bind.var, value)
        else:
            self._visit_index(value)
            self.known.define(bind.var, self.known.scalar(value))

    def _decl(self, decl: Any) -> None:
        if _is_address(decl.data):
            self._visit_address(decl.data)
        self.known.point(decl.buffer, decl.data)

    def _visit_address(self, call: Any) -> None:
        """What is loaded to find an address; nothing is loaded from it yet."""
        for index in call.args[0].indices[:]:
            self._visit_index(index)

    def _alloc(self, alloc: Any) -> None:
        self.known.new_memory(alloc.buffer, None, frozenset(self.loops))

    def _store(self, store: Any) -> None:
        self._visit(store.value)
        for index in store.indices[:]:
            self._visit_index(index)
        access = self._access(store.buffer, store.indices, is_store=True)
        if access.memory.position is None:
            access.memory.stores.append(self.known.scalar(store.value))

    def _if(self, branch: Any) -> None:
        self._visit(branch.condition)
        self._either(branch.condition, branch.then_case, branch.else_case)

    def _either(self, condition: Any, then: Any, other: Any) -> None:
        held = self.known.of(condition)
        self._guarded(held, then)
        if other is not None:
            self._guarded(self.known.operation("not", held), other)

    def _guarded(self, condition: Expression, node: Any) -> None:
        self.guards.append(condition)
        self._visit(node)
        self.guards.pop()

    def _realize(self, realize: Any) -> None:
        for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
            self._visit(value)
            self.known.define(axis.var, self.known.of(value))
        self._visit(realize.predicate)
        self._guarded(self.known.of(realize.predicate), realize.block)

    def _block(self, block: Any) -> None:
        """Without its own account of what it reads and writes, which nobody checks."""
        _require(not block.match_buffers, f"block {block.name_hint} matches buffers")
        for buffer in block.alloc_buffers:
            self.known.new_memory(buffer, None, frozenset(self.loops))
        if block.init is not None:
            self._visit(block.init)
        self._visit(block.body)

    # Expressions

    def _visit_index(self, value: Any) -> None:
        """What is loaded to find a number; where all of it is arithmetic that is nothing."""
        if not self.known.is_arithmetic(value):
            self._visit(value)

    def _access(self, buffer: Any, indices: Any, is_store: bool) -> Access:
        memory, index = self.known.at(buffer, indices)
        self.accesses.append(Access(memory, index, is_store, tuple(self.loops), tuple(self.guards)))
        return self.accesses[-1]

    def _load(self, load: Any) -> None:
        for index in load.indices[:]:
            self._visit_index(index)
        self._access(load.source, load.indices, is_store=False)

    def _select(self, select: Any) -> None:
        """Of a vector both sides are computed; a scalar load that might not be allowed TVM turns into a branch."""
        self._visit(select.condition)
        if select.ty.dtype.lanes > 1:
            self._visit(select.true_value)
            self._visit(select.false_value)
        else:
            self._either(select.condition, select.true_value, select.false_value)

    def _call(self, call: Any) -> None:
        name = call.op.name
        _require(name not in _OPAQUE, f"it calls {name}, which could do anything to memory")
        if name == IF:
            self._visit(call.args[0])
            condition, then, other = call.args
            self._either(condition, then, other)
        elif name == _ADDRESS:
            raise MemorySafetyError(f"the address of {call.args[0].source.name} goes out of sight")
        elif name != _PREFETCH:
            for operand in call.args[:]:
                self._visit(operand)
            if call.attrs is not None:
                self._visit(call.attrs)

    def _stray(self, var: Any) -> None:
        """A variable outside of loads and stores: a number, not a pointer."""
        _require(not self.known.is_pointer(var), f"the address of {var.name} goes out of sight")


def _is_address(value: Any) -> bool:
    return isinstance(value, Call) and value.op.name == _ADDRESS


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise MemorySafetyError(what)
