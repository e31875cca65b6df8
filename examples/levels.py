"""How many levels does a network need? Ranges of integers, statistics of ranges, and weights of 8, 4 and 2 bits.

Run it: python levels.py [levels.svg]    It needs: pip install "fxquant[demo]"
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

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


def signal_to_noise(wanted: Tensor, got: Tensor) -> float:
    """Decibels: 6 more for each bit that is kept."""
    return 10 * math.log10(float(wanted.square().mean() / (wanted - got).square().mean()))


def picture(rows: list[tuple[str, float, int, float]]) -> str:
    """SVG: for each row its accuracy as a bar, and its bytes and decibels in words."""
    lines = []
    for place, (name, accuracy, size, decibels) in enumerate(rows):
        y = 26 * place + 10
        told = f"{accuracy:.1%}" + (f", {size / 1024:.1f} KiB, {decibels:.1f} dB" if size else "")
        lines.append(
            f'<text x="140" y="{y + 13}" text-anchor="end">{name}</text>'
            f'<rect x="150" y="{y}" width="{300 * accuracy:.0f}" height="18" fill="#36c"/>'
            f'<text x="{158 + 300 * accuracy:.0f}" y="{y + 13}">{told}</text>'
        )
    height = 26 * len(rows) + 14
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="sans-serif" font-size="12">'
    )
    return f'{begin}<rect width="100%" height="100%" fill="#fff"/>{"".join(lines)}</svg>\n'


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
    rows = [("float", float((wanted.argmax(1) == y_test).float().mean()), 0, 0.0)]
    print(f"float                  accuracy {rows[0][1]:.2%}")

    graph = fxq.trace(model, x[:1])
    data = x[:256].split(32)

    def row(name: str, recipe: fxq.Recipe | dict[str, object] | str) -> None:
        quantized = fxq.quantize(graph, [] if recipe == "dynamic" else data, recipe=recipe, progress=False)
        got = fxq.compile(quantized)(x_test)
        same = torch.equal(got, quantized(x_test))
        right, size = float((got.argmax(1) == y_test).float().mean()), fxq.report(quantized).weight_bytes
        rows.append((name, right, size, signal_to_noise(wanted, got)))
        print(f"{name:22} accuracy {right:.2%}  {size:6} bytes  {rows[-1][3]:5.1f} dB  exact: {same}")

    # Ranges are found while the network runs: one call, and no data.
    row("dynamic", "dynamic")
    # Integers of activations: signed bytes, twice as many as bytes hold (16 bits then), unsigned bytes.
    for low, high in ((-128, 127), (-128, 255), (0, 255)):
        row(f"[{low}, {high}]", {"activation": {"qmin": low, "qmax": high}})
    # A range from the mean and the spread of what was seen, in the place of its ends.
    row("mean and variance", {"activation": {"observer": "mean_std"}})
    for bits in (8, 4, 2):
        # A rule for all is needed: by the recipe alone the first and the last layer keep 8 bits.
        row(f"weights of {bits} bits", {"rules": [{"match": "*", "weight": {"bits": bits}}]})
    formulas(torch.tensor([-0.5, 0.0, 0.1, 0.7]), 1 / 128, -64)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(picture(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
