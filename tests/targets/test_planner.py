"""Memory planning: what lives at the same time does not overlap, but for results that follow their operands closely."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.targets.buffers import Buffer, Kind, Tensor, row_major
from fxquant.targets.kernels.contract.epilogue import Requantization
from fxquant.targets.kernels.contract.kernel import Choice, TensorSpec
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.depthwise.ring import Depthwise
from fxquant.targets.kernels.parts.overlap import lead
from fxquant.targets.planner import Grain, Plan, lifetimes, plan_memory
from fxquant.targets.program import Overwrite, Program

SMALL = Grain(align=16, slack=0)


def image(channels: int, rows: int, columns: int) -> TensorSpec:
    return TensorSpec("int8", (channels, rows, columns), (1, columns * channels, channels))


@st.composite
def windows(draw: st.DrawFn) -> tuple[ConvProblem, int]:
    """A convolution that reads its rows once, and how many more than its stride it reads before it writes one."""
    kernel, step = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    top = draw(st.integers(0, kernel - 1))
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    below = draw(st.integers(0, kernel - 1))
    height = max(1, (rows - 1) * step + kernel - top - below)
    x, out = image(draw(st.integers(1, 9)), height, columns), image(draw(st.integers(1, 9)), rows, columns)
    return ConvProblem(x, out, (kernel, 1), (step, 1), padding=(top, 0)), max(kernel, step) - top


def reaches(problem: ConvProblem, ahead: int, lead_bytes: int) -> bool:
    """Whether a result that begins so far ahead is written over rows that are read later."""
    x, out = problem.x.strides[1], problem.out.strides[1]
    for row in range(problem.out.shape[1] - 1):
        unread = max(0, row * problem.stride[0] + ahead)
        if unread < problem.x.shape[1] and (row + 1) * out > lead_bytes + unread * x:
            return True
    return False


@settings(max_examples=200, deadline=None, derandomize=True)
@given(windows())
def test_a_lead_is_as_long_as_it_must_be(drawn: tuple[ConvProblem, int]) -> None:
    problem, ahead = drawn
    found = lead(problem, lambda row: row * problem.stride[0] + ahead)
    assert not reaches(problem, ahead, found)
    assert found == 0 or reaches(problem, ahead, found - 1)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Layers, each of one or two operands, of which the first may be overwritten."""
    program, made = Program(), list[Tensor]()
    for index in range(draw(st.integers(1, 10))):
        kind: Kind = "output" if index and draw(st.integers(0, 5)) == 0 else "arena"
        out = Tensor.new(f"b{index}", kind, row_major("int8", (draw(st.integers(1, 400)),)))
        operands = [draw(st.sampled_from(made[-3:])) for _ in range(draw(st.integers(1, 2)))] if made else []
        free = [Overwrite(operands[0], draw(st.sampled_from([None, 0, 7, 60, 300])))] if operands else []
        program.call("k", [*operands, out], out, "layer", free)
        made.append(out)
    return program


@settings(max_examples=300, deadline=None, derandomize=True)
@given(programs())
def test_what_lives_together_lies_apart(program: Program) -> None:
    plan = plan_memory(program, SMALL)
    begins, ends = lifetimes(program)
    buffers = [b for b in program.buffers if b.kind == "arena"]
    for buffer in buffers:
        assert plan.offset(buffer) % SMALL.align == 0 and plan.offset(buffer) + buffer.bytes <= plan.arena_bytes
    for i, one in enumerate(buffers):
        for other in buffers[i + 1 :]:
            together = begins[id(one)] <= ends[id(other)] and begins[id(other)] <= ends[id(one)]
            apart = plan.offset(one) + one.bytes <= plan.offset(other) or plan.offset(
                other
            ) + other.bytes <= plan.offset(one)
            assert apart or not together or follows(program, plan, one, other)


def follows(program: Program, plan: Plan, operand: Buffer, result: Buffer) -> bool:
    """Whether a call allows the overlap: the operand dies there, the result begins there, far enough before it."""
    begins, ends = lifetimes(program)
    for index, call in enumerate(program.calls):
        if (
            call.result is None
            or call.result.buffer is not result
            or not (ends[id(operand)] == index == begins[id(result)])
        ):
            continue
        for over in call.overwrites:
            ahead = plan.offset(operand) - plan.offset(result)
            if over.operand.buffer is operand and sum(a is over.operand for a in call.arguments) == 1:
                return (
                    over.is_same_memory(call.result) if not ahead and over.lead is None else ahead >= (over.lead or 0)
                )
    return False


@pytest.mark.parametrize(("channels", "expected"), [((8, 16), 16), ((16, 8), 16), ((8, 8), 8)])
def test_a_pointwise_result_takes_the_memory_of_its_operand(channels: tuple[int, int], expected: int) -> None:
    """It grows towards the operand's end, shrinks from its beginning, or is the very same."""
    rows, columns = 10, 8
    specs = [image(n, rows, columns) for n in channels]
    problem = ConvProblem(specs[0], specs[1], (1, 1))
    x, out = (Tensor(Buffer(f"b{i}", "arena", prod(s.shape)), s) for i, s in enumerate(specs))
    program = Program()
    program.call("first", [x], x, "first")
    over = Overwrite(x, lead(problem, lambda row: row + 1))
    program.call("second", [x, out], out, "second", [over])
    assert plan_memory(program, SMALL).arena_bytes == expected * rows * columns


@pytest.mark.parametrize(
    ("rows", "out_rows", "stride", "padding", "leads"),
    [(16, 8, 2, 1, False), (16, 16, 1, 1, False), (4, 8, 1, 3, True)],
)
def test_a_depthwise_result_grows_with_its_padding_only(
    rows: int, out_rows: int, stride: int, padding: int, leads: bool
) -> None:
    x, out = image(8, rows, rows), image(8, out_rows, out_rows)
    problem = ConvProblem(x, out, (3, 3), (stride, stride), padding=(padding, padding), groups=8)
    layer = Layer(np.ones((8, 1, 3, 3), np.int8), np.zeros(8, np.int32), 0)
    choice = Depthwise(1).choice(problem, layer, Requantization(np.ones(8, np.int32), 0, -128, 127), None)
    assert isinstance(choice, Choice) and choice.lead is not None and (choice.lead > 0) == leads
