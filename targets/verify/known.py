"""What was found out about kernels and proven of their calls: the same kernel in the same place is looked at once.

A kernel is known by a digest of its text, its tasks and the verifier's own sources; a proof by the limits of the
arguments and the tables that the kernel looks places up in, and nothing else goes into one. What is known is kept for
this process, and beside the object code (`object_cache.py`) for the next one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from fxquant.targets import object_cache, tvm_accesses, tvm_expressions
from fxquant.targets.kernels.kernel import Kernel
from fxquant.targets.tvm_api import function_digest
from fxquant.targets.verify.accesses import Accesses, Element, Expression, Interval, Memory, Tables, parts_of
from fxquant.targets.verify.reach import Allowed, coarse

# Kernels that a process remembers, the last ones used.
MOST_KERNELS = 4096


@dataclass(frozen=True)
class Facts:
    """What calls of a kernel are held to: its parameters, and by position what it does to them.

    `reached` has by position and whether it is written the bounds of all accesses, `looked_up` the parameters whose
    elements are places.
    """

    parameters: tuple[Memory, ...]
    stored: frozenset[int]
    loaded: frozenset[int]
    looked_up: frozenset[int]
    reached: Mapping[tuple[int, bool], Interval]


@dataclass
class Known:
    """A kernel's facts, and digests of what was proven."""

    facts: Facts
    proven: set[str] = field(default_factory=set)


_MEMORY: dict[str, Known] = {}


def facts_of(kernel: Accesses) -> Facts:
    """The facts of a kernel that has just been read."""
    return Facts(kernel.parameters, kernel.stored, kernel.loaded, _looked_up(kernel), coarse(kernel))


def _looked_up(kernel: Accesses) -> frozenset[int]:
    """The parameters whose elements decide about a place, at once or by way of private memory."""
    found, seen = set[int](), set[Expression]()
    waiting = [e for access in kernel.accesses for e in (access.index, *access.guards, *access.loops)]
    while waiting:
        expression = waiting.pop()
        if expression in seen:
            continue
        seen.add(expression)
        waiting.extend(parts_of(expression))
        if isinstance(expression, Element):
            waiting.extend(expression.memory.stores)
            if expression.memory.position is not None:
                found.add(expression.memory.position)
    return frozenset(found)


def kernel_digest(kernel: Kernel) -> str:
    """Of all that decides what a kernel does to memory, and what is made of it here."""
    return sha256(f"{_sources()} {kernel.tasks} {function_digest(kernel.func)}".encode()).hexdigest()


def proof_digest(facts: Facts, allowed: Mapping[int, Allowed], tables: Tables) -> str:
    """Of all that a proof takes from the call."""
    found = sha256(repr(sorted((p, a.read, a.written) for p, a in allowed.items())).encode())
    for position in sorted(facts.looked_up & tables.keys()):
        table = tables[position]
        found.update(f"{position} {table.dtype} {len(table)} ".encode() + table.tobytes())
    return found.hexdigest()


def remembered(digests: Sequence[str]) -> dict[str, Known]:
    """What is known of these kernels, from this process or from the file of a program that has the same ones."""
    if not all(digest in _MEMORY for digest in digests):
        for digest, record in _stored(digests).items():
            _MEMORY.setdefault(digest, Known(_facts(record), set(record["proven"])))
    return {digest: _MEMORY[digest] for digest in digests if digest in _MEMORY}


def remember(known: Mapping[str, Known]) -> None:
    """Keep what is known of the kernels of a program."""
    for digest, one in known.items():
        _MEMORY.pop(digest, None)
        _MEMORY[digest] = one
    for digest in list(_MEMORY)[:-MOST_KERNELS]:
        del _MEMORY[digest]
    records = {digest: {**_record(one.facts), "proven": sorted(one.proven)} for digest, one in known.items()}
    object_cache.keep(_name(list(known)), json.dumps(records).encode())


def forget() -> None:
    """As in a process that has just begun."""
    _MEMORY.clear()


def _name(digests: Sequence[str]) -> str:
    return f"{sha256(' '.join(sorted(digests)).encode()).hexdigest()}.proof"


def _stored(digests: Sequence[str]) -> dict[str, Any]:
    data = object_cache.entry(_name(digests))
    return {} if data is None else dict(json.loads(data))


def _record(facts: Facts) -> dict[str, Any]:
    return {
        "parameters": [[m.name, m.dtype, m.elements, m.align] for m in facts.parameters],
        "stored": sorted(facts.stored),
        "loaded": sorted(facts.loaded),
        "looked_up": sorted(facts.looked_up),
        "reached": [[*place, *bounds] for place, bounds in facts.reached.items()],
    }


def _facts(record: Mapping[str, Any]) -> Facts:
    parameters = [
        Memory(name, dtype, elements, align, position)
        for position, (name, dtype, elements, align) in enumerate(record["parameters"])
    ]
    stored, loaded, looked_up = (frozenset[int](record[name]) for name in ("stored", "loaded", "looked_up"))
    reached = {(position, is_store): (low, high) for position, is_store, low, high in record["reached"]}
    return Facts(tuple(parameters), stored, loaded, looked_up, reached)


@cache
def _sources() -> str:
    """What reads kernels and proves calls, as it is written."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(tvm_accesses.__file__), Path(tvm_expressions.__file__)]
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
