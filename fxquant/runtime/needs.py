"""The memory that object code was generated for: a record that the compiler leaves in the object itself.

What machine code reads and writes cannot be seen from outside, and a run on less memory than it takes for granted
destroys the process. So the sizes stand twice, in the artifact and, as little-endian 64-bit words, in a section of the
object; both must say the same before the code is mapped.

    version, number of inputs, of outputs, bytes of arena, of scratch, sync words, bytes of weights, resident bytes,
    then for each input and each output: place of its dtype in `DTYPES`, bytes of one sample
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fxquant.errors import ObjectCodeError

SECTION = ".fxq.needs"
_VERSION = 1

# The order is part of the record: new ones go to the end.
DTYPES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
)  # fmt: skip


@dataclass(frozen=True)
class Needs:
    """Dtype and bytes per sample of each input and output, and the sizes of all memory beside them."""

    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    arena_bytes: int
    scratch_bytes: int
    sync_words: int
    weight_bytes: int
    resident_bytes: int

    @property
    def words(self) -> dict[str, int]:
        """The words of the record, by what they say."""
        found = {"version of the record": _VERSION, "number of inputs": len(self.inputs)}
        found["number of outputs"] = len(self.outputs)
        for size in ("arena_bytes", "scratch_bytes", "sync_words", "weight_bytes", "resident_bytes"):
            found[size] = getattr(self, size)
        for kind, ports in (("input", self.inputs), ("output", self.outputs)):
            for index, (dtype, size) in enumerate(ports):
                found[f"dtype number of {kind} {index}"] = DTYPES.index(dtype)
                found[f"bytes of {kind} {index}"] = size
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
