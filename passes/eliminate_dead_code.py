"""Drop what nothing reads: calls, constants and buffers.

%a = fxq.requantize(...); return %b   =>   return %b
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxquant.graph import clean
from fxquant.passmanager import Pass
from fxquant.stage import Stage


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Drop what nothing reads: calls, constants and buffers."""

    needs: ClassVar[Stage] = Stage.INTEGER
    gives: ClassVar[Stage] = Stage.INTEGER

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Inputs stay, read or not: they are the graph's signature."""
        return clean(module)
