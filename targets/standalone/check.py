"""What an object defines, what it needs, and how many bytes it puts where: read from the ELF file itself."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

from elftools.elf.elffile import ELFFile

from fxquant.errors import ObjectCodeError

# The C library's three, Arm's run-time ABI (RTABI 4.2 and 4.3.4), and libgcc's integer helpers.
_ALLOWED = re.compile(
    r"memcpy|memset|memmove|__aeabi_(mem(cpy|set|move|clr)[48]?|[ui]?l?(div|divmod|mul|lsl|lsr|asr|cmp|idiv|uidiv)\w*|\w*idivmod)"
    r"|__(mul|div|udiv|mod|umod|ashl|ashr|lshr|clz|ctz|cmp|ucmp)[sdt]i[234]?|_GLOBAL_OFFSET_TABLE_"
)
_WRITE, _ALLOC = 0x1, 0x2


@dataclass(frozen=True)
class ObjectFacts:
    """Bytes of code, of read-only data, of writable data; functions with their sizes; symbols that are missing."""

    code: int
    constants: int
    writable: int
    functions: dict[str, int]
    exported: tuple[str, ...]
    missing: tuple[str, ...]


def examine(data: bytes) -> ObjectFacts:
    """The facts of a relocatable object."""
    elf = ELFFile(io.BytesIO(data))
    sizes = {"code": 0, "constants": 0, "writable": 0}
    for section in elf.iter_sections():
        flags = section["sh_flags"]
        if flags & _ALLOC and not section.name.startswith((".ARM.exidx", ".eh_frame", ".ARM.extab")):
            kind = "writable" if flags & _WRITE else "code" if section.name.startswith(".text") else "constants"
            sizes[kind] += section["sh_size"]
    table: Any = elf.get_section_by_name(".symtab")
    symbols = list(table.iter_symbols()) if table else []
    functions = {s.name: s["st_size"] for s in symbols if s["st_info"]["type"] == "STT_FUNC"}
    exported = [s.name for s in symbols if s["st_info"]["bind"] != "STB_LOCAL" and s["st_shndx"] != "SHN_UNDEF"]
    missing = [s.name for s in symbols if s["st_shndx"] == "SHN_UNDEF" and s.name]
    return ObjectFacts(functions=functions, exported=tuple(exported), missing=tuple(missing), **sizes)


def require_self_contained(name: str, facts: ObjectFacts, *also: str) -> None:
    """Raise ObjectCodeError if code needs functions that no bare machine has (but for `also`), or has global state."""
    foreign = sorted(s for s in facts.missing if not _ALLOWED.fullmatch(s) and s not in also)
    if foreign:
        raise ObjectCodeError(
            f"{name}: the code calls {', '.join(foreign)}, which a machine without a runtime lacks; a float operation "
            "stayed in the model (see the report), or this target's kernels have a fault"
        )
    if facts.writable:
        raise ObjectCodeError(f"{name}: {facts.writable} bytes of writable global data; the code must be reentrant")
