"""Static memory planning: where each activation lives in the arena, and each constant in the file and in memory.

Greedy by size, best fit by lifetime: large tensors are placed first, each in the smallest gap between the tensors that
live at the same time. A tensor lives from its first write to its last use.

    file     plain constants | what others are expanded from
    memory   plain constants | expanded ones

Plain constants lie at the same places in both, so that one copy moves them all, and none where nothing is expanded.
"""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.targets.lowering.values import SLACK, Buffer, Expands, Tensor
from fxquant.targets.program import Program

ALIGN = 64


@dataclass(frozen=True)
class Plan:
    """Byte offsets by buffer, the sizes of the regions, and the constants that are not stored but expanded.

    `weight_bytes` are in the file, the first `plain_bytes` of them plain; `resident_bytes` is what constants take in
    memory, 0 where none is expanded and memory is as the file.
    """

    offsets: dict[int, int]
    arena_bytes: int
    weight_bytes: int
    plain_bytes: int
    resident_bytes: int
    expanded: list[tuple[Buffer, Expands]]

    def offset(self, buffer: Buffer) -> int:
        """Where the buffer starts in its region."""
        return self.offsets[id(buffer)]

    @property
    def constant_bytes(self) -> int:
        """Size of the constants that a run sees."""
        return self.resident_bytes or self.weight_bytes


def plan_memory(program: Program) -> Plan:
    """Place every arena buffer and every constant of the program."""
    offsets: dict[int, int] = {}
    constants = [b for b in program.buffers if b.kind == "constant"]
    expanded = [(b, b.expands) for b in constants if b.expands is not None]
    plain = _one_after_the_other([b for b in constants if b.expands is None], 0, offsets)
    weights = _one_after_the_other([origin.stored for _, origin in expanded], plain, offsets)
    resident = _one_after_the_other([b for b, _ in expanded], plain, offsets) if expanded else 0
    arena = _arena(program, offsets)
    return Plan(offsets, arena, weights, plain, resident, expanded)


def _arena(program: Program, offsets: dict[int, int]) -> int:
    """Place the arena buffers; the size of the arena."""
    first, last = lifetimes(program)
    arena = [b for b in program.buffers if b.kind == "arena"]
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
    return top


def _one_after_the_other(buffers: list[Buffer], start: int, offsets: dict[int, int]) -> int:
    """Place those buffers from `start` on that have no place yet; where they end."""
    for buffer in buffers:
        if id(buffer) not in offsets:
            offsets[id(buffer)] = start
            start += aligned(buffer.bytes + SLACK)
    return start


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
