"""All steps of one direction of a recurrent layer, one sequence per task.

    void lstm(int32 task, gates, hidden, cell, weight, bias, gate_scale, state_scale, table, numbers, h, c, scratch)
    void lstm(..., numbers, projection, projection_scale, h, c, scratch)      with a projection
    void gru(int32 task, gates, hidden, weight, ..., h, scratch)      and so for an Elman network

Of an LSTM `h` or `c` may be missing. The arithmetic is that of `fxquant.primitives.recurrent`, to the bit. `weight` s8
lies as [unit][gate][depth], so that one pass over the hidden state serves all gates of a unit; the state's zero point
is in `bias`, modulo 2^32. `numbers` s64 are `Numbers`.

    scratch   s16 [2][P], codes of the hidden state before and after a step in turn; [H] a state of 16 bits; [H] what is
              projected
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from fxquant.primitives.recurrent import GATE_FRACTION
from fxquant.targets.kernels.contract.kernel import Choice, Kernel
from fxquant.targets.kernels.contract.operations import Recurrence
from fxquant.targets.kernels.elementwise.map import Operand, stored
from fxquant.targets.kernels.words.numbers import clamp, wide
from fxquant.targets.kernels.words.pieces import offset
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.tvm_api import I, T, tirx

_LOW, _HIGH = -(1 << 15), (1 << 15) - 1
_BYTES = 2  # of an element of the scratch memory
TABLE = 257


class Numbers(NamedTuple):
    """Run-time constants: those of the hidden state, then factors as pairs [M, F] and the fraction of the sums."""

    zero_point: Any
    qmin: Any
    qmax: Any
    fraction: Any
    carry: Any
    carry_fraction: Any
    keep: Any  # 2^(carry_fraction - GATE_FRACTION)
    bend: Any
    bend_fraction: Any
    out: Any
    out_fraction: Any
    projection_fraction: Any


def plain(problem: Recurrence, _numbers: None) -> Choice:
    """The template of any recurrence."""
    return Choice(problem.kind, None, partial(recurrence_kernel, problem), {})


def recurrence_kernel(problem: Recurrence) -> Kernel:
    """One task per sequence: steps in a loop, units in a loop, depths in a loop."""
    with prim_func(problem.kind) as finish:
        _Body(problem).emit()
    return Kernel(finish(), problem.gates.shape[0], _BYTES * problem.room)


class _Body:
    """The function while it is being built."""

    def __init__(self, problem: Recurrence) -> None:
        self.problem, self.size, self.depth = problem, problem.size, problem.depth
        rows = problem.rows
        self.task: Any = I.arg("task", I.int32())
        self.gates = Operand("gates", problem.gates)
        self.hidden = Operand("hidden", problem.hidden)
        self.cell = None if problem.cell is None else Operand("cell", problem.cell)
        self.weight = argument("weight", rows * problem.depth, "int8", 1)
        self.bias = argument("bias", rows, "uint32", 4)
        self.gate_scale = argument("gate_scale", rows, "int32", 4)
        self.state_scale = argument("state_scale", rows, "int32", 4)
        self.table = argument("table", TABLE, "int16", 2)
        numbers = argument("numbers", len(Numbers._fields), "int64", 8)
        if problem.projects:
            self.projection = argument("projection", problem.depth * problem.size, "int8", 1)
            self.projection_scale = argument("projection_scale", problem.depth, "int32", 4)
        self.results = [
            None if spec is None else (argument(name, spec.extent, spec.dtype, 1), spec)
            for name, spec in (("h", problem.out), ("c", problem.cells))
        ]
        self.scratch = argument("scratch", problem.room, "int16")
        self.n = Numbers(*(I.Bind(numbers[i]) for i in range(len(Numbers._fields))))
        # Before the loops: half of a last bit.
        self.half = I.Bind(_half(self.n.fraction))

    def emit(self) -> None:
        """States before the first step, then all steps."""
        depth, length = self.depth, self.problem.gates.shape[1]
        with I.serial(0, depth) as k:
            I.buffer_store(self.scratch, T.cast(self._code(self.hidden(self.task, k)), "int16"), [k])
        if self.problem.keeps_state:
            with I.serial(0, self.size) as k:
                state = (self.cell or self.hidden)(self.task, k)
                I.buffer_store(self.scratch, T.cast(state, "int16"), [2 * depth + k])
        with I.serial(0, length) as step:
            time = length - 1 - step if self.problem.reverse else step
            before, after = I.Bind(step % 2 * depth), I.Bind((step + 1) % 2 * depth)
            first = 2 * depth + self.size if self.problem.projects else after
            with I.serial(0, self.size) as unit:
                code = self._unit(time, unit, self._sums(before, unit))
                I.buffer_store(self.scratch, T.cast(code, "int16"), [first + unit])
            if self.problem.projects:
                with I.serial(0, depth) as k:
                    I.buffer_store(self.scratch, T.cast(self._projected(time, k, first), "int16"), [after + k])

    def _code(self, state: Any) -> Any:
        """What products take of a hidden state."""
        if self.problem.kind != "gru":
            return state
        return clamp(I.shift_right(state + 128, tirx.const(8, "int32")), -128, 127)

    def _sums(self, before: Any, unit: Any) -> list[Any]:
        """Accumulators of a unit's gates."""
        size, depth, gates = self.size, self.depth, self.problem.gates_of_unit
        acc = I.alloc_buffer((gates,), "uint32")
        for g in range(gates):
            I.buffer_store(acc, self.bias[g * size + unit], [g])
        start = I.Bind(unit * (gates * depth))
        with I.serial(0, depth) as k:
            code = I.Bind(T.cast(self.scratch[before + k], "int32"))
            for g in range(gates):
                product = code * T.cast(self.weight[start + g * depth + k], "int32")
                I.buffer_store(acc, acc[g] + T.cast(product, "uint32"), [g])
        return [I.Bind(wide(T.cast(acc[g], "int32"))) for g in range(gates)]

    def _unit(self, time: Any, unit: Any, sums: list[Any]) -> Any:
        """The new code of a unit's hidden state; what a step gives is written."""
        if self.problem.kind == "lstm":
            return self._lstm(time, unit, sums)
        if self.problem.kind == "gru":
            return self._gru(time, unit, sums)
        n, total = self.n, self._total(time, unit, 0, sums[0])
        if self.problem.kind == "rnn":
            return self._shown(time, unit, wide(self._tanh(total)))
        state = clamp(wide(_clamped(total)) + n.zero_point, n.qmin, n.qmax)
        return self._store(0, time, unit, T.cast(state, "int32"))

    def _lstm(self, time: Any, unit: Any, sums: list[Any]) -> Any:
        n = self.n
        i, f, g, o = (self._total(time, unit, k, total) for k, total in enumerate(sums))
        kept, taken = self._sigmoid(f), self._sigmoid(i)
        state = self._carried(unit, kept, taken, self._tanh(g))
        self._store(1, time, unit, state)
        bent = self._tanh(_scaled(wide(state), n.bend, n.bend_fraction))
        value = wide(self._sigmoid(o)) * wide(bent)
        return (
            _clamped(_scaled(value, n.out, n.out_fraction)) if self.problem.projects else self._shown(time, unit, value)
        )

    def _projected(self, time: Any, place: Any, first: int) -> Any:
        """A value of the hidden state from those of all units."""
        acc = I.alloc_buffer((1,), "int32")
        I.buffer_store(acc, _i32(0), [0])
        with I.serial(0, self.size) as k:
            weight = T.cast(self.projection[place * self.size + k], "int32")
            I.buffer_store(acc, acc[0] + T.cast(self.scratch[first + k], "int32") * weight, [0])
        n, total = self.n, wide(acc[0]) * wide(self.projection_scale[place])
        state = I.shift_right(total + _half(n.projection_fraction), n.projection_fraction) + n.zero_point
        return self._store(0, time, place, T.cast(clamp(state, n.qmin, n.qmax), "int32"))

    def _gru(self, time: Any, unit: Any, sums: list[Any]) -> Any:
        row = 2 * self.size + unit
        reset, kept = (self._sigmoid(self._total(time, unit, k, sums[k])) for k in (0, 1))
        product = sums[2] * wide(self.state_scale[row])
        shown = I.shift_right(product, _i64(GATE_FRACTION)) * wide(reset)
        total = I.shift_right(self._gate(time, row) + shown + self.half, self.n.fraction)
        state = self._carried(unit, kept, I.Bind((1 << GATE_FRACTION) - kept), self._tanh(total))
        return self._code(self._store(0, time, unit, state))

    def _gate(self, time: Any, row: Any) -> Any:
        """What the input adds to a pre-activation, not rounded yet."""
        return wide(self.gates(self.task, time, row)) * wide(self.gate_scale[row])

    def _total(self, time: Any, unit: Any, gate: int, sums: Any) -> Any:
        """A pre-activation, s64."""
        row = gate * self.size + unit
        product = self._gate(time, row) + sums * wide(self.state_scale[row])
        return I.shift_right(product + self.half, self.n.fraction)

    def _sigmoid(self, total: Any) -> Any:
        """15 fractional bits, from two entries of the table."""
        place = I.Bind(_clamped(total) - _LOW)
        entry = I.Bind(T.bitwise_and(I.shift_right(place, _i32(8)), _i32(255)))
        low, high = (I.Bind(T.cast(self.table[entry + k], "int32")) for k in (0, 1))
        rest = T.bitwise_and(place, _i32(255))
        return I.Bind(low + I.shift_right((high - low) * rest + 128, _i32(8)))

    def _tanh(self, total: Any) -> Any:
        return I.Bind(2 * self._sigmoid(total) - (1 << GATE_FRACTION))

    def _carried(self, unit: Any, kept: Any, taken: Any, new: Any) -> Any:
        """The next state of 16 bits, in the place of the one before."""
        at, n = 2 * self.depth + unit, self.n
        state = wide(T.cast(self.scratch[at], "int32"))
        total = wide(kept) * state * n.keep + wide(taken) * wide(new) * n.carry
        found = I.Bind(_clamped(I.shift_right(total + _half(n.carry_fraction), n.carry_fraction)))
        I.buffer_store(self.scratch, T.cast(found, "int16"), [at])
        return found

    def _shown(self, time: Any, unit: Any, value: Any) -> Any:
        """A value with 15 or 30 fractional bits as a hidden state."""
        n = self.n
        state = clamp(_scaled(value, n.out, n.out_fraction) + n.zero_point, n.qmin, n.qmax)
        return self._store(0, time, unit, T.cast(state, "int32"))

    def _store(self, place: int, time: Any, unit: Any, state: Any) -> Any:
        """Write one of the results, if there is one, and give it back."""
        bound, result = I.Bind(state), self.results[place]
        if result is not None:
            buffer, spec = result
            I.buffer_store(buffer, stored(bound, spec), [offset([self.task, time, unit], spec.strides)])
        return bound


def _scaled(value: Any, multiplier: Any, fraction: Any) -> Any:
    """value * M / 2^F, rounded, s64."""
    return I.shift_right(value * multiplier + _half(fraction), fraction)


def _half(fraction: Any) -> Any:
    return I.shift_left(_i64(1), fraction - _i64(1))


def _clamped(value: Any) -> Any:
    """An s64 as 16 bits hold it, s32."""
    return T.cast(clamp(value, _i64(_LOW), _i64(_HIGH)), "int32")


def _i64(value: int) -> Any:
    return tirx.const(value, "int64")


def _i32(value: int) -> Any:
    return tirx.const(value, "int32")
