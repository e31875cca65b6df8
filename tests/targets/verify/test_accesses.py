"""Kernels that reach too far are refused, and those that only look as if they did are proven part by part."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fxquant.errors import MemorySafetyError
from fxquant.targets.buffers import Buffer, Expands
from fxquant.targets.kernels.contract.kernel import Expansion
from fxquant.targets.tvm_api import I, T, tirx
from tests.targets.verify.broken import (
    COLUMNS,
    ROWS,
    call,
    chain,
    changed,
    checked,
    constant,
    handmade,
)


def test_an_index_that_data_gives_must_be_bounded() -> None:
    program = chain()
    program.kernels["picked"] = handmade(_picked, ROWS * COLUMNS, ROWS * COLUMNS)
    with pytest.raises(MemorySafetyError, match="argument p0: it reads elements -128 to 127, and may touch 0 to 31"):
        checked(changed(program, 1, symbol="picked", overwrites=()))


def _picked(task: object, x: object, out: object) -> None:
    with I.serial(0, ROWS * COLUMNS) as i:
        I.buffer_store(out, x[T.cast(x[i], "int32")], [i])  # type: ignore[index]


@pytest.mark.parametrize(("most", "safe"), [(31, True), (32, False)])
def test_tables_are_looked_into(most: int, safe: bool) -> None:
    program = chain()
    program.kernels["by table"] = handmade(_by_table, ROWS * COLUMNS, 32, ROWS * COLUMNS)
    table = constant([*range(31), most])
    a, b = call(program, 1).arguments
    changed(program, 1, symbol="by table", arguments=(a, table, b), overwrites=())
    if safe:
        checked(program)
    else:
        with pytest.raises(MemorySafetyError, match="it reads elements 32, and may touch 0 to 31"):
            checked(program)


def _by_table(task: object, x: object, table: object, out: object) -> None:
    with I.serial(0, ROWS * COLUMNS) as i:
        I.buffer_store(out, x[T.cast(table[i], "int32")], [i])  # type: ignore[index]


def test_private_memory_has_an_end_too() -> None:
    program = chain()
    program.kernels["private"] = handmade(_private, ROWS * COLUMNS, ROWS * COLUMNS)
    with pytest.raises(MemorySafetyError, match=r"private memory .*: it writes elements 4, and may touch 0 to 3"):
        checked(changed(program, 1, symbol="private"))


def _private(task: object, x: object, out: object) -> None:
    mine = I.alloc_buffer((4,), "int8")
    with I.serial(0, 5) as i:
        I.buffer_store(mine, x[i], [i])  # type: ignore[index]
    with I.serial(0, ROWS * COLUMNS) as i:
        I.buffer_store(out, mine[i % 4], [i])


@pytest.mark.parametrize("name", ["tirx.call_extern", "tirx.call_llvm_intrin"])
def test_a_pointer_that_goes_out_of_sight(name: str) -> None:
    program = chain()
    program.kernels["opaque"] = handmade(lambda task, x, out: _opaque(name, x, out), ROWS * COLUMNS, ROWS * COLUMNS)
    with pytest.raises(MemorySafetyError, match=r"could do anything to memory|goes out of sight"):
        checked(changed(program, 1, symbol="opaque"))


def _opaque(name: str, x: object, out: object) -> None:
    if name == "tirx.call_extern":
        I.evaluate(T.call_extern("void", "strange", T.address_of(out[0]), T.address_of(x[0])))  # type: ignore[index]
    else:
        I.evaluate(T.call_llvm_intrin(T.llvm_lookup_intrinsic_id("llvm.prefetch"), T.address_of(x[0]), dtype="void"))  # type: ignore[index]
    _copy_all(x, out)


def _copy_all(x: object, out: object) -> None:
    with I.serial(0, ROWS * COLUMNS) as i:
        I.buffer_store(out, x[i], [i])  # type: ignore[index]


@pytest.mark.parametrize(("guard", "safe"), [(True, True), (False, False)])
def test_conditions_count(guard: bool, safe: bool) -> None:
    def body(task: object, x: object, out: object) -> None:
        _copy_all(x, out)
        with I.serial(0, 2 * ROWS * COLUMNS) as i:
            condition = tirx.all(i >= 0, i < ROWS * COLUMNS) if guard else i >= 0
            with I.If(condition), I.Then():
                I.buffer_store(out, x[i], [i])  # type: ignore[index]

    program = chain()
    program.kernels["guarded"] = handmade(body, ROWS * COLUMNS, ROWS * COLUMNS)
    changed(program, 1, symbol="guarded", overwrites=())
    if safe:
        checked(program)
    else:
        with pytest.raises(MemorySafetyError, match="elements"):
            checked(program)


def test_bounds_that_depend_on_each_other_are_proven_part_by_part() -> None:
    """`first + i`, where `first` and how far `i` goes depend on the task: the first look is far too wide."""

    def body(task: object, x: object, out: object) -> None:
        first, last = (I.Bind((task + n) * ROWS * COLUMNS // 5) for n in (0, 1))  # type: ignore[operator]
        with I.serial(0, last - first) as i:
            I.buffer_store(out, x[first + i], [first + i])  # type: ignore[index]

    program = chain()
    program.kernels["pieces"] = handmade(body, ROWS * COLUMNS, ROWS * COLUMNS, tasks=5)
    checked(changed(program, 1, symbol="pieces"))
    program.kernels["pieces"] = replace(program.kernels["pieces"], tasks=6)
    with pytest.raises(MemorySafetyError, match="task 5"):
        checked(program)


def test_an_expansion_that_writes_too_far() -> None:
    program = chain()
    stored = constant(range(32))
    kernel = handmade(_copied_wide, 32, 64)
    wide = Buffer("wide", "constant", 63, expands=Expands("expand", stored))
    program.kernels["expand"] = Expansion("key", lambda: kernel, 63).build()
    program.kernels["shifted"] = handmade(_shifted, ROWS * COLUMNS, 32, ROWS * COLUMNS)
    a, b = call(program, 1).arguments
    changed(program, 1, symbol="shifted", arguments=(a, wide, b))
    with pytest.raises(
        MemorySafetyError, match=r"expands the constant wide, .* writes elements 63, and may touch 0 to 62"
    ):
        checked(program)


def _copied_wide(task: object, stored: object, wide: object) -> None:
    with I.serial(0, 64) as i:
        I.buffer_store(wide, stored[i // 2], [i])  # type: ignore[index]


def _shifted(task: object, x: object, shift: object, out: object) -> None:
    with I.serial(0, ROWS * COLUMNS) as i:
        I.buffer_store(out, x[i] + shift[i], [i])  # type: ignore[index]
