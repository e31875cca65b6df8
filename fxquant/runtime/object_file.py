"""Reads a relocatable ELF64 object: sections, symbols and relocations, nothing interpreted yet.

Source: System V ABI, chapter "Object Files". Only little-endian 64-bit objects with explicit addends (RELA), which is
what LLVM writes for x86-64 and aarch64. Every field is held against the bytes that are there and against the others:
what `parse` returns can be laid out and linked without a further doubt about its shape.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fxquant.errors import ObjectCodeError

X86_64, AARCH64 = 62, 183
MACHINES = {X86_64: "x86_64", AARCH64: "aarch64"}

WRITE, ALLOC, EXECUTE, TLS = 0x1, 0x2, 0x4, 0x400
_MERGE, _STRINGS, _GROUP = 0x10, 0x20, 0x200
_PROGBITS, _SYMTAB, _STRTAB, _RELA, _NOTE, _NOBITS, _REL = 1, 2, 3, 4, 7, 8, 9
_UNDEFINED, _ABSOLUTE, _COMMON, _RESERVED = 0, 0xFFF1, 0xFFF2, 0xFF00
_LOCAL, _WEAK = 0, 2
_FILE = 4  # type of a symbol; those before it are none, object, function, section

# Alignment that any page has; what a name takes; what a loaded object may ask for beyond the bytes it brings.
_MOST_ALIGN, _LONGEST_NAME, _MOST_ZEROS = 4096, 1000, 1 << 26

# Versions, bytes of a header and of one of a section; and what only finished programs have.
_FIXED = (1, 1, 64, 64, 0, 0, 0, 0)

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
    """A name for `value` bytes into section number `section`; where that is None, `external` or a mere remark."""

    name: str
    section: int | None
    value: int
    exported: bool
    external: bool = False


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

    def require_code(self, names: Collection[str]) -> None:
        """`ObjectCodeError` unless others may call all of `names`: exported, and inside of executable sections."""
        exported = {s.name: s for s in self.symbols if s.exported}
        for name in names:
            if name not in exported:
                raise ObjectCodeError(f"the object has no symbol {name!r}; it has {', '.join(sorted(exported))}")
            section = self.sections[exported[name].section or 0]
            if not (section.loaded and section.flags & EXECUTE and exported[name].value < section.size):
                raise ObjectCodeError(f"symbol {name!r} of the object is not code; compile the model again")

    def only(self, name: str) -> bytes:
        """The bytes of the one section called `name`; `ObjectCodeError` if there is none, or more."""
        found = [section.data for section in self.sections if section.name == name]
        if len(found) != 1:
            raise ObjectCodeError(f"the object code has {len(found)} sections {name}, not one; compile the model again")
        return found[0]


def parse(data: bytes) -> ObjectFile:
    """Read an object; `ObjectCodeError` where it is not a whole relocatable ELF64 object."""
    try:
        return _parse(data)
    except (struct.error, ValueError) as error:
        raise ObjectCodeError(f"the object code is damaged ({error}); compile the model again") from error


def _parse(data: bytes) -> ObjectFile:
    ident, kind, machine, *rest = _HEADER.unpack_from(data)
    if ident[:6] != b"\x7fELF\x02\x01":
        raise ObjectCodeError("the code is not a little-endian 64-bit ELF object; compile the model again")
    if kind != 1:
        raise ObjectCodeError(f"the code is an ELF file of type {kind}, not a relocatable object (type 1)")
    if machine not in MACHINES:
        raise ObjectCodeError(f"the object is for ELF machine {machine}; known are {MACHINES}")
    version, entry, segments, shoff, flags, size, _, segment_count, shsize, shcount, names = rest
    found = (ident[6], version, size, shsize, entry, segments, flags, segment_count)
    if found != _FIXED:
        raise ValueError(f"versions, sizes of headers, entry, segments and flags {found}, not {_FIXED}")
    sections = _sections(data, shoff, shcount, names)
    tables = [index for index, section in enumerate(sections) if section.kind == _SYMTAB]
    if len(tables) > 1:
        raise ValueError(f"{len(tables)} symbol tables")
    symbols = _symbols(sections[tables[0]], sections) if tables else ()
    return ObjectFile(MACHINES[machine], sections, symbols, _relocations(sections, symbols, tables))


def _sections(data: bytes, start: int, count: int, names: int) -> tuple[Section, ...]:
    if not 0 <= names < count < _RESERVED or start + _SECTION.size * count > len(data):
        raise ValueError(f"{count} section headers at {start}, names in number {names}, in {len(data)} bytes")
    raw = [_SECTION.unpack_from(data, start + _SECTION.size * index) for index in range(count)]
    _require_apart([(0, _HEADER.size), (start, _SECTION.size * count)], raw)
    strings = _slice(data, raw[names][4], raw[names][5])
    sections = []
    for name, kind, flags, address, offset, size, link, info, align, entry in raw:
        if address or (kind in (_SYMTAB, _RELA) and (entry != 24 or size % 24)):
            raise ValueError(f"a section of kind {kind} at address {address}, {size} bytes in entries of {entry}")
        content = b"" if kind in (0, _NOBITS) else _slice(data, offset, size)
        section = Section(_text(strings, name), kind, flags, size, max(align, 1), link, info, content)
        _require_sound(section)
        sections.append(section)
    zeros = sum(section.size for section in sections if section.loaded and section.kind == _NOBITS)
    if zeros > _MOST_ZEROS:
        raise ValueError(f"sections of {zeros} zeros, of {_MOST_ZEROS} at most")
    return tuple(sections)


def _require_apart(taken: list[tuple[int, int]], raw: Sequence[tuple[int, ...]]) -> None:
    """No byte of the file belongs to two sections, or to one and the headers."""
    places = sorted(taken + [(row[4], row[5]) for row in raw if row[5] and row[1] not in (0, _NOBITS)])
    for (first, size), (second, _) in pairwise(places):
        if first + size > second:
            raise ValueError(f"bytes {first}..{first + size} and those from {second} overlap")


def _require_sound(section: Section) -> None:
    if section.align & (section.align - 1) or section.align > _MOST_ALIGN:
        raise ValueError(f"alignment {section.align} of section {section.name}, not a power of 2 up to {_MOST_ALIGN}")
    if not section.loaded:
        return
    if section.flags & TLS:
        raise ObjectCodeError(f"section {section.name} is thread-local, which the loader does not offer")
    if section.kind not in (_PROGBITS, _NOBITS, _NOTE):
        raise ValueError(f"kind {section.kind} of section {section.name}")
    odd = section.flags & ~(WRITE | ALLOC | EXECUTE | _MERGE | _STRINGS | _GROUP)
    if odd or section.flags & (WRITE | EXECUTE) == WRITE | EXECUTE:
        raise ValueError(f"flags {section.flags:#x} of section {section.name}")


def _symbols(table: Section, sections: tuple[Section, ...]) -> tuple[Symbol, ...]:
    if table.link >= len(sections) or sections[table.link].kind != _STRTAB:
        raise ValueError(f"a symbol table with its names in section {table.link}")
    strings, exported = sections[table.link].data, set()
    symbols = [Symbol("", None, 0, False)]  # the first stands for none
    for name, info, _visibility, section, value, size in list(_SYMBOL.iter_unpack(table.data))[1:]:
        symbol = _symbol(_text(strings, name), info, section, (value, size), sections)
        if symbol.exported and symbol.name in exported:
            raise ValueError(f"two symbols {symbol.name!r}")
        if symbol.exported:
            exported.add(symbol.name)
        symbols.append(symbol)
    return tuple(symbols)


def _symbol(name: str, info: int, section: int, span: tuple[int, int], sections: tuple[Section, ...]) -> Symbol:
    (value, size), binding, kind = span, info >> 4, info & 15
    if section == _COMMON or (section == _ABSOLUTE and kind != _FILE):
        raise ObjectCodeError(f"symbol {name!r} of the object is common or absolute; compile with -fno-common")
    if kind > _FILE or binding > _WEAK:
        raise ValueError(f"symbol {name!r} of type {kind} and binding {binding}")
    if section in (_UNDEFINED, _ABSOLUTE):
        return Symbol(name, None, value, False, external=section == _UNDEFINED)
    if section >= len(sections) or value + size > sections[section].size:
        raise ValueError(f"symbol {name!r} at {value} of section {section}, {size} bytes, outside of it")
    return Symbol(name, section, value, binding != _LOCAL)


def _relocations(
    sections: tuple[Section, ...], symbols: tuple[Symbol, ...], symbol_tables: list[int]
) -> tuple[Relocation, ...]:
    found = []
    for table in sections:
        if table.kind not in (_RELA, _REL):
            continue
        if table.target >= len(sections):
            raise ValueError(f"section {table.name} relocates section {table.target} of {len(sections)}")
        if not sections[table.target].loaded:
            continue
        if table.kind == _REL:
            raise ObjectCodeError(f"section {table.name} has relocations without addends, unknown in 64-bit objects")
        if [table.link] != symbol_tables:
            raise ValueError(f"section {table.name} with symbols from section {table.link}, not {symbol_tables}")
        for offset, info, addend in _RELOCATION.iter_unpack(table.data):
            kind, number = info & 0xFFFFFFFF, info >> 32
            if not (number < len(symbols) and (symbols[number].external or symbols[number].section is not None)):
                raise ValueError(f"section {table.name} refers to symbol {number} of {len(symbols)}")
            found.append(Relocation(table.target, offset, kind, symbols[number], addend))
    return tuple(found)


def _slice(data: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(data):
        raise ValueError(f"bytes {offset}..{offset + size} of {len(data)}")
    return data[offset : offset + size]


def _text(strings: bytes, offset: int) -> str:
    end = strings.find(b"\0", offset, offset + _LONGEST_NAME)
    if end < 0:
        raise ValueError(f"no name of up to {_LONGEST_NAME} bytes at {offset}")
    return strings[offset:end].decode()
