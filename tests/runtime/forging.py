"""Files that no compiler writes: headers and objects changed at will, with a checksum that fits."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

from fxquant.runtime import object_file

PREFIX = struct.Struct("<8sIIQ32sI4s")
Header = dict[str, Any]
Change = Callable[[Header], Any]


def signed_again(data: bytes | bytearray) -> bytes:
    """`data`, an unsigned file, with its length and checksum as they must be."""
    file = bytearray(data)
    file[16:24] = len(file).to_bytes(8, "little")
    file[24:56] = hashlib.sha256(bytes(file[:24] + file[56:])).digest()
    return bytes(file)


def header_of(data: bytes) -> Header:
    """The header of a file."""
    found: Header = json.loads(data[64 : 64 + PREFIX.unpack_from(data)[2]])
    return found


def section(data: bytes, name: str) -> bytes:
    """The bytes of a section of a file."""
    start, size = header_of(data)["sections"][name]
    return data[start : start + size]


def forged(data: bytes, change: Change | None = None, code: bytes | None = None, text: bytes | None = None) -> bytes:
    """`data` with a changed header, another object, or any text as its header; the rest lies as it should."""
    header, weights = header_of(data), section(data, "weights")
    code = section(data, "code") if code is None else code
    start = -(-(64 + len(text or json.dumps(header)) + (1 << 18)) // 64) * 64
    behind = -(-(start + len(code)) // 64) * 64
    header["sections"] = {"code": [start, len(code)], "weights": [behind, len(weights)]}
    if change is not None:
        change(header)
    text = json.dumps(header).encode() if text is None else text
    file = PREFIX.pack(data[:8], 3, len(text), 0, b"", 0, b"") + text
    file += bytes(start - len(file)) + code
    return signed_again(file + bytes(behind - len(file)) + weights)


VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 40, 1 << 63, 1 << 64, 10**300, 0.5, 1e308,
    float("nan"), float("inf"), "", "x", "object", "float32", "int64", "U8", "x" * 5000, "\0\x1b[2J", "\ud800", [], {},
    [[]], [1], [0], [-1], [1 << 62, 1 << 62], {"a": {}},
)  # fmt: skip


def mutants(data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Endless mutants of a file, each with a right checksum, and what kind they are; code bytes stay as they are.

    Not to be run: what is changed may be an address within the code.
    """
    random, makers = Random(seed), (_flipped, _cut, _hostile_header, _hostile_text, _hostile_object, _hostile_prefix)
    while True:
        make = random.choice(makers)
        yield make.__name__, make(data, random)


def _flipped(data: bytes, random: Random) -> bytes:
    file, code = bytearray(data), header_of(data)["sections"]["code"][0]
    text = next(s for s in object_file.parse(section(data, "code")).sections if s.name == ".text")
    begin = code + section(data, "code").index(text.data)
    for _ in range(random.randint(1, 8)):
        at = random.choice((random.randrange(64, code), random.randrange(code, len(file))))
        if not begin <= at < begin + len(text.data):
            file[at] ^= 1 << random.randrange(8)
    return signed_again(file)


def _cut(data: bytes, random: Random) -> bytes:
    at, size = random.randrange(64, len(data)), random.choice((1, 8, 64, 4096, len(data)))
    return signed_again(data[:at] + data[at + size :])


def _hostile_header(data: bytes, random: Random) -> bytes:
    def change(header: Header) -> None:
        for _ in range(random.randint(1, 2)):
            inside: Any = header
            while True:
                key = random.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
                if not isinstance(inside[key], (dict, list)) or not inside[key] or random.random() < 0.3:
                    break
                inside = inside[key]
            if isinstance(inside, dict) and random.random() < 0.15:
                del inside[key]
            else:
                inside[key] = deepcopy(random.choice((*VALUES, random.getrandbits(random.randint(1, 70)))))

    return forged(data, change)


def _hostile_text(data: bytes, random: Random) -> bytes:
    text = bytearray(data[64 : 64 + PREFIX.unpack_from(data)[2]])
    depth = random.choice((10, 70, 1000, 8000))
    inserted = random.choice(
        (b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth, b"9" * depth, b'"', b"\\", b"\xff")
    )
    at = random.randrange(len(text))
    text[at : at + random.choice((0, 0, 1, 20))] = inserted[: 1 << 13]
    return forged(data, text=bytes(text))


def _hostile_object(data: bytes, random: Random) -> bytes:
    code = bytearray(section(data, "code"))
    sections, (table,) = object_file.parse(bytes(code)).sections, struct.unpack_from("<Q", code, 40)
    places = [(0, 64, (2, 4, 8)), (table, 64 * len(sections), (4, 8))]
    for index in range(len(sections)):
        kind, offset, size = struct.unpack_from("<4xI16xQQ", code, table + 64 * index)
        if kind in (2, 3, 4) and size:
            places.append((offset, size, (1, 2, 4, 8)))
    for _ in range(random.randint(1, 3)):
        begin, size, widths = random.choice(places)
        width = random.choice(widths)
        at = begin + random.randrange(size // width) * width
        old = int.from_bytes(code[at : at + width], "little")
        new = random.choice((0, 1, 2, 3, 7, old + 1, old - 1, old * 2, old ^ 1 << random.randrange(8 * width), 0xFFF1,
                             1 << 12, 1 << 31, 1 << 40, (1 << 63) - 1, -1, random.getrandbits(64)))  # fmt: skip
        code[at : at + width] = (new & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return forged(data, code=bytes(code))


def _hostile_prefix(data: bytes, random: Random) -> bytes:
    file = bytearray(data)
    at, width = random.choice(((8, 4), (12, 4), (56, 4), (60, 4)))
    file[at : at + width] = random.choice((0, 1, 2, 3, 4, 32, 64, 1 << 31, random.getrandbits(32))).to_bytes(
        width, "little"
    )
    return signed_again(file)
