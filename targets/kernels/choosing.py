"""One way to come from a problem to a kernel: what may compute it is on offer, and a cost model or a search picks.

catalogue   ((a, b), (c,), ...)    groups of rivals, best first: the first group of which one takes the problem
offer       a's tiles, b's tiles   all exact; the model's choice first
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

from fxquant.errors import TargetError
from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Choice, Declined
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.contract.template import Candidate, Template
from fxquant.targets.kernels.parts.weights import widened

Rivals = tuple[Template, ...]


class Offer:
    """The exact kernels of a layer, and why others declined it."""

    def __init__(self, rivals: Rivals, problem: ConvProblem, layer: Layer, declined: Sequence[Declined] = ()) -> None:
        self.problem, self.layer = problem, layer
        # Those that only say that it is not theirs to compute have nothing to tell.
        self.declined = tuple(answer for answer in declined if answer.reason)
        self._rivals = {template.NAME: template for template in rivals}

    @property
    def key(self) -> str:
        """The problem as a short text: equal where the same candidates take the same time."""
        p, form = self.problem, self.problem.epilogue
        lie = [f"{_by(t.shape)}@{_by(t.strides)}{t.dtype}" for t in (p.x, p.out, form.residual) if t is not None]
        flags = "".join(f" {name}" for name in ("table", "narrow", "whole", "peaks", "shift") if getattr(form, name))
        geometry = f"k{_by(p.kernel)} s{_by(p.stride)} d{_by(p.dilation)} o{_by(p.padding)} g{p.groups}"
        rooms = [f"{name}{template.room(p, self.layer)}" for name, template in self._rivals.items()]
        geometry += f" w{self.layer.bits}" if self.layer.bits < 8 else ""
        return f"{' '.join(lie)} {geometry} {type(form).__name__.lower()}{flags} {'|'.join(rooms)}"

    def first(self) -> Candidate:
        """What the cost model likes best."""
        templates = list(self._rivals.values())
        best = next((t for t in templates if t.is_preferred(self.problem, self.layer)), templates[-1])
        return Candidate(best.NAME, best.tiles(self.problem, self.layer)[0])

    def all(self) -> tuple[Candidate, ...]:
        """What may be measured, the first one first, then some of each in turn: a search may be short of time."""
        tiles = [[Candidate(t.NAME, tile) for tile in t.tiles(self.problem, self.layer)] for t in self._rivals.values()]
        first = self.first()
        rest = [c for c in chain.from_iterable(zip_longest(*tiles)) if c is not None and c != first]
        return (first, *rest)

    def candidate(self, data: dict[str, Any]) -> Candidate:
        """From plain data. Raises KeyError or TypeError for what is no candidate of this offer."""
        fields = dict(data)
        template = self._rivals[fields.pop("kernel")]
        if template.TILE is None:
            return Candidate(template.NAME)
        return Candidate(template.NAME, template.TILE(**fields))

    def choice(self, candidate: Candidate, numbers: Numbers) -> Choice:
        """The kernel of one of the candidates."""
        made = self._rivals[candidate.kernel].choice(self.problem, self.layer, numbers, candidate.tile)
        if self.problem.weight_bits == 8:
            made = widened(made, self.layer.bits)
        return replace(made, declined=self.declined)


# Which candidate to take.
Choose = Callable[[Offer], Candidate]


def modelled(offer: Offer) -> Candidate:
    """Without a search: the cost model's."""
    return offer.first()


def offered(groups: Sequence[Rivals], problem: ConvProblem, layer: Layer) -> Offer:
    """The first group of rivals of which one takes the problem. Raises TargetError where none does."""
    declined: list[Declined] = []
    for group in groups:
        answers = [(template, template.declines(problem, layer)) for template in group]
        declined += [answer for _, answer in answers if answer is not None]
        if taking := tuple(template for template, answer in answers if answer is None):
            return Offer(taking, problem, layer, declined)
    reasons = "; ".join(f"{d.kernel}: {d.reason}" for d in declined if d.reason)
    raise TargetError(f"no kernel takes {problem}" + (f" ({reasons})" if reasons else ""))


def _by(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))
