"""A static library: the `ar` format with a symbol index, as GNU and LLVM linkers read it.

Source: System V ABI, "Archive File"; the index member "/" has big-endian member offsets, then the symbols' names.
"""

from __future__ import annotations

import struct

_MAGIC = b"!<arch>\n"


def archive(member: str, data: bytes, symbols: list[str]) -> bytes:
    """An archive of one object that defines `symbols`; the same bytes for the same input (no dates, no owners)."""
    if len(member) > 15:
        raise ValueError(f"archive: the member's name {member!r} is longer than 15 characters")
    names = b"".join(s.encode() + b"\0" for s in symbols)
    index_size = 4 + 4 * len(symbols) + len(names)
    first = len(_MAGIC) + _HEADER + index_size + index_size % 2
    index = struct.pack(f">I{len(symbols)}I", len(symbols), *[first] * len(symbols)) + names
    return _MAGIC + _entry("/", index) + _entry(f"{member}/", data)


_HEADER = 60


def _entry(name: str, data: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'644':<8}{len(data):<10}`\n".encode()
    return head + data + b"\n" * (len(data) % 2)
