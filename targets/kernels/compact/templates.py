"""The convolution templates of each instruction set, best first; the plain one at the end takes everything."""

from __future__ import annotations

from fxquant.targets.kernels.compact.dsp import dsp
from fxquant.targets.kernels.compact.plain import plain

TEMPLATES = {
    "scalar": (plain,),
    "dsp": (dsp, plain),
    "mve": (plain,),
    "neon": (plain,),
    "dotprod": (plain,),
    "i8mm": (plain,),
    "neon32": (plain,),
}
