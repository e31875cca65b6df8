"""aarch64 relocations: what an instruction decodes to after the patch is where it was meant to point."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxquant.errors import ObjectCodeError
from fxquant.runtime import elf, object_file
from fxquant.runtime.relocations import RULES, rule
from tests.runtime.objects import object_bytes
from tests.runtime.test_elf import math_function

ADR, ADRP, ADD, B, LOAD64 = 0x10000003, 0x90000003, 0x91000063, 0x14000000, 0xF9400063


def patched(kind: int, instruction: int, place: int, value: int) -> int:
    image = bytearray(instruction.to_bytes(4, "little"))
    rule("aarch64", kind, ".text").patch(image, 0, place, value)
    assert len(image) == 4
    return int.from_bytes(image, "little")


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def adr_immediate(word: int) -> int:
    return signed((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3, 21)


@given(st.integers(1 << 33, 1 << 40), st.integers(-(1 << 31), (1 << 31) - 1))
def test_page_and_low_bits_add_up(place: int, distance: int) -> None:
    place &= ~3
    value = place + distance
    word = patched(275, ADRP, place, value)
    base = (place & ~0xFFF) + (adr_immediate(word) << 12)
    assert base + (patched(277, ADD, place, value) >> 10 & 0xFFF) == value
    assert word & 0x9F00001F == ADRP & 0x9F00001F


@pytest.mark.parametrize(("kind", "shift"), [(278, 0), (284, 1), (285, 2), (286, 3), (299, 4), (312, 3)])
@given(value=st.integers(0, 1 << 40))
def test_loads_scale_their_offset(kind: int, shift: int, value: int) -> None:
    value = value >> shift << shift
    assert (patched(kind, LOAD64, 0, value) >> 10 & 0xFFF) << shift == value & 0xFFF
    if shift:
        with pytest.raises(ObjectCodeError, match="not aligned"):
            patched(kind, LOAD64, 0, value + 1)


@pytest.mark.parametrize(
    ("kind", "bits", "position"), [(282, 26, 0), (283, 26, 0), (280, 19, 5), (279, 14, 5), (273, 19, 5)]
)
@given(data=st.data())
def test_branches_reach_both_ways(kind: int, bits: int, position: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(-(1 << bits - 1), (1 << bits - 1) - 1))
    word = patched(kind, B, 1 << 40, (1 << 40) + 4 * steps)
    assert signed(word >> position & ((1 << bits) - 1), bits) == steps
    with pytest.raises(ObjectCodeError, match="does not fit"):
        patched(kind, B, 1 << 40, (1 << 40) + 4 * (1 << bits - 1))


@given(st.integers(-(1 << 20), (1 << 20) - 1))
def test_adr(distance: int) -> None:
    assert adr_immediate(patched(274, ADR, 1 << 30, (1 << 30) + distance)) == distance


def test_a_patch_replaces_what_was_there() -> None:
    once = patched(277, ADD, 0, 0xFFF)
    assert patched(277, once, 0, 0x123) == patched(277, ADD, 0, 0x123)


def test_an_object_for_arm_is_linked() -> None:
    parsed = object_file.parse(object_bytes({"f": math_function()}, {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}))
    externals = sorted({r.symbol.name for r in parsed.relocations if r.symbol.section is None})
    assert "erff" in externals
    image = elf.Image(parsed, externals, page=65536)
    base, far = 0x400000000000, 0x123456789ABC
    linked = image.link(base, lambda _: far)
    calls = [r for r in parsed.relocations if r.kind in (282, 283) and r.symbol.name == "erff"]
    assert calls
    for call in calls:
        at = image.sections[call.section] + call.offset
        stub = at + 4 * signed(int.from_bytes(linked[at : at + 4], "little") & 0x3FFFFFF, 26)
        assert linked[stub : stub + 8].hex() == "5000005800021fd6"  # ldr x16, #8; br x16
        assert int.from_bytes(linked[stub + 8 : stub + 16], "little") == far


def test_names_are_unique() -> None:
    for rules in RULES.values():
        names = [r.name for r in rules.values()]
        assert len(names) == len(set(names))
