"""From a PyTorch model to exact int8 machine code: the whole road on real images of handwritten digits.

Run it: python digits.py    It needs: pip install "fxquant[demo]"
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import fxquant as fxq


def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1797 scanned digits of 8x8 pixels that ship with scikit-learn; a quarter is held out for testing."""
    data = load_digits()
    x = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[450:], order[:450]
    return x[train], y[train], x[test], y[test]


def block(channels_in: int, channels_out: int, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU: one integer operation after quantization."""
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


class Digits(nn.Module):
    """A small CNN with a residual connection and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = block(1, 32), block(32, 32)
        self.depthwise = block(32, 32, groups=32)
        self.pointwise = nn.Conv2d(32, 64, 1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) to logits (N, 10)."""
        x = self.stem(x)
        x = functional.relu(x + self.body(x))
        x = self.depthwise(functional.max_pool2d(x, 2))
        x = functional.relu(self.pointwise(x)).mean((2, 3))
        logits: Tensor = self.head(x)
        return logits


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: Iterable[int] = range(8)) -> None:
    """An ordinary training loop: nothing here knows of quantization."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in epochs:
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    model.eval()


def main() -> None:
    """Train, then the four calls that this library is about: trace, quantize, compile, run."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a network this small is faster on one core
    x, y, x_test, y_test = images()
    model = Digits()
    train(model, x, y)

    graph = fxq.trace(model, x[:1])  # an ordinary torch.fx graph; the model itself is not touched
    quantized = fxq.quantize(graph, x[:256].split(32))  # every value an integer; still runs in PyTorch
    net = fxq.compile(quantized, target="native")  # machine code for this CPU

    print(fxq.report(quantized, graph, x_test))  # what became of every operation, and why
    for name, run in (("float", model), ("int8 in Python", quantized), ("int8 compiled", net)):
        with torch.no_grad():
            print(f"{name:15} accuracy {(run(x_test).argmax(1) == y_test).float().mean():.2%}")
    print("same integers:", torch.equal(quantized(x_test), net(x_test)))

    net.save("digits.fxq")  # one file; fxquant.load("digits.fxq") needs neither torch nor TVM


if __name__ == "__main__":
    main()
