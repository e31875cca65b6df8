"""What the files of a standalone model say of it: names, sizes, shapes, scales; and how C spells them."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import fx

from fxquant.errors import InputError
from fxquant.graph import outputs, placeholders
from fxquant.qparams import QParams
from fxquant.targets.batch import is_batched
from fxquant.targets.buffers import Tensor, channels_last
from fxquant.targets.standalone.network import Entry, Network
from fxquant.training.device import NEXT, STATE

_C_WORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long main "
    "register restrict return short signed sizeof static struct switch typedef union unsigned void volatile "
    "while".split()
)
# What the header says itself, and the words of C++ that C has not.
_TAKEN = frozenset(
    "arena bool true false NULL alignas alignof and asm catch char8_t class concept consteval constexpr constinit "
    "const_cast decltype delete dynamic_cast explicit export final friend mutable namespace new noexcept not nullptr "
    "operator or override private protected public reinterpret_cast requires static_assert static_cast template this "
    "thread_local throw try typeid typename using virtual wchar_t xor".split()
)


@dataclass(frozen=True)
class PortFacts:
    """One input or output as the caller sees it.

    `shape` is the model's own, without a batch that is free: one call computes one sample, or all of a fixed batch.
    `memory_shape` is that of the array; whether images lie channels-last does not follow from it where sizes are equal.
    `scale` is 0 where the numbers stand for themselves (indices).
    """

    label: str
    dtype: str
    shape: tuple[int, ...]
    memory_shape: tuple[int, ...]
    is_channels_last: bool
    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def ctype(self) -> str:
        """The C type of an element."""
        return ctype(self.dtype)

    @property
    def scale_text(self) -> str:
        """The scale as an exact C literal."""
        return f"{self.scale!r}f"


def ctype(dtype: str) -> str:
    """The C type of a TIR dtype: "int8" is int8_t, "bool" is bool."""
    return {"float32": "float", "bool": "bool"}.get(dtype, f"{dtype}_t")


def port_facts(module: fx.GraphModule, net: Network) -> tuple[list[PortFacts], list[PortFacts]]:
    """The inputs and outputs of a graph with integer ports."""
    program, free = net.program, int(is_batched(module))
    nodes = [node for node in (*placeholders(module.graph), *outputs(module.graph)) if is_port(node)]
    tensors = [*program.inputs, *program.outputs]
    taken = ["state"] if net.trains else []
    labels = identifiers([*taken, *(t.buffer.name for t in tensors)])[len(taken) :]
    ports = [_facts(*port, free) for port in zip(nodes, labels, tensors, strict=True)]
    return ports[: len(program.inputs)], ports[len(program.inputs) :]


def is_port(node: fx.Node) -> bool:
    """Whether the caller gives or takes the value at every call: all but the state."""
    return STATE not in node.meta and NEXT not in node.meta


def identifiers(names: Sequence[str]) -> list[str]:
    """Names as C and C++ take them, each another one: 'a b' is a_b, a second a_b is a_b_1, 'int' is int_."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_]", "_", name).strip("_") or "port"
        plain = f"port_{plain}" if plain[0].isdigit() else plain
        base = f"{plain}_" if plain in _C_WORDS | _TAKEN or plain.endswith("_t") else plain
        numbered = (f"{base}_{count}" for count in range(1, len(names) + 1))
        found.append(next(one for one in (base, *numbered) if one not in found))
    return found


def _facts(node: fx.Node, label: str, tensor: Tensor, free: int) -> PortFacts:
    """`free` leading axes are the batch's and no part of the port."""
    # The order that `Workspace.port` gives ports.
    order = channels_last(tensor.shape)
    memory = tuple(tensor.shape[axis] for axis in order)[free:]
    is_channels_last = tuple(order) != tuple(range(len(tensor.shape)))
    found: Any = node.meta.get("fxq.port")
    scale, zero_point, low, high = 0.0, 0, 0, 0
    if isinstance(found, QParams):
        scale, zero_point, low, high = found.one_scale, found.one_zero_point, found.qmin, found.qmax
    return PortFacts(
        label, tensor.spec.dtype, tensor.shape[free:], memory, is_channels_last, scale, zero_point, low, high
    )


def parameters(entry: Entry, names: Sequence[str] = ()) -> str:
    """The parameters of a function in C, called by their place or, as its declaration has them, by these names."""
    kinds = [f"const {ctype(t.spec.dtype)} *" for t in entry.inputs]
    kinds += [f"{ctype(t.spec.dtype)} *" for t in entry.outputs]
    if entry.label is not None:
        kinds[entry.ports.index(entry.label)] = "int32_t "
    pairs = zip(kinds, names or [name for name, _ in alignments(entry)], strict=True)
    constant = ("state",) if entry.suffix == "run" else ()
    regions = [f"{'const ' if kind in constant else ''}uint8_t *{kind}" for kind in entry.regions]
    return ", ".join([*(f"{kind}{name}" for kind, name in pairs), *regions])


def alignments(entry: Entry) -> list[tuple[str, int]]:
    """The ports of a function in their order: their names, and bytes that their addresses are multiples of."""
    return [
        (f"{direction}{i}", np.dtype(tensor.spec.dtype).itemsize)
        for direction, ports in (("in", entry.inputs), ("out", entry.outputs))
        for i, tensor in enumerate(ports)
    ]


def c_name(name: str) -> str:
    """`name`, if C takes it for an identifier. Raises InputError with one that it would take."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,40}", name) and name not in _C_WORDS and not keyword.iskeyword(name):
        return name
    better = re.sub(r"\W+", "_", name).strip("_0123456789")[:40] or "model"
    better = f"{better}_net" if better in _C_WORDS or keyword.iskeyword(better) else better
    raise InputError(f"{name!r} is no name for C functions: letters, digits and _, at most 41; try {better!r}")
