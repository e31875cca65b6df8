"""The convolution templates of each instruction set, best first; the plain one at the end takes everything."""

from __future__ import annotations

from fxquant.targets.kernels.convolution.plain import plain
from fxquant.targets.kernels.convolution.strip.body import template
from fxquant.targets.kernels.convolution.strip.dotprod import DotprodBody
from fxquant.targets.kernels.convolution.strip.dsp import DspBody, DspRowBody
from fxquant.targets.kernels.convolution.strip.mve import ROUNDING, MveBody
from fxquant.targets.kernels.convolution.strip.neon import Neon32Body, NeonBody
from fxquant.targets.kernels.convolution.strip.smmla import SmmlaBody
from fxquant.targets.kernels.depthwise.ring import depthwise

TEMPLATES = {
    "scalar": (depthwise(1), plain),
    "dsp": (depthwise(1), template(DspRowBody), template(DspBody), plain),
    "mve": (depthwise(4, ROUNDING), template(MveBody), plain),
    "neon": (depthwise(8), template(NeonBody), plain),
    "dotprod": (depthwise(8), template(DotprodBody), template(NeonBody), plain),
    "i8mm": (depthwise(8), template(SmmlaBody), template(DotprodBody), template(NeonBody), plain),
    "neon32": (depthwise(8), template(Neon32Body), plain),
}

# Instructions that round vectors without 64-bit lanes.
ROUNDINGS = {"mve": ROUNDING}
