"""A compiled-to-be network: kernels, the calls that make up one run, and the memory they use."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fxquant.targets.kernels.kernel import Kernel
from fxquant.targets.lowering.values import Buffer, Tensor


@dataclass(frozen=True)
class Overwrite:
    """An operand whose memory a result may take: the very same elements, or with a `lead` also others.

    Then the result may overlap the operand in any way in which it begins at least `lead` bytes before it.
    """

    operand: Tensor
    lead: int | None = None

    def is_same_memory(self, result: Tensor) -> bool:
        """Whether the result may be the operand's buffer, element by element."""
        mine, its = (self.operand, result)
        same = (mine.spec, mine.offset, mine.buffer.bytes) == (its.spec, its.offset, its.buffer.bytes)
        return same and not self.lead


@dataclass(frozen=True)
class Call:
    """One layer: a kernel with its arguments, in the order of the kernel's parameters; it writes `result`."""

    symbol: str
    arguments: tuple[Tensor | Buffer, ...]
    writes: tuple[Buffer, ...]
    label: str
    facts: dict[str, Any] = field(default_factory=dict)
    result: Tensor | None = None
    overwrites: tuple[Overwrite, ...] = ()


@dataclass(eq=False)
class Program:
    """Calls in order; equal kernels are built once, under one symbol."""

    kernels: dict[str, Kernel] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    _symbols: dict[Hashable, str] = field(default_factory=dict)

    def symbol(self, name: str, key: Hashable, build: Callable[[], Kernel]) -> str:
        """The symbol of the kernel that `key` identifies, built on first use."""
        if key not in self._symbols:
            symbol = f"fxq_{name}_{len(self._symbols)}"
            self._symbols[key] = symbol
            self.kernels[symbol] = build()
        return self._symbols[key]

    def call(
        self,
        symbol: str,
        arguments: Sequence[Tensor | Buffer],
        writes: Tensor,
        label: str,
        overwrites: Sequence[Overwrite] = (),
        others: Sequence[Tensor] = (),
        **facts: Any,
    ) -> None:
        """Append a layer; `others` are results beside the one that it `writes`."""
        written = tuple(tensor.buffer for tensor in (writes, *others))
        call = Call(symbol, tuple(arguments), written, label, facts, writes, tuple(overwrites))
        self.calls.append(call)

    @property
    def buffers(self) -> list[Buffer]:
        """Every buffer that a call uses, in the order of first use."""
        found: dict[int, Buffer] = {}
        for call in self.calls:
            for argument in call.arguments:
                buffer = argument.buffer if isinstance(argument, Tensor) else argument
                found.setdefault(id(buffer), buffer)
        return list(found.values())
