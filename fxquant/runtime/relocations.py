"""How each ELF relocation of x86-64 and aarch64 patches the bytes at a place.

`P` is the address of the place, `X` the address the relocation speaks of (symbol plus addend, or the entry of the
global offset table that holds it). Sources: System V ABI AMD64 supplement, table 4.10; ELF for the Arm 64-bit
Architecture, "Relocation". Every patch checks that its value fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fxquant.errors import ObjectCodeError

Patch = Callable[[bytearray, int, int, int], None]  # image, offset of the place in it, P, X


@dataclass(frozen=True)
class Rule:
    """What to do for one relocation type: `got` if X is the symbol's table entry, `far` if it reaches any address."""

    name: str
    patch: Patch
    got: bool = False
    far: bool = False

    @property
    def width(self) -> int:
        """Bytes that the patch changes."""
        return 8 if self.far else 4


def _fit(value: int, bits: int, signed: bool = True) -> int:
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    if not low <= value < high:
        raise ObjectCodeError(f"address {value:#x} does not fit {bits} bits; compile the code position-independent")
    return value


def _word(size: int, relative: bool, signed: bool = True) -> Patch:
    """Store X, or X - P where `relative`, as a little-endian integer of `size` bytes."""

    def patch(image: bytearray, at: int, place: int, value: int) -> None:
        number = _fit(value - place if relative else value, 8 * size, signed)
        image[at : at + size] = number.to_bytes(size, "little", signed=signed)

    return patch


def _field(shift: int, bits: int, position: int, relative: bool = True) -> Patch:
    """Put bits of X - P (or, not `relative`, of X within its 4 KiB page) into an instruction at bit `position`."""

    def patch(image: bytearray, at: int, place: int, value: int) -> None:
        number = value - place if relative else value & 0xFFF
        if number & ((1 << shift) - 1):
            raise ObjectCodeError(f"address {value:#x} is not aligned to {1 << shift} bytes as its instruction needs")
        number = _fit(number >> shift, bits, signed=relative) & ((1 << bits) - 1)
        _or(image, at, number << position, ((1 << bits) - 1) << position)

    return patch


def _adr(page: bool) -> Patch:
    """ADR and ADRP: 21 bits split over two fields."""

    def patch(image: bytearray, at: int, place: int, value: int) -> None:
        number = (value >> 12) - (place >> 12) if page else value - place
        number = _fit(number, 21) & 0x1FFFFF
        _or(image, at, (number & 3) << 29 | (number >> 2) << 5, 3 << 29 | 0x7FFFF << 5)

    return patch


def _or(image: bytearray, at: int, bits: int, mask: int) -> None:
    word = int.from_bytes(image[at : at + 4], "little") & ~mask | bits
    image[at : at + 4] = word.to_bytes(4, "little")


_X86_64 = {
    1: Rule("R_X86_64_64", _word(8, relative=False, signed=False), far=True),
    2: Rule("R_X86_64_PC32", _word(4, relative=True)),
    4: Rule("R_X86_64_PLT32", _word(4, relative=True)),
    9: Rule("R_X86_64_GOTPCREL", _word(4, relative=True), got=True),
    10: Rule("R_X86_64_32", _word(4, relative=False, signed=False)),
    11: Rule("R_X86_64_32S", _word(4, relative=False)),
    24: Rule("R_X86_64_PC64", _word(8, relative=True), far=True),
    41: Rule("R_X86_64_GOTPCRELX", _word(4, relative=True), got=True),
    42: Rule("R_X86_64_REX_GOTPCRELX", _word(4, relative=True), got=True),
}

_AARCH64 = {
    257: Rule("R_AARCH64_ABS64", _word(8, relative=False, signed=False), far=True),
    260: Rule("R_AARCH64_PREL64", _word(8, relative=True), far=True),
    261: Rule("R_AARCH64_PREL32", _word(4, relative=True)),
    273: Rule("R_AARCH64_LD_PREL_LO19", _field(2, 19, 5)),
    274: Rule("R_AARCH64_ADR_PREL_LO21", _adr(page=False)),
    275: Rule("R_AARCH64_ADR_PREL_PG_HI21", _adr(page=True)),
    277: Rule("R_AARCH64_ADD_ABS_LO12_NC", _field(0, 12, 10, relative=False)),
    278: Rule("R_AARCH64_LDST8_ABS_LO12_NC", _field(0, 12, 10, relative=False)),
    279: Rule("R_AARCH64_TSTBR14", _field(2, 14, 5)),
    280: Rule("R_AARCH64_CONDBR19", _field(2, 19, 5)),
    282: Rule("R_AARCH64_JUMP26", _field(2, 26, 0)),
    283: Rule("R_AARCH64_CALL26", _field(2, 26, 0)),
    284: Rule("R_AARCH64_LDST16_ABS_LO12_NC", _field(1, 11, 10, relative=False)),
    285: Rule("R_AARCH64_LDST32_ABS_LO12_NC", _field(2, 10, 10, relative=False)),
    286: Rule("R_AARCH64_LDST64_ABS_LO12_NC", _field(3, 9, 10, relative=False)),
    299: Rule("R_AARCH64_LDST128_ABS_LO12_NC", _field(4, 8, 10, relative=False)),
    311: Rule("R_AARCH64_ADR_GOT_PAGE", _adr(page=True), got=True),
    312: Rule("R_AARCH64_LD64_GOT_LO12_NC", _field(3, 9, 10, relative=False), got=True),
}

RULES = {"x86_64": _X86_64, "aarch64": _AARCH64}

# Jumps to the 8-byte address that follows: `jmp *(rip)` and `ldr x16, #8; br x16`, each padded to 8 bytes.
STUBS = {
    "x86_64": bytes.fromhex("ff2502000000cccc"),
    "aarch64": bytes.fromhex("5000005800021fd6"),
}


def rule(machine: str, kind: int, section: str) -> Rule:
    """The rule of relocation type `kind`; `ObjectCodeError` for types no code of ours produces."""
    if kind not in RULES[machine]:
        raise ObjectCodeError(f"section {section} needs {machine} relocation type {kind}, unknown to the loader")
    return RULES[machine][kind]
