"""Small networks for the tests of passes, graphs of any stage made from them, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import graph, passes
from fxquant.calibration import calibrate
from fxquant.passmanager import Pass, Pipeline
from fxquant.plan import plan_of, range_of
from fxquant.recipe import Recipe


class Net(nn.Module):
    """Submodules by name, and forward as a function of the module and its inputs: a network in a line."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module | Tensor) -> None:
        super().__init__()
        for name, module in modules.items():
            if isinstance(module, Tensor):
                self.register_buffer(name, module)
            else:
                self.add_module(name, module)
        self.body = forward

    def __getattr__(self, name: str) -> Any:
        """Submodules and buffers, without the doubt which of them."""
        return super().__getattr__(name)

    def forward(self, *inputs: Tensor) -> Any:
        """The function."""
        return self.body(self, *inputs)


def drawn(module: Net, seed: int = 0) -> Net:
    """The module in eval mode, weights and statistics from a seed: eighths, so that sums are the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.round(torch.randn(tensor.shape, generator=generator) * 4) / 8)
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.get_buffer("running_var").abs_().add_(0.5)
    return module.eval()


def data(*shapes: tuple[int, ...], seed: int = 1) -> tuple[Tensor, ...]:
    """Inputs of these shapes, the batch among them: eighths, about normal."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.round(torch.randn(shape, generator=generator) * 8) / 8 for shape in shapes)


def batches(inputs: Tensor, size: int) -> list[Tensor]:
    """The inputs as a loader gives them."""
    return [inputs[start : start + size] for start in range(0, len(inputs), size)]


def traced(net: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    """The FLOAT graph."""
    return fxquant.trace(net, inputs)


def until(module: fx.GraphModule, last: type[Pass], *inputs: Tensor, recipe: Recipe | None = None) -> fx.GraphModule:
    """The graph after the standard passes up to, not with, `last`; calibrated on `inputs` after the observers."""
    wanted = recipe or Recipe()
    for step in passes.prepare(wanted):
        if isinstance(step, last):
            return module
        module = step(module)
    calibrate(module, [inputs], progress=False)
    for step in passes.convert():
        if isinstance(step, last):
            return module
        module = step(module)
    return module


def shown(before: fx.GraphModule, after: fx.GraphModule, notes: Callable[[fx.Node], str] | None = None) -> str:
    """Both graphs as text, with a note on the lines of the second."""
    lines = graph.text(after).splitlines()
    if notes is not None:
        remarks = [notes(node) for node in after.graph.nodes]
        lines = [f"{line}  # {note}" if note else line for line, note in zip(lines, remarks, strict=True)]
    return f"{graph.text(before)}\n\n=>\n\n" + "\n".join(lines)


def plan_note(node: fx.Node) -> str:
    """The plan of a node in words."""
    plan = plan_of(node)
    return "" if plan is None else f"{'integer' if plan.integer else 'float'}: {plan.reason}"


def range_note(node: fx.Node) -> str:
    """The range of a node in words."""
    found = range_of(node)
    return "" if found is None else f"[{found.low:.4g}, {found.high:.4g}] {found.qparams}: {found.reason}"


def fused_note(node: fx.Node) -> str:
    """Which node takes this one up."""
    return f"fused into {node.meta['fxq.fused_into']}" if "fxq.fused_into" in node.meta else ""


def run(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The outputs, always as a tuple."""
    with torch.no_grad():
        out = module(*inputs)
    return out if isinstance(out, tuple) else (out,)


def assert_same(before: nn.Module, after: nn.Module, *inputs: Tensor, atol: float = 1e-5) -> None:
    """Both give the same outputs, for the inputs and for one sample of them."""
    for args in (inputs, tuple(x[:1] for x in inputs)):
        for found, wanted in zip(run(after, *args), run(before, *args), strict=True):
            torch.testing.assert_close(found, wanted, atol=atol, rtol=1e-5)


__all__ = ["Net", "Pipeline", "assert_same", "batches", "data", "drawn", "fused_note", "plan_note", "range_note", "run",
           "shown", "traced", "until"]  # fmt: skip
