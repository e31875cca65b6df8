"""Writes the smallest relocatable ELF64 objects, for relocations and mistakes that no compiler makes on demand."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_HEADER, _SECTION = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ")
_SYMBOL, _RELOCATION = struct.Struct("<IBBHQQ"), struct.Struct("<QQq")
TEXT, DATA, BSS, EXTERNAL, COMMON = 1, 2, 3, 0, 0xFFF2


@dataclass
class Patch:
    """A relocation: section number, offset, ELF type, symbol name, addend."""

    section: int
    offset: int
    kind: int
    symbol: str
    addend: int = 0


def tiny_object(
    text: bytes,
    symbols: dict[str, tuple[int, int]],
    patches: list[Patch],
    data: bytes = bytes(8),
    machine: int = 62,
    data_flags: int = 3,
    kind: int = 1,
) -> bytes:
    """An object with `.text`, `.data` and 64 bytes of `.bss`; `symbols` maps names to (section number, offset)."""
    names = b"\0" + b"\0".join(name.encode() for name in symbols) + b"\0"
    rows = [_SYMBOL.pack(0, 0, 0, 0, 0, 0)]
    for name, (section, offset) in symbols.items():
        rows.append(_SYMBOL.pack(names.index(b"\0" + name.encode() + b"\0") + 1, 0x10, 0, section, offset, 0))
    order = {name: index + 1 for index, name in enumerate(symbols)}
    tables = {
        section: b"".join(
            _RELOCATION.pack(p.offset, order[p.symbol] << 32 | p.kind, p.addend)
            for p in patches
            if p.section == section
        )
        for section in (TEXT, DATA)
    }
    titles = b"\0.text\0.data\0.bss\0.symtab\0.strtab\0.rela\0"
    bodies = [b"", text, data, b"", b"".join(rows), names, tables[TEXT], tables[DATA], titles]
    #        name, type, flags, link, info, align
    layout = [
        (0, 0, 0, 0, 0, 0),
        (1, 1, 6, 0, 0, 16),
        (7, 1, data_flags, 0, 0, 16),
        (13, 8, 3, 0, 0, 64),
        (18, 2, 0, 5, 1, 8),
        (26, 3, 0, 0, 0, 1),
        (34, 4, 0, 4, TEXT, 8),
        (34, 4, 0, 4, DATA, 8),
        (18, 3, 0, 0, 0, 1),
    ]
    out, headers = bytearray(_HEADER.size), []
    for body, (title, section_kind, flags, link, info, align) in zip(bodies, layout, strict=True):
        size, entry = (64 if section_kind == 8 else len(body)), (24 if section_kind in (2, 4) else 0)
        headers.append(_SECTION.pack(title, section_kind, flags, 0, len(out), size, link, info, align, entry))
        out += body
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    out[: _HEADER.size] = _HEADER.pack(ident, kind, machine, 1, 0, 0, len(out), 0, 64, 0, 0, 64, len(layout), 8)
    return bytes(out + b"".join(headers))
