"""What a random network moves: views of views, joins, paddings, flips."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.endtoend.networks import Shape
from tests.endtoend.writing import Layer, Var, Writer, divisors, layer


@layer(2, 3)
def pad(w: Writer, x: Var) -> Var | None:
    """Zero padding, cropping too; wider than the image now and then."""
    widths, sizes = [], list(x.shape)
    for axis in range(len(x.shape) - 1, w.number(0, len(x.shape) - 1) - 1, -1):
        before, after = w.number(-1, 3), w.one(0, 1, 2, 3, sizes[axis] + 1)
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
    return w.put(
        f"torch.cat([{', '.join(p.name for p in parts)}], {w.axis(x, axis)})",
        *x.shape[:axis],
        total,
        *x.shape[axis + 1 :],
    )


@layer(2, 3)
def join_with_nothing(w: Writer, x: Var) -> Var | None:
    """Concatenation with a part that has no elements."""
    axis = w.number(0, len(x.shape) - 1)
    cut = ", ".join([":"] * (axis + 1) + [w.one(":0", f"{x.shape[axis]}:", "3:3")])
    parts = [x.name, f"{x.name}[{cut}]"]
    return w.put(f"torch.cat([{', '.join(w.shuffled(parts))}], {w.axis(x, axis)})", *x.shape)


@layer(1, 2, 3)
def flip(w: Writer, x: Var) -> Var | None:
    """Axes in reverse."""
    axes = w.shuffled(range(len(x.shape)))[: w.number(1, len(x.shape))]
    return w.put(f"{x.name}.flip({', '.join(w.axis(x, a) for a in axes)})", *x.shape)


@layer(1, 2, 3, weight=2)
def part(w: Writer, x: Var) -> Var | None:
    """A slice, strided or not, counted from either end; or one of the parts of a split."""
    axis = w.number(0, len(x.shape) - 1)
    size = x.shape[axis]
    start = w.number(0, size - 1)
    stop, step = w.number(start + 1, size), w.one(1, 1, 2, 3)
    if w.flag() and size > 1:
        piece = w.number(1, size)
        index = w.number(0, -(-size // piece) - 1)
        kept = min(size, (index + 1) * piece) - index * piece
        split = f"{x.name}.split({piece}, {w.axis(x, axis)})[{index}]"
        return w.put(split, *x.shape[:axis], kept, *x.shape[axis + 1 :])
    first = w.one(str(start), str(start - size))
    last = w.one(str(stop), str(stop - size)) if stop < size else w.one("", str(size), str(size + 5))
    cut = ", ".join([":"] * (axis + 1) + [f"{first}:{last}" + (f":{step}" if step > 1 else "")])
    return w.put(f"{x.name}[{cut}]", *x.shape[:axis], len(range(start, stop, step)), *x.shape[axis + 1 :])


@layer(2, 3)
def place(w: Writer, x: Var) -> Var | None:
    """One place of an axis, counted from either end."""
    axis = w.number(0, len(x.shape) - 1)
    index = w.number(-x.shape[axis], x.shape[axis] - 1)
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    if w.flag():
        return w.put(f"{x.name}.select({w.axis(x, axis)}, {index})", *rest)
    return w.put(f"{x.name}[{', '.join([':'] * (axis + 1) + [str(index)])}]", *rest)


@layer(1, 2)
def spread(w: Writer, x: Var) -> Var | None:
    """A new axis, of one place or of several that are the same."""
    axis, count = w.number(0, len(x.shape)), w.one(1, 2, 3)
    shape = (*x.shape[:axis], count, *x.shape[axis:])
    new = w.one(axis + 1, axis - len(x.shape) - 1)
    return w.put(f"{x.name}.unsqueeze({new}).expand(-1, {', '.join(map(str, shape))})", *shape)


@layer(2, 3)
def shuffle(w: Writer, x: Var) -> Var | None:
    """Channel shuffle."""
    groups, rest = w.one(*divisors(x.shape[0])), x.shape[1:]
    tail = "".join(f", {n}" for n in rest)
    split = f"{x.name}.reshape(-1, {groups}, {x.shape[0] // groups}{tail})"
    return w.put(f"{split}.transpose(1, 2).reshape(-1, {x.shape[0]}{tail})", *x.shape)


@layer(1, 2, 3, weight=2)
def reshape(w: Writer, x: Var) -> Var | None:
    """Another view of the same elements: flattened, permuted, or split."""
    form = w.one("flatten", "permute", "fold")
    if form == "permute" and len(x.shape) > 1:
        order = list(w.draw(st.permutations(range(len(x.shape)))))
        return w.put(f"{x.name}.permute(0, {', '.join(w.axis(x, a) for a in order)})", *(x.shape[a] for a in order))
    if form == "fold" and len(x.shape) < 3:
        outer = w.one(*divisors(x.shape[0]))
        sizes = (outer, x.shape[0] // outer, *x.shape[1:])
        return w.put(f"{x.name}.reshape(-1, {', '.join(map(str, sizes))})", *sizes)
    start = w.number(0, len(x.shape) - 1)
    total = Var("", x.shape[start:]).size
    return w.put(f"{x.name}.flatten({w.axis(x, start)})", *x.shape[:start], total)


@layer(2, 3, weight=3)
def picks(w: Writer, x: Var) -> Var | None:
    """Values by constant positions of an axis, in any order; rolled, repeated, mirrored."""
    axis = w.number(0, len(x.shape) - 1)
    size, at = x.shape[axis], w.axis(x, axis)
    form = w.one("list", "roll", "repeat", "interleave", "pad", "constant", "turn")
    if form == "list":
        positions = [w.number(-size, size - 1) for _ in range(w.number(1, 5))]
        return w.put(f"{x.name}[{':, ' * (axis + 1)}{positions}]", *_with(x, axis, len(positions)))
    if form == "roll":
        return w.put(f"{x.name}.roll({w.number(-size, size)}, {at})", *x.shape)
    if form == "repeat":
        times = ["1"] * axis + [w.one("1", "2", "3")] + ["1"] * (len(x.shape) - axis - 1)
        return w.put(f"{x.name}.repeat(1, {', '.join(times)})", *_with(x, axis, size * int(times[axis])))
    if form == "interleave":
        return w.put(f"{x.name}.repeat_interleave(2, {at})", *_with(x, axis, 2 * size))
    if form == "turn":
        quarters = w.number(-1, 3)
        turned = (*x.shape[:-2], x.shape[-1], x.shape[-2]) if quarters % 2 else x.shape
        return w.put(f"torch.rot90({x.name}, {quarters}, (-1, -2))", *turned)
    return _bordered(w, x, form)


def _with(x: Var, axis: int, size: int) -> Shape:
    return (*x.shape[:axis], size, *x.shape[axis + 1 :])


def _bordered(w: Writer, x: Var, form: str) -> Var | None:
    """A border of the image's own values, or of a number."""
    widths, sizes = [], list(x.shape)
    for axis in range(len(sizes) - 1, 0, -1):
        most = sizes[axis] - 1
        pair = [w.number(0, min(2, most)), w.number(0, min(3, most))]
        sizes[axis] += sum(pair)
        widths += pair
    number = w.one("0.5", "-3.0", "-torch.inf")
    if number == "-torch.inf" and form == "constant" and len(sizes) == 3 and min(sizes) > 3:
        padded = f"F.pad({x.name}, {tuple(widths)}, value=-torch.inf)"
        return w.put(f"F.max_pool2d({padded}, 4, 1)", sizes[0], sizes[1] - 3, sizes[2] - 3)
    if form == "constant":
        return w.put(f"F.pad({x.name}, {tuple(widths)}, value=0.5)", *sizes)
    mode = w.one("'reflect'", "'replicate'", "'circular'")
    return w.put(f"F.pad({x.name}, {tuple(widths)}, mode={mode})", *sizes)


