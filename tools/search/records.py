"""What sensitivity and search found, as data, tables and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxquant.atomic import write_file
from fxquant.errors import FxquantError
from fxquant.recipe import Recipe
from fxquant.tools.shown import Column, Fitted, Shown, numbers

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 30
# What a point is judged by: less of each is better.
MEASURES = ("loss", "size", "ram", "time")


@dataclass(frozen=True)
class Origin:
    """One rounding: of a value (all that share its range), or of a layer's weights.

    `share` is how much of the outputs' noise it makes, by gradients; `exact` what the outputs have in dB of SQNR when
    nothing else is rounded, measured for the first ones, None for others.
    """

    name: str
    kind: str
    share: float
    exact: float | None = None


@dataclass(frozen=True)
class Sensitivity(Shown):
    """Roundings by the noise that they make, the most first; `total` is the outputs' SQNR in dB if they add up."""

    origins: tuple[Origin, ...]
    total: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def tables(self) -> Sequence[RenderableType]:
        """The first SHOWN."""
        table = Fitted(
            f"roundings by their share of the outputs' noise; together about {self.total:.1f} dB",
            [Column("rounding of"), Column("what"), *numbers("share", "alone dB")],
        )
        for origin in self.origins[:SHOWN]:
            alone = "" if origin.exact is None else f"{origin.exact:.1f}"
            table.add(origin.name, origin.kind, f"{origin.share:.1%}", alone)
        return [table]


@dataclass(frozen=True)
class Point:
    """One assignment of bits that was quantized: `recipe` asks for it, and `quantize` gives it again.

    `wide` are values with 16 bits, `weights` layers with other bits than the recipe's, `floats` layers that stay float.
    `loss` is in units of the search's measure; `size` bytes of weights, `ram` of activations; `time` in its unit.
    """

    recipe: Recipe
    wide: tuple[str, ...]
    weights: tuple[tuple[str, int], ...]
    floats: tuple[str, ...]
    loss: float
    size: int
    ram: int
    time: float

    @property
    def told(self) -> str:
        """The assignment in words."""
        parts = [f"{len(self.wide)} values in 16 bits"] if self.wide else []
        for bits in sorted({count for _, count in self.weights}):
            several = sum(count == bits for _, count in self.weights)
            parts.append(f"weights of {several} layers in {bits} bits")
        parts += [f"{len(self.floats)} layers in float"] if self.floats else []
        return ", ".join(parts) or "as the recipe says"


@dataclass(frozen=True)
class Search(Shown):
    """All points that were quantized; `best` is the one to take, None if none is within `budget`.

    `measure` says what a loss is, `unit` what a time is.
    """

    points: tuple[Point, ...]
    best: Point | None
    budget: dict[str, float]
    measure: str
    unit: str

    @property
    def front(self) -> tuple[Point, ...]:
        """The points that no other is better than in everything, by loss."""
        found = [p for p in self.points if not any(_beats(other, p) for other in self.points)]
        return tuple(sorted(found, key=lambda p: (p.loss, p.time)))

    def to_json(self) -> dict[str, Any]:
        """Plain data; recipes as their rules."""
        front = self.front
        return {
            "measure": self.measure,
            "unit": self.unit,
            "budget": self.budget,
            "best": None if self.best is None else self.points.index(self.best),
            "points": [{**asdict(p), "told": p.told, "is_front": p in front} for p in self.points],
        }

    def tables(self) -> Sequence[RenderableType]:
        """Front first."""
        budget = ", ".join(f"{name} <= {most:g}" for name, most in self.budget.items()) or "none"
        table = Fitted(
            f"bits by layer; loss: {self.measure}; budget: {budget}",
            [Column("assignment", folds=True), *numbers("loss", "weights B", "activations B", self.unit), Column("")],
        )
        front = self.front
        for point in sorted(self.points, key=lambda p: (p not in front, p.loss)):
            note = "best" if point is self.best else "" if point in front else "worse than another"
            row = point.told, f"{point.loss:.4g}", str(point.size), str(point.ram), f"{point.time:.4g}", note
            table.add(*row, style="bold" if point is self.best else None)
        return [table]

    def picture(self, across: str = "size") -> str:
        """The points as SVG: loss over `across`, one of size, ram and time; the front is joined."""
        from fxquant.tools.search.picture import drawn

        return drawn(self, across)

    def save(self, path: str | Path, across: str = "size") -> None:
        """Write the picture (.svg) or the data (.json). Raises FxquantError for another ending."""
        kind = Path(path).suffix
        if kind not in (".svg", ".json"):
            raise FxquantError(f"a search is saved as .svg or .json, not {str(path)!r}")
        text = self.picture(across) if kind == ".svg" else json.dumps(self.to_json(), indent=1, default=str)
        write_file(Path(path), text.encode())


def _beats(other: Point, point: Point) -> bool:
    """Whether the other one is nowhere worse, and better somewhere."""
    a, b = ([getattr(p, name) for name in MEASURES] for p in (other, point))
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
