"""Which few values are worth 16 bits: what they add to the outputs' noise, against the time that it costs.

A value is worth it where it makes far more of the noise than its share of the time, which is a model's
(`fxquant.tools.times`). Those with the most noise for their time come first, until the time that may be added is used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import fx

from fxquant.ops.table import RangeRule
from fxquant.passes.narrow_operands import is_narrowing, is_product, taps
from fxquant.passes.propagate_ranges import SET
from fxquant.passes.widen_values import MOST_TAPS
from fxquant.plan import is_integer, is_quantized, record, required_range
from fxquant.tools.cost import constant_bytes
from fxquant.tools.noise import Noise, record_operands
from fxquant.tools.times import CALL, NARROWED, WIDE_PRODUCT, elements, network_time, product_time, reader_of, wide_time

# How much of all the time may be added, and how much of the bytes of constants: tables become twice as long.
MOST_TIME, MOST_SIZE = 0.1, 0.1
# How much of the noise a value must make to be looked at.
LEAST_NOISE = 0.02


@dataclass
class Candidate:
    """Values that share a range: what is gained and what it costs to widen them, products reading 8 or all 16 bits."""

    name: str
    gain: float
    cost: float
    bytes: int = 0
    whole: bool = False

    @property
    def worth(self) -> float:
        """Noise for time."""
        return self.gain / max(self.cost, 1e-12)


@dataclass
class Choice:
    """What is to be widened, with the reason of each; `time` and `size` are what it adds, as shares of all.

    `shares` are those of each value: of the noise that it made, and of the time that it adds.
    """

    values: dict[str, str] = field(default_factory=dict)
    shares: dict[str, tuple[float, float]] = field(default_factory=dict)
    whole: frozenset[str] = field(default_factory=frozenset)
    time: float = 0.0
    size: float = 0.0
    places: int = 0

    def __str__(self) -> str:
        """'add in 16 bits (12.0% of the noise, 0.4% more time): about 0.4% more time in all'."""
        if not self.values:
            return "no value makes so much of the outputs' noise that 16 bits are worth their time"
        told = [
            f"{name} ({noise:.1%} of the noise, {time:.1%} more time)" for name, (noise, time) in self.shares.items()
        ]
        return f"in 16 bits {', '.join(told)}: about {self.time:.1%} more time in all"


def choose_widths(noise: Noise, most: float = MOST_TIME) -> Choice:
    """The values that make most of the noise for the time they cost, within `most` of the network's."""
    total, whole_time, constants = noise.total, network_time(noise.ranged.graph), constant_bytes(noise.ranged) / 4
    found = candidates_of(noise)
    choice, left, before = Choice(places=len(members_of(noise.ranged.graph))), total, float("inf")
    while left < before:  # what little noise a value makes is much of it where others make none any more
        before = left
        for candidate in found:
            spent = choice.time + candidate.cost / max(1.0, whole_time)
            size = choice.size + candidate.bytes / max(1.0, constants)
            is_small = candidate.gain < LEAST_NOISE * before
            if is_small or candidate.name in choice.values or spent > most or size > MOST_SIZE:
                continue
            shares = candidate.gain / total, candidate.cost / max(1.0, whole_time)
            choice.shares[candidate.name] = shares
            choice.values[candidate.name] = _reason(*shares)
            choice.whole |= {candidate.name} if candidate.whole else frozenset()
            choice.time, choice.size = spent, size
            left -= candidate.gain
    return choice


def candidates_of(noise: Noise) -> list[Candidate]:
    """All values of 8 bits that could have more, those first that are worth the most."""
    sets = members_of(noise.ranged.graph)
    found = [c for name, nodes in sets.items() if _has_8_bits(nodes) for c in _candidates(noise, name, nodes)]
    return sorted(found, key=lambda c: -c.worth)


def members_of(ranged: fx.Graph) -> dict[str, list[fx.Node]]:
    """The quantized values by the name of the first of those with which they share a range."""
    sets: defaultdict[str, list[fx.Node]] = defaultdict(list)
    for node in ranged.nodes:
        if SET in node.meta and node.op != "call_module" and is_quantized(node):
            sets[str(node.meta[SET])].append(node)
    return sets


def _reason(noise: float, time: float) -> str:
    return f"8 would make {noise:.1%} of the outputs' noise, 16 take {time:.1%} more time"


def _has_8_bits(nodes: Iterable[fx.Node]) -> bool:
    q = required_range(next(iter(nodes))).qparams
    return q.qmax - q.qmin < 256


def _candidates(noise: Noise, name: str, nodes: list[fx.Node]) -> Iterable[Candidate]:
    """Widened with products that read 8 bits of it, or with products that read 16."""
    made = noise.values.get(name, 0.0)
    readers = [(node, user) for node in nodes for user in _readers(node)]
    products = [(node, user) for node, user in readers if is_product(user)]
    others = [(node, user) for node, user in readers if not is_product(user) and _reads(user)]
    if not made or any(_is_known(node) for node in nodes):
        return
    base = sum(wide_time(node) for node in nodes) + sum(reader_of(user).wide * elements(node) for node, user in others)
    tables = sum(int(node.meta["val"].numel()) for node in nodes if node.op == "get_attr")
    if others:
        narrow = sum(CALL + NARROWED * elements(node) for node in {node for node, _ in products})
        yield Candidate(name, made - noise.narrowed.get(name, 0.0), base + narrow, tables)
    can_read = products and all(0 < taps(user) <= MOST_TAPS for _, user in products)
    if can_read and all(len(record_operands(user)) == 1 for _, user in products):
        products_cost = (WIDE_PRODUCT - 1.0) * sum(product_time(user) for user in {user for _, user in products})
        yield Candidate(name, made, base + products_cost, tables, whole=True)


def _readers(node: fx.Node) -> list[fx.Node]:
    """Users behind the observer; not those which only move the value, whose result shares its range."""
    found = []
    for user in node.users:
        several = list(user.users) if user.op == "call_module" else [user]
        found += [one for one in several if not is_narrowing(one) and not _moves(one)]
    return found


def _reads(user: fx.Node) -> bool:
    """Whether the user takes 16 bits as it takes 8: integer calls, and outputs, which become real numbers."""
    return user.op == "output" or is_integer(user)


def _moves(node: fx.Node) -> bool:
    found = record(node)
    return found is not None and found.range in (RangeRule.SHARED, RangeRule.JOINED)


def _is_known(node: fx.Node) -> bool:
    found = record(node)
    return found is not None and found.range is RangeRule.KNOWN
