"""Who owns each byte, call after call: values are read where they were written, and nothing else was since.

The whole run is played through with one number per byte of memory, that of the buffer whose value is there. It takes
the plan's offsets as they are and knows nothing of how they were found: lifetimes, results over their operands and
results that run ahead of them are right if every operand is still there when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fxquant.errors import MemorySafetyError
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.planner import Grain, Plan
from fxquant.targets.program import Call, Program
from fxquant.targets.verify.arguments import Argument

Bytes = np.ndarray[Any, np.dtype[np.int32]]
NOBODY = 0


class Ownership:
    """The arena and the outputs while a run is played through."""

    def __init__(self, program: Program, plan: Plan, grain: Grain) -> None:
        self.plan = plan
        self.numbers = {id(buffer): number for number, buffer in enumerate(program.buffers, NOBODY + 1)}
        self.arena = np.zeros(plan.arena_bytes, np.int32)
        found = [tensor for _, tensor in program.checks]
        kept = program.learning.states.values()
        self.outputs = {id(t.buffer): np.zeros(t.buffer.bytes, np.int32) for t in (*program.outputs, *found, *kept)}
        for buffer in program.buffers:
            if buffer.kind == "arena" and not 0 <= plan.offset(buffer) <= plan.arena_bytes - grain.size(buffer):
                raise MemorySafetyError(f"{buffer.name} lies at byte {plan.offset(buffer)}, beyond the arena's end")

    def play(self, call: Call, arguments: Sequence[Argument]) -> None:
        """One call: its operands are there, its results overlap none of them but as it allows, and then are there."""
        written = [a for a in arguments if a.is_stored]
        # What a kernel also writes it reads back: sums in its result, scratch memory, peaks.
        operands = [a for a in arguments if a.is_loaded and not a.is_stored]
        for argument in operands:
            self._require_present(argument)
        for argument in written:
            for other in arguments:
                if other is not argument and (other.is_loaded or other.is_stored):
                    self._require_apart(call, argument, other)
        for argument in written:
            for part in self._parts(call, argument):
                self._region(part)[...] = self.numbers[id(argument.buffer)]

    def finish(self, program: Program) -> None:
        """Raises MemorySafetyError unless every element of the outputs has been written."""
        for tensor in (*program.outputs, *program.learning.states.values()):
            if tensor.spec.size and not self._region(tensor).all():
                raise MemorySafetyError(f"output {tensor.buffer.name} is not written as a whole")

    @staticmethod
    def _parts(call: Call, argument: Argument) -> Sequence[Tensor | Buffer]:
        is_result = call.result is not None and argument.buffer is call.result.buffer
        return call.writes if is_result else (argument.value,)

    def _region(self, value: Tensor | Buffer) -> Bytes:
        """The owners of a value's bytes."""
        buffer = value.buffer if isinstance(value, Tensor) else value
        if buffer.kind == "arena":
            memory, start = self.arena, self.plan.offset(buffer)
        else:
            memory, start = self.outputs[id(buffer)], 0
        if isinstance(value, Buffer):
            return memory[start : start + value.bytes]
        return elements(memory, start + value.byte_offset, value)

    def _require_present(self, argument: Argument) -> None:
        if argument.buffer.kind not in ("arena", "output", "state"):
            return
        owners = self._region(argument.value)
        if (owners == self.numbers[id(argument.buffer)]).all():
            return
        others = [n for n in np.unique(owners).tolist() if n != self.numbers[id(argument.buffer)]]
        names = "nothing" if others == [NOBODY] else f"buffer number {max(others)} of the plan"
        raise MemorySafetyError(
            f"argument {argument.parameter.name} ({argument.buffer.name}) is read before it is written as a whole, or "
            f"after it was written over: {names} lies in its place"
        )

    def _require_apart(self, call: Call, result: Argument, other: Argument) -> None:
        if {result.buffer.kind, other.buffer.kind} - {"arena"} and result.buffer is not other.buffer:
            return
        (first, last), (start, end) = self._place(result), self._place(other)
        if last <= start or end <= first or _may_overlap(call, result, other, first, start):
            return
        if result.buffer is other.buffer and not self._shares_bytes(result, other):
            return
        raise MemorySafetyError(
            f"argument {result.parameter.name} ({result.buffer.name}) is written at bytes {first} to {last - 1} over "
            f"{other.parameter.name} ({other.buffer.name}) at {start} to {end - 1}, which the kernel still needs"
        )

    def _place(self, argument: Argument) -> tuple[int, int]:
        """From which byte of its region to which."""
        base = self.plan.offset(argument.buffer) if argument.buffer.kind == "arena" else 0
        if isinstance(argument.value, Buffer):
            return base, base + argument.buffer.bytes
        low, high = argument.value.spec.span
        size = argument.value.itemsize
        return base + argument.offset + low * size, base + argument.offset + (high + 1) * size

    def _shares_bytes(self, result: Argument, other: Argument) -> bool:
        if not (isinstance(result.value, Tensor) and isinstance(other.value, Tensor)):
            return True
        seen = np.zeros(result.buffer.bytes, np.int32)
        elements(seen, result.offset, result.value)[...] = 1
        return bool(elements(seen, other.offset, other.value).any())


def _may_overlap(call: Call, result: Argument, operand: Argument, first: int, start: int) -> bool:
    """Whether a call says that its result may be written over this operand, as far as it is."""
    if call.result is None or result.buffer is not call.result.buffer:
        return False
    if sum(isinstance(a, Tensor) and a.buffer is operand.buffer for a in call.arguments) > 1:
        return False
    for over in call.overwrites:
        if over.operand is not operand.value:
            continue
        if over.lead is None:
            if over.is_same_memory(call.result) and first == start:
                return True
        elif first + over.lead <= start:
            return True
    return False


def elements(memory: Bytes, start: int, tensor: Tensor) -> Bytes:
    """What `memory` says of the bytes of a tensor's elements, whose first is at byte `start`; a view."""
    spec, size, step = tensor.spec, tensor.itemsize, memory.itemsize
    if _is_dense(tensor):
        return memory[start : start + spec.size * size]
    strides = (*(s * size * step for s in spec.strides), step)
    return np.ndarray((*spec.shape, size), memory.dtype, memory.data, start * step, strides)


def _is_dense(tensor: Tensor) -> bool:
    """Whether elements follow one another without a gap, in whatever order."""
    step = 1
    for stride, n in sorted((s, n) for s, n in zip(tensor.spec.strides, tensor.shape, strict=True) if n != 1):
        if stride != step:
            return False
        step *= n
    return True
