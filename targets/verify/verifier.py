"""Proves of a program, before code is made of it, that no kernel touches memory that is not its own.

For every call: arguments and parameters agree (`arguments.py`); every load and store lies inside its argument's buffer,
for the strides and offsets that it has (`reach.py`); what is read has been written, and is written over only where that
is allowed (`memory.py`). What cannot be proven is an error. None of it can be the user's fault: lowering and kernels
are right, or the compiler is wrong, and then no code must come out.

The intervals know what is between the first and the last element that a kernel touches, not whether it touches all:
that every element of a result is really written is for the tests of kernels to show.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from fxquant.errors import MemorySafetyError
from fxquant.targets.lowering.values import Buffer, Tensor
from fxquant.targets.object_cache import cache_folder
from fxquant.targets.planner import HOSTED, Grain, Plan
from fxquant.targets.program import Call, Program
from fxquant.targets.program_text import call_text
from fxquant.targets.tvm_accesses import accesses_of
from fxquant.targets.verify.accesses import Accesses, Interval, Tables
from fxquant.targets.verify.arguments import Argument, allowed, paired, require_places, tables
from fxquant.targets.verify.known import Facts, Known, facts_of, kernel_digest, proof_digest, remember, remembered
from fxquant.targets.verify.memory import Ownership
from fxquant.targets.verify.reach import Allowed, prove


def verify(program: Program, plan: Plan, grain: Grain = HOSTED) -> None:
    """Raises MemorySafetyError, naming the operation, the kernel and the argument, unless the program is safe."""
    with _without_collections():
        _Verifier(program, plan, grain).run()


@contextmanager
def _without_collections() -> Iterator[None]:
    """Records by the thousand, none of them in a circle, would start a search for circles in all that torch and TVM
    hold, which takes longer than the proof."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Verifier:
    """One program; what is known of a kernel serves all of its calls, and those of other programs (`known.py`)."""

    def __init__(self, program: Program, plan: Plan, grain: Grain) -> None:
        self.program, self.plan, self.grain = program, plan, grain
        # The text of a kernel takes as long as its proof: it is worth it where the cache of object code needs it, too.
        self.is_kept = cache_folder() is not None
        self.digests = {s: kernel_digest(kernel) if self.is_kept else s for s, kernel in program.kernels.items()}
        self.known = remembered(list(self.digests.values())) if self.is_kept else {}
        self.read: dict[str, Accesses] = {}
        self.has_learned = False

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
        if self.has_learned and self.is_kept:
            remember(self.known)

    def _told(self, call: Call, error: MemorySafetyError) -> str:
        return (
            f"{self.program.where(call.label)}: kernel {call.symbol} is not safe to run: {error}. This is a fault of "
            f"fxquant's own, found before any code was made; please report it with the model and this call: "
            f"{call_text(self.program, call)}"
        )

    def _call(self, call: Call) -> list[Argument]:
        kernel = self.program.kernels[call.symbol]
        facts = self._facts(call.symbol)
        arguments = paired(call, kernel, facts)
        require_places(arguments, self.plan, self.grain)
        _require_whole(call, arguments, facts.reached)
        self._prove(call.symbol, allowed(arguments, kernel, facts, self.grain), tables(arguments))
        return arguments

    def _facts(self, symbol: str) -> Facts:
        digest = self.digests[symbol]
        if digest not in self.known:
            self.known[digest], self.has_learned = Known(facts_of(self._accesses(symbol))), True
        return self.known[digest].facts

    def _prove(self, symbol: str, limits: Mapping[int, Allowed], values: Tables) -> None:
        """Unless the very same is proven already."""
        known, digest = self.known[self.digests[symbol]], proof_digest(self._facts(symbol), limits, values)
        if digest not in known.proven:
            prove(self._accesses(symbol), limits, values)
            known.proven.add(digest)
            self.has_learned = True

    def _accesses(self, symbol: str) -> Accesses:
        if symbol not in self.read:
            kernel = self.program.kernels[symbol]
            self.read[symbol] = accesses_of(kernel.func, kernel.tasks)
        return self.read[symbol]

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
        source, target = self._facts(symbol).parameters
        limits = {
            0: Allowed((0, (stored.bytes + self.grain.slack) // source.itemsize - 1), (0, -1)),
            1: Allowed((0, -1), (0, buffer.bytes // target.itemsize - 1)),
        }
        try:
            self._prove(symbol, limits, {})
        except MemorySafetyError as error:
            raise MemorySafetyError(
                f"kernel {symbol}, which expands the constant {buffer.name}, is not safe to run: {error}. This is a "
                "fault of fxquant's own, found before any code was made; please report it with the model"
            ) from error


def _require_whole(call: Call, arguments: list[Argument], reached: Mapping[tuple[int, bool], Interval]) -> None:
    """Every result is written, and no kernel stops short of its first or last element."""
    results = [] if call.result is None else [(call.result, call.writes), *((t, (t,)) for t in call.others)]
    for result, writes in results:
        _require_written(result, writes, arguments, reached)


def _require_written(
    result: Tensor,
    writes: Sequence[Tensor],
    arguments: list[Argument],
    reached: Mapping[tuple[int, bool], Interval],
) -> None:
    if not any(a.is_stored and a.buffer is result.buffer for a in arguments):
        raise MemorySafetyError(f"its result {result.buffer.name} is written by nothing")
    for position, argument in enumerate(arguments):
        if argument.is_stored and argument.value is result:
            low, high = reached.get((position, True), (0, -1))
            spans = [(t.offset - result.offset, *t.spec.span) for t in writes if t.spec.size]
            if not spans:  # a result without elements
                continue
            first, last = min(at + low for at, low, _ in spans), max(at + high for at, _, high in spans)
            if low > first or high < last:
                raise MemorySafetyError(
                    f"argument {argument.parameter.name} ({argument.buffer.name}): elements {first} to {last} are its "
                    f"result, and it writes {low} to {high} of them"
                )


__all__ = ["verify"]
