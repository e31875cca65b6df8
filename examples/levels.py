"""How many levels does a network need? Ranges of integers, statistics of ranges, and weights of 8, 4 and 2 bits.

Run it: python levels.py    It needs: pip install "fxquant[demo]"
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

import fxquant as fxq
from fxquant.tools import digits


class Net(nn.Module):
    """Two convolutions and three linear layers: LeNet as PyTorch's tutorial has it, for images of 1x32x32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 32, 32) to logits (N, 10)."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2).flatten(1)
        x = functional.relu(self.fc2(functional.relu(self.fc1(x))))
        logits: Tensor = self.fc3(x)
        return logits


def formulas(x: Tensor, scale: float, zero: int) -> None:
    """Q(x) = round(x/s + b)·s keeps the offset b·s in its result; an integer graph takes the zero point off again."""
    offset = torch.round(x / scale + zero) * scale
    q = (torch.round(x / scale) + zero).clamp(-128, 127)
    print("x                     ", [f"{n:.3f}" for n in x.tolist()])
    print("round(x/s + b)·s      ", [f"{n:.3f}" for n in offset.tolist()], f"off by b·s = {zero * scale:.3f}")
    print("q = round(x/s) + z    ", q.int().tolist())
    print("(q - z)·s             ", [f"{n:.3f}" for n in ((q - zero) * scale).tolist()])


def error_db(wanted: Tensor, got: Tensor) -> float:
    """The error's power beside that of what was wanted; lower is better."""
    return 10 * math.log10(float((wanted - got).square().mean() / wanted.square().mean()))


def main() -> None:
    """Train; quantize without data in one call; then ranges, statistics and bits, each compiled and compared."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    small, y, small_test, y_test = digits.images()
    x, x_test = (functional.interpolate(images, scale_factor=4.0) for images in (small, small_test))
    model = Net()
    digits.train(model, x, y, range(4))
    with torch.no_grad():
        wanted = model(x_test)
    print(f"float                  accuracy {(wanted.argmax(1) == y_test).float().mean():.2%}")

    graph = fxq.trace(model, x[:1])
    data = x[:256].split(32)

    def row(name: str, recipe: fxq.Recipe | dict[str, object] | str) -> None:
        quantized = fxq.quantize(graph, [] if recipe == "dynamic" else data, recipe=recipe, progress=False)
        got = fxq.compile(quantized)(x_test)
        same = torch.equal(got, quantized(x_test))
        right, size = (got.argmax(1) == y_test).float().mean(), fxq.report(quantized).weight_bytes
        print(f"{name:22} accuracy {right:.2%}  {size:6} bytes  error {error_db(wanted, got):6.1f} dB  exact: {same}")

    row("dynamic", "dynamic")  # ranges are found while the network runs: no data are needed
    for low, high in ((-128, 127), (-128, 255), (0, 255)):
        row(f"[{low}, {high}]", {"activation": {"qmin": low, "qmax": high}})
    row("mean and variance", {"activation": {"observer": "mean_std"}})
    for bits in (8, 4, 2):
        # A rule for all is needed: by the recipe alone the first and the last layer keep 8 bits.
        row(f"weights of {bits} bits", {"rules": [{"match": "*", "weight": {"bits": bits}}]})
    formulas(torch.tensor([-0.5, 0.0, 0.1, 0.7]), 1 / 128, -64)


if __name__ == "__main__":
    main()
