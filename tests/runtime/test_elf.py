"""The loader: relocations, the C library, memory protection, and objects that must be refused."""

from __future__ import annotations

import ctypes
import gc
import math
from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fxquant.errors import ObjectCodeError
from fxquant.runtime import elf, host, object_file
from fxquant.runtime.elf import Library
from fxquant.targets.tvm_api import I, IRBuilder, T
from tests.runtime.objects import mirror, object_bytes, pair
from tests.runtime.tiny_elf import BSS, COMMON, DATA, EXTERNAL, TEXT, Patch, tiny_object

pytestmark = pytest.mark.skipif(host.host_machine() != "x86_64", reason="runs x86-64 machine code")

RET = b"\xc3"
LEA, LOAD = b"\x48\x8d\x05", b"\x48\x8b\x05"  # lea rax, [rip + x]; mov rax, [rip + x]
ADDRESS_OF_MEMCPY = host.symbol_address("memcpy")


def protections(library: Library) -> list[str]:
    """Permissions of the pages of a library, in order."""
    at = min(library.symbols.values())
    found: list[str] = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions = line.split()[:2]
        start, end = (int(x, 16) for x in span.split("-"))
        if start <= at < end:
            found.append(permissions)
            at = end
    return found[:3]


def math_function() -> Any:
    """`y[i] = tanh(x[i]) * 1.2345 + erf(x[i])` over 8 floats."""
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name("f")
            x, y = (I.arg(name, I.buffer((8,), "float32")) for name in "xy")
            with I.serial(0, 8) as i:
                I.buffer_store(y, T.tanh(x[i]) * T.float32(1.2345) + T.erf(x[i]), [i])
    return builder.get()


def test_code_from_tvm_with_constants_and_libm() -> None:
    library = Library(object_bytes({"f": math_function()}))
    x = np.linspace(-3, 3, 8, dtype=np.float32)
    y = np.zeros_like(x)
    library.function("f", None, [c_void_p, c_void_p])(x.ctypes.data, y.ctypes.data)
    want = [math.tanh(v) * 1.2345 + math.erf(v) for v in x]
    np.testing.assert_allclose(y, want, rtol=1e-5)


def test_addresses_relative_to_the_instruction() -> None:
    patches = [Patch(TEXT, 3, 2, "value", -4), Patch(TEXT, 11, 2, "zeros", 16 - 4)]
    symbols = {"f": (TEXT, 0), "g": (TEXT, 8), "value": (DATA, 0), "zeros": (BSS, 0)}
    text = LOAD + bytes(4) + RET + LEA + bytes(4) + RET
    library = Library(tiny_object(text, symbols, patches, data=(77).to_bytes(8, "little")))
    assert library.function("f", c_int64, [])() == 77
    address = library.function("g", c_int64, [])()
    assert address == library.symbols["zeros"] + 16
    assert ctypes.string_at(library.symbols["zeros"], 64) == bytes(64)
    assert library.symbols["zeros"] % 64 == 0


@pytest.mark.parametrize("kind", [9, 41, 42])
def test_addresses_through_the_offset_table(kind: int) -> None:
    patches = [Patch(TEXT, 3, kind, "memcpy", -4), Patch(TEXT, 11, kind, "f", -4)]
    symbols = {"f": (TEXT, 0), "g": (TEXT, 8), "memcpy": (EXTERNAL, 0)}
    library = Library(tiny_object(LOAD + bytes(4) + RET + LOAD + bytes(4) + RET, symbols, patches))
    assert library.function("f", c_int64, [])() == ADDRESS_OF_MEMCPY
    assert library.function("g", c_int64, [])() == library.symbols["f"]


def test_calls_reach_the_c_library_through_stubs() -> None:
    # jmp memmove; the arguments are already where memmove wants them
    library = Library(
        tiny_object(b"\xe9" + bytes(4), {"f": (TEXT, 0), "memmove": (EXTERNAL, 0)}, [Patch(TEXT, 1, 4, "memmove", -4)])
    )
    target = ctypes.create_string_buffer(8)
    library.function("f", c_void_p, [c_void_p, c_void_p, c_int64])(target, b"fxquant", 7)
    assert target.value == b"fxquant"
    library = Library(
        tiny_object(b"\xe9" + bytes(4), {"f": (TEXT, 0), "cosf": (EXTERNAL, 0)}, [Patch(TEXT, 1, 2, "cosf", -4)])
    )
    assert library.function("f", c_float, [c_float])(0.0) == 1.0
    library = Library(
        tiny_object(b"\xe9" + bytes(4), {"f": (TEXT, 0), "pow": (EXTERNAL, 0)}, [Patch(TEXT, 1, 4, "pow", -4)])
    )
    assert library.function("f", c_double, [c_double, c_double])(2.0, 10.0) == 1024.0


