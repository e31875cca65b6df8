"""What a random network makes of values: functions, choices, quotients, normalization."""

from __future__ import annotations

from tests.endtoend.writing import Var, Writer, divisors, layer

SMOOTH = (
    "torch.sin({x})", "torch.cos({x})", "torch.erf({x})", "torch.atan({x})", "F.selu({x})", "F.celu({x}, 0.5)",
    "F.softsign({x})", "F.tanhshrink({x})", "F.softshrink({x}, 0.25)", "F.logsigmoid({x})", "torch.log1p({x}.abs())",
    "torch.exp2(-{x}.abs())", "torch.expm1(-{x}.abs())", "torch.square({x})", "2 ** -{x}.abs()",
)  # fmt: skip
# Kept from their poles.
SHIFTED = (
    "torch.sqrt({x} ** 2 + {c})", "torch.log({x}.abs() + {c})", "1 / ({x}.abs() + {c})", "torch.rsqrt({x} ** 2 + {c})",
)  # fmt: skip


@layer(1, 2, 3, weight=2)
def curve(w: Writer, x: Var) -> Var | None:
    """A function of one value, kept from its pole; continuous ones, as a step of the operand must stay a step."""
    form = w.one(*SMOOTH, *SHIFTED)
    return w.put(form.format(x=x.name, c=w.one("1", "0.1")), *x.shape)


@layer(1, 2, 3, weight=2)
def chosen(w: Writer, x: Var) -> Var | None:
    """The larger, the smaller, or one of two values, one of which may be a constant tensor."""
    other = w.like(x)
    y = w.constant(w.one(x.shape, x.shape[-1:])) if other is None or w.flag() else other.name
    form = w.one(
        "torch.maximum({x}, {y})", "torch.minimum({y}, {x})", "torch.where({x} > {y}, {x}, {y})",
        "torch.where({x} < 0.25, 0.25, {x})", "torch.clamp({x}, {y}, {y} + 1)", "torch.where({x} >= 0, {x}, {x} * 0.5)",
    )  # fmt: skip
    return w.put(form.format(x=x.name, y=y), *x.shape)


@layer(1, 2, 3)
def masked(w: Writer, x: Var) -> Var | None:
    """What truths that come in keep of a value."""
    masks = [t.name for t in w.truths if t.shape == x.shape]
    form = w.one("torch.where({t}, {x}, {y})", "{x}.masked_fill({t}, 0.5)", "{x} * {t}", "{x}.masked_fill(~{t}, 0.0)")
    y = (w.like(x) or x).name
    return w.put(form.format(x=x.name, y=y, t=masks[0]), *x.shape) if masks else None


@layer(1, 2, 3)
def quotient(w: Writer, x: Var) -> Var | None:
    """A value over another that is kept from zero, or over a constant tensor."""
    divisor = f"({w.constant(x.shape[-1:])}.abs() + 1)" if w.flag() else f"({(w.like(x) or x).name}.abs() + 1)"
    return w.put(f"{x.name} / {divisor}", *x.shape)


@layer(2, 3, weight=2)
def slopes(w: Writer, x: Var) -> Var | None:
    """PReLU with a slope for each channel or for all, and the gate of two halves."""
    if x.shape[0] % 2 == 0 and w.flag():
        return w.put(f"F.glu({x.name}, 1)", x.shape[0] // 2, *x.shape[1:])
    return w.put(f"{w.module(f'PReLU({w.one(1, x.shape[0])})', drawn=False)}({x.name})", *x.shape)


@layer(2, 3, weight=2)
def norm_of_groups(w: Writer, x: Var) -> Var | None:
    """Normalization over groups of channels, over each channel, over axes by hand, or about zero."""
    axis, width = w.number(0, len(x.shape) - 1), x.shape[-1]
    over = w.axis(x, axis)
    form = w.one(
        f"F.group_norm({{x}}, {w.one(*divisors(x.shape[0]))}, {{c}}, {{c}})",
        "F.instance_norm({x}, weight={c}, bias={c})",
        f"F.rms_norm({{x}}, ({width},), {{r}})", f"F.normalize({{x}}, dim={over})",
        f"{{x}} * torch.rsqrt({{x}}.pow(2).mean({over}, keepdim=True) + 1e-5) * {{r}}",
        f"({{x}} - {{x}}.mean({over}, True)) / torch.sqrt({{x}}.var({over}, keepdim=True, correction=0) + 1e-5)",
        f"F.layer_norm({{x}}, {tuple(x.shape[1:])})",
    )  # fmt: skip
    if "instance" in form and Var("", x.shape[1:]).size == 1:
        return None
    return w.put(form.format(x=x.name, c=w.constant(x.shape[:1]), r=w.constant((width,))), *x.shape)


@layer(1, 2, 3)
def probabilities(w: Writer, x: Var) -> Var | None:
    """Softmax, its logarithm, and the logarithm of sums, over any axis."""
    axis = w.number(0, len(x.shape) - 1)
    kind = w.one("F.softmax", "F.log_softmax", "torch.logsumexp")
    shape = x.shape if kind != "torch.logsumexp" else (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    last = ", True" if kind == "torch.logsumexp" else ""
    return w.put(f"{kind}({x.name}, {w.axis(x, axis)}{last})", *shape)
