"""A compiled-to-be network: kernels, the calls that make up one run, and the memory they use."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fxquant.runtime.artifact import IndexCheck
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.kernels.contract.kernel import Kernel


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
    """One layer: a kernel with its arguments, in the order of the kernel's parameters; it writes `result`.

    `writes` are the elements that it writes, all of the result's or some. `packed` are constants by the name of the
    parameter that they are packed for, `others` results beside `result`.
    """

    symbol: str
    arguments: tuple[Tensor | Buffer, ...]
    writes: tuple[Tensor, ...]
    label: str
    facts: dict[str, Any] = field(default_factory=dict)
    result: Tensor | None = None
    overwrites: tuple[Overwrite, ...] = ()
    packed: Mapping[str, Buffer] = field(default_factory=dict)
    others: tuple[Tensor, ...] = ()


@dataclass(eq=False)
class Learning:
    """Training on the device: what lives between runs, by name, and the input that says which class is right.

    Calls whose facts have `starts` give the state its first values, and are no part of a run.
    """

    states: dict[str, Tensor] = field(default_factory=dict)
    label: Tensor | None = None
    classes: int = 0


@dataclass(eq=False)
class Program:
    """Calls in order; equal kernels are built once, under one symbol.

    `where` says of a call's label which operation of the model that is. For each of `checks`, calls write an index that
    fails it, if there is one, into the tensor beside it.
    """

    kernels: dict[str, Kernel] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    # FLOAT operations that a step computes, by its label.
    layers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    where: Callable[[str], str] = str
    checks: list[tuple[IndexCheck, Tensor]] = field(default_factory=list)
    learning: Learning = field(default_factory=Learning)
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
        packed: Mapping[str, Buffer] | None = None,
        parts: Sequence[Tensor] = (),
        others: Sequence[Tensor] = (),
        **facts: Any,
    ) -> None:
        """Append a layer whose result is `writes`, or of which it writes these `parts`; `others` as in `Call`."""
        parts, beside = tuple(parts) or (writes,), packed or {}
        call = Call(symbol, tuple(arguments), parts, label, facts, writes, tuple(overwrites), beside, tuple(others))
        self.calls.append(call)

    @property
    def ports(self) -> list[Tensor]:
        """What a run takes pointers of: inputs, outputs, and what checks find."""
        return [*self.inputs, *self.outputs, *(found for _, found in self.checks)]

    @property
    def scratch_bytes(self) -> int:
        """Private memory per thread: the most that any kernel wants."""
        return max((self.kernels[c.symbol].scratch for c in self.calls), default=0)

    @property
    def buffers(self) -> list[Buffer]:
        """Every buffer that a call uses, in the order of first use."""
        found: dict[int, Buffer] = {}
        for call in self.calls:
            for argument in call.arguments:
                buffer = argument.buffer if isinstance(argument, Tensor) else argument
                found.setdefault(id(buffer), buffer)
        return list(found.values())