def test_absolute_and_wide_relative_addresses_in_data() -> None:
    patches = [Patch(DATA, 0, 1, "memcpy"), Patch(DATA, 8, 1, "f", 5), Patch(DATA, 16, 24, "memcpy")]
    symbols = {"f": (TEXT, 0), "data": (DATA, 0), "memcpy": (EXTERNAL, 0)}
    library = Library(tiny_object(RET, symbols, patches, data=bytes(24)))
    words = (c_int64 * 3).from_address(library.symbols["data"])
    assert words[0] == ADDRESS_OF_MEMCPY
    assert words[1] == library.symbols["f"] + 5
    assert words[2] + library.symbols["data"] + 16 == ADDRESS_OF_MEMCPY


def test_32_bit_addresses_must_fit() -> None:
    parsed = object_file.parse(tiny_object(b"\xb8" + bytes(4) + RET, {"f": (TEXT, 0)}, [Patch(TEXT, 1, 10, "f")]))
    image = elf.Image(parsed, [])
    assert image.link(0x10000000, lambda _: None)[1:5] == (0x10000000).to_bytes(4, "little")
    with pytest.raises(ObjectCodeError, match="does not fit 32 bits; compile the code position-independent"):
        image.link(0x7F0000000000, lambda _: None)


def test_no_page_is_writable_and_executable() -> None:
    symbols = {"f": (TEXT, 0), "memcpy": (EXTERNAL, 0), "value": (DATA, 0)}
    library = Library(tiny_object(LOAD + bytes(4) + RET, symbols, [Patch(TEXT, 3, 9, "memcpy", -4)]))
    assert [p[:3] for p in protections(library)] == ["r-x", "r--", "rw-"]
    assert protections(Library(mirror().code))[0].startswith("r-x")


def test_a_function_keeps_its_code_mapped() -> None:
    function = Library(tiny_object(b"\xb8\x2a\0\0\0" + RET, {"f": (TEXT, 0)}, [])).function("f", c_int, [])
    gc.collect()
    assert function() == 42


def test_forbidden_and_unknown_functions_are_named() -> None:
    symbols = {"f": (TEXT, 0), "system": (EXTERNAL, 0), "open": (EXTERNAL, 0)}
    patches = [Patch(TEXT, 1, 4, "system", -4), Patch(TEXT, 1, 4, "open", -4)]
    with pytest.raises(ObjectCodeError, match="calls open, system, which compiled models may not call"):
        Library(tiny_object(b"\xe9" + bytes(4), symbols, patches))
    with pytest.raises(ObjectCodeError, match="no symbol 'h'; it has f"):
        Library(tiny_object(RET, {"f": (TEXT, 0)}, [])).address("h")


def test_a_function_that_the_c_library_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elf, "symbol_address", lambda _name: None)
    with pytest.raises(ObjectCodeError, match=r"memcpy, .*, which the C library of this system lacks"):
        Library(pair().code)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"not an object" * 10, "not a little-endian 64-bit ELF"),
        (tiny_object(RET, {}, [], kind=2), "type 2, not a relocatable object"),
        (tiny_object(RET, {}, [], machine=40), "ELF machine 40"),
        (tiny_object(RET, {}, [], machine=183), "for aarch64, this machine is x86_64"),
        (tiny_object(RET, {}, [], data_flags=0x403), "thread-local"),
        (tiny_object(RET, {"c": (COMMON, 8)}, []), "'c' of the object is common"),
        (tiny_object(bytes(8), {"f": (TEXT, 0)}, [Patch(TEXT, 0, 37, "f")]), "relocation type 37"),
        (tiny_object(bytes(8), {"f": (TEXT, 0)}, [Patch(TEXT, 5, 2, "f")]), "lies outside of section .text"),
        (tiny_object(bytes(8), {"f": (TEXT, 0)}, [Patch(TEXT, 4, 1, "f")]), "lies outside of section .text"),
        (tiny_object(bytes(8), {"n": (5, 0)}, [Patch(TEXT, 0, 2, "n")]), "'n' in a section that is not loaded"),
    ],
)
def test_bad_objects_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ObjectCodeError, match=message):
        Library(data)


WHOLE = tiny_object(RET, {"f": (TEXT, 0), "memcpy": (EXTERNAL, 0)}, [Patch(DATA, 0, 1, "memcpy")])
HEADERS = int.from_bytes(WHOLE[40:48], "little")
SYMBOLS, RELOCATIONS = (HEADERS + 64 * number for number in (4, 7))
SYMBOL, RELOCATION = (int.from_bytes(WHOLE[at + 24 : at + 32], "little") for at in (SYMBOLS, RELOCATIONS))
F, MEMCPY = SYMBOL + 24, SYMBOL + 48


def section_header(number: int, field: int) -> int:
    return HEADERS + 64 * number + field


