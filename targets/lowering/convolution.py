"""Convolutions over images in memory: the kernel is chosen here, and gets its constants packed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import argument, int_arg, int_args, ints_arg, node_arg
from fxquant.graph import constant_bits
from fxquant.names import label_of
from fxquant.targets.buffers import SIGNAL, Buffer, Tensor, channels_last, pair
from fxquant.targets.kernels.choosing import offered
from fxquant.targets.kernels.contract.epilogue import Requantization
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.lowering.borders import Border, conv_border
from fxquant.targets.lowering.lowering import Lowering
from fxquant.targets.lowering.rounding import Rounding, epilogue_of
from fxquant.targets.program import Overwrite

fxq = torch.ops.fxq

Array = np.ndarray[Any, Any]

# Of a layer whose kernel is cut as its caller likes: some 20 microseconds, and enough pieces for a few threads.
TASK_MACS, MOST_PIECES = 1 << 18, 16


@dataclass(frozen=True)
class Geometry:
    """How windows move over an image; `padding` are rows and columns of zeros that the kernel sees to."""

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Images:
    """What is read and written, channels innermost; `residual` is the operand of a fused add.

    Padding lies around `x` in memory, but for a `Geometry.padding`.
    """

    x: Tensor
    out: Tensor
    residual: Tensor | None

    def sample(self, n: int) -> Images:
        """Sample `n` of a batch."""
        return Images(self.x.sample(n), self.out.sample(n), None if self.residual is None else self.residual.sample(n))


def convolve(ctx: Lowering, node: fx.Node, rounding: Rounding) -> None:
    """Append an `fxq.conv`."""
    weight = ctx.array(node_arg(node, "weight"))
    stride, dilation = (pair(ints_arg(node, setting), 1) for setting in ("stride", "dilation"))
    weight = weight[:, :, None] if weight.ndim == 3 else weight
    zero, groups = int_args(node, "zero_point", "groups")
    geometry = Geometry(stride, dilation, groups, (0, 0) if ctx.memory.has_borders else _edges(ctx, node))
    layer = Layer(weight, bias_of(ctx, node, len(weight)), zero, constant_bits(node_arg(node, "weight")))
    x, out = _operand(ctx, node), image_result(ctx, rounding)
    place(ctx, node, rounding, Images(x, out, image_residual(ctx, rounding, node)), layer, geometry)


def _edges(ctx: Lowering, node: fx.Node) -> tuple[int, int]:
    """The rows and columns of zeros before the operand, where a kernel sees to them: its own and those of a pad."""
    (top, left), outside = pair(ints_arg(node, "padding"), 0), ctx.outside.get(node_arg(node, "x"))
    return (top, left) if outside is None else (top + outside.top, left + outside.left)


def read_by_kernels(ctx: Lowering, pad: fx.Node, border: Border) -> bool:
    """Whether only convolutions read a pad, and its value is their real zero: then no memory is padded."""
    if pad in ctx.returned:
        return False
    return all(user.target is fxq.conv.default and int_arg(user, "zero_point") == border.value for user in pad.users)


def _operand(ctx: Lowering, node: fx.Node) -> Tensor:
    """The operand as an image with channels innermost, and with its padding around it where kernels want that."""
    if not ctx.memory.has_borders:
        source = node_arg(node, "x")
        inner = node_arg(source, "x") if source in ctx.outside else source
        return channels_innermost(ctx, ctx.tensor(inner).image(), node)
    border = conv_border(node)
    if border is not None:
        return ctx.padded(node_arg(node, "x"), border)
    x, (_, width) = ctx.operand(node, "x").image(), pair(ints_arg(node, "padding"), 0)
    if not width:
        return channels_innermost(ctx, x, node)
    side = Border(0, 0, width, width, int_arg(node, "zero_point"))
    return side.outer(ctx.copied(x, node, side))


def bias_of(ctx: Lowering, node: fx.Node, channels: int) -> Array:
    """The bias of a product, zeros where it has none."""
    bias = argument(node, "bias")
    return ctx.array(bias) if isinstance(bias, fx.Node) else np.zeros(channels, np.int32)


def image_result(ctx: Lowering, rounding: Rounding) -> Tensor:
    """Memory for the result, as an image with channels innermost."""
    if rounding.real is not None:
        spec = ctx.held(rounding.node)
        order = SIGNAL if len(spec.shape) == 3 else channels_last(spec.shape)
        ctx.tensors[rounding.node] = ctx.allocate(spec, label_of(rounding.node), order=order)
        return ctx.tensors[rounding.node].image()
    images = ctx.fake[rounding.node].ndim == 4
    return (ctx.result(rounding.node) if images else ctx.ordered(rounding.node, *SIGNAL)).image()


def image_residual(ctx: Lowering, rounding: Rounding, node: fx.Node) -> Tensor | None:
    """The other operand of a fused add, as an image with channels innermost."""
    if rounding.residual is None:
        return None
    return channels_innermost(ctx, ctx.tensor(rounding.residual).image(), node)


def channels_innermost(ctx: Lowering, x: Tensor, node: fx.Node) -> Tensor:
    """An image as kernels read it; copied where it lies in another order."""
    return x if x.spec.strides[1] == 1 or x.shape[1] == 1 else ctx.copied(x, node)


def place(
    ctx: Lowering, node: fx.Node, rounding: Rounding, images: Images, layer: Layer, geometry: Geometry | None = None
) -> None:
    """Append one call per sample: a static batch has several."""
    geometry = geometry or Geometry()
    for n in range(images.x.shape[0]):
        one = images.sample(n)
        _chosen(ctx, node, rounding, one, layer, geometry)


def _chosen(ctx: Lowering, node: fx.Node, rounding: Rounding, images: Images, layer: Layer, geometry: Geometry) -> None:
    """The kernel that is chosen, with an epilogue; it may write over what it has read."""
    residual = [] if images.residual is None else [images.residual]
    drop = int_arg(node, "drop")
    bounds = layer.bounds(images.x.spec) if ctx.kernels.takes_narrow and not drop else None
    form = epilogue_of(rounding, images.out.spec, residual[0].spec if residual else None, bounds)
    size = (layer.weight.shape[2], layer.weight.shape[3])
    problem = ConvProblem(
        images.x.spec, images.out.spec, size, geometry.stride, geometry.dilation, geometry.padding, geometry.groups,
        form, drop=drop,
    )  # fmt: skip
    if not ctx.memory.has_runtime:
        # Kernels of 16-bit operands widen no weights, and nothing else does without a runtime.
        layer = replace(layer, bits=8) if images.x.spec.dtype == "int16" else layer
        problem = replace(problem, weight_bits=layer.bits)
    else:
        problem = replace(problem, pieces=max(1, min(MOST_PIECES, problem.macs // TASK_MACS)))
    offer = offered(ctx.kernels.convolution, problem, layer)
    candidate = ctx.choose(offer)
    real = rounding.real
    choice = offer.choice(candidate, real.numbers if real else rounding.numbers or Requantization(0, 0, 0, 0))
    wider = choice.expansions
    packed = {n: ctx.packed(a, f"{node.name}_{n}", wider.get(n)) for n, a in choice.constants.items()}
    symbol = ctx.program.symbol(choice.name, (choice.name, problem, choice.tile), choice.build)
    inputs: list[Tensor | Buffer] = [images.x, *packed.values(), *of_the_run(ctx, rounding, symbol), *residual]
    free = [Overwrite(t) for t in residual if choice.in_place]
    if choice.lead is not None:
        free.append(Overwrite(images.x, choice.lead))
    facts: dict[str, Any] = {"macs": problem.macs, "kernel": choice.name, "tile": candidate.settings}
    facts |= {"declined": [asdict(answer) for answer in choice.declined], "weight_bits": layer.bits}
    ctx.program.call(symbol, [*inputs, images.out], images.out, label_of(node), free, packed, **facts)


def of_the_run(ctx: Lowering, rounding: Rounding, symbol: str) -> list[Tensor]:
    """What a result in float32 takes beside constants: the scale, and where its largest magnitudes go."""
    if rounding.real is None:
        return []
    scale = ctx.tensor(rounding.real.scale)
    if not rounding.real.peaks:
        return [scale]
    ctx.peaks[rounding.node] = ctx.new_peaks(rounding.node, symbol)
    return [scale, ctx.peaks[rounding.node]]
