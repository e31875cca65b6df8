"""What a random network computes with: one function per kind of layer, which writes it and gives its result."""

from __future__ import annotations

from tests.endtoend.writing import CHANNELS, Var, Writer, divisors, layer


def _window(w: Writer, size: int, most: int) -> tuple[int, int, int, int, int]:
    """(kernel, stride, padding, dilation, output size) along an axis; the padding may be larger than the image."""
    kernel, dilation = w.number(1, most), w.one(1, 1, 2, 3)
    reach = (kernel - 1) * dilation + 1
    least = max(0, -((size - reach) // 2))
    padding = w.number(least, max(reach // 2 + 1, least, w.one(0, 0, 0, size + 3)))
    stride = w.one(1, 2, 3, kernel + 2)
    return kernel, stride, padding, dilation, (size + 2 * padding - reach) // stride + 1


@layer(2, 3, weight=7)
def convolution(w: Writer, x: Var) -> Var | None:
    """Conv1d, Conv2d: any kernel, stride, padding, dilation, groups; depthwise with and without a multiplier."""
    channels, dims = x.shape[0], len(x.shape) - 1
    windows = [_window(w, size, 7 if dims == 1 else 5) for size in x.shape[1:]]
    groups = w.one(1, channels, w.one(*divisors(channels)))
    out = groups * w.number(1, max(1, 40 // groups))
    kernel, stride, padding, dilation, sizes = (tuple(column) for column in zip(*windows, strict=True))
    call = w.module(f"Conv{dims}d({channels}, {out}, {kernel}, {stride}, {padding}, {dilation}, {groups}, {w.flag()})")
    if w.number(0, 9) == 9:
        # Images without a batch, one by one: of as many as there are.
        w.fixed_batch = True
        return w.put(f"torch.stack([{call}(one) for one in {x.name}])", out, *sizes)
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
    groups = w.one(1, w.one(*divisors(channels)))
    out, columns = groups * w.number(1, max(1, 12 // groups)), []
    for size in x.shape[1:]:
        kernel, stride, dilation = w.number(1, 4), w.one(1, 2, 3), w.one(1, 1, 2)
        reach = (kernel - 1) * dilation
        extra = w.number(0, max(stride, dilation) - 1)
        padding = w.number(0, max(0, min(reach, ((size - 1) * stride + reach + extra) // 2)))
        columns.append(
            (kernel, stride, padding, extra, dilation, (size - 1) * stride - 2 * padding + reach + extra + 1)
        )
    kernel, stride, padding, extra, dilation, sizes = (tuple(c) for c in zip(*columns, strict=True))  # type: ignore[assignment]
    settings = f"{kernel}, {stride}, {padding}, {extra}, {groups}, {w.flag()}, {dilation}"
    if min(sizes) < 1:
        return None
    return w.put(f"{w.module(f'ConvTranspose{dims}d({channels}, {out}, {settings})')}({x.name})", out, *sizes)


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
    heads = w.one(*divisors(width))
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


@layer(1, 2, 3, weight=2)
def chain(w: Writer, x: Var) -> Var | None:
    """Scalings and additions one after the other, none of which is rounded before the next where that can be."""
    text = x.name
    for _ in range(w.number(2, 5)):
        form = w.one("({x} + {y})", "({y} - {x})", "({x} * {n})", "({x} / {n})", "({x} + {n})", "({n} - {x})", "(-{x})")
        text = form.format(x=text, y=(w.like(x) or x).name, n=w.one("0.5", "-3.0", "300.0"))
    return w.put(text, *x.shape)


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
        return w.put(f"F.softmax({x.name}, {w.axis(x, len(x.shape) - 1)})", *x.shape)
    return w.put(f"{w.module(kinds[kind], drawn=False)}({x.name})", *x.shape)


@layer(2, 3, weight=3)
def pooling(w: Writer, x: Var) -> Var | None:
    """Maximum or average over windows, cut by the border in every way that torch allows."""
    dims, columns, kind = len(x.shape) - 1, [], w.one("max", "avg")
    for size in x.shape[1:]:
        length = w.number(1, min(4, size))
        columns.append((length, w.one(1, 2, 3, length + 2), w.number(0, length // 2)))
    kernel, stride, padding = (tuple(c) for c in zip(*columns, strict=True))
    ceil = w.flag()
    extra = f", ceil_mode={ceil}" + (f", count_include_pad={w.flag()}" if kind == "avg" else "")
    sizes = [_pooled(n, k, s, p, ceil) for n, k, s, p in zip(x.shape[1:], kernel, stride, padding, strict=True)]
    settings = f"{kernel}, {stride}, {padding}{extra}"
    if w.number(0, 7) == 7:
        # The channels of the whole batch as one image without a batch.
        call = f"F.{kind}_pool{dims}d({x.name}.flatten(0, 1), {settings})"
        return w.put(f"{call}.reshape(-1, {x.shape[0]}, {', '.join(map(str, sizes))})", x.shape[0], *sizes)
    return w.put(f"F.{kind}_pool{dims}d({x.name}, {settings})", x.shape[0], *sizes)


def _pooled(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    count = (size + 2 * padding - kernel + (stride - 1) * ceil) // stride + 1
    # A window must begin inside of the image or of the padding before it.
    return count - (ceil and (count - 1) * stride >= size + padding)


@layer(2, 3, weight=2)
def adaptive_pooling(w: Writer, x: Var) -> Var | None:
    """Adaptive and global average pooling, and means over axes."""
    dims, axes = len(x.shape) - 1, list(range(len(x.shape)))
    if w.flag():
        sizes = [w.number(1, min(n, 5)) for n in x.shape[1:]]
        return w.put(f"F.adaptive_avg_pool{dims}d({x.name}, {tuple(sizes)})", x.shape[0], *sizes)
    chosen = w.one(axes[1:], axes[-1:], axes[:1])
    over = f"({', '.join(w.axis(x, a) for a in chosen)},)"
    if w.flag():
        return w.put(f"{x.name}.mean({over}, keepdim=True)", *(1 if a in chosen else x.shape[a] for a in axes))
    return w.put(f"{x.name}.{w.one('mean', 'sum')}({over})", *(x.shape[a] for a in axes if a not in chosen))


@layer(2, 3)
def extremes(w: Writer, x: Var) -> Var | None:
    """Largest and smallest values over axes, over windows of any split, and Lp pooling."""
    dims, axes = len(x.shape) - 1, list(range(len(x.shape)))
    kind = w.one("amax", "max", "adaptive", "lp")
    if kind == "adaptive":
        sizes = [w.number(1, min(n, 5)) for n in x.shape[1:]]
        return w.put(f"F.adaptive_max_pool{dims}d({x.name}, {tuple(sizes)})", x.shape[0], *sizes)
    if kind == "lp" and min(x.shape[1:]) > 1:
        return w.put(f"F.lp_pool{dims}d({x.name}, 2, 2)", x.shape[0], *(n // 2 for n in x.shape[1:]))
    if kind == "amax":
        chosen = w.one(axes[1:], axes[-1:], axes[:1])
        over = f"({', '.join(w.axis(x, a) for a in chosen)},)"
        return w.put(f"{x.name}.{w.one('amax', 'amin')}({over})", *(x.shape[a] for a in axes if a not in chosen))
    axis = w.one(*axes)
    sizes = [1 if a == axis else n for a, n in enumerate(x.shape)]
    return w.put(f"{x.name}.{w.one('max', 'min')}({w.axis(x, axis)}, keepdim=True)[0]", *sizes)


@layer(3, weight=2)
def volume(w: Writer, x: Var) -> Var | None:
    """The channels as slices of a volume, a convolution or pooling over that, and its channels side by side again."""
    depth = w.one(*divisors(x.shape[0]))
    channels, sizes = x.shape[0] // depth, (depth, *x.shape[1:])
    kernel = [w.number(1, min(3, n)) for n in sizes]
    stride = [w.one(1, 1, 2) for _ in sizes]
    padding = [w.number(0, k // 2) for k in kernel]
    after = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(sizes, kernel, stride, padding, strict=True)]
    apart, settings = f"{x.name}.unflatten(1, ({channels}, {depth}))", f"{tuple(kernel)}, {tuple(stride)}"
    kind, made = w.one("conv", "up", "linear", "max", "avg"), channels
    if kind == "linear":
        after = [w.number(1, 2 * n) for n in sizes]
        corners = w.one("", ", align_corners=True")
        code = f"F.interpolate({apart}, {tuple(after)}, mode='trilinear'{corners})"
    elif kind == "up":
        after = [(n - 1) * s - 2 * p + k for n, s, k, p in zip(sizes, stride, kernel, padding, strict=True)]
        if min(after) < 1:
            return None
        made = w.one(1, 2) * channels
        groups = w.one(1, channels)
        up = w.module(f"ConvTranspose3d({channels}, {made}, {settings}, {tuple(padding)}, groups={groups})")
        code = f"{up}({apart})"
    elif kind == "conv":
        made = w.one(1, 2, 3) * channels
        groups = w.one(1, channels)
        conv = w.module(f"Conv3d({channels}, {made}, {settings}, {tuple(padding)}, groups={groups})")
        code = w.one("{c}({x})", "F.relu({c}({x}))").format(c=conv, x=apart)
    else:
        code = f"F.{kind}_pool3d({apart}, {settings}, {tuple(padding)})"
    return w.put(f"{code}.flatten(1, 2)", made * after[0], *after[1:])


@layer(2, weight=2)
def constant_product(w: Writer, x: Var) -> Var | None:
    """A product with a constant matrix on either side, by its sign, by einsum; or with a vector."""
    rows, columns = x.shape
    out = w.number(1, 20)
    form = w.one("right", "left", "einsum", "vector")
    if form == "left":
        return w.put(f"{w.constant((out, rows))} @ {x.name}", out, columns)
    if form == "vector":
        return w.put(f"{x.name} @ {w.constant((columns,))}", rows)
    matrix = w.constant((columns, out))
    code = f"{x.name} @ {matrix}" if form == "right" else f"torch.einsum('bnd,de->bne', {x.name}, {matrix})"
    return w.put(code, rows, out)


@layer(2, 3, weight=2)
def resize(w: Writer, x: Var) -> Var | None:
    """Upsampling by factors or to a size, nearest or linear."""
    sizes = [w.number(1, 2 * n + 1) for n in x.shape[1:]]
    linear_mode = "linear" if len(sizes) == 1 else "bilinear"
    more = ("'bicubic'", "'bilinear', antialias=True") if len(sizes) == 2 else ()
    mode = w.one("'nearest'", "'nearest-exact'", f"'{linear_mode}'", f"'{linear_mode}', align_corners=True", *more)
    if w.flag():
        factor = w.one(2, 3)
        sizes = [n * factor for n in x.shape[1:]]
        return w.put(f"F.interpolate({x.name}, scale_factor={factor}, mode={mode})", x.shape[0], *sizes)
    return w.put(f"F.interpolate({x.name}, {tuple(sizes)}, mode={mode})", x.shape[0], *sizes)


@layer(2, weight=2)
def recurrent(w: Writer, x: Var) -> Var | None:
    """LSTM, GRU or an Elman network over the tokens, or over the features: layers, directions, projections, states."""
    length, width = x.shape
    kind, size, layers, both = w.one("LSTM", "GRU", "RNN"), w.number(1, 12), w.number(1, 2), w.flag()
    more = f", nonlinearity='{w.one('tanh', 'relu')}'" if kind == "RNN" else ""
    settings = f"{width}, {size}, {layers}, bias={w.flag()}, batch_first=True, bidirectional={both}{more}"
    width = w.number(0, size - 1) if kind == "LSTM" else 0
    call = w.module(f"{kind}({settings}{f', proj_size={width}' if width else ''})", drawn=False)
    shown = width or size
    if w.flag():
        return w.put(f"{call}({x.name})[0]", length, shown * (1 + both))
    state = w.one("[0][-1]", "[1][-1]") if kind == "LSTM" else "[-1]"
    return w.put(f"{call}({x.name})[1]{state}", size if state == "[1][-1]" else shown)
