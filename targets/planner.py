"""Static memory planning: where each activation lives in the arena, and each constant in the file and in memory.

Greedy by size, best fit by lifetime: large tensors are placed first, each in the smallest gap between the tensors that
live at the same time. A tensor lives from its first write to its last use.

    file     plain constants | what others are expanded from
    memory   plain constants | expanded ones

Plain constants lie at the same places in both, so that one copy moves them all, and none where nothing is expanded.

A result that may be written over an operand (`Call.overwrites`) takes its memory, where nothing reads that later. One
that may run ahead of it by a few rows is placed so that they overlap as far as its `lead` allows:

    operand              [----------]
    result       [--------------]
                 <-lead->
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fxquant.targets.buffers import SLACK, Buffer, Expands, Tensor
from fxquant.targets.program import Call, Program


@dataclass(frozen=True)
class Grain:
    """Bytes that every buffer's place is a multiple of, and that lie free behind each of them."""

    align: int = 64
    slack: int = SLACK

    def size(self, buffer: Buffer) -> int:
        """The bytes that a buffer occupies."""
        return -(-(buffer.bytes + self.slack) // self.align) * self.align


HOSTED = Grain()


@dataclass(frozen=True)
class Plan:
    """Byte offsets by buffer, the sizes of the regions, and the constants that are not stored but expanded.

    `weight_bytes` are in the file, the first `plain_bytes` of them plain; `resident_bytes` is what constants take in
    memory, 0 where none is expanded and memory is as the file. `state_bytes` live between runs.
    """

    offsets: dict[int, int]
    arena_bytes: int
    weight_bytes: int
    plain_bytes: int
    resident_bytes: int
    expanded: list[tuple[Buffer, Expands]]
    state_bytes: int = 0

    def offset(self, buffer: Buffer) -> int:
        """Where the buffer starts in its region."""
        return self.offsets[id(buffer)]

    @property
    def constant_bytes(self) -> int:
        """Size of the constants that a run sees."""
        return self.resident_bytes or self.weight_bytes


def plan_memory(program: Program, grain: Grain = HOSTED) -> Plan:
    """Place every arena buffer and every constant of the program."""
    offsets: dict[int, int] = {}
    constants = [b for b in program.buffers if b.kind == "constant"]
    expanded = [(b, b.expands) for b in constants if b.expands is not None]
    plain = _one_after_the_other([b for b in constants if b.expands is None], 0, offsets, grain)
    weights = _one_after_the_other([origin.stored for _, origin in expanded], plain, offsets, grain)
    resident = _one_after_the_other([b for b, _ in expanded], plain, offsets, grain) if expanded else 0
    placed, size = min((place(program, grain, order) for order in _ARRANGEMENTS), key=lambda found: found[1])
    offsets.update(placed)
    states = _one_after_the_other([t.buffer for t in program.learning.states.values()], 0, offsets, grain)
    return Plan(offsets, size, weights, plain, resident, expanded, states)


Order = Callable[[Buffer, int, int], tuple[int, ...]]


def _by_size(buffer: Buffer, first: int, last: int) -> tuple[int, ...]:
    return (-buffer.bytes,)


def _by_area(buffer: Buffer, first: int, last: int) -> tuple[int, ...]:
    return (-buffer.bytes * (last - first + 1),)


def _by_time(buffer: Buffer, first: int, last: int) -> tuple[int, ...]:
    return first, -buffer.bytes


# All are tried, and the smallest arena is taken.
_ARRANGEMENTS: tuple[Order, ...] = (_by_size, _by_area, _by_time)


def place(program: Program, grain: Grain, order: Order) -> tuple[dict[int, int], int]:
    """Places of the arena buffers, taken in this order, and the size of the arena."""
    first, last = lifetimes(program)
    shared = in_place(program, first, last)
    arena = {id(shared.get(id(b), b)): shared.get(id(b), b) for b in program.buffers if b.kind == "arena"}
    for buffer in program.buffers:
        if buffer.kind == "arena" and id(buffer) in shared:
            root = id(shared[id(buffer)])
            first[root] = min(first[root], first[id(buffer)])
            last[root] = max(last[root], last[id(buffer)])
    leads = _leads(program, shared, first, last, grain)
    offsets: dict[int, int] = {}
    placed: list[tuple[int, Buffer]] = []
    for buffer in sorted(arena.values(), key=lambda b: order(b, first[id(b)], last[id(b)])):
        alive = sorted(
            _taken(buffer, other, start, leads, grain)
            for start, other in placed
            if first[id(other)] <= last[id(buffer)] and first[id(buffer)] <= last[id(other)]
        )
        start = _best_gap(alive, grain.size(buffer))
        offsets[id(buffer)] = start
        placed.append((start, buffer))
    size = max((start + grain.size(buffer) for start, buffer in placed), default=0)
    offsets.update({own: offsets[id(root)] for own, root in shared.items()})
    return offsets, size


# (Operand, result) by identity: how far the result's buffer must begin before the operand's where they overlap.
Leads = dict[tuple[int, int], int]


def _leads(
    program: Program, shared: dict[int, Buffer], first: dict[int, int], last: dict[int, int], grain: Grain
) -> Leads:
    found: Leads = {}
    for index, call in enumerate(program.calls):
        out = call.result
        for over in call.overwrites:
            if out is None or over.lead is None or {out.buffer.kind, over.operand.buffer.kind} != {"arena"}:
                continue
            old, new = (shared.get(id(t.buffer), t.buffer) for t in (over.operand, out))
            if old is not new and last[id(old)] == index == first[id(new)] and _is_read_once(call, over.operand):
                lead = max(0, over.lead + out.byte_offset - over.operand.byte_offset)
                found[id(old), id(new)] = -(-lead // grain.align) * grain.align
    return found


def _taken(buffer: Buffer, other: Buffer, start: int, leads: Leads, grain: Grain) -> tuple[int, int]:
    """What the placed `other` leaves no room for: a range into which `buffer` must not reach.

    Where both may overlap the range's start can lie behind its end: then a buffer may end between them.
    """
    end = start + grain.size(other)
    if (lead := leads.get((id(buffer), id(other)))) is not None:
        return start, min(end, start + lead)
    if (lead := leads.get((id(other), id(buffer)))) is not None:
        return max(start, start - lead + grain.size(buffer)), end
    return start, end


def in_place(program: Program, first: dict[int, int], last: dict[int, int]) -> dict[int, Buffer]:
    """By buffer: the one whose memory it takes over, since its call may write over that and nothing reads it later."""
    found: dict[int, Buffer] = {}
    taken: set[int] = set()
    for index, call in enumerate(program.calls):
        out = call.result
        if out is None or out.buffer.kind != "arena" or first[id(out.buffer)] != index or id(out.buffer) in found:
            continue
        for over in call.overwrites:
            old = over.operand.buffer
            dies = old.kind == "arena" and last[id(old)] == index and id(old) not in taken
            if dies and over.is_same_memory(out) and _is_read_once(call, over.operand):
                taken.add(id(old))
                found[id(out.buffer)] = found.get(id(old), old)
                break
    return found


def _is_read_once(call: Call, operand: Tensor) -> bool:
    return sum(isinstance(a, Tensor) and a.buffer is operand.buffer for a in call.arguments) == 1


def _one_after_the_other(buffers: list[Buffer], start: int, offsets: dict[int, int], grain: Grain) -> int:
    """Place those buffers from `start` on that have no place yet; where they end."""
    for buffer in buffers:
        if id(buffer) not in offsets:
            offsets[id(buffer)] = start
            start += grain.size(buffer)
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


def weight_blob(program: Program, plan: Plan) -> bytes:
    """All constants that are stored, at their planned places."""
    blob = np.zeros(plan.weight_bytes, np.uint8)
    for constant in program.buffers:
        buffer = constant if constant.expands is None else constant.expands.stored
        if buffer.data is not None:
            start = plan.offset(buffer)
            blob[start : start + buffer.bytes] = buffer.data.view(np.uint8)
    return blob.tobytes()
