"""What a template is: it declines a problem with a reason, or has tiles for it and makes a kernel with one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Choice, Declined
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer


class Template(ABC):
    """A kernel of a convolution or linear layer for one instruction set; exact for all that it does not decline."""

    NAME: str
    # The record of its tiles; None where it has one way of computing a problem.
    TILE: ClassVar[type[Any] | None] = None

    @abstractmethod
    def declines(self, problem: ConvProblem, layer: Layer) -> Declined | None:
        """Why it does not compute this problem with these weights; None where it does."""

    @abstractmethod
    def tiles(self, problem: ConvProblem, layer: Layer) -> Sequence[Any]:
        """The tiles that are worth a measurement, the one first that a cost model likes best."""

    @abstractmethod
    def choice(self, problem: ConvProblem, layer: Layer, numbers: Numbers, tile: Any) -> Choice:
        """The kernel with one of `tiles`, and its constants."""

    def is_preferred(self, problem: ConvProblem, layer: Layer) -> bool:
        """Whether it is modelled to be faster than the rivals that stand behind it in the catalogue."""
        return True

    def room(self, problem: ConvProblem, layer: Layer) -> str:
        """What the weights leave room for, where that decides about tiles and time: part of a problem's key."""
        return ""


@dataclass(frozen=True)
class Candidate:
    """A template by its name, and one of its tiles."""

    kernel: str
    tile: Any = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, which `Offer.candidate` reads."""
        return {"kernel": self.kernel, **self.settings}

    @property
    def settings(self) -> dict[str, Any]:
        """The tile as plain data."""
        return {} if self.tile is None else asdict(self.tile)


# Templates of other operations: a problem, and the numbers of its rounding, to a kernel; None where there is none.
Maker = Callable[[Any, Any], Choice | None]
