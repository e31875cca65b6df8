"""What weights of few bits gain and cost beside those of 8: flash and instructions on small cores, time on x86.

    python benchmarks/low_bits.py embedded              ResNet-8 and MobileNetV1 x 0.25 on Cortex-M4 and M55
    python benchmarks/low_bits.py embedded ds_cnn --target cortex-m0 --bits 4
    python benchmarks/low_bits.py rows                  one row times a matrix, 2048 x 2048 and larger

Instructions are QEMU's, exact and the same every time: of the network, and of the layers that have weights of few bits.
Every run is compared with Python's integers. Times are the least of rounds in which 8 bits and fewer take turns, with
one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import fx, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

import fxquant
from fxquant import targets
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate.measured import measured
from tests import zoo

CONSOLE = Console(highlight=False, soft_wrap=True)
# Outputs x inputs of one row: in the second-level cache of no CPU, and in no cache at all.
ROWS = ((2048, 2048), (4096, 8192), (4096, 32768))


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("embedded", "rows"))
    parser.add_argument("networks", nargs="*", default=["resnet8", "mobilenet_v1"])
    parser.add_argument("--target", action="append", help="may be repeated")
    parser.add_argument("--bits", action="append", type=int, help="may be repeated; 4 and 2 if not given")
    wanted = parser.parse_args()
    bits = [8, *(wanted.bits or (4, 2))]
    if wanted.what == "rows":
        for outputs, inputs in ROWS:
            _rows(outputs, inputs, bits, (wanted.target or ["native"])[0])
        return 0
    for name in wanted.networks:
        for target in wanted.target or ("cortex-m4", "cortex-m55"):
            _embedded(name, target, bits)
    return 0


def _embedded(name: str, target: str, bits: list[int]) -> None:
    """Lines: flash, arena and instructions with weights of so many bits, and the ratios to 8."""
    model, data = zoo.build(name), [zoo.inputs(name, 4, seed) for seed in range(2)]
    traced = fxquant.trace(model, data[0])
    first: dict[str, Any] = {}
    for size in bits:
        quantized = fxquant.quantize(traced, data, recipe={"weight": {"bits": size}}, progress=False)
        plain = fxquant.integer_ports(quantized)
        report = measured(standalone(plain, targets.get(target), "net"), plain).report
        first = first or report
        CONSOLE.print(
            f"{name:14} {target:12} {size} bits: flash {report['flash_bytes']:,} (constants "
            f"{report['constant_bytes']:,}), arena {report['arena_bytes']:,}, {report['instructions']:,} instructions, "
            f"{report['instructions'] / first['instructions']:.2f} times as many (layers of few bits "
            f"{_ratio(first, report):.2f})"
        )


def _ratio(first: dict[str, Any], report: dict[str, Any]) -> float:
    """Instructions of the layers whose constants shrank, beside those of 8 bits."""
    pairs = zip(first["layers"], report["layers"], strict=True)
    counts = [
        (new["instructions"], old["instructions"])
        for old, new in pairs
        if new["constant_bytes"] < old["constant_bytes"]
    ]
    return sum(new for new, _ in counts) / sum(old for _, old in counts) if counts else 1.0


def _rows(outputs: int, inputs: int, bits: list[int], target: str) -> None:
    """Lines: microseconds of one row, and how many times faster than with 8 bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = nn.Linear(inputs, outputs), torch.randn(1, inputs)
    traced = fxquant.trace(model, x)
    nets = {size: fxquant.compile(_row(traced, x, size), target, threads=1, against_float=False) for size in bits}
    least = dict.fromkeys(bits, float("inf"))
    for _ in range(60):
        for size, net in nets.items():
            net(x)
            start = time.perf_counter()
            for _ in range(3):
                net(x)
            least[size] = min(least[size], (time.perf_counter() - start) / 3)
    told = ", ".join(f"{size} bits {1e6 * t:,.0f} us ({least[8] / t:.2f})" for size, t in least.items())
    kernels = {
        size: [layer["kernel"] for layer in net.report["layers"] if "kernel" in layer] for size, net in nets.items()
    }
    CONSOLE.print(f"{outputs} x {inputs}: {told}; kernels {kernels}", markup=False)


def _row(traced: fx.GraphModule, x: torch.Tensor, size: int) -> fx.GraphModule:
    """The only layer is the first and the last one: a rule asks for it."""
    weight = {"bits": size, **({"products": 4} if size == 8 else {}), "narrow": True}
    return fxquant.quantize(traced, [x], recipe={"rules": [{"match": "*", "weight": weight}]}, progress=False)


if __name__ == "__main__":
    sys.exit(main())
