"""Proves of a program, before code is made of it, that no kernel touches memory that is not its own.

For every call: arguments and parameters agree (`arguments.py`); every load and store lies inside its argument's buffer,
for the strides and offsets that it has (`reach.py`); what is read has been written, and is written over only where that
is allowed (`memory.py`). What cannot be proven is an error. None of it can be the user's fault: lowering and kernels
are right, or the compiler is wrong, and then no code must come out.

The intervals know what is between the first and the last element that a kernel touches, not whether it touches all:
that every element of a result is really written is for the tests of kernels to show.
"""

from __future__ import annotations

from collections.abc import Sequence

from fxquant.errors import MemorySafetyError
from fxquant.targets.kernels.kernel import Kernel
from fxquant.targets.lowering.values import Buffer, Tensor
from fxquant.targets.planner import HOSTED, Grain, Plan
from fxquant.targets.program import Call, Program
from fxquant.targets.program_text import call_text
from fxquant.targets.tvm_accesses import accesses_of
from fxquant.targets.verify.accesses import Accesses, Interval
from fxquant.targets.verify.arguments import Argument, allowed, paired, require_places, tables
from fxquant.targets.verify.memory import Ownership
from fxquant.targets.verify.reach import Allowed, coarse, prove


def verify(program: Program, plan: Plan, grain: Grain = HOSTED) -> None:
    """Raises MemorySafetyError, naming the operation, the kernel and the argument, unless the program is safe."""
    _Verifier(program, plan, grain).run()


class _Verifier:
    """One program; what is known of a kernel is kept for all of its calls."""

    def __init__(self, program: Program, plan: Plan, grain: Grain) -> None:
        self.program, self.plan, self.grain = program, plan, grain
        self.kernels: dict[str, tuple[Accesses, dict[tuple[int, bool], Interval]]] = {}

    def run(self) -> None:
        """Every call in order, and every constant that is expanded when the model is loaded."""
        self._constants()
        for buffer, origin in self.plan.expanded:
            self._expansion(buffer, origin.symbol, origin.stored)
        memory = Ownership(self.program, self.plan, self.grain)
        for call in self.program.calls:
            try:
                memory.play(call, self._call(call))
            except MemorySafetyError as error:
                raise MemorySafetyError(self._told(call, error)) from error
        memory.finish(self.program)

    def _told(self, call: Call, error: MemorySafetyError) -> str:
        return (
            f"{self.program.where(call.label)}: kernel {call.symbol} is not safe to run: {error}. This is a fault of "
            f"fxquant's own, found before any code was made; please report it with the model and this call: "
            f"{call_text(self.program, call)}"
        )

    def _call(self, call: Call) -> list[Argument]:
        kernel = self.program.kernels[call.symbol]
        accesses, reached = self._kernel(call.symbol, kernel)
        arguments = paired(call, kernel, accesses)
        require_places(arguments, self.plan, self.grain)
        _require_whole(call, arguments, reached)
        limits = allowed(arguments, kernel, accesses, self.grain)
        prove(accesses, limits, tables(arguments))
        return arguments

    def _kernel(self, symbol: str, kernel: Kernel) -> tuple[Accesses, dict[tuple[int, bool], Interval]]:
        if symbol not in self.kernels:
            accesses = accesses_of(kernel.func, kernel.tasks)
            self.kernels[symbol] = accesses, coarse(accesses)
        return self.kernels[symbol]

    def _constants(self) -> None:
        """Constants lie apart from each other, in the file and in memory, and inside."""
        expanded = [buffer for buffer, _ in self.plan.expanded]
        plain = [b for b in self.program.buffers if b.kind == "constant" and b.expands is None]
        stored = {id(origin.stored): origin.stored for _, origin in self.plan.expanded}
        self._apart([*{id(b): b for b in [*plain, *stored.values()]}.values()], self.plan.weight_bytes)
        self._apart([*plain, *expanded], self.plan.constant_bytes)

    def _apart(self, buffers: list[Buffer], size: int) -> None:
        end = 0
        for buffer in sorted(buffers, key=self.plan.offset):
            start = self.plan.offset(buffer)
            if start < end or start + buffer.bytes + self.grain.slack > size:
                raise MemorySafetyError(
                    f"constant {buffer.name} lies at byte {start} of {size}, where another one is or nothing more; "
                    "this is a fault of fxquant's own: please report it with the model"
                )
            end = start + buffer.bytes

    def _expansion(self, buffer: Buffer, symbol: str, stored: Buffer) -> None:
        accesses, _ = self._kernel(symbol, self.program.kernels[symbol])
        source, target = accesses.parameters
        limits = {
            0: Allowed((0, (stored.bytes + self.grain.slack) // source.itemsize - 1), (0, -1)),
            1: Allowed((0, -1), (0, buffer.bytes // target.itemsize - 1)),
        }
        try:
            prove(accesses, limits, {})
        except MemorySafetyError as error:
            raise MemorySafetyError(
                f"kernel {symbol}, which expands the constant {buffer.name}, is not safe to run: {error}. This is a "
                "fault of fxquant's own, found before any code was made; please report it with the model"
            ) from error


def _require_whole(call: Call, arguments: list[Argument], reached: dict[tuple[int, bool], Interval]) -> None:
    """Every result is written, and no kernel stops short of its first or last element."""
    results = [] if call.result is None else [(call.result, call.writes), *((t, (t,)) for t in call.others)]
    for result, writes in results:
        _require_written(result, writes, arguments, reached)


def _require_written(
    result: Tensor,
    writes: Sequence[Tensor],
    arguments: list[Argument],
    reached: dict[tuple[int, bool], Interval],
) -> None:
    if not any(a.is_stored and a.buffer is result.buffer for a in arguments):
        raise MemorySafetyError(f"its result {result.buffer.name} is written by nothing")
    for position, argument in enumerate(arguments):
        if argument.is_stored and argument.value is result:
            low, high = reached.get((position, True), (0, -1))
            spans = [(t.offset - result.offset, *t.spec.span) for t in writes if t.spec.size]
            if not spans:
                continue  # one of several results, without elements
            first, last = min(at + low for at, low, _ in spans), max(at + high for at, _, high in spans)
            if low > first or high < last:
                raise MemorySafetyError(
                    f"argument {argument.parameter.name} ({argument.buffer.name}): elements {first} to {last} are its "
                    f"result, and it writes {low} to {high} of them"
                )


__all__ = ["verify"]
