"""Integers of 4 and 2 bits in bytes: the one layout of weights in graphs, files, artifacts and flash.

A chunk of `lanes` bytes holds 8 / bits * lanes elements, each part of the bytes neighbours, the first one uppermost:

    4 bits, 1 lane     [0|1] [2|3] ...                      the order of the elements
    4 bits, 4 lanes    [0|4] [1|5] [2|6] [3|7] [8|12] ...   a vector of bytes gives two vectors of neighbours

Elements are two's complement, so that a shift to the left and one to the right, which keeps the sign, make a byte of
any of them. The last chunk is filled up with zeros.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
# What an element may take, in bits.
STORED = (2, 4, 8)


def stored_bits(bits: int) -> int:
    """The bits that a weight of so many takes: 3 take as much as 4, and more than 4 a byte."""
    return next(size for size in STORED if bits <= size)


def packed_bytes(elements: int, bits: int, lanes: int = 1) -> int:
    """Bytes of so many elements, in whole chunks."""
    return ceil(elements / (8 // bits * lanes)) * lanes


def pack(values: Array, bits: int, lanes: int = 1) -> Array:
    """Integers as uint8, the last axis packed. Raises ValueError for integers that do not fit the bits."""
    top = 1 << (bits - 1)
    if values.size and not (-top <= int(values.min()) and int(values.max()) < top):
        raise ValueError(f"integers from {values.min()} to {values.max()} do not fit {bits} bits")
    parts, count = 8 // bits, values.shape[-1]
    room = packed_bytes(count, bits, lanes) * parts
    padded = np.zeros((*values.shape[:-1], room), np.uint8)
    padded[..., :count] = values.astype(np.int8).view(np.uint8) & ((1 << bits) - 1)
    chunks = padded.reshape(*values.shape[:-1], -1, parts, lanes)
    shifts = np.array([8 - bits * (part + 1) for part in range(parts)], np.uint8)[:, None]
    summed = np.bitwise_or.reduce(chunks << shifts, axis=-2)
    return np.asarray(summed.reshape(*values.shape[:-1], -1), np.uint8)


def unpack(packed: Array, bits: int, elements: int, lanes: int = 1) -> Array:
    """The int8 that `pack` was given, `elements` along the last axis."""
    chunks = packed.reshape(*packed.shape[:-1], -1, 1, lanes)
    shifts = np.array([bits * part for part in range(8 // bits)], np.uint8)[:, None]
    values = (chunks << shifts).astype(np.uint8).view(np.int8) >> (8 - bits)
    return np.ascontiguousarray(values.reshape(*packed.shape[:-1], -1)[..., :elements])
