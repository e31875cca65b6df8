"""What a random network is made of: one function per kind of layer, that writes it and gives the result's shape.

Shapes are without the batch: (C, H, W) images, (C, L) signals or tokens, (D,) vectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

from tests.endtoend.networks import BIASES, WEIGHTS, Network, Shape

Item = TypeVar("Item")

# A layer is not applied where its result would be larger than this: the fuzzer's time goes into cases, not elements.
MOST_ELEMENTS = 12000
CHANNELS = st.one_of(st.integers(1, 40), st.sampled_from([1, 2, 8, 15, 16, 17, 31, 32, 33]))


@dataclass(frozen=True)
class Var:
    """A value of the network being written: its name and shape."""

    name: str
    shape: Shape

    @property
    def size(self) -> int:
        """Elements of one sample."""
        total = 1
        for n in self.shape:
            total *= n
        return total


@dataclass
class Writer:
    """Draws choices and writes the lines of `__init__` and `forward`."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    setup: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    weights: dict[str, tuple[str, str]] = field(default_factory=dict)
    values: list[Var] = field(default_factory=list)

    def one(self, *choices: Item) -> Item:
        """One of several; failures shrink towards the first."""
        found: Item = self.draw(st.sampled_from(choices))
        return found

    def number(self, low: int, high: int) -> int:
        """An integer of [low, high]."""
        return int(self.draw(st.integers(low, high)))

    def flag(self) -> bool:
        """True or False."""
        return bool(self.draw(st.booleans()))

    def module(self, code: str, drawn: bool = True) -> str:
        """Add a submodule and return how forward() calls it; `drawn` gives it unusual weights now and then."""
        name = f"m{len(self.setup)}"
        self.setup.append(f"self.{name} = nn.{code}")
        if drawn and self.number(0, 3) == 3:
            self.weights[name] = (self.one(*WEIGHTS), self.one(*BIASES))
        return f"self.{name}"

    def constant(self, shape: Shape) -> str:
        """Add a constant tensor and return its name."""
        name = f"b{len(self.setup)}"
        values = self.one("torch.randn", "torch.ones", "torch.zeros")
        self.setup.append(f'self.register_buffer("{name}", {values}({shape}))')
        return f"self.{name}"

    def put(self, code: str, *shape: int) -> Var:
        """Add an assignment."""
        var = Var(f"v{len(self.body)}", tuple(shape))
        self.body.append(f"{var.name} = {code}")
        self.values.append(var)
        return var

    def like(self, var: Var) -> Var | None:
        """Another value of the same shape, if there is one."""
        found = [v for v in self.values if v.shape == var.shape and v.name != var.name]
        return self.one(*found) if found else None


Layer = Callable[[Writer, Var], Var | None]
LAYERS: dict[int, list[Layer]] = {1: [], 2: [], 3: []}


