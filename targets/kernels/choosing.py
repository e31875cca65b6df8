"""The x86 kernels that a convolution may be computed by: all are exact, and a cost model or a search picks one.

conv             tiles of pixels x vectors of channels, by modelled cost
winograd         tiles of the output sizes that are proven exact for these very weights
depthwise        tiles of columns x vectors
depthwise_quads  tiles of columns, for three rows of taps whose weights leave room for two products
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from fxquant.targets.kernels.convolution.bytes.tile import Tile, ranked_tiles
from fxquant.targets.kernels.convolution.bytes.windows import ConvProblem
from fxquant.targets.kernels.convolution.winograd.plan import (
    WinogradTile,
    choose_winograd,
    is_winograd,
    ranked_winograd_tiles,
)
from fxquant.targets.kernels.depthwise.pairs import DepthwiseTile, is_depthwise, ranked_depthwise_tiles
from fxquant.targets.kernels.depthwise.quads import QuadTile, is_quads, ranked_quad_tiles
from fxquant.targets.kernels.words.x86 import Isa

# So many of each kernel are worth a measurement.
MOST_DIRECT, MOST_WINOGRAD, MOST_DEPTHWISE, MOST_QUADS = 10, 4, 8, 5

_TILES: dict[str, type[Any]] = {
    "conv": Tile,
    "winograd": WinogradTile,
    "depthwise": DepthwiseTile,
    "depthwise_quads": QuadTile,
}


@dataclass(frozen=True)
class Candidate:
    """A kernel template and its tile."""

    kernel: str
    tile: Any

    def to_json(self) -> dict[str, Any]:
        """Plain data, which `from_json` reads."""
        return {"kernel": self.kernel, **asdict(self.tile)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Candidate:
        """Raises KeyError or TypeError for what is no candidate."""
        fields = dict(data)
        kernel = fields.pop("kernel")
        return Candidate(kernel, _TILES[kernel](**fields))


@dataclass(frozen=True)
class Offer:
    """A problem, and what its weights allow: `products` see `room`, `proven` are Winograd's output sizes.

    `uniform`: all weights leave room for the form that takes the fewest instructions, see `conv_pack.is_uniform` and
    `depthwise_quads.takes_quads`.
    """

    problem: ConvProblem
    isa: Isa
    products: int
    proven: tuple[int, ...]
    uniform: bool = False

    @property
    def key(self) -> str:
        """The problem as a short text: equal where the same candidates take the same time."""
        p, form = self.problem, self.problem.epilogue
        lie = [f"{_by(t.shape)}@{_by(t.strides)}{t.dtype}" for t in (p.x, p.out, form.residual) if t is not None]
        flags = "".join(
            name[0] for name in ("table", "narrow", "whole", "raw", "peaks") if getattr(form, name)
        ) + "s" * bool(form.shift)
        geometry = f"k{_by(p.kernel)} s{_by(p.stride)} d{_by(p.dilation)} g{p.groups}"
        weights = f"p{self.products}{'u' * self.uniform} t{_by(self.proven)}"
        return f"{self.isa.name} {' '.join(lie)} {geometry} {flags or '-'} {weights}"

    def first(self) -> Candidate:
        """What the cost model likes best."""
        if is_depthwise(self.problem, self.isa):
            return _depthwise(self)[0]
        winograd = choose_winograd(self.problem, self.isa, self.proven)
        if winograd is not None:
            return Candidate("winograd", winograd)
        return Candidate("conv", ranked_tiles(self.problem, self.isa, self.products, self.uniform)[0])

    def all(self) -> tuple[Candidate, ...]:
        """What may be measured, the first one first."""
        return _all(self)


# Which one to take.
Select = Callable[[Offer], Candidate]


def modelled(offer: Offer) -> Candidate:
    """Without a search: the cost model's."""
    return offer.first()


@lru_cache(maxsize=4096)
def _all(offer: Offer) -> tuple[Candidate, ...]:
    problem, isa = offer.problem, offer.isa
    if is_depthwise(problem, isa):
        return tuple(_depthwise(offer)[:MOST_DEPTHWISE])
    ranked = ranked_tiles(problem, isa, offer.products, offer.uniform)
    direct = [Candidate("conv", tile) for tile in ranked[:MOST_DIRECT]]
    winograd = [
        Candidate("winograd", tile)
        for size in offer.proven
        if is_winograd(problem, size)
        for tile in ranked_winograd_tiles(problem, isa, size)[:MOST_WINOGRAD]
    ]
    first = offer.first()
    # In turn, so that a search that is short of time has seen some of each.
    rest = [c for pair in _zip(direct, winograd) for c in pair if c != first]
    return (first, *rest)


def _depthwise(offer: Offer) -> list[Candidate]:
    """Quads were measured to be faster wherever they are exact."""
    problem, isa = offer.problem, offer.isa
    quads = ranked_quad_tiles(problem, isa)[:MOST_QUADS] if offer.uniform and is_quads(problem, isa) else []
    pairs = [Candidate("depthwise", tile) for tile in ranked_depthwise_tiles(problem, isa)]
    return [*(Candidate("depthwise_quads", tile) for tile in quads), *pairs]


def _zip(a: list[Candidate], b: list[Candidate]) -> list[list[Candidate]]:
    return [[*a[i : i + 1], *b[i : i + 1]] for i in range(max(len(a), len(b)))]


def _by(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))
