"""How a random network is written down: values with shapes, lines of source, and the table of layers.

Shapes are without the batch: (C, H, W) images, (C, L) signals or tokens, (D,) vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

from tests.endtoend.networks import BIASES, WEIGHTS, Shape

Item = TypeVar("Item")

# Few, usual, and around the widths of vectors; primes, which no tile divides; and more than any tile takes at once.
CHANNELS = st.one_of(
    st.integers(1, 40), st.sampled_from([1, 2, 8, 15, 16, 17, 31, 32, 33, 37, 61, 64, 65, 127]), st.integers(1, 130)
)
SIZES = st.one_of(st.integers(1, 20), st.sampled_from([1, 1, 2, 3, 5, 7, 11, 13, 17, 19]))


def divisors(number: int) -> list[int]:
    """All of them, from 1 on."""
    return [n for n in range(1, number + 1) if number % n == 0]


@dataclass(frozen=True)
class Var:
    """A value of the network being written: its name and shape. Whole numbers are from 0 to below `below`."""

    name: str
    shape: Shape
    below: int = 0

    @property
    def size(self) -> int:
        """Elements of one sample."""
        total = 1
        for n in self.shape:
            total *= n
        return total


@dataclass
class Writer:
    """Draws choices and writes the lines of `__init__` and `forward`.

    `values` are real numbers, `wholes` indices, `truths` booleans. `most_islands` operations without an integer
    spelling may be written. A network with a `fixed_batch` says how many samples it takes.
    """

    draw: Callable[[st.SearchStrategy[Any]], Any]
    setup: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    weights: dict[str, tuple[str, str]] = field(default_factory=dict)
    values: list[Var] = field(default_factory=list)
    wholes: list[Var] = field(default_factory=list)
    truths: list[Var] = field(default_factory=list)
    most_islands: int = 0
    islands: int = 0
    fixed_batch: bool = False

    def one(self, *choices: Item) -> Item:
        """One of several; failures shrink towards the first."""
        found: Item = self.draw(st.sampled_from(choices))
        return found

    def number(self, low: int, high: int) -> int:
        """An integer of [low, high]."""
        return int(self.draw(st.integers(low, high)))

    def flag(self) -> bool:
        """True or False."""
        return bool(self.draw(st.booleans()))

    def shuffled(self, items: Iterable[Item]) -> list[Item]:
        """In another order."""
        return list(self.draw(st.permutations(list(items))))

    def axis(self, var: Var, axis: int) -> str:
        """An axis of `var` as torch counts them, the batch being 0: from the front, or from the back."""
        return str(self.one(axis + 1, axis - len(var.shape)))

    def module(self, code: str, drawn: bool = True) -> str:
        """Add a submodule and return how forward() calls it; `drawn` gives it unusual weights now and then."""
        name = f"m{len(self.setup)}"
        self.setup.append(f"self.{name} = nn.{code}")
        if drawn and self.number(0, 3) == 3:
            self.weights[name] = (self.one(*WEIGHTS), self.one(*BIASES))
        return f"self.{name}"

    def constant(self, shape: Shape) -> str:
        """Add a constant tensor and return its name."""
        name = f"b{len(self.setup)}"
        values = self.one("torch.randn", "torch.ones", "torch.zeros")
        self.setup.append(f'self.register_buffer("{name}", {values}({shape}))')
        return f"self.{name}"

    def put(self, code: str, *shape: int) -> Var:
        """Add an assignment."""
        var = self._assigned(code, shape)
        self.values.append(var)
        return var

    def put_whole(self, code: str, shape: Shape, below: int) -> Var:
        """Add an assignment of whole numbers below `below`."""
        var = self._assigned(code, shape, below)
        self.wholes.append(var)
        return var

    def island(self) -> bool:
        """Whether an operation that stays float, or reads floats and gives none, may still be written; it counts."""
        self.islands += 1
        return self.islands <= self.most_islands

    def _assigned(self, code: str, shape: Shape, below: int = 0) -> Var:
        var = Var(f"v{len(self.body)}", tuple(shape), below)
        self.body.append(f"{var.name} = {code}")
        return var

    def attempt(self, make: Callable[[], Var | None], accept: Callable[[Var], bool]) -> None:
        """Write what `make` writes, unless it gives nothing or what it gives is not accepted."""
        lists: tuple[list[Any], ...] = self.setup, self.body, self.values, self.wholes
        before, islands, fixed = [len(found) for found in lists], self.islands, self.fixed_batch
        made = make()
        if made is None or not accept(made):
            self.islands, self.fixed_batch = islands, fixed
            for found, length in zip(lists, before, strict=True):
                del found[length:]

    def like(self, var: Var) -> Var | None:
        """Another value of the same shape, if there is one."""
        found = [v for v in self.values if v.shape == var.shape and v.name != var.name]
        return self.one(*found) if found else None


Layer = Callable[[Writer, Var], Var | None]
LAYERS: dict[int, list[Layer]] = {1: [], 2: [], 3: []}


def layer(*ranks: int, weight: int = 1) -> Callable[[Layer], Layer]:
    """Register a layer for values of these ranks, drawn `weight` times as often; it gives None where it cannot be."""

    def add(function: Layer) -> Layer:
        for rank in ranks:
            LAYERS[rank] += [function] * weight
        return function

    return add
