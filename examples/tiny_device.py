"""A classifier of digits made small for a microcontroller: half of it is pruned, its weights trained at 4 bits.

Channels are pruned to half of the multiply-accumulates; what is left is tuned in float, then trained through weights of
4 bits, with the float network as teacher. Each step is exported to an emulated Cortex-M4.

Run it: python examples/tiny_device.py [epochs]    It needs: pip install "fxquant[demo]", QEMU and gcc-arm-none-eabi
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, fx
from torch.nn import functional

import fxquant as fxq
from fxquant.tools.digits import Digits, images, train

EPOCHS, BATCH, BUDGET, RATE = 24, 64, 0.5, 4e-3
# First, last and depthwise layers keep 8 bits unless a rule names them.
FOUR_BITS = {"weight": {"bits": 4}, "rules": [{"match": "head", "weight": {"bits": 4}}]}


def taught(student: fx.GraphModule, teacher: fx.GraphModule, x: Tensor, y: Tensor, epochs: int, rate: float) -> None:
    """An ordinary loop with the float network as teacher; norms are frozen for its second half, where there are any."""
    is_trained = isinstance(student, fxq.TrainingGraph)
    groups = fxq.qat_parameters(student) if is_trained else student.parameters()
    optimizer = torch.optim.Adam(groups, lr=rate)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with fxq.distill(student, teacher) as distilled:
        for epoch in range(epochs):
            if is_trained and epoch == epochs // 2:
                fxq.freeze_norms(student)
            for batch in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                loss = functional.cross_entropy(student(x[batch]), y[batch]) + distilled.loss()
                loss.backward()
                optimizer.step()
                schedule.step()


def main(epochs: int = EPOCHS) -> None:
    """Train, quantize, prune, tune, train at 4 bits; export each, and compare."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y, x_test, y_test = images()
    calibration = x[:256].split(32)
    model = Digits()
    train(model, x, y, range(epochs))

    whole = fxq.trace(model, x[:1])
    pruned = fxq.prune(whole, budget={"macs": BUDGET}, by="taylor", data=[(x, y)], loss=functional.cross_entropy)
    taught(pruned, whole, x, y, epochs, RATE)
    four = fxq.prepare_qat(pruned, FOUR_BITS, calibration, progress=False)
    taught(four, whole, x, y, epochs, RATE)

    graphs = {
        "int8": fxq.quantize(whole, calibration, progress=False),
        "pruned, int8": fxq.quantize(pruned, calibration, progress=False),
        "pruned, 4 bits": fxq.convert(four),
    }
    print(fxq.pruning_report(pruned), "\n")
    print(f"{'cortex-m4':16}{'accuracy':>9}{'flash':>8}{'constants':>11}{'arena':>7}{'instructions':>14}")
    print(f"{'float':16}{accuracy(whole, x_test, y_test):9.2%}")
    rows = []
    for place, (name, graph) in enumerate(graphs.items()):
        made = fxq.export(graph, "cortex-m4", f"digits{place}", name="digits", measure=True, progress=False).report
        rows.append((made["flash_bytes"], made["constant_bytes"], made["arena_bytes"], made["instructions"]))
        flash, constants, arena, count = rows[-1]
        print(f"{name:16}{accuracy(graph, x_test, y_test):9.2%}{flash:8}{constants:11}{arena:7}{count:14}")
    less = [before / after for before, after in zip(rows[0], rows[-1], strict=True)]
    print(f"{'int8 has times':25}{less[0]:8.2f}{less[1]:11.2f}{less[2]:7.2f}{less[3]:14.2f}")


def accuracy(graph: fx.GraphModule, x: Tensor, y: Tensor) -> float:
    """The share of images whose digit is found."""
    with torch.no_grad():
        return float((graph(x).argmax(1) == y).float().mean())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
