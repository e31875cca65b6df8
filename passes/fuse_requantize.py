"""Round once where a value would be rounded twice in a row.

    %q = quantize(%x, a); %d = dequantize(%q, a); %p = quantize(%d, b)   =>   %p = quantize(%x, b)

This happens where a value keeps a range of its own beside a concat that wants another one, and nothing else reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from fxquant.graph import calls, clean
from fxquant.passmanager import Pass
from fxquant.stage import Stage

fxq = torch.ops.fxq


@dataclass(frozen=True)
class FuseRequantize(Pass):
    """Round once where a value would be rounded twice in a row."""

    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Only a first rounding that nobody else reads is left out."""
        for node in calls(module.graph, fxq.quantize.default):
            real: Any = node.args[0]
            if real.target is not fxq.dequantize.default or len(real.users) > 1:
                continue
            first: Any = real.args[0]
            if first.target is fxq.quantize.default and len(first.users) == 1:
                node.update_arg(0, first.args[0])
        return clean(module)
