"""What a random network has now and then: tables, constants in two roles, shared modules, float islands."""

from __future__ import annotations

import re

from tests.endtoend.writing import CHANNELS, Var, Writer, layer

# A square matrix over a longer axis is beyond what a case is worth.
LONGEST = 130


@layer(1, 2, 3, weight=2)
def embedding(w: Writer, x: Var) -> Var | None:
    """Rows of a table, which may be a weight as well, by whole numbers that come in or are computed here."""
    index = w.one(*w.wholes) if w.wholes else _largest(w, x)
    if index is None:
        return None
    width = w.draw(CHANNELS)
    form = w.one("{i}", "{i}", "{n} - 1 - {i}", "({i} * 3 + 1) % {n}")
    table = w.module(f"Embedding({index.below}, {width})")
    rows = w.put(f"{table}({form.format(i=index.name, n=index.below)})", *index.shape, width)
    if w.number(0, 2) == 2:
        return w.put(f"F.linear({rows.name}, {table}.weight)", *index.shape, index.below)
    return rows


def _largest(w: Writer, x: Var) -> Var | None:
    if not w.island():
        return None
    axis = w.number(0, len(x.shape) - 1)
    # Rounded first: what islands give differs in its last bits, and so could where its maximum is.
    code = f"{x.name}.clamp(max=1e30).argmax({w.axis(x, axis)})"
    return w.put_whole(code, x.shape[:axis] + x.shape[axis + 1 :], x.shape[axis])


@layer(1, 2, 3, weight=2)
def two_roles(w: Writer, x: Var) -> Var | None:
    """A weight or a bias that is an operand, or a weight, somewhere else as well."""
    width = x.shape[-1]
    if width > LONGEST:
        return None
    form = w.one(
        "{m}({x}) + {m}.bias", "{m}({x}) * {m}.weight[-1]", "{m}({x}) @ {m}.weight",
        "F.linear({m}({x}), {m}.weight.t())", "F.linear({m}({x}), {m}.weight, {m}.bias)",
    )  # fmt: skip
    return w.put(form.format(m=w.module(f"Linear({width}, {width})"), x=x.name), *x.shape)


@layer(1, 2, 3, weight=2)
def again(w: Writer, x: Var) -> Var | None:
    """A module that was called before, on another value."""
    shapes = {v.name: v.shape for v in w.values}
    calls = [found.groups() for line in w.body if (found := re.fullmatch(r"(v\d+) = (self\.m\d+)\((\w+)\)", line))]
    fitting = [(module, shapes[made]) for made, module, taken in calls if shapes.get(taken) == x.shape]
    if not fitting:
        return None
    module, shape = w.one(*fitting)
    return w.put(f"{module}({x.name})", *shape)


# Continuous ones, so that floats that differ in their last bits give results that do.
ISLANDS = (
    "torch.sinc({x})", "torch.atan2({x}, {y}.abs() + 1)", "torch.hypot({x}, {y})", "torch.logaddexp({x}, {y})",
    "torch.cumsum({x}, 1)",
)  # fmt: skip


@layer(1, 2, 3, weight=2)
def island(w: Writer, x: Var) -> Var | None:
    """An operation that stays float, in the middle of integers."""
    other = w.like(x) or x
    return w.put(w.one(*ISLANDS).format(x=x.name, y=other.name), *x.shape) if w.island() else None


@layer(1, 2, 3)
def real_numbers(w: Writer, x: Var) -> Var | None:
    """Whole numbers that come in, as real ones."""
    fitting = [i for i in w.wholes if i.name[0] == "x" and i.shape]
    if not fitting or not w.island():
        return None
    index = w.one(*fitting)
    return w.put(f"{index.name}.float()", *index.shape)
