"""The convolution templates of each instruction set, best first; the plain one at the end takes everything."""

from __future__ import annotations

from fxquant.targets.kernels.compact.depthwise import depthwise
from fxquant.targets.kernels.compact.dsp import dsp
from fxquant.targets.kernels.compact.mve import MULTIPLY_HIGH, mve
from fxquant.targets.kernels.compact.neon import dotprod
from fxquant.targets.kernels.compact.plain import plain

TEMPLATES = {
    "scalar": (depthwise(1), plain),
    "dsp": (depthwise(1), dsp, plain),
    "mve": (depthwise(4, MULTIPLY_HIGH), mve, plain),
    "neon": (depthwise(8), plain),
    "dotprod": (depthwise(8), dotprod, plain),
    "i8mm": (depthwise(8), dotprod, plain),
    "neon32": (depthwise(8), plain),
}
