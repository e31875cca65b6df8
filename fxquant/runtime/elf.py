"""Maps a relocatable object into this process: what a linker and `dlopen` would do, without either.

One mapping holds three parts on pages of their own: code with the stubs that reach the C library (read and execute),
constants with the global offset table (read only), and data (read and write). Nothing is ever writable and executable.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from typing import Any

from fxquant.errors import ObjectCodeError, OutOfMemoryError
from fxquant.runtime import object_file, relocations
from fxquant.runtime.host import ALLOWED, host_machine, symbol_address
from fxquant.runtime.object_file import ObjectFile, Section, Symbol

_STUB_BYTES, _SLOT_BYTES = 16, 8
_READ, _WRITE, _EXECUTE = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC

Resolver = Callable[[str], int | None]


class Image:
    """The bytes of an object laid out for an address: `sections`, `stubs` and `slots` are offsets into them.

    `protections` lists (offset, size, PROT_* flags); every part starts at a multiple of the page size.
    """

    def __init__(self, parsed: ObjectFile, externals: Sequence[str], page: int = mmap.PAGESIZE) -> None:
        self.object = parsed
        for relocation in parsed.relocations:
            self._require_inside(relocation)
        self.sections: dict[int, int] = {}
        self.protections: list[tuple[int, int, int]] = []
        self.size = 0
        self._place(lambda s: bool(s.flags & object_file.EXECUTE))
        self.stubs = self._reserve(externals, _STUB_BYTES)
        self._close(0, page, _READ | _EXECUTE)
        start = self.size
        self._place(lambda s: not s.flags & (object_file.EXECUTE | object_file.WRITE))
        entries = sorted({r.symbol for r in parsed.relocations if self._rule(r).got}, key=lambda s: s.name)
        self.slots = self._reserve(entries, _SLOT_BYTES)
        self._close(start, page, _READ)
        start = self.size
        self._place(lambda s: bool(s.flags & object_file.WRITE))
        self._close(start, page, _READ | _WRITE)

    def exports(self) -> dict[str, int]:
        """Offsets of the symbols that others may use."""
        places = self.sections
        return {s.name: places[s.section] + s.value for s in self.object.symbols if s.exported and s.section in places}

    def link(self, base: int, resolve: Resolver) -> bytearray:
        """The finished bytes for a mapping at address `base`; `resolve` knows the external functions."""
        image = bytearray(self.size)
        for index, start in self.sections.items():
            data = self.object.sections[index].data
            image[start : start + len(data)] = data
        for name, start in self.stubs.items():
            image[start : start + _STUB_BYTES] = relocations.STUBS[self.object.machine] + _pointer(resolve(name))
        for symbol, start in self.slots.items():
            image[start : start + _SLOT_BYTES] = _pointer(self._address(symbol, base, resolve, far=True))
        for relocation in self.object.relocations:
            rule, symbol = self._rule(relocation), relocation.symbol
            target = base + self.slots[symbol] if rule.got else self._address(symbol, base, resolve, rule.far)
            at = self.sections[relocation.section] + relocation.offset
            rule.patch(image, at, base + at, target + relocation.addend)
        return image

    def _require_inside(self, relocation: object_file.Relocation) -> None:
        rule, section, symbol = self._rule(relocation), self.object.sections[relocation.section], relocation.symbol
        if not 0 <= relocation.offset <= section.size - rule.width:
            raise ObjectCodeError(f"{rule.name} lies outside of section {section.name}; compile the model again")
        if symbol.section is not None and not self.object.sections[symbol.section].loaded:
            raise ObjectCodeError(f"code refers to {symbol.name!r} in a section that is not loaded; compile it again")

    def _rule(self, relocation: object_file.Relocation) -> relocations.Rule:
        section = self.object.sections[relocation.section].name
        return relocations.rule(self.object.machine, relocation.kind, section)

    def _address(self, symbol: Symbol, base: int, resolve: Resolver, far: bool) -> int:
        if symbol.section is None:
            return (resolve(symbol.name) or 0) if far else base + self.stubs[symbol.name]
        return base + self.sections[symbol.section] + symbol.value

    def _place(self, wanted: Callable[[Section], bool]) -> None:
        for index, section in enumerate(self.object.sections):
            if section.loaded and wanted(section):
                self.sections[index] = _align(self.size, section.align)
                self.size = self.sections[index] + section.size

    def _reserve(self, keys: Sequence[Any], size: int) -> dict[Any, int]:
        start = _align(self.size, size)
        self.size = start + size * len(keys)
        return {key: start + size * index for index, key in enumerate(keys)}

    def _close(self, start: int, page: int, protection: int) -> None:
        self.size = _align(self.size, page)
        if self.size > start:
            self.protections.append((start, self.size - start, protection))


class Library:
    """An object file in memory, ready to be called. It stays mapped while it or any of its functions is referenced.

    `ObjectCodeError` where the object is damaged, for another architecture, cannot be linked, calls what it may not
    call, or where the system forbids executable memory.
    """

    def __init__(self, code: bytes | ObjectFile) -> None:
        parsed = object_file.parse(code) if isinstance(code, bytes) else code
        if parsed.machine != host_machine():
            raise ObjectCodeError(f"the code is for {parsed.machine}, this machine is {host_machine()}; compile for it")
        addresses = _resolve(parsed)
        image = Image(parsed, sorted(addresses))
        try:
            self._memory = mmap.mmap(-1, max(image.size, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise OutOfMemoryError(f"the system has no {image.size} bytes for code ({error}); free some") from error
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._memory[: image.size] = bytes(image.link(base, addresses.get))
        for start, size, protection in image.protections:
            _protect(base + start, size, protection)
        self.symbols = {name: base + offset for name, offset in image.exports().items()}

    def address(self, name: str) -> int:
        """Address of an exported symbol."""
        if name not in self.symbols:
            raise ObjectCodeError(f"the object has no symbol {name!r}; it has {', '.join(sorted(self.symbols))}")
        return self.symbols[name]

    def function(self, name: str, restype: Any, argtypes: Sequence[Any]) -> Callable[..., Any]:
        """An exported function as a ctypes function; the interpreter lock is released while it runs."""
        function = ctypes.CFUNCTYPE(restype, *argtypes)(self.address(name))
        vars(function)["library"] = self  # the code must outlive every way to call it
        return function


def _resolve(parsed: ObjectFile) -> dict[str, int]:
    """Addresses of the external functions that an object calls."""
    names = sorted({symbol.name for symbol in parsed.symbols if symbol.external})
    refused = [name for name in names if name not in ALLOWED]
    if refused:
        raise ObjectCodeError(f"the code calls {', '.join(refused)}, which compiled models may not call")
    found = {name: symbol_address(name) for name in names}
    absent = [name for name, address in found.items() if address is None]
    if absent:
        raise ObjectCodeError(f"the code calls {', '.join(absent)}, which the C library of this system lacks")
    return {name: address for name, address in found.items() if address is not None}


def _protect(start: int, size: int, protection: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), protection):
        reason = os.strerror(ctypes.get_errno())
        raise ObjectCodeError(f"the system refuses to make memory executable ({reason}); allow it for this process")


def _pointer(address: int | None) -> bytes:
    return (address or 0).to_bytes(8, "little")


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
