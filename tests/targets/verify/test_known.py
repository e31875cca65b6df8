"""A kernel is read once and a call proven once; whatever decides about a proof makes another one of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fxquant.errors import MemorySafetyError
from fxquant.targets.tvm_api import I, T
from fxquant.targets.verify import known, verifier
from tests.targets.verify.broken import (
    COLUMNS,
    ROWS,
    call,
    chain,
    changed,
    checked,
    constant,
    handmade,
    operand,
    tensor,
)

SIZE = ROWS * COLUMNS
# Of `chain`: three calls of one kernel, whose first operand is the caller's, in memory of the same size everywhere.
ONCE = ["accesses_of", "prove", "prove"]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known.forget()
    monkeypatch.setenv("FXQUANT_CACHE", str(tmp_path))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was read of kernels, and proven."""
    done: list[Any] = []

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            done.append(name)
            return real(*arguments)

        return noted

    for name in ("accesses_of", "prove"):
        monkeypatch.setattr(verifier, name, noting(name, getattr(verifier, name)))
    return done


def test_what_is_known_is_not_looked_at_again(read: list[Any]) -> None:
    checked(chain())
    assert read == ONCE
    read.clear()
    checked(chain())
    assert not read


def test_another_process_finds_it_in_the_file(read: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checked(chain())
    known.forget()
    read.clear()
    checked(chain())
    assert not read
    (entry,) = tmp_path.glob("*.proof")
    entry.write_bytes(entry.read_bytes()[:-1])
    known.forget()
    checked(chain())
    assert read == ONCE


def test_without_a_cache_it_is_for_one_program(
    read: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FXQUANT_CACHE", "off")
    checked(chain())
    checked(chain())
    assert read == [*ONCE, *ONCE] and not list(tmp_path.iterdir())


def test_other_limits_are_another_proof() -> None:
    program = chain()
    checked(program)
    wide = replace(operand(program, 1), offset=1)
    short = replace(wide, spec=replace(wide.spec, shape=(ROWS, COLUMNS - 1)))  # its view fits, and its kernel reads on
    with pytest.raises(MemorySafetyError, match="argument in0: it reads elements 31, and may touch -1 to 30"):
        checked(changed(program, 1, arguments=(short, call(program, 1).arguments[1])))


def test_what_failed_is_not_taken_for_proven() -> None:
    for _ in range(2):
        program = chain()
        program.kernels["copy"] = handmade(lambda task, x, out: _copied(x, out, 1), SIZE, SIZE)
        with pytest.raises(MemorySafetyError, match="it reads elements 32"):
            checked(program)


def _copied(x: Any, out: Any, ahead: int = 0) -> None:
    with I.serial(0, SIZE) as i:
        I.buffer_store(out, x[i + ahead], [i])


def by_table(most: int, is_kept: bool) -> Any:
    """A program that looks places up, in the table itself or in private memory that was filled from it."""

    def body(task: Any, x: Any, table: Any, out: Any) -> None:
        mine = I.alloc_buffer((1,), "int8") if is_kept else None
        with I.serial(0, SIZE) as i:
            if mine is not None:
                I.buffer_store(mine, table[i], [0])
            I.buffer_store(out, x[T.cast(table[i] if mine is None else mine[0], "int32")], [i])

    program = chain()
    program.kernels["by table"] = handmade(body, SIZE, SIZE, SIZE)
    a, b = call(program, 1).arguments
    return changed(program, 1, symbol="by table", arguments=(a, constant([*range(31), most]), b), overwrites=())


@pytest.mark.parametrize("is_kept", [False, True])
def test_another_table_is_another_proof(is_kept: bool) -> None:
    checked(by_table(31, is_kept))
    with pytest.raises(MemorySafetyError, match="and may touch 0 to 31"):
        checked(by_table(32, is_kept))


def test_constants_that_are_no_tables_do_not_matter(read: list[Any]) -> None:
    def shifted(by: int) -> Any:
        def body(task: Any, x: Any, shift: Any, out: Any) -> None:
            with I.serial(0, SIZE) as i:
                I.buffer_store(out, x[i] + shift[i], [i])

        program = chain()
        program.kernels["shifted"] = handmade(body, SIZE, SIZE, SIZE)
        a, b = call(program, 1).arguments
        return changed(program, 1, symbol="shifted", arguments=(a, constant([by] * SIZE), b), overwrites=())

    checked(shifted(1))
    read.clear()
    checked(shifted(2))
    assert not read


def test_the_number_of_tasks_is_part_of_a_kernel() -> None:
    def body(task: Any, x: Any, out: Any) -> None:
        with I.serial(0, COLUMNS) as i:
            I.buffer_store(out, x[task * COLUMNS + i], [task * COLUMNS + i])

    program = chain()
    program.kernels["rows"] = handmade(body, SIZE, SIZE, tasks=ROWS)
    checked(changed(program, 1, symbol="rows"))
    program.kernels["rows"] = replace(program.kernels["rows"], tasks=ROWS + 1)
    with pytest.raises(MemorySafetyError, match="elements"):
        checked(program)


def test_known_kernels_are_still_held_to_their_arguments() -> None:
    checked(chain())
    program = chain()
    changed(program, 1, arguments=(tensor("a2"), call(program, 1).arguments[1]), overwrites=())
    with pytest.raises(MemorySafetyError, match="is read before it is written"):
        checked(program)
