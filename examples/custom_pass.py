"""A pass of your own, slotted into the pipeline: replace every SiLU by the cheaper hardswish.

Run it: python examples/custom_pass.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx, nn

import fxquant as fxq
from fxquant.graph import calls, clean
from fxquant.source import target_name

aten = torch.ops.aten


@dataclass(frozen=True)
class ReplaceSilu(fxq.Pass):
    """Replace every SiLU by hardswish, except where `keep` names the node."""

    keep: str = ""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """The graph is the pass's own copy: edit it in place and return it."""
        for node in calls(module.graph, aten.silu.default):
            if node.name != self.keep:
                node.target = aten.hardswish.default
        return clean(module)


def main() -> None:
    """Run the pipeline with the pass in it, then the rest of the road."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 4, 1), nn.SiLU()).eval()
    x = torch.randn(4, 3, 16, 16)

    pipeline = fxq.prepare_pipeline().after("FoldBatchNorm", ReplaceSilu(keep="silu_1"))
    print("passes:", ", ".join(step.name for step in pipeline))
    observed = pipeline(fxq.trace(model, x))
    fxq.calibrate(observed, [torch.randn(4, 3, 16, 16) for _ in range(4)])
    quantized = fxq.convert(observed)

    functions = calls(observed.graph, aten.hardswish.default, aten.silu.default)
    print("functions:", ", ".join(target_name(node) for node in functions))
    net = fxq.compile(quantized)
    print("compiled gives the same integers:", torch.equal(net(x), quantized(x)))


if __name__ == "__main__":
    main()
