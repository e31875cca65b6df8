"""A classifier of digits learns, on a microcontroller, from somebody who holds the paper askew.

The network is trained and quantized for upright digits. On an emulated Cortex-M4 it sees rotated ones with their
labels, and its last layer learns: in integers, without malloc, by `digits_train_step`. What it has learned is read from
the device's memory, and is what Python's integers learn, byte for byte.

Run it: python examples/personalise.py    It needs: pip install "fxquant[demo]", QEMU and gcc-arm-none-eabi
"""

from __future__ import annotations

from math import cos, radians, sin

import torch
from torch import Tensor, fx
from torch.nn import functional

import fxquant as fxq
from fxquant.tools.digits import Digits, images, train
from fxquant.tools.emulate import taught

ANGLE, LESSONS, EXAM, RATE = 25.0, 300, 200, 2**-6


def rotated(x: Tensor) -> Tensor:
    """Images turned about their middle."""
    c, s = cos(radians(ANGLE)), sin(radians(ANGLE))
    turn = torch.tensor([[[c, -s, 0.0], [s, c, 0.0]]]).expand(len(x), 2, 3)
    return functional.grid_sample(x, functional.affine_grid(turn, list(x.shape), False), align_corners=False)


def accuracy(graph: fx.GraphModule, x: Tensor, y: Tensor) -> float:
    """The share of images whose digit is found."""
    return float((graph(x).argmax(1) == y).float().mean())


def main() -> None:
    """Train, quantize, export with a step of training; teach the device, and do the same in Python."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y, x_test, y_test = images()
    x_test, y_test = x_test[:EXAM], y_test[:EXAM]
    model = Digits()
    train(model, x, y)
    quantized = fxq.quantize(fxq.trace(model, x[:1]), x[:256].split(32), progress=False)

    plain = fxq.export(quantized, target="cortex-m4", out="plain", name="digits", progress=False)
    made = fxq.export(
        quantized, "cortex-m4", "digits", name="digits", train=["head"], rate=RATE, measure=True, progress=False
    )

    training = fxq.train_on_device(quantized, ["head"], rate=RATE)
    askew, exam = training.quantize(rotated(x[:LESSONS])), training.quantize(rotated(x_test))
    lessons = [(image, int(label)) for image, label in zip(askew, y[:LESSONS], strict=True)]
    device = taught(made, lessons, [(image, int(label)) for image, label in zip(exam, y_test, strict=True)])

    state = training.start()
    for image, label in lessons:
        _, state = training.step(image[None], label, state)
    personal = training.trained(state)

    print(f"{f'{EXAM} digits':26}before  after {len(lessons)} steps")
    print(f"{'askew, on the device':26}{device.before / EXAM:6.1%}  {device.after / EXAM:6.1%}")
    for name, shown in (("askew, in Python", rotated(x_test)), ("upright", x_test)):
        print(f"{name:26}{accuracy(quantized, shown, y_test):6.1%}  {accuracy(personal, shown, y_test):6.1%}")
    held = training.restored(device.state, made.report)
    print(f"the same bytes: {all(torch.equal(held[name], state[name]) for name in state)}")
    print(f"\n{'cortex-m4':26}{'run':>9}{'learning':>10}")
    rows = (
        ("flash, bytes", plain.report["flash_bytes"], made.report["flash_bytes"]),
        ("arena, bytes", plain.report["arena_bytes"], made.report["arena_bytes"]),
        ("state, bytes", 0, made.report["training"]["state_bytes"]),
        ("stack, bytes", "", made.report["stack_bytes"]),
        ("instructions", made.report["instructions"], device.step),
    )
    for what, run, learning in rows:
        print(f"{what:26}{run:>9}{learning:>10}")


if __name__ == "__main__":
    main()
