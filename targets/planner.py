"""Static memory planning: where each activation lives in the arena, and each constant in the weights.

Greedy by size, best fit by lifetime: large tensors are placed first, each in the smallest gap between the tensors that
live at the same time. A tensor lives from its first write to its last use.
"""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.targets.lowering.values import SLACK, Buffer, Tensor
from fxquant.targets.program import Program

ALIGN = 64


@dataclass(frozen=True)
class Plan:
    """Byte offsets by buffer, and the sizes of the two regions."""

    offsets: dict[int, int]
    arena_bytes: int
    weight_bytes: int

    def offset(self, buffer: Buffer) -> int:
        """Where the buffer starts in its region."""
        return self.offsets[id(buffer)]


def plan_memory(program: Program) -> Plan:
    """Place every arena buffer and every constant of the program."""
    first, last = lifetimes(program)
    arena = [b for b in program.buffers if b.kind == "arena"]
    offsets: dict[int, int] = {}
    placed: list[tuple[int, int, Buffer]] = []
    top = 0
    for buffer in sorted(arena, key=lambda b: -b.bytes):
        size = aligned(buffer.bytes + SLACK)
        alive = sorted(
            (start, end)
            for start, end, other in placed
            if first[id(other)] <= last[id(buffer)] and first[id(buffer)] <= last[id(other)]
        )
        start = _best_gap(alive, size)
        offsets[id(buffer)] = start
        placed.append((start, start + size, buffer))
        top = max(top, start + size)
    weights = 0
    for buffer in program.buffers:
        if buffer.kind == "constant":
            offsets[id(buffer)] = weights
            weights += aligned(buffer.bytes + SLACK)
    return Plan(offsets, top, weights)


def lifetimes(program: Program) -> tuple[dict[int, int], dict[int, int]]:
    """First and last call of every buffer."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for index, call in enumerate(program.calls):
        for argument in call.arguments:
            buffer = argument.buffer if isinstance(argument, Tensor) else argument
            first.setdefault(id(buffer), index)
            last[id(buffer)] = index
    return first, last


def _best_gap(alive: list[tuple[int, int]], size: int) -> int:
    """Start of the smallest gap between occupied ranges that holds `size`, or the end of them all."""
    best, best_room, end = None, None, 0
    for start, stop in alive:
        room = start - end
        if room >= size and (best_room is None or room < best_room):
            best, best_room = end, room
        end = max(end, stop)
    return end if best is None else best


def aligned(size: int) -> int:
    """`size` rounded up to a cache line."""
    return -(-size // ALIGN) * ALIGN
