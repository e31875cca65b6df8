"""Which names of an object other objects see: those of its interface, and no helper that TVM adds to every module.

TVM defines weak `__extendhfsf2` and `__truncsfhf2`, whose binary16 is not every program's: a linker that took them for
the program's own would change its arithmetic. As local symbols they are nobody's but this object's.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from fxquant.errors import ObjectCodeError

# Sections besides relocations that hold numbers of symbols.
_NUMBERED = {"SHT_GROUP", "SHT_SYMTAB_SHNDX", "SHT_LLVM_ADDRSIG"}


def localized(data: bytes, is_exported: Callable[[str], bool]) -> bytes:
    """The relocatable object with every symbol that it defines local, but for those whose names `is_exported` takes.

    before: FUNC GLOBAL net_run, FUNC GLOBAL net_copy_7, FUNC WEAK __truncsfhf2
    after:  FUNC GLOBAL net_run, FUNC LOCAL net_copy_7, FUNC LOCAL __truncsfhf2
    Raises ObjectCodeError for an object whose symbols are numbered elsewhere, too.
    Nothing moves but entries of the symbol table, whose local ones come first; relocations are numbered anew.
    """
    elf = ELFFile(io.BytesIO(data))
    if kinds := {str(s["sh_type"]) for s in elf.iter_sections()} & _NUMBERED:
        raise ObjectCodeError(f"the object numbers symbols in sections that nobody here can rewrite: {sorted(kinds)}")
    table = next(s for s in elf.iter_sections() if isinstance(s, SymbolTableSection))
    symbols = list(table.iter_symbols())
    hidden = [s["st_shndx"] != "SHN_UNDEF" and not is_exported(s.name) for s in symbols]
    is_local = [here or s["st_info"]["bind"] == "STB_LOCAL" for s, here in zip(symbols, hidden, strict=True)]
    order = sorted(range(len(symbols)), key=lambda number: not is_local[number])
    result = bytearray(data)
    _write_symbols(elf, table, result, order, hidden)
    _write_locals(elf, table, result, sum(is_local))
    moved = {old: new for new, old in enumerate(order)}
    for section in elf.iter_sections():
        if section["sh_type"] in ("SHT_REL", "SHT_RELA"):
            _renumber(elf, section, result, moved)
    return bytes(result)


def _write_symbols(elf: ELFFile, table: Any, result: bytearray, order: list[int], hidden: list[bool]) -> None:
    """The entries in their new order; the binding is the upper half of `st_info`."""
    size, info = table["sh_entsize"], 4 if elf.elfclass == 64 else 12
    start = table["sh_offset"]
    old = bytes(result[start : start + table["sh_size"]])
    for place, number in enumerate(order):
        entry = bytearray(old[number * size : (number + 1) * size])
        if hidden[number]:
            entry[info] &= 0x0F  # STB_LOCAL
        result[start + place * size : start + (place + 1) * size] = entry


def _write_locals(elf: ELFFile, table: Any, result: bytearray, count: int) -> None:
    """`sh_info` of the symbol table: the number of its local entries."""
    number = elf.get_section_index(table.name)
    within = 44 if elf.elfclass == 64 else 28
    struct.pack_into(_order(elf) + "I", result, elf["e_shoff"] + number * elf["e_shentsize"] + within, count)


def _renumber(elf: ELFFile, section: Any, result: bytearray, moved: dict[int, int]) -> None:
    """`r_info` holds the symbol's number above the type: 32 bits of 64, or 24 of 32."""
    at, kind, bits = (8, "Q", 32) if elf.elfclass == 64 else (4, "I", 8)
    for number in range(section.num_relocations()):
        place = section["sh_offset"] + number * section["sh_entsize"] + at
        (info,) = struct.unpack_from(_order(elf) + kind, result, place)
        info = moved[info >> bits] << bits | info & ((1 << bits) - 1)
        struct.pack_into(_order(elf) + kind, result, place, info)


def _order(elf: ELFFile) -> str:
    return "<" if elf.little_endian else ">"
