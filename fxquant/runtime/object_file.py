"""Reads a relocatable ELF64 object: sections, symbols and relocations, nothing interpreted yet.

Source: System V ABI, chapter "Object Files". Only little-endian 64-bit objects with explicit addends (RELA), which is
what LLVM writes for x86-64 and aarch64.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fxquant.errors import ObjectCodeError

X86_64, AARCH64 = 62, 183
MACHINES = {X86_64: "x86_64", AARCH64: "aarch64"}

WRITE, ALLOC, EXECUTE, TLS = 0x1, 0x2, 0x4, 0x400
_SYMTAB, _RELA, _NOBITS, _REL = 2, 4, 8, 9
_UNDEFINED, _ABSOLUTE, _COMMON = 0, 0xFFF1, 0xFFF2
_LOCAL = 0

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")


@dataclass(frozen=True)
class Section:
    """One section; `data` is empty for sections that hold only zeros (`zero`)."""

    name: str
    kind: int
    flags: int
    size: int
    align: int
    link: int
    target: int
    data: bytes

    @property
    def loaded(self) -> bool:
        """Whether the section is needed to run (unwind tables are not)."""
        return bool(self.flags & ALLOC) and self.name != ".eh_frame"


@dataclass(frozen=True)
class Symbol:
    """A name for `value` bytes into section number `section`, or an external one (`section` is None)."""

    name: str
    section: int | None
    value: int
    exported: bool


@dataclass(frozen=True)
class Relocation:
    """Patch section number `section` at `offset` with the address of `symbol` plus `addend`, in the manner `kind`."""

    section: int
    offset: int
    kind: int
    symbol: Symbol
    addend: int


@dataclass(frozen=True)
class ObjectFile:
    """The parts of an object that matter for running it."""

    machine: str
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    relocations: tuple[Relocation, ...]


def parse(data: bytes) -> ObjectFile:
    """Read an object; `ObjectCodeError` where it is not a whole relocatable ELF64 object."""
    try:
        return _parse(data)
    except (struct.error, IndexError, ValueError) as error:
        raise ObjectCodeError(f"the object code is damaged ({error}); compile the model again") from error


def _parse(data: bytes) -> ObjectFile:
    ident, kind, machine, *_, shoff, _flags, _, _, _, shsize, shcount, shnames = _HEADER.unpack_from(data)
    if ident[:6] != b"\x7fELF\x02\x01":
        raise ObjectCodeError("the code is not a little-endian 64-bit ELF object; compile the model again")
    if kind != 1:
        raise ObjectCodeError(f"the code is an ELF file of type {kind}, not a relocatable object (type 1)")
    if machine not in MACHINES:
        raise ObjectCodeError(f"the object is for ELF machine {machine}; known are {MACHINES}")
    if shsize != _SECTION.size:
        raise ValueError(f"section headers of {shsize} bytes")
    sections = _sections(data, shoff, shcount, shnames)
    tables = [section for section in sections if section.kind == _SYMTAB]
    symbols = _symbols(tables[0], sections) if tables else ()
    return ObjectFile(MACHINES[machine], sections, symbols, _relocations(sections, symbols))


def _sections(data: bytes, start: int, count: int, names: int) -> tuple[Section, ...]:
    raw = [_SECTION.unpack_from(data, start + _SECTION.size * index) for index in range(count)]
    strings = _slice(data, raw[names][4], raw[names][5])
    sections = []
    for name, kind, flags, _address, offset, size, link, info, align, _entry in raw:
        content = b"" if kind == _NOBITS else _slice(data, offset, size)
        sections.append(Section(_text(strings, name), kind, flags, size, max(align, 1), link, info, content))
    return tuple(sections)


def _symbols(table: Section, sections: tuple[Section, ...]) -> tuple[Symbol, ...]:
    strings = sections[table.link].data
    symbols = []
    for name, info, _other, section, value, _size in _SYMBOL.iter_unpack(table.data):
        text = _text(strings, name)
        if section == _COMMON or (section == _ABSOLUTE and info & 15 != 4):
            raise ObjectCodeError(f"symbol {text!r} of the object is common or absolute; compile with -fno-common")
        inside = section not in (_UNDEFINED, _ABSOLUTE)
        symbols.append(Symbol(text, section if inside else None, value, inside and info >> 4 != _LOCAL))
    return tuple(symbols)


def _relocations(sections: tuple[Section, ...], symbols: tuple[Symbol, ...]) -> tuple[Relocation, ...]:
    found = []
    for table in sections:
        if table.kind not in (_RELA, _REL) or not sections[table.target].loaded:
            continue
        if table.kind == _REL:
            raise ObjectCodeError(f"section {table.name} has relocations without addends, unknown in 64-bit objects")
        for offset, info, addend in _RELOCATION.iter_unpack(table.data):
            found.append(Relocation(table.target, offset, info & 0xFFFFFFFF, symbols[info >> 32], addend))
    return tuple(found)


def _slice(data: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(data):
        raise ValueError(f"bytes {offset}..{offset + size} of {len(data)}")
    return data[offset : offset + size]


def _text(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode()
