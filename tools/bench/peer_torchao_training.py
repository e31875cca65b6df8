"""torchao's quantization-aware training (PT2E) on the schedule of `benchmarks/train.py`, for the column beside ours.

It rounds by fake-quantize with moving ranges, which are not learned, and what is judged is its converted graph, which
computes in float what integers would come to. Weights and operands of convolutions and linear layers are quantized,
with the bits of ours; what lies between is left in float, where our graphs are integers. Its graph has no names of
layers, so that it learns from logits and labels only, and it has its two bits from the first step.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture import trace
from fxquant.names import layers_of
from fxquant.sensitive import sensitive
from fxquant.training import Distillation, distill

Schedule = Callable[[float], float]


def torchao(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    total: int,
    bits: tuple[int, int],
    rate: float,
    schedule: Schedule,
    loss: Callable[[Tensor, Tensor, Distillation], Tensor],
) -> nn.Module:
    """The converted graph after `total` batches, of `bits` for weights and values. Raises ImportError without torchao.

    `loss` is of logits, labels and the distillation from `model`, which is not changed.
    """
    logging.getLogger("torchao").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    from torchao.quantization.pt2e import move_exported_model_to_eval, move_exported_model_to_train
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

    queue = iter(batches)
    first = next(queue)
    quantizer = X86InductorQuantizer().set_global(_config(*bits))
    for node in sensitive(trace(model, first[0][:2]).graph):
        quantizer.set_module_name_qconfig(layers_of(node)[0], _config(8, bits[1]))
    free = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    exported = torch.export.export(copy.deepcopy(model).train(), (first[0][:2],), dynamic_shapes=free).module()
    student = prepare_qat_pt2e(exported, quantizer)
    move_exported_model_to_train(student)
    optimizer = torch.optim.Adam(
        [
            {"params": [p], "lr": rate * max(float(p.detach().square().mean().sqrt()), 1e-3)}
            for p in student.parameters()
        ]
    )
    steps = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / total))
    with distill(student, model) as distilled:
        for number, (x, y) in enumerate([first, *queue]):
            if number == math.ceil(total * 0.6):
                move_exported_model_to_eval(student)
            optimizer.zero_grad()
            loss(student(x), y, distilled).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps.step()
    move_exported_model_to_eval(student)
    converted: nn.Module = convert_pt2e(student)
    return converted


def _config(weight: int, value: int) -> Any:
    """The quantizer's usual configuration for training, of other codes."""
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        get_default_x86_inductor_quantization_config as usual,
    )

    found, top = usual(is_qat=True), 1 << (weight - 1)
    operand = replace(found.input_activation, quant_max=(1 << value) - 1)
    codes = replace(found.weight, quant_min=1 - top if weight < 8 else -top, quant_max=top - 1)
    return replace(found, input_activation=operand, output_activation=operand, weight=codes)