@layer(3)
def written(w: Writer, x: Var) -> Var | None:
    """Slices of a copy, or of zeros, that are set to other slices."""
    channels = x.shape[0]
    start = w.number(0, channels - 1)
    step = w.one(1, 1, 2)
    target = w.put(w.one("{x}.clone()", "torch.zeros_like({x})").format(x=x.name), *x.shape)
    count = len(range(start, channels, step))
    w.body.append(f"{target.name}[:, {start}::{step}] = {x.name}[:, :{count}]")
    w.body.append(f"{target.name}[:, :, -1] = {w.one('0.25', f'{x.name}[:, :, 0]')}")
    return w.put(f"{target.name} + {x.name}", *x.shape)


@layer(3)
def patches(w: Writer, x: Var) -> Var | None:
    """Patches of an image as columns."""
    kernel = [w.number(1, min(3, n)) for n in x.shape[1:]]
    stride, counts = w.number(1, 3), list[int]()
    for size, length in zip(x.shape[1:], kernel, strict=True):
        counts.append((size - length) // stride + 1)
    columns = x.shape[0] * kernel[0] * kernel[1]
    return w.put(f"F.unfold({x.name}, {tuple(kernel)}, stride={stride})", columns, counts[0] * counts[1])


VIEWS: tuple[Layer, ...] = (part, place, spread, reshape)


@layer(2, 3, weight=3)
def views(w: Writer, x: Var) -> Var | None:
    """Views of views: nothing may be taken for dense."""
    found: Var | None = x
    for _ in range(w.number(2, 4)):
        ranks = {part: (1, 2, 3), place: (2, 3), spread: (1, 2), reshape: (1, 2, 3)}
        view = w.one(*(v for v in VIEWS if found is not None and len(found.shape) in ranks[v]))
        found = view(w, found) if found is not None else None
    return found
