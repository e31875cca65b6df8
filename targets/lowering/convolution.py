"""Convolutions and linear layers: the kernel is chosen here, and what follows the accumulators is fused into it.

A product waits until the operation that rounds it is lowered: a requantize, or an add whose other operand is then ready;
if that is followed by a lookup of its own, the lookup is fused as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.targets.kernels.conv_plan import ConvProblem
from fxquant.targets.kernels.epilogue import RESIDUAL_LIMIT, Epilogue, Requantization
from fxquant.targets.kernels.kernel import TensorSpec
from fxquant.targets.kernels.plain_conv import plain_conv_kernel
from fxquant.targets.lowering.borders import Border, conv_border
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.select import chosen
from fxquant.targets.lowering.values import Tensor

fxq = torch.ops.fxq

PRODUCTS = (fxq.conv.default, fxq.linear.default, fxq.conv_transpose.default)


@dataclass(frozen=True)
class Rounding:
    """What follows a product: the node whose value is stored, and the numbers of the epilogue (None: s32 as they are)."""

    node: fx.Node
    numbers: Requantization | None = None
    shift: int = 0
    residual: fx.Node | None = None


@lowers(*PRODUCTS)
def product(l: Lowering, node: fx.Node) -> None:
    """Leave the product to what rounds it; one that nothing rounds directly is stored as s32."""
    if not waits(l, node):
        emit(l, node, Rounding(node))


def waits(l: Lowering, node: Any) -> bool:
    """Whether the accumulators of `node` go into the epilogue of their only reader."""
    if node.target not in PRODUCTS or len(node.users) != 1 or l.fake[node.args[0]].dtype == torch.int16:
        return False
    user = next(iter(node.users))
    if l.fake[user].dtype == torch.int16:
        return False
    if user.target is fxq.requantize.default:
        return bool((l.array(user.args[1]) >= 0).all())
    return user.target is fxq.add.default and _residual(l, user, node) is not None


def _residual(l: Lowering, add: fx.Node, node: fx.Node) -> tuple[fx.Node, int, int] | None:
    """The other operand of an add, with its multiplier and zero point, if it can be part of the epilogue of `node`."""
    first, second = add.args[:4], add.args[4:8]
    mine, other = (first, second) if first[0] is node else (second, first)
    source: Any = other[0]
    multiplier, shift = l.array(other[1]), int(add.args[2])  # type: ignore[call-overload]
    if source is node or source.target in PRODUCTS or multiplier.size != 1 or l.fake[source].dtype == torch.int32:
        return None
    unit = int(multiplier.flat[0]) << shift
    same = tuple(l.fake[source].shape) == tuple(l.fake[add].shape) == tuple(l.fake[node].shape)
    fits = 0 <= unit and 2 * 255 * unit + (1 << 41) <= RESIDUAL_LIMIT and shift <= 22
    if not same or not fits or bool((l.array(mine[1]) < 0).any()):
        return None
    return source, int(multiplier.flat[0]), int(other[3])  # type: ignore[call-overload]


def emit(l: Lowering, node: fx.Node, rounding: Rounding) -> None:
    """Append the kernel of a product with its epilogue."""
    if node.target is fxq.linear.default:
        _linear(l, node, rounding)
    elif node.target is fxq.conv.default:
        _conv(l, node, rounding)
    else:
        _transposed(l, node, rounding)


def round_product(l: Lowering, node: fx.Node) -> bool:
    """Lower a requantize or add whose operand is a waiting product, together with it; False if none waits."""
    operands = [a for a in node.args[:5:4] if isinstance(a, fx.Node)]
    waiting = [a for a in operands if a not in l.tensors and a.op == "call_function" and waits(l, a)]
    if not waiting:
        return False
    source = waiting[0]
    low, high = int(node.args[-2]), int(node.args[-1])  # type: ignore[call-overload]
    zero = int(node.args[-3])  # type: ignore[call-overload]
    final, table = _table(l, node)
    l.lowered.add(final)
    if node.target is fxq.requantize.default:
        multiplier = l.array(node.args[1]).reshape(-1)
        numbers = Requantization(multiplier, zero, low, high, table=table)
        rounding = Rounding(final, numbers, int(node.args[2]))  # type: ignore[call-overload]
    else:
        found = _residual(l, node, source)
        assert found is not None
        other, residual_multiplier, residual_zero = found
        own = node.args[1] if node.args[0] is source else node.args[5]
        shift = int(node.args[2])  # type: ignore[call-overload]
        multiplier = l.array(own).reshape(-1)
        numbers = Requantization(multiplier, zero, low, high, residual_multiplier, shift, residual_zero, table)
        rounding = Rounding(final, numbers, shift, other)
    emit(l, source, rounding)
    return True


def _table(l: Lowering, node: fx.Node) -> tuple[fx.Node, np.ndarray[Any, Any] | None]:
    """The lookup that alone reads `node`, as a table from memory bytes to memory bytes, if there is one."""
    user = next(iter(node.users))
    if len(node.users) != 1 or user.target is not fxq.lookup.default:
        return node, None
    if l.fake[node].dtype != torch.int8 or l.fake[user].dtype != torch.int8 or l.s8_bias != 128:
        return node, None
    table = l.array(user.args[1])
    if table.size != 256:
        return node, None
    return user, (table.astype(np.int16) + 128).astype(np.uint8)


def _conv(l: Lowering, node: fx.Node, rounding: Rounding) -> None:
    source, weight, bias, zero, stride, padding, dilation, groups = node.args
    x = _operand(l, node, source, int(zero), [int(p) for p in padding])  # type: ignore[call-overload,union-attr]
    kernels = l.array(weight)
    if kernels.ndim == 3:
        kernels = kernels[:, :, None]
    geometry = [(1, int(v[0])) if len(v) == 1 else (int(v[0]), int(v[1])) for v in (stride, dilation)]  # type: ignore[index,arg-type]
    biases = None if bias is None else l.array(bias)
    place(l, node, rounding, x, image(_target(l, rounding)), kernels, biases, int(zero), geometry[0], geometry[1], int(groups))  # type: ignore[call-overload]  # fmt: skip


def _operand(l: Lowering, node: fx.Node, source: Any, zero: int, padding: list[int]) -> Tensor:
    """The operand as an image with its padding around it and channels innermost."""
    border = conv_border(node)
    if len(padding) == 2 and border is not None:
        return l.padded(source, border)
    x = image(l.tensor(source))
    if not any(padding) and (x.spec.strides[1] == 1 or x.shape[1] == 1):
        return x
    side = Border(0, 0, padding[-1], padding[-1], zero)
    copy = l.allocate(x.shape, l.fake[source].dtype, f"{node.name}_operand", side)
    l.map("copy", copy, [x], lambda t, i: t[0](*i), node)
    return side.outer(copy)


def image(tensor: Tensor) -> Tensor:
    """A signal (N, C, L) as an image (N, C, 1, L); images are left alone."""
    if len(tensor.shape) == 4:
        return tensor
    n, c, length = tensor.spec.strides
    spec = replace(tensor.spec, shape=(*tensor.shape[:2], 1, tensor.shape[2]), strides=(n, c, 0, length))
    return replace(tensor, spec=spec)


def _target(l: Lowering, rounding: Rounding) -> Tensor:
    """Memory for the result, channels innermost."""
    shape = tuple(l.fake[rounding.node].shape)
    if len(shape) == 4:
        return l.result(rounding.node)
    out = l.allocate(shape, l.fake[rounding.node].dtype, rounding.node.name, order=(0, 2, 1))
    l.tensors[rounding.node] = out
    return out


def place(
    l: Lowering,
    node: fx.Node,
    rounding: Rounding,
    x: Tensor,
    out: Tensor,
    weight: np.ndarray[Any, Any],
    bias: np.ndarray[Any, Any] | None,
    zero: int,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    """One call per sample (a static batch has several): `x` and `out` are images, all padding is in `x`."""
    residual = None if rounding.residual is None else _residual_image(l, rounding.residual, out, node)
    for n in range(x.shape[0]):
        xs, outs = sample(x, n), sample(out, n)
        if xs.spec.dtype != "uint8":
            _plain(l, node, xs, outs, weight, bias, zero, stride, dilation)
            continue
        rs = None if residual is None else sample(residual, n)
        form = Epilogue(rounding.shift, None if rs is None else rs.spec, _has_table(rounding), rounding.numbers is None)
        problem = ConvProblem(xs.spec, outs.spec, weight.shape[2:], stride, dilation, groups, form)
        numbers = rounding.numbers or Requantization(0, 0, 0, 0)
        b = np.zeros(weight.shape[0], np.int32) if bias is None else bias
        choice = chosen(problem, l.isa, weight, b, zero, numbers)
        wider = choice.expansions
        constants = [l.packed(a, f"{node.name}_{name}", wider.get(name)) for name, a in choice.constants.items()]
        arguments: list[Any] = [xs, *constants, *([] if rs is None else [rs]), outs]
        l.kernel(choice.name, (problem, choice.tile), choice.build, arguments, outs, node, macs=problem.macs, kernel=choice.name)


def _plain(
    l: Lowering,
    node: fx.Node,
    x: Tensor,
    out: Tensor,
    weight: np.ndarray[Any, Any],
    bias: np.ndarray[Any, Any] | None,
    zero: int,
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    """16-bit operands: nothing is fused into their products (see `waits`), the accumulators are stored."""
    kernel = l.constant(weight, f"{node.name}_weight")
    starts = np.zeros(weight.shape[0], np.int32) if bias is None else bias
    constants = [kernel, l.packed(starts, f"{node.name}_bias"), l.packed(np.array([zero], np.int32), f"{node.name}_zero")]
    key = (x.spec, kernel.spec, out.spec, stride, dilation)
    facts = {"macs": prod(out.shape) * prod(weight.shape[1:]), "kernel": "plain"}
    l.kernel("plain_conv", key, lambda: plain_conv_kernel(*key), [x, *constants, out], out, node, **facts)


def _has_table(rounding: Rounding) -> bool:
    return rounding.numbers is not None and rounding.numbers.table is not None


def _residual_image(l: Lowering, source: fx.Node, out: Tensor, node: fx.Node) -> Tensor:
    found = l.tensor(source)
    found = image(found) if len(found.shape) in (3, 4) and len(out.shape) == 4 and found.shape != out.shape else found
    if found.shape != out.shape:
        merged = found.rows()
        if merged is None:
            dense = l.allocate(found.shape, l.fake[source].dtype, f"{source.name}_dense", order=range(len(found.shape)))
            l.map("copy", dense, [found], lambda t, i: t[0](*i), node)
            merged = dense.rows()
            assert merged is not None
        found = as_pixels(merged)
    if found.spec.strides[1] != 1 and found.shape[1] > 1:
        copy = l.allocate(found.shape, l.fake[source].dtype, f"{source.name}_channels_last")
        l.map("copy", copy, [found], lambda t, i: t[0](*i), node)
        return copy
    return found


def sample(tensor: Tensor, n: int) -> Tensor:
    """Sample `n` of an image as a (C, H, W) tensor."""
    spec: TensorSpec = tensor.spec
    inner = replace(spec, shape=spec.shape[1:], strides=spec.strides[1:])
    return Tensor(tensor.buffer, inner, tensor.offset + n * spec.strides[0])


def as_pixels(rows: Tensor) -> Tensor:
    """Rows x features as an image of one row: every row is a pixel, features are channels."""
    spec = rows.spec
    shape = (1, spec.shape[1], 1, spec.shape[0])
    return replace(rows, spec=replace(spec, shape=shape, strides=(0, spec.strides[1], 0, spec.strides[0])))


def _linear(l: Lowering, node: fx.Node, rounding: Rounding) -> None:
    source, weight, bias, zero = node.args
    x = l.tensor(source)
    rows = x.rows()
    if rows is None or (rows.shape[1] > 1 and rows.spec.strides[1] != 1):
        dense = l.allocate(x.shape, l.fake[source].dtype, f"{node.name}_operand", order=range(len(x.shape)))
        l.map("copy", dense, [x], lambda t, i: t[0](*i), node)
        rows = dense.rows()
    assert rows is not None
    shape = tuple(l.fake[rounding.node].shape)
    out = l.allocate(shape, l.fake[rounding.node].dtype, rounding.node.name, order=range(len(shape)))
    l.tensors[rounding.node] = out
    flat = out.rows()
    assert flat is not None
    matrix = l.array(weight)[:, :, None, None]
    biases = None if bias is None else l.array(bias)
    place(l, node, rounding, as_pixels(rows), as_pixels(flat), matrix, biases, int(zero), (1, 1), (1, 1), 1)  # type: ignore[call-overload]


def _transposed(l: Lowering, node: fx.Node, rounding: Rounding) -> None:
    """A transposed convolution is one plain convolution per output phase, each writing every stride-th pixel."""
    source, weight, bias, zero, stride, padding, _, dilation, groups = node.args
    spatial = _spread(l.array(weight), [int(d) for d in dilation])  # type: ignore[union-attr]
    strides = [1, *stride][-2:]  # type: ignore[misc]
    pads = [0, *padding][-2:]  # type: ignore[misc]
    out = image(_target(l, rounding))
    kernels = _per_output(spatial, int(groups))  # type: ignore[call-overload]
    phases = [(h, w) for h in range(min(strides[0], out.shape[2])) for w in range(min(strides[1], out.shape[3]))]
    plans = [[_phase(p, strides[a], pads[a], kernels.shape[2 + a], out.shape[2 + a]) for a, p in enumerate(at)] for at in phases]  # fmt: skip
    before = [max(0, *(-plan[a][1] for plan in plans)) for a in (0, 1)]
    x = image(l.tensor(source))
    after = [max(0, *(plan[a][1] + plan[a][2] + plan[a][3] - 1 - x.shape[2 + a] for plan in plans)) for a in (0, 1)]
    border = Border(before[0], after[0], before[1], after[1], int(zero))  # type: ignore[call-overload]
    roomy = l.allocate(x.shape, l.fake[source].dtype, f"{node.name}_operand", border)
    l.map("copy", roomy, [x], lambda t, i: t[0](*i), node)
    biases = None if bias is None else l.array(bias)
    for (h, w), plan in zip(phases, plans, strict=True):
        taps = [_taps(plan[a][0], strides[a], kernels.shape[2 + a]) for a in (0, 1)]
        part = kernels[:, :, taps[0]][:, :, :, taps[1]] if all(taps) else np.zeros((*kernels.shape[:2], 1, 1), np.int8)
        first = [plan[a][1] if taps[a] else 0 for a in (0, 1)]
        reads = [plan[a][2] + part.shape[2 + a] - 1 for a in (0, 1)]
        view = _window(roomy, first, reads)
        target = _every(out, (h, w), strides)
        sub = replace(rounding, residual=None) if rounding.residual is None else rounding
        place(l, node, sub, view, target, part, biases, int(zero), (1, 1), (1, 1), int(groups))  # type: ignore[call-overload]


def _spread(weight: np.ndarray[Any, Any], dilation: list[int]) -> np.ndarray[Any, Any]:
    """(in, out, kh, kw) with zeros between dilated taps."""
    weight = weight[:, :, None] if weight.ndim == 3 else weight
    steps = [1, *dilation][-2:]
    sizes = [(n - 1) * d + 1 for n, d in zip(weight.shape[2:], steps, strict=True)]
    out = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    out[:, :, :: steps[0], :: steps[1]] = weight
    return out


def _per_output(weight: np.ndarray[Any, Any], groups: int) -> np.ndarray[Any, Any]:
    """(in, out / groups, ...) as (out, in / groups, ...)."""
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return np.ascontiguousarray(np.moveaxis(split, 1, 2).reshape(-1, split.shape[1], *weight.shape[2:]))


def _phase(phase: int, stride: int, pad: int, kernel: int, size: int) -> tuple[int, int, int, int]:
    """(first tap, first input, outputs, taps) of the outputs phase, phase + stride, ... along one axis."""
    remainder = (phase + pad) % stride
    taps = len(_taps(remainder, stride, kernel))
    start = (phase + pad) // stride - max(taps - 1, 0)
    return remainder, start, len(range(phase, size, stride)), max(taps, 1)


def _taps(remainder: int, stride: int, kernel: int) -> list[int]:
    return list(range(remainder, kernel, stride))[::-1]


def _window(x: Tensor, first: list[int], size: list[int]) -> Tensor:
    spec = replace(x.spec, shape=(*x.shape[:2], *size))
    return Tensor(x.buffer, spec, x.offset + first[0] * spec.strides[2] + first[1] * spec.strides[3])


def _every(out: Tensor, at: tuple[int, int], step: list[int]) -> Tensor:
    sizes = tuple(len(range(at[a], out.shape[2 + a], step[a])) for a in (0, 1))
    n, c, h, w = out.spec.strides
    spec = replace(out.spec, shape=(*out.shape[:2], *sizes), strides=(n, c, h * step[0], w * step[1]))
    return Tensor(out.buffer, spec, out.offset + at[0] * h + at[1] * w)
