"""Which kernels an instruction set has of its own; what it has none for is computed by plain loops.

An x86 library keeps images with a border in memory and unsigned; a compact one keeps them as they are, and its kernels
see to the edges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fxquant.errors import TargetError
from fxquant.targets.kernels.catalogue import ROUNDINGS, TEMPLATES
from fxquant.targets.kernels.choosing import Select, modelled
from fxquant.targets.kernels.contract.kernel import Choice, Declined
from fxquant.targets.kernels.contract.problem import ConvWindow, Layer
from fxquant.targets.kernels.convolution.strip.body import Template
from fxquant.targets.kernels.convolution.strip.tiling import Pick, first
from fxquant.targets.kernels.epilogue.rounding import VectorRounding
from fxquant.targets.kernels.epilogue.x86 import Requantization
from fxquant.targets.kernels.words.x86 import ISAS, Isa


@dataclass(frozen=True)
class Library:
    """`isa` has the vectors of the x86 kernels; `templates` are the compact convolutions, best first, where it is None.

    `rounding` are the instructions that round vectors, where a set has its own. `channels_last` says that the caller
    holds images channels-last as well; `pick` chooses the compact ones' tiles, `select` the x86 kernels and theirs.
    """

    name: str
    isa: Isa | None = None
    templates: tuple[Template, ...] = ()
    channels_last: bool = False
    pick: Pick = first
    rounding: VectorRounding | None = None
    select: Select = modelled

    @property
    def byte_lanes(self) -> int:
        """Bytes that are compared as a vector where LLVM has to be told; it finds x86's by itself."""
        return 16 if self.rounding is not None else 1

    @property
    def has_borders(self) -> bool:
        """Whether the padding of an image lies around it in memory."""
        return self.isa is not None

    @property
    def has_runtime(self) -> bool:
        """Whether the code's caller is fxquant's runtime, which can be told of what went wrong."""
        return self.isa is not None

    def convolution(self, problem: ConvWindow, layer: Layer, numbers: Requantization) -> Choice:
        """The first compact template that takes the problem; the last one takes all."""
        declined: list[Declined] = []
        for template in self.templates:
            answer = template(problem, layer, numbers, self.pick)
            if isinstance(answer, Choice):
                return replace(answer, declined=tuple(d for d in declined if d.reason))
            declined.append(answer)
        raise TargetError(f"{self.name}: no convolution template takes {problem}")


def library(name: str, pick: Pick = first, select: Select = modelled) -> Library:
    """The library of an instruction set; `pick` and `select`: see Library. Raises TargetError for an unknown one."""
    if name in ISAS:
        return Library(name, ISAS[name], select=select)
    if name in TEMPLATES:
        return Library(name, None, TEMPLATES[name], channels_last=True, pick=pick, rounding=ROUNDINGS.get(name))
    raise TargetError(f"no kernels for the instruction set {name!r}; there are {', '.join([*ISAS, *TEMPLATES])}")
