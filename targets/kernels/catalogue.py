"""What kernels there are: {instruction set: {operation: templates, best first}}.

A new instruction set is an entry here, a record in `fxquant/target.py`, and a file for each kernel of its own. What it
has no kernel for is computed by plain loops, which need nothing but a C-like machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fxquant.errors import TargetError
from fxquant.targets.kernels import recurrent, resample
from fxquant.targets.kernels.choosing import Rivals
from fxquant.targets.kernels.contract.fusing import Fusing
from fxquant.targets.kernels.contract.kernel import Choice
from fxquant.targets.kernels.contract.template import Maker, Template
from fxquant.targets.kernels.convolution.bytes.template import Direct, PackedRow
from fxquant.targets.kernels.convolution.plain import Plain
from fxquant.targets.kernels.convolution.strip import mve, rvv
from fxquant.targets.kernels.convolution.strip.dotprod import DotprodBody
from fxquant.targets.kernels.convolution.strip.dsp import DspBody, DspRowBody
from fxquant.targets.kernels.convolution.strip.neon import Neon32Body, NeonBody
from fxquant.targets.kernels.convolution.strip.smmla import SmmlaBody
from fxquant.targets.kernels.convolution.strip.template import Strips
from fxquant.targets.kernels.convolution.winograd.template import Winograd
from fxquant.targets.kernels.depthwise.ring import Depthwise
from fxquant.targets.kernels.depthwise.templates import Pairs, Quads
from fxquant.targets.kernels.elementwise import dynamic, gate, pixels, rescale
from fxquant.targets.kernels.epilogue.rounding import VectorRounding
from fxquant.targets.kernels.products import matmul
from fxquant.targets.kernels.rows import layer_norm, plain, softmax
from fxquant.targets.kernels.words.x86 import ISAS, Isa


@dataclass(frozen=True)
class Kernels:
    """The kernels of an instruction set.

    `convolution` are groups of rivals, best first; `others` are the templates of other operations. `fusing`: what they
    compute together. `lanes` are the 32-bit numbers of a vector, and `byte_lanes` the bytes that are compared as one,
    where LLVM has to be told. `takes_narrow`: a form of the epilogue that the convolutions have, see `Epilogue`; one
    instruction of Helium and of the DSP extension is a whole rounding, which nothing narrow beats.
    """

    convolution: tuple[Rivals, ...]
    others: Mapping[str, tuple[Maker, ...]]
    fusing: Fusing = field(default_factory=Fusing)
    lanes: int = 1
    byte_lanes: int = 1
    takes_narrow: bool = False

    def find(self, operation: str, problem: Any, numbers: Any = None) -> Choice | None:
        """The first template of an operation that takes the problem; None where there is none."""
        for make in self.others.get(operation, ()):
            if (found := make(problem, numbers)) is not None:
                return found
        return None

    def get(self, operation: str, problem: Any, numbers: Any = None) -> Choice:
        """The same where there must be one."""
        found = self.find(operation, problem, numbers)
        if found is None:
            raise TargetError(f"no kernel of the operation {operation!r} takes {problem}")
        return found


def _x86(isa: Isa) -> Kernels:
    return Kernels(
        ((Quads(isa), Pairs(isa)), (Winograd(isa), PackedRow(isa), Direct(isa))),
        {
            "softmax": (softmax.vectors(isa), plain.softmax),
            "log_sum": (plain.log_sum,),
            "norm": (layer_norm.vectors(isa), plain.norm),
            "recurrence": (recurrent.plain,),
            "matmul": (matmul.tiled(isa), matmul.plain),
            "resample": (resample.lines(isa),),
            "gate": (gate.vectors(isa),),
            "pixels": (pixels.vectors(isa),),
            "round": (dynamic.rows(isa.lanes),),
        },
        Fusing(matmul=matmul.least(isa), resample=True, real=True),
        lanes=isa.lanes,
        takes_narrow=True,
    )


def _strips(
    *convolution: Template, rounding: VectorRounding | None = None, byte_lanes: int = 1, takes_narrow: bool = False
) -> Kernels:
    """Best first; each is asked alone, and plain loops take what is left."""
    return Kernels(
        (*((template,) for template in convolution), (Plain(),)),
        {
            "softmax": (plain.softmax,),
            "log_sum": (plain.log_sum,),
            "norm": (plain.norm,),
            "recurrence": (recurrent.plain,),
            "matmul": (matmul.plain,),
            "rescale": (rescale.dense(rounding),),
        },
        byte_lanes=byte_lanes,
        takes_narrow=takes_narrow,
    )


CATALOGUE: dict[str, Kernels] = {
    **{name: _x86(isa) for name, isa in ISAS.items()},
    "scalar": _strips(Depthwise(1)),
    "dsp": _strips(Depthwise(1), Strips(DspRowBody), Strips(DspBody)),
    "mve": _strips(Depthwise(4, mve.ROUNDING), Strips(mve.MveBody), rounding=mve.ROUNDING, byte_lanes=16),
    "neon": _strips(Depthwise(8), Strips(NeonBody), takes_narrow=True),
    "dotprod": _strips(Depthwise(8), Strips(DotprodBody), Strips(NeonBody), takes_narrow=True),
    "i8mm": _strips(Depthwise(8), Strips(SmmlaBody), Strips(DotprodBody), Strips(NeonBody), takes_narrow=True),
    "neon32": _strips(Depthwise(8), Strips(Neon32Body), takes_narrow=True),
    "rvv": _strips(Depthwise(16, rvv.ROUNDING, fewest=2), Strips(rvv.RvvBody)),
}


def kernels(name: str) -> Kernels:
    """Those of an instruction set. Raises TargetError for an unknown one."""
    if name not in CATALOGUE:
        raise TargetError(f"no kernels for the instruction set {name!r}; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