def layer(*ranks: int, weight: int = 1) -> Callable[[Layer], Layer]:
    """Register a layer for values of these ranks; a heavier one is drawn more often. It gives None where it cannot be."""

    def add(function: Layer) -> Layer:
        for rank in ranks:
            LAYERS[rank] += [function] * weight
        return function

    return add


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _window(w: Writer, size: int, most: int) -> tuple[int, int, int, int, int]:
    """(kernel, stride, padding, dilation, output size) along an axis."""
    kernel, dilation = w.number(1, most), w.one(1, 1, 2, 3)
    reach = (kernel - 1) * dilation + 1
    padding = w.number(max(0, -((size - reach) // 2)), max(reach // 2 + 1, -((size - reach) // 2)))
    stride = w.one(1, 2, 3)
    return kernel, stride, padding, dilation, (size + 2 * padding - reach) // stride + 1


@layer(2, 3, weight=7)
def convolution(w: Writer, x: Var) -> Var | None:
    """Conv1d, Conv2d: any kernel, stride, padding, dilation, groups; depthwise with and without a multiplier."""
    channels, dims = x.shape[0], len(x.shape) - 1
    windows = [_window(w, size, 7 if dims == 1 else 5) for size in x.shape[1:]]
    groups = w.one(1, channels, w.one(*_divisors(channels)))
    out = groups * w.number(1, max(1, 40 // groups))
    kernel, stride, padding, dilation, sizes = (tuple(column) for column in zip(*windows, strict=True))
    call = w.module(f"Conv{dims}d({channels}, {out}, {kernel}, {stride}, {padding}, {dilation}, {groups}, {w.flag()})")
    return w.put(f"{call}({x.name})", out, *sizes)


@layer(3, weight=3)
def usual_convolution(w: Writer, x: Var) -> Var | None:
    """The convolutions that fast kernels are written for: 3x3 same, and 1x1."""
    channels, kernel = x.shape[0], w.one(3, 1)
    groups = w.one(1, 1, channels)
    out = channels if groups > 1 else w.draw(CHANNELS)
    call = w.module(f"Conv2d({channels}, {out}, {kernel}, padding={kernel // 2}, groups={groups})")
    return w.put(f"{call}({x.name})", out, *x.shape[1:])


@layer(2, 3, weight=2)
def transposed_convolution(w: Writer, x: Var) -> Var | None:
    """ConvTranspose1d, ConvTranspose2d."""
    channels, dims = x.shape[0], len(x.shape) - 1
    groups = w.one(1, w.one(*_divisors(channels)))
    out, columns = groups * w.number(1, max(1, 12 // groups)), []
    for size in x.shape[1:]:
        kernel, stride, dilation = w.number(1, 4), w.one(1, 2, 3), w.one(1, 1, 2)
        reach = (kernel - 1) * dilation
        extra = w.number(0, max(stride, dilation) - 1)
        padding = w.number(0, max(0, min(reach, ((size - 1) * stride + reach + extra) // 2)))
        columns.append((kernel, stride, padding, extra, dilation, (size - 1) * stride - 2 * padding + reach + extra + 1))
    kernel, stride, padding, extra, dilation, sizes = (tuple(c) for c in zip(*columns, strict=True))  # type: ignore[assignment]
    settings = f"{kernel}, {stride}, {padding}, {extra}, {groups}, {w.flag()}, {dilation}"
    if min(sizes) < 1:  # type: ignore[type-var]
        return None
    return w.put(f"{w.module(f'ConvTranspose{dims}d({channels}, {out}, {settings})')}({x.name})", out, *sizes)  # type: ignore[misc]


@layer(1, 2, 3, weight=2)
def linear(w: Writer, x: Var) -> Var | None:
    """A linear layer over the last axis."""
    out = w.draw(CHANNELS)
    return w.put(f"{w.module(f'Linear({x.shape[-1]}, {out}, {w.flag()})')}({x.name})", *x.shape[:-1], out)


@layer(2, 3)
def matmul(w: Writer, x: Var) -> Var | None:
    """A product of two activations: with another value that fits, or with its own transpose."""
    *batch, rows, columns = x.shape
    found = [v for v in w.values if len(v.shape) == len(x.shape) and v.shape[:-1] == (*batch, columns)]
    if found and w.flag():
        other = w.one(*found)
        return w.put(f"{x.name} @ {other.name}", *batch, rows, other.shape[-1])
    return w.put(f"torch.matmul({x.name}, {x.name}.transpose(-2, -1))", *batch, rows, rows)


@layer(2)
def attention(w: Writer, x: Var) -> Var | None:
    """Scaled dot-product attention of tokens with themselves, in one or more heads."""
    tokens, width = x.shape
    heads = w.one(*_divisors(width))
    split = f"{x.name}.reshape(-1, {tokens}, {heads}, {width // heads}).transpose(1, 2)"
    parts = w.put(split, heads, tokens, width // heads)
    mixed = w.put(f"F.scaled_dot_product_attention({parts.name}, {parts.name}, {parts.name})", *parts.shape)
    return w.put(f"{mixed.name}.transpose(1, 2).reshape(-1, {tokens}, {width})", tokens, width)


@layer(1, 2, 3, weight=5)
def two_values(w: Writer, x: Var) -> Var | None:
    """Addition, subtraction, multiplication with another value of the same shape, else with itself."""
    other = w.like(x) or x
    pair = [x.name, other.name]
    left, right = pair if w.flag() else pair[::-1]
    return w.put(f"{left} {w.one('+', '+', '-', '*')} {right}", *x.shape)


@layer(1, 2, 3, weight=2)
def with_constant(w: Writer, x: Var) -> Var | None:
    """Arithmetic with a number, on either side."""
    number = w.one("0.5", "2.0", "-3.0", "0.0", "1e-3", "300.0")
    form = w.one("{x} + {n}", "{x} - {n}", "{n} - {x}", "{x} * {n}", "{n} * {x}", "{x} / {d}", "-{x}")
    return w.put(form.format(x=x.name, n=number, d=number if float(number) else "7.0"), *x.shape)


@layer(1, 2, 3)
def with_tensor(w: Writer, x: Var) -> Var | None:
    """Arithmetic with a constant tensor, broadcast or whole."""
    shape = w.one((x.shape[0], *[1] * (len(x.shape) - 1)), x.shape, x.shape[-1:])
    return w.put(f"{x.name} {w.one('+', '*', '-')} {w.constant(shape)}", *x.shape)


@layer(3)
def gate(w: Writer, x: Var) -> Var | None:
    """Squeeze and excite: channels scaled by a sigmoid of their means."""
    channels = x.shape[0]
    call = w.module(f"Conv2d({channels}, {channels}, 1)")
    curve = w.one("torch.sigmoid", "F.hardsigmoid")
    scale = w.put(f"{curve}({call}({x.name}.mean((2, 3), keepdim=True)))", channels, 1, 1)
    return w.put(f"{x.name} * {scale.name}", *x.shape)


CURVES = (
    "F.relu({x})", "F.relu6({x})", "{x}.clamp(-0.5, 0.75)", "{x}.clamp(min=0.25)", "{x}.clamp(max=1.0)",
    "F.hardtanh({x})", "F.hardswish({x})", "F.hardsigmoid({x})", "torch.sigmoid({x})", "torch.tanh({x})",
    "F.silu({x})", "F.gelu({x})", "F.gelu({x}, approximate='tanh')", "F.elu({x})", "F.elu({x}, 0.5)",
    "F.leaky_relu({x}, 0.1)", "F.mish({x})", "F.softplus({x})", "torch.abs({x})", "{x} ** 2",
)  # fmt: skip

IN_PLACE = ("F.relu({x}, inplace=True)", "F.hardtanh({x}, inplace=True)", "{x}.add_({x})", "{x}.mul_(0.5)")


@layer(1, 2, 3, weight=6)
def activation(w: Writer, x: Var) -> Var | None:
    """An activation function."""
    # An input is the caller's: nothing may be written into it.
    curves = CURVES if x.name[0] == "x" else CURVES + IN_PLACE
    return w.put(w.one(*curves).format(x=x.name), *x.shape)


@layer(1, 2, 3)
def normalization(w: Writer, x: Var) -> Var | None:
    """Batch norm, layer norm or softmax."""
    kinds = {"batch": f"BatchNorm{2 if len(x.shape) == 3 else 1}d({x.shape[0]})", "layer": f"LayerNorm({x.shape[-1]})"}
    kind = w.one(*kinds, "softmax")
    if kind == "softmax":
        return w.put(f"F.softmax({x.name}, -1)", *x.shape)
    return w.put(f"{w.module(kinds[kind], drawn=False)}({x.name})", *x.shape)


@layer(2, 3, weight=3)
def pooling(w: Writer, x: Var) -> Var | None:
    """Maximum or average over windows, cut by the border in every way that torch allows."""
    dims, columns, kind = len(x.shape) - 1, [], w.one("max", "avg")
    for size in x.shape[1:]:
        kernel = w.number(1, min(4, size))
        columns.append((kernel, w.number(1, 3), w.number(0, kernel // 2)))
    kernel, stride, padding = (tuple(c) for c in zip(*columns, strict=True))
    ceil = w.flag()
    extra = f", ceil_mode={ceil}" + (f", count_include_pad={w.flag()}" if kind == "avg" else "")
    sizes = [_pooled(n, k, s, p, ceil) for n, k, s, p in zip(x.shape[1:], kernel, stride, padding, strict=True)]
    return w.put(f"F.{kind}_pool{dims}d({x.name}, {kernel}, {stride}, {padding}{extra})", x.shape[0], *sizes)


def _pooled(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    count = (size + 2 * padding - kernel + (stride - 1) * ceil) // stride + 1
    # A window must begin inside of the image or of the padding before it.
    return count - (ceil and (count - 1) * stride >= size + padding)


@layer(2, 3, weight=2)
def adaptive_pooling(w: Writer, x: Var) -> Var | None:
    """Adaptive and global average pooling, and means over axes."""
    dims, axes = len(x.shape) - 1, list(range(1, len(x.shape) + 1))
    if w.flag():
        sizes = [w.number(1, min(n, 5)) for n in x.shape[1:]]
        return w.put(f"F.adaptive_avg_pool{dims}d({x.name}, {tuple(sizes)})", x.shape[0], *sizes)
    chosen = w.one(axes[1:], axes[-1:], axes[:1])
    if w.flag():
        return w.put(f"{x.name}.mean({chosen}, keepdim=True)", *(1 if a in chosen else x.shape[a - 1] for a in axes))
    return w.put(f"{x.name}.{w.one('mean', 'sum')}({chosen})", *(x.shape[a - 1] for a in axes if a not in chosen))


@layer(2, 3, weight=2)
def resize(w: Writer, x: Var) -> Var | None:
    """Upsampling by factors or to a size, nearest or linear."""
    sizes = [w.number(1, 2 * n + 1) for n in x.shape[1:]]
    linear_mode = "linear" if len(sizes) == 1 else "bilinear"
    mode = w.one("'nearest'", f"'{linear_mode}'", f"'{linear_mode}', align_corners=True")
    if w.flag():
        factor = w.one(2, 3)
        sizes = [n * factor for n in x.shape[1:]]
        return w.put(f"F.interpolate({x.name}, scale_factor={factor}, mode={mode})", x.shape[0], *sizes)
    return w.put(f"F.interpolate({x.name}, {tuple(sizes)}, mode={mode})", x.shape[0], *sizes)


@layer(2, 3)
def pad(w: Writer, x: Var) -> Var | None:
    """Zero padding, cropping too."""
    widths, sizes = [], list(x.shape)
    for axis in range(len(x.shape) - 1, w.number(0, len(x.shape) - 1) - 1, -1):
        before, after = w.number(-1, 3), w.number(0, 3)
        before = before if sizes[axis] > 1 else max(before, 0)
        sizes[axis] += before + after
        widths += [before, after]
    return w.put(f"F.pad({x.name}, {tuple(widths)})", *sizes)


@layer(2, 3, weight=2)
def join(w: Writer, x: Var) -> Var | None:
    """Concatenation along an axis with whatever fits, with itself else."""
    axis = w.number(0, len(x.shape) - 1)
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    fitting = [v for v in w.values if len(v.shape) == len(x.shape) and v.shape[:axis] + v.shape[axis + 1 :] == rest]
    parts = [x, *(w.one(*fitting) for _ in range(w.number(1, 2)))] if fitting else [x, x]
    total = sum(p.shape[axis] for p in parts)
    return w.put(f"torch.cat([{', '.join(p.name for p in parts)}], {axis + 1})", *x.shape[:axis], total, *x.shape[axis + 1 :])


@layer(1, 2, 3, weight=2)
def part(w: Writer, x: Var) -> Var | None:
    """A slice, strided or not, or one of the parts of a split."""
    axis = w.number(0, len(x.shape) - 1)
    size = x.shape[axis]
    start = w.number(0, size - 1)
    stop, step = w.number(start + 1, size), w.one(1, 1, 2)
    if w.flag() and size > 1:
        piece = w.number(1, size)
        index = w.number(0, -(-size // piece) - 1)
        kept = min(size, (index + 1) * piece) - index * piece
        return w.put(f"{x.name}.split({piece}, {axis + 1})[{index}]", *x.shape[:axis], kept, *x.shape[axis + 1 :])
    cut = ", ".join([":"] * (axis + 1) + [f"{start}:{stop}" + (f":{step}" if step > 1 else "")])
    return w.put(f"{x.name}[{cut}]", *x.shape[:axis], len(range(start, stop, step)), *x.shape[axis + 1 :])


@layer(2, 3)
def shuffle(w: Writer, x: Var) -> Var | None:
    """Channel shuffle."""
    groups, rest = w.one(*_divisors(x.shape[0])), x.shape[1:]
    tail = "".join(f", {n}" for n in rest)
    split = f"{x.name}.reshape(-1, {groups}, {x.shape[0] // groups}{tail})"
    return w.put(f"{split}.transpose(1, 2).reshape(-1, {x.shape[0]}{tail})", *x.shape)


@layer(1, 2, 3, weight=2)
def reshape(w: Writer, x: Var) -> Var | None:
    """Another view of the same elements: flattened, permuted, or split."""
    form = w.one("flatten", "permute", "fold")
    if form == "permute" and len(x.shape) > 1:
        order = list(w.draw(st.permutations(range(len(x.shape)))))
        return w.put(f"{x.name}.permute(0, {', '.join(str(a + 1) for a in order)})", *(x.shape[a] for a in order))
    if form == "fold" and len(x.shape) < 3:
        outer = w.one(*_divisors(x.shape[0]))
        sizes = (outer, x.shape[0] // outer, *x.shape[1:])
        return w.put(f"{x.name}.reshape(-1, {', '.join(map(str, sizes))})", *sizes)
    start = w.number(1, len(x.shape))
    total = Var("", x.shape[start - 1 :]).size
    return w.put(f"{x.name}.flatten({start})", *x.shape[: start - 1], total)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """The shape of an input: mostly an image of 1..20 x 1..20."""
    rank = draw(st.sampled_from([3, 3, 3, 2, 1]))
    return (draw(CHANNELS), *(draw(st.integers(1, 20)) for _ in range(rank - 1)))


SCHEMES: tuple[dict[str, Any], ...] = (
    {},
    {"activation": {"qmin": 0, "qmax": 255}},
    {"activation": {"qmin": -127, "symmetric": True}},
    {"activation": {"qmin": -8, "qmax": 7}},
    {"activation": {"qmin": 3, "qmax": 200}},
    {"activation": {"qmin": -128, "qmax": 255}},
    {"activation": {"qmin": -32768, "qmax": 32767}},
    {"weight": {"qmin": -128, "qmax": 127}},
    {"weight": {"qmin": -7, "qmax": 7}},
    {"weight": {"axis": None}},
    {"share_limit": 1.0},
    {"share_limit": 1e9, "activation": {"observer": "percentile:99"}},
)


@st.composite
def networks(draw: st.DrawFn, target: str = "native", layers: int = 12) -> Network:
    """A network of up to `layers` layers on one or two inputs, every dead end of which is an output."""
    w = Writer(draw)
    inputs = tuple(draw(st.lists(shapes(), min_size=1, max_size=2)))
    w.values = [Var(f"x{i}", shape) for i, shape in enumerate(inputs)]
    for _ in range(draw(st.integers(1, layers))):
        x = w.one(*w.values[::-1])
        mark = len(w.setup), len(w.body), len(w.values)
        made = w.one(*LAYERS[len(x.shape)])(w, x) if len(x.shape) in LAYERS else None
        if made is None or made.size > MOST_ELEMENTS or len(made.shape) > 3:
            w.setup, w.body, w.values = w.setup[: mark[0]], w.body[: mark[1]], w.values[: mark[2]]
    if not w.body:
        w.put(f"F.relu({w.values[0].name})", *w.values[0].shape)
    words = re.findall(r"\w+", "\n".join(w.body))
    ends = [v.name for v in w.values if v.name[0] == "v" and words.count(v.name) == 1] or [w.values[-1].name]
    return Network(
        source=_source(w, len(inputs), ends),
        inputs=inputs,
        weights={name: kinds for name, kinds in w.weights.items() if int(name[1:]) < len(w.setup)},
        stretch=draw(_STRETCHES),
        amplitude=draw(st.sampled_from([1.0, 1.0, 1.0, 1e-3, 1e4, 1e-20])),
        offset=draw(st.sampled_from([0.0, 0.0, 3.0, -50.0])),
        recipe=draw(st.sampled_from(SCHEMES)),
        dynamic=draw(st.sampled_from([True, True, True, False])),
        target=target,
        seed=draw(st.integers(0, 1000)),
    )


_FACTORS = [1.0, 1.0, 1.0, 1.0, 0.5, 4.0, 2.0**-9, 2.0**9, 0.0, 1e-25, 1e20]
_STRETCH = st.tuples(st.sampled_from(_FACTORS), st.sampled_from([0.0, 0.0, 0.0, 0.5, -0.5, 3.0, -3.0]))
# A wrong range mostly hides what comes after it: half of the networks keep their calibrated ones.
_STRETCHES = st.one_of(st.just(((1.0, 0.0),)), st.lists(_STRETCH, min_size=1, max_size=6).map(tuple))


def _source(w: Writer, inputs: int, ends: list[str]) -> str:
    names = ", ".join(f"x{i}" for i in range(inputs))
    setup = "".join(f"        {line}\n" for line in w.setup)
    body = "".join(f"        {line}\n" for line in w.body)
    return (
        "class Network(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"{setup}\n    def forward(self, {names}):\n{body}        return {', '.join(ends)}\n"
    )
