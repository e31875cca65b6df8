"""Programs that are broken in one way each are refused, and the message says in which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fxquant.errors import MemorySafetyError
from fxquant.targets.buffers import Tensor, row_major
from fxquant.targets.kernels.contract.kernel import Kernel
from fxquant.targets.planner import HOSTED, Grain, plan_memory
from fxquant.targets.program import Overwrite, Program
from fxquant.targets.tvm_api import I, T
from fxquant.targets.verify.verifier import verify
from tests.targets.verify.broken import (
    COLUMNS,
    GRAIN,
    ROWS,
    SPEC,
    call,
    chain,
    changed,
    checked,
    constant,
    copying,
    handmade,
    operand,
    tensor,
)


def test_what_is_right_passes() -> None:
    checked(chain())


def test_the_message_names_the_operation_the_kernel_and_the_call() -> None:
    program = changed(chain(), 1, arguments=(tensor("a2"), call(chain(), 1).arguments[1]))
    program.where = lambda label: f"{label} = aten.add at net.py:3"
    with pytest.raises(
        MemorySafetyError, match=r"(?s)second = aten.add at net.py:3: kernel copy .*fault of fxquant's own"
    ):
        checked(program)


def test_strides_that_leave_the_buffer() -> None:
    program = chain()
    wide = replace(SPEC, strides=(COLUMNS + 1, 1))
    program.kernels["wide"] = copying(wide)
    view = replace(operand(program, 1), spec=wide)
    with pytest.raises(
        MemorySafetyError, match=r"argument in0 \(a\) is a view of bytes 0 to 34, and its buffer has 32"
    ):
        checked(changed(program, 1, symbol="wide", arguments=(view, call(program, 1).arguments[1])))


def test_a_kernel_for_other_strides_than_its_view_has() -> None:
    program = chain()
    program.kernels["wide"] = copying(replace(SPEC, strides=(COLUMNS + 1, 1)))
    with pytest.raises(MemorySafetyError, match="argument in0: it reads elements 32, and may touch 0 to 31"):
        checked(changed(program, 1, symbol="wide"))


def test_a_negative_stride_that_begins_at_the_wrong_end() -> None:
    program = chain()
    a = call(program, 1).arguments[0]
    assert isinstance(a, Tensor)
    turned = replace(a, spec=replace(SPEC, strides=(COLUMNS, -1)), offset=COLUMNS - 1)
    program.kernels["turned"] = handmade(_turned, ROWS * COLUMNS, ROWS * COLUMNS)
    right = changed(program, 1, symbol="turned", arguments=(turned, call(program, 1).arguments[1]), overwrites=())
    checked(right)  # elements -7 to 24 of the view are all its own
    wrong = changed(right, 1, arguments=(replace(turned, offset=0), call(program, 1).arguments[1]))
    with pytest.raises(MemorySafetyError, match="is a view of bytes -7 to 24"):
        checked(wrong)


def _turned(task: object, x: object, out: object) -> None:
    with I.serial(0, ROWS) as row, I.serial(0, COLUMNS) as column:
        I.buffer_store(out, x[row * COLUMNS - column], [row * COLUMNS + column])  # type: ignore[index]


def test_an_offset_beyond() -> None:
    program = chain()
    view = replace(operand(program, 1), offset=1)
    with pytest.raises(MemorySafetyError, match="is a view of bytes 1 to 32, and its buffer has 32"):
        checked(changed(program, 1, arguments=(view, call(program, 1).arguments[1])))


def test_an_overlapping_view_is_read_but_not_beyond() -> None:
    program = chain()
    spec = replace(SPEC, strides=(1, 1))
    program.kernels["windows"] = copying(spec)
    view = replace(operand(program, 1), spec=spec)
    changed(program, 1, symbol="windows", arguments=(view, call(program, 1).arguments[1]), overwrites=())
    checked(program)
    with pytest.raises(MemorySafetyError, match="is a view of bytes 22 to 32"):
        later = replace(view, offset=22)
        checked(changed(program, 1, symbol="windows", arguments=(later, call(program, 1).arguments[1])))


@pytest.mark.parametrize(("slack", "safe"), [(3, True), (2, False)])
def test_slack_may_be_read(slack: int, safe: bool) -> None:
    program = chain()
    program.kernels["ahead"] = handmade(_reads_three_more, ROWS * COLUMNS + 3, ROWS * COLUMNS)
    changed(program, 1, symbol="ahead", overwrites=())
    if safe:
        checked(program, Grain(16, slack))
    else:
        with pytest.raises(MemorySafetyError, match="argument p0: it reads elements 34, and may touch 0 to 33"):
            checked(program, Grain(16, slack))


def _reads_three_more(task: object, x: object, out: object) -> None:
    with I.serial(0, ROWS * COLUMNS) as i:
        I.buffer_store(out, x[i + 3], [i])  # type: ignore[index]


def test_slack_is_never_written() -> None:
    program = chain()
    program.kernels["ahead"] = handmade(_writes_one_more, ROWS * COLUMNS, ROWS * COLUMNS)
    with pytest.raises(MemorySafetyError, match="argument p1: it writes elements 32, and may touch 0 to 31"):
        checked(changed(program, 1, symbol="ahead"), HOSTED)


def _writes_one_more(task: object, x: object, out: object) -> None:
    with I.serial(0, ROWS * COLUMNS + 1) as i:
        I.buffer_store(out, x[T.min(i, 31)], [i])  # type: ignore[index]


def test_read_before_write() -> None:
    program = chain()
    program.calls[0], program.calls[1] = replace(program.calls[1], overwrites=()), program.calls[0]
    with pytest.raises(MemorySafetyError, match=r"argument in0 \(a\) is read before it is written"):
        checked(program)


def test_a_part_that_was_never_written() -> None:
    program = chain()
    a = call(program, 0).arguments[1]
    assert isinstance(a, Tensor)
    rows = a.sliced(0, 0, ROWS - 1)
    program.kernels["some"] = copying(replace(SPEC, shape=rows.shape), rows.spec)
    x = call(program, 0).arguments[0]
    assert isinstance(x, Tensor)
    changed(program, 0, symbol="some", arguments=(x.sliced(0, 0, ROWS - 1), rows), result=rows, writes=(rows,))
    with pytest.raises(
        MemorySafetyError, match=r"second: .* argument in0 \(a\) is read before it is written as a whole"
    ):
        checked(program)


def test_an_output_that_is_not_written_as_a_whole() -> None:
    program = chain()
    program.outputs.append(tensor("z", "output"))
    with pytest.raises(MemorySafetyError, match="output z is not written as a whole"):
        checked(program)


def test_a_kernel_that_stops_short_of_its_result() -> None:
    program = chain()
    short = replace(SPEC, shape=(ROWS - 1, COLUMNS))
    program.kernels["short"] = copying(short, short)
    with pytest.raises(MemorySafetyError, match="elements 0 to 31 are its result, and it writes 0 to 23 of them"):
        checked(changed(program, 1, symbol="short"))


def test_swapped_constants() -> None:
    program = chain()
    program.kernels["scaled"] = handmade(_scaled, ROWS * COLUMNS, 32, 32, ROWS * COLUMNS)
    first, second = constant(range(32)), constant(range(32))
    a, b = call(program, 1).arguments
    packed = {"p1": first, "p2": second}
    checked(changed(program, 1, symbol="scaled", arguments=(a, first, second, b), packed=packed))
    with pytest.raises(MemorySafetyError, match=r"argument p1 \(numbers\) is given where numbers is packed for it"):
        checked(changed(program, 1, arguments=(a, second, first, b)))
    with pytest.raises(MemorySafetyError, match="packed for a parameter p9"):
        checked(changed(program, 1, arguments=(a, first, second, b), packed={"p9": first}))


def _scaled(task: object, x: object, scale: object, shift: object, out: object) -> None:
    with I.serial(0, ROWS * COLUMNS) as i:
        I.buffer_store(out, x[i] * scale[i] + shift[i], [i])  # type: ignore[index]


def test_a_value_of_another_type_than_the_kernel_takes() -> None:
    """What a linear layer behind `torch.flip` was: sums of 32 bits into a result of bytes."""
    program = chain()
    program.kernels["sums"] = copying(SPEC, replace(SPEC, dtype="int32"))
    with pytest.raises(MemorySafetyError, match=r"argument out \(b\) holds int8, and the kernel takes int32"):
        checked(changed(program, 1, symbol="sums"))


def test_too_few_arguments() -> None:
    with pytest.raises(MemorySafetyError, match="takes 2 arguments and gets 1"):
        checked(changed(chain(), 1, arguments=call(chain(), 1).arguments[1:], symbol="copy"))


@pytest.mark.parametrize("kind", ["constant", "input"])
def test_constants_and_inputs_are_never_written(kind: str) -> None:
    program = chain()
    numbers = constant([0] * 32)
    target = Tensor(numbers, SPEC) if kind == "constant" else program.inputs[0]
    changed(
        program, 1, arguments=(call(program, 0).arguments[1], target), result=target, writes=(target,), overwrites=()
    )
    with pytest.raises(MemorySafetyError, match=r"argument out: it writes elements .* may touch none"):
        checked(program)


def test_an_operand_that_is_read_later_is_not_written_over() -> None:
    program = chain()
    plan = plan_memory(program, GRAIN)
    a, b = (t.buffer for t in call(program, 1).arguments)  # type: ignore[union-attr]
    assert plan.offset(a) == plan.offset(b), "the planner takes up the offer"
    changed(program, 2, arguments=(call(program, 1).arguments[0], call(program, 2).arguments[1]))
    with pytest.raises(MemorySafetyError, match=r"third: .* argument in0 \(a\) .* after it was written over"):
        verify(program, plan, GRAIN)


def test_a_result_over_an_operand_without_leave() -> None:
    program = chain()
    plan = plan_memory(program, GRAIN)
    with pytest.raises(
        MemorySafetyError, match=r"argument out \(b\) is written at bytes 0 to 31 over in0 \(a\) at 0 to 31"
    ):
        verify(changed(program, 1, overwrites=()), plan, GRAIN)


@pytest.mark.parametrize(("lead", "safe"), [(16, True), (17, False), (40, False)])
def test_a_lead_that_the_plan_does_not_keep(lead: int, safe: bool) -> None:
    program = chain()
    a, b = (t.buffer for t in call(program, 1).arguments)  # type: ignore[union-attr]
    changed(program, 1, overwrites=(Overwrite(call(program, 1).arguments[0], lead),))  # type: ignore[arg-type]
    plan = plan_memory(program, GRAIN)
    verify(program, plan, GRAIN)
    closer = replace(plan, offsets={**plan.offsets, id(b): 0, id(a): 16}, arena_bytes=48)
    if safe:
        verify(program, closer, GRAIN)
    else:
        with pytest.raises(MemorySafetyError, match="which the kernel still needs"):
            verify(program, closer, GRAIN)


def test_two_values_in_one_place() -> None:
    program = chain()
    changed(program, 1, overwrites=())
    plan = plan_memory(program, GRAIN)
    a, b = (t.buffer for t in call(program, 1).arguments)  # type: ignore[union-attr]
    with pytest.raises(MemorySafetyError, match="over in0"):
        verify(program, replace(plan, offsets={**plan.offsets, id(b): plan.offset(a)}), GRAIN)


def test_a_place_beyond_the_arena() -> None:
    program = chain()
    plan = plan_memory(program, GRAIN)
    with pytest.raises(MemorySafetyError, match="beyond the arena's end"):
        verify(program, replace(plan, arena_bytes=16), GRAIN)


def test_a_place_that_is_not_aligned() -> None:
    program = Program()
    spec = row_major("int32", (8,))
    x, a, y = tensor("x", "input", spec), tensor("a", spec=spec), tensor("y", "output", spec)
    program.inputs, program.outputs = [x], [y]
    program.kernels["copy"] = copying(spec, spec)
    with_words = _words(8)
    program.kernels["words"] = with_words
    program.call("copy", [x, a], a, "first")
    program.call("words", [a, y], y, "second")
    plan = plan_memory(program, GRAIN)
    verify(program, plan, GRAIN)
    moved = replace(plan, offsets={id(a.buffer): 2}, arena_bytes=64)
    with pytest.raises(MemorySafetyError, match="is at byte 2, which is no multiple of 4"):
        verify(program, moved, GRAIN)


def _words(size: int) -> Kernel:
    from fxquant.targets.kernels.words.tir import argument, prim_func

    with prim_func("words") as finish:
        I.arg("task", I.int32())
        x, out = (argument(name, size, "int32", 4) for name in ("x", "out"))
        with I.serial(0, size) as i:
            I.buffer_store(out, x[i], [i])
    return Kernel(finish(), 1)
