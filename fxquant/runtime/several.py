"""A file of several artifacts: one model compiled for several kinds of CPU, the one that fits chosen when it is loaded.

    offset 0   magic (8 bytes), format (u32), number of parts (u32), then offset and length of each (u64, u64)
    then       the parts, each at a multiple of 64 and each a whole `.fxq` file, in the order of preference

Every part has its own checksum, and its own signature where there is a key. This list has none: whoever changes it can
make a machine take another part of the same file, and no other code.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from fxquant.errors import AlteredError, ArtifactError, NewerFormatError

MAGIC = b"\x89FXN\r\n\x1a\n"
FORMAT = 1
ALIGN = 64
MOST = 64  # parts

_PREFIX = struct.Struct("<8sII")
_PART = struct.Struct("<QQ")

Place = tuple[int, int]  # offset, bytes


def places(path: Path) -> list[Place] | None:
    """Where the parts of a file lie, in order; None for a file that is no list of parts.

    Raises ArtifactError for a file that cannot be read, NewerFormatError, and AlteredError for parts that overlap or
    reach beyond the file.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            start = file.read(_PREFIX.size) or b""
            if not start.startswith(MAGIC):
                return None
            size = os.fstat(file.fileno()).st_size
            table = file.read(MOST * _PART.size) or b""
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {path}: {error}; check that the file exists and may be read") from error
    if len(start) < _PREFIX.size:
        raise AlteredError(f"{path} ends within its list of parts; copy it again")
    _, version, count = _PREFIX.unpack(start)
    if version > FORMAT:
        raise NewerFormatError(f"{path} is a list of format {version}, this fxquant reads {FORMAT}; update fxquant")
    if version < 1 or not 0 < count <= MOST or len(table) < count * _PART.size:
        raise AlteredError(f"{path} has a list of {count} parts, which cannot be; copy it again")
    found = [_PART.unpack_from(table, number * _PART.size) for number in range(count)]
    end = _PREFIX.size + count * _PART.size
    for offset, length in found:
        if offset < end or offset % ALIGN or length > size - offset:
            raise AlteredError(f"{path} has parts that do not lie in it one behind the other; copy it again")
        end = offset + length
    return found


def joined(parts: Sequence[Sequence[memoryview]]) -> list[memoryview]:
    """The file of these parts, each of which is a list of chunks; as a list of chunks, so that nothing is copied."""
    at = _PREFIX.size + len(parts) * _PART.size
    table, chunks = [], list[memoryview]()
    for part in parts:
        gap, length = -at % ALIGN, sum(map(len, part))
        table.append(_PART.pack(at + gap, length))
        chunks += [memoryview(bytes(gap)), *part]
        at += gap + length
    return [memoryview(_PREFIX.pack(MAGIC, FORMAT, len(parts)) + b"".join(table)), *chunks]


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for its writer
