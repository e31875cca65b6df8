"""What object code was generated for: a record that the compiler leaves in the object itself.

What machine code reads and writes cannot be seen from outside, and a run on less memory than it takes for granted
destroys the process. So it is said twice, in the artifact and, as little-endian 64-bit words, in a section of the
object; both must be the same before the code is mapped.

    version, 1 if batched, CRC-32 of the CPU features,
    bytes of arena, bytes of scratch, sync words, bytes of weights, resident bytes,
    number of inputs, then for each: place of its dtype in `DTYPES`, number of dimensions, and these,
    number of outputs, and the same for each, behind them the int64 of each check of indices
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

from fxquant.errors import ObjectCodeError

SECTION = ".fxq.needs"
_VERSION = 1

# The order is part of the record: new ones go to the end.
DTYPES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
)  # fmt: skip

Ports = tuple[tuple[str, tuple[int, ...]], ...]  # dtype and shape of each


@dataclass(frozen=True)
class Needs:
    """What a run takes for granted: its CPU, the sizes of all memory, and what lies in inputs and outputs."""

    batched: bool
    cpu_features: tuple[str, ...]
    arena_bytes: int
    scratch_bytes: int
    sync_words: int
    weight_bytes: int
    resident_bytes: int
    inputs: Ports
    outputs: Ports

    @property
    def words(self) -> dict[str, int]:
        """The words of the record, by what they say."""
        found = {"version of the record": _VERSION, "batched": int(self.batched)}
        found["checksum of cpu_features"] = crc32(" ".join(self.cpu_features).encode())
        for size in ("arena_bytes", "scratch_bytes", "sync_words", "weight_bytes", "resident_bytes"):
            found[size] = getattr(self, size)
        for kind, ports in (("input", self.inputs), ("output", self.outputs)):
            found[f"number of {kind}s"] = len(ports)
            for index, (dtype, shape) in enumerate(ports):
                found[f"dtype number of {kind} {index}"] = DTYPES.index(dtype)
                found[f"number of dimensions of {kind} {index}"] = len(shape)
                found |= {f"dimension {axis} of {kind} {index}": size for axis, size in enumerate(shape)}
        return found

    def require_recorded(self, record: bytes) -> None:
        """`ObjectCodeError` unless `record`, from an object, says the same."""
        words = self.words
        if len(record) % 8 or not record:
            raise ObjectCodeError(f"section {SECTION} of the object code has {len(record)} bytes; compile again")
        recorded = struct.unpack(f"<{len(record) // 8}q", record)
        for (what, wanted), found in zip(words.items(), recorded, strict=False):
            if wanted != found:
                raise ObjectCodeError(
                    f"{what} is {wanted}, but the object code was compiled for {found}; compile the model again"
                )
        if len(recorded) != len(words):
            raise ObjectCodeError(f"section {SECTION} of the object code has {len(recorded)} words, not {len(words)}")
