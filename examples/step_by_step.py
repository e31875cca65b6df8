"""The road in single steps, with a look at the graph after each: prepare, calibrate, convert.

Run it: python examples/step_by_step.py
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

import fxquant as fxq
from fxquant.graph import text


class Net(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 16, 16) to maps (N, 8, 16, 16)."""
        x = self.first(x)
        return torch.relu(x + self.second(x))


def show(title: str, graph: fx.GraphModule) -> None:
    """Print a graph: every stage is an ordinary GraphModule that runs."""
    print(f"\n--- {title}\n{text(graph)}")


def main() -> None:
    """Trace, prepare, calibrate, convert, compile; compare after each step."""
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(4, 3, 16, 16)
    graph = fxq.trace(model, x)
    show("FLOAT: traced", graph)

    # A recipe says what is asked: here observers that minimise the squared error, and one weight scale in `second`.
    recipe = fxq.Recipe.from_dict(
        {
            "activation": {"observer": "mse"},
            "rules": [{"match": "second", "weight": {"axis": None}}],
        }
    )
    observed = fxq.prepare(graph, recipe, observe=lambda step, _: print("ran", step.name))
    show("OBSERVED: batch norm folded, an observer after every value whose range must be found", observed)

    fxq.calibrate(observed, (torch.randn(4, 3, 16, 16) for _ in range(8)))
    quantized = fxq.convert(observed, observe=lambda step, _: print("ran", step.name))
    show("INTEGER: every value between input and output", quantized)

    error = (quantized(x) - model(x)).abs().max()
    print(f"\nlargest error against float: {error:.4f}")
    for name in ("relu", "relu_1"):
        print(fxq.why(quantized, name))

    fxq.save_graph(quantized, "step_by_step.fxgraph")
    net = fxq.compile(fxq.load_graph("step_by_step.fxgraph"))
    print("compiled gives the same integers:", torch.equal(net(x), quantized(x)))


if __name__ == "__main__":
    main()