@pytest.mark.parametrize(
    ("place", "width", "value", "message"),
    [
        (6, 1, 2, "versions, sizes of headers"),
        (20, 4, 0, "versions, sizes of headers"),
        (24, 8, 0x400000, "entry, segments and flags"),
        (32, 8, 64, "entry, segments and flags"),
        (48, 4, 1, "entry, segments and flags"),
        (52, 2, 0, "sizes of headers"),
        (58, 2, 40, "sizes of headers"),
        (40, 8, 1 << 63, "9 section headers at 9223372036854775808"),
        (40, 8, 0, "overlap"),
        (60, 2, 0, "0 section headers"),
        (60, 2, 0xFFFF, "65535 section headers"),
        (62, 2, 9, "names in number 9"),
        (62, 2, 1, "no name of up to 1000 bytes"),
        (section_header(1, 0), 4, 1 << 31, "no name of up to 1000 bytes at 2147483648"),
        (section_header(1, 4), 4, 14, r"kind 14 of section \.text"),
        (section_header(1, 8), 8, 7, r"flags 0x7 of section \.text"),
        (section_header(1, 8), 8, 0x806, r"flags 0x806 of section \.text"),
        (section_header(1, 16), 8, 64, "at address 64"),
        (section_header(2, 24), 8, 64, "overlap"),
        (section_header(2, 24), 8, 1 << 40, "bytes 1099511627776"),
        (section_header(2, 32), 8, 1 << 62, "overlap"),
        (section_header(3, 32), 8, 1 << 40, "1099511627776 zeros, of 67108864 at most"),
        (section_header(1, 48), 8, 1 << 40, r"alignment 1099511627776 of section \.text, not a power of 2 up to 4096"),
        (section_header(1, 48), 8, 24, "alignment 24"),
        (section_header(4, 40), 4, 77, "names in section 77"),
        (section_header(4, 40), 4, 1, "names in section 1"),
        (section_header(4, 32), 8, 25, "25 bytes in entries of 24"),
        (section_header(4, 56), 8, 0, "entries of 0"),
        (section_header(6, 4), 4, 2, "2 symbol tables"),
        (section_header(7, 40), 4, 5, r"symbols from section 5, not \[4\]"),
        (section_header(7, 44), 4, 12, "relocates section 12 of 9"),
        (section_header(7, 4), 4, 9, "relocations without addends"),
        (F, 4, 1 << 20, "no name of up to 1000 bytes"),
        (F + 4, 1, 0x16, "symbol 'f' of type 6"),
        (F + 4, 1, 0xA0, "binding 10"),
        (F + 6, 2, 12, "symbol 'f' at 0 of section 12"),
        (F + 6, 2, 0xFFFF, "symbol 'f' at 0 of section 65535"),
        (F + 6, 2, 0xFFF1, "'f' of the object is common or absolute"),
        (F + 8, 8, 1 << 63, "outside of it"),
        (F + 16, 8, 2, "2 bytes, outside of it"),
        (MEMCPY, 4, 1, "calls f, which compiled models may not call"),
        (RELOCATION, 8, 1 << 63, "lies outside of section .data"),
        (RELOCATION, 8, 1, "lies outside of section .data"),
        (RELOCATION + 8, 4, 255, "relocation type 255"),
        (RELOCATION + 12, 4, 3, "symbol 3 of 3"),
        (RELOCATION + 12, 4, 0, "symbol 0 of 3"),
        (RELOCATION + 16, 8, 1 << 63, "does not fit 64 bits"),
    ],
)
def test_every_field_is_checked(place: int, width: int, value: int, message: str) -> None:
    Library(WHOLE)
    hostile = bytearray(WHOLE)
    hostile[place : place + width] = value.to_bytes(width, "little")
    with pytest.raises(ObjectCodeError, match=message):
        Library(bytes(hostile))


def test_what_is_called_must_be_code() -> None:
    parsed = object_file.parse(tiny_object(RET, {"f": (TEXT, 0), "end": (TEXT, 1), "data": (DATA, 0)}, []))
    parsed.require_code(["f"])
    for name in ("end", "data"):
        with pytest.raises(ObjectCodeError, match=f"'{name}' of the object is not code"):
            parsed.require_code(["f", name])
    with pytest.raises(ObjectCodeError, match="no symbol 'g'; it has data, end, f"):
        parsed.require_code(["g"])


def test_truncated_objects_never_crash() -> None:
    whole = pair().code
    for length in range(0, len(whole), 97):
        with pytest.raises(ObjectCodeError):
            Library(whole[:length])


def test_executable_memory_may_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def mprotect(self, *_: Any) -> int:
            ctypes.set_errno(13)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Refusing())
    with pytest.raises(ObjectCodeError, match="refuses to make memory executable"):
        Library(tiny_object(RET, {"f": (TEXT, 0)}, []))
