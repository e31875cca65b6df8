"""Sums and maxima over windows: pooling and convolution in any number of dimensions.

What lies outside of the image takes no part: a weight that is infinite is not multiplied with padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import fx
from tvm import te, tirx

from fxquant.targets.tvm_operators.operator import (
    Converter,
    Importer,
    choose,
    emit,
    is_nan,
    kind,
    settings,
    shape,
)
from fxquant.targets.tvm_operators.reductions import lowest


def spread(setting: Any, dims: int) -> list[int]:
    """A setting for each dimension; torch takes one for all."""
    found = [int(setting)] if isinstance(setting, int) else [int(n) for n in setting]
    return found * dims if len(found) == 1 else found


class Windows:
    """Where the elements of windows lie: `taps` are the reduction axes over one."""

    def __init__(self, sizes: Sequence[int], size: Any, stride: Any, padding: Any, dilation: Any = 1) -> None:
        dims = len(sizes)
        self.sizes = list(sizes)
        self.size, self.padding, self.dilation = (spread(s, dims) for s in (size, padding, dilation))
        self.stride = spread(stride if stride is not None and stride != [] else size, dims)
        self.taps = [te.reduce_axis((0, n), name=f"tap{a}") for a, n in enumerate(self.size)]

    def places(self, index: Sequence[Any]) -> list[Any]:
        """Positions in the image, which may lie outside."""
        steps = zip(index, self.taps, self.stride, self.padding, self.dilation, strict=True)
        return [i * s - p + t * d for i, t, s, p, d in steps]

    def holds(self, places: Sequence[Any]) -> Any:
        """Whether a position lies inside of the image."""
        return tirx.all(*(c for p, n in zip(places, self.sizes, strict=True) for c in (p >= 0, p < n)))

    def inside(self, places: Sequence[Any]) -> list[Any]:
        """The nearest position inside, for a read whose value is not taken elsewhere."""
        return [tirx.max(tirx.min(p, n - 1), 0) for p, n in zip(places, self.sizes, strict=True)]


def max_pool(dims: int) -> Converter:
    """`max_pool_with_indices(x, size, stride, padding, dilation, ceil_mode)`: maxima, and their places."""

    def convert(node: fx.Node, importer: Importer) -> Any:
        source, size, stride, padding, dilation, _ = settings(node)
        outer = len(shape(source)) - dims

        def function(x: Any) -> Any:
            windows = Windows(shape(source)[outer:], size, stride, padding, dilation)

            def element(*index: Any) -> Any:
                places = windows.places(index[outer:])
                flat: Any = tirx.const(0, "int32")
                for place, n in zip(places, windows.sizes, strict=True):
                    flat = flat * n + place
                holds = windows.holds(places)
                value = x(*index[:outer], *windows.inside(places))
                far = tirx.max_value("int64")
                return _LAST_NAN(
                    (choose(holds, flat.astype("int64"), far), choose(holds, value, lowest(kind(value)))),
                    axis=windows.taps,
                )

            found = te.compute(shape(node), element, name="max_pool")
            return [found[1], found[0]]

        found = emit(importer, function, source)
        return [found[0], found[1]]

    return convert


def adaptive_max_pool(node: fx.Node, importer: Importer) -> Any:
    """`adaptive_max_pool(x, sizes)`: window i of m over n elements is floor(i n / m) ... ceil((i + 1) n / m) - 1."""
    source, _ = settings(node)
    dims = len(spread(settings(node)[1], 1))
    outer = len(shape(source)) - dims
    sizes, wanted = shape(source)[outer:], shape(node)[outer:]

    def function(x: Any) -> Any:
        reach = [max(-(-(i + 1) * n // m) - i * n // m for i in range(m)) for n, m in zip(sizes, wanted, strict=True)]
        windows = Windows(sizes, reach, 1, 0)

        def element(*index: Any) -> Any:
            places, holds = [], list[Any]()
            flat: Any = tirx.const(0, "int32")
            for i, t, n, m in zip(index[outer:], windows.taps, sizes, wanted, strict=True):
                place = tirx.floordiv(i * n, m) + t
                holds.append(place < tirx.floordiv((i + 1) * n + m - 1, m))
                places.append(place)
                flat = flat * n + place
            value, far = x(*index[:outer], *windows.inside(places)), tirx.max_value("int64")
            hit = tirx.all(*holds)
            pair = choose(hit, flat.astype("int64"), far), choose(hit, value, lowest(kind(value)))
            return _LAST_NAN(pair, axis=windows.taps)

        found = te.compute(shape(node), element, name="adaptive_max_pool")
        return [found[1], found[0]]

    found = emit(importer, function, source)
    return [found[0], found[1]]


def _better(a: Any, b: Any) -> Any:
    """As torch's loop: each NaN takes the place of what was found before."""
    wins = tirx.any(is_nan(b[1]), b[1] > a[1], tirx.all(tirx.EQ(b[1], a[1]), b[0] < a[0]))
    return choose(wins, b[0], a[0]), choose(wins, b[1], a[1])


_LAST_NAN = te.comm_reducer(
    _better, lambda place, value: (tirx.max_value(str(place)), lowest(str(value))), name="best_in_window"
)


def avg_pool(dims: int) -> Converter:
    """`avg_pool(x, size, stride, padding, ceil_mode, count_include_pad, divisor_override)`."""

    def convert(node: fx.Node, importer: Importer) -> Any:
        source, size, stride, padding, _, with_padding, *rest = settings(node)
        divisor = rest[0] if rest else None
        outer = len(shape(source)) - dims

        def function(x: Any) -> Any:
            windows = Windows(shape(source)[outer:], size, stride, padding)

            def total(*index: Any) -> Any:
                places = windows.places(index[outer:])
                value = x(*index[:outer], *windows.inside(places))
                return te.sum(choose(windows.holds(places), value, tirx.const(0, kind(value))), axis=windows.taps)

            def mean(*index: Any) -> Any:
                count: Any = divisor
                if divisor is None:
                    count = prod(_counts(windows, index[outer:], bool(with_padding)), start=tirx.const(1, "int32"))
                    count = count.astype(kind(sums(*index)))
                return sums(*index) / count

            sums = te.compute(shape(node), total, name="sums")
            return te.compute(shape(node), mean, name="mean")

        return emit(importer, function, source)

    return convert


def _counts(windows: Windows, index: Sequence[Any], with_padding: bool) -> list[Any]:
    """How many elements a window averages along each dimension: a window may reach beyond the padding, too."""
    found = []
    for i, n, k, s, p in zip(index, windows.sizes, windows.size, windows.stride, windows.padding, strict=True):
        start = i * s - p
        end = tirx.min(start + k, n + p)
        found.append(end - start if with_padding else tirx.min(end, n) - tirx.max(start, 0))
    return found


def convolution(node: fx.Node, importer: Importer) -> Any:
    """`convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)`."""
    x, weight, bias, stride, padding, dilation, transposed, _, groups = settings(node)
    dims = len(shape(weight)) - 2
    sizes = shape(x)[-dims:]

    def function(image: Any, taps: Any, *biases: Any) -> Any:
        windows = Windows(sizes, shape(weight)[2:], stride, padding, dilation)
        body = _transposed if transposed else _direct
        sums = te.compute(shape(node), body(image, taps, windows, groups, shape(node)[-dims - 1]), name="convolution")
        if not biases:
            return sums
        return te.compute(shape(node), lambda *i: sums(*i) + biases[0](i[-dims - 1]), name="biased")

    return emit(importer, function, x, weight, *([bias] if bias is not None else []))


def _direct(x: Any, weight: Any, windows: Windows, groups: int, channels: int) -> Any:
    depth = int(weight.shape[1])
    inner = te.reduce_axis((0, depth), name="channel")

    def element(*index: Any) -> Any:
        dims = len(windows.sizes)
        out, places = index[-dims - 1], windows.places(index[-dims:])
        source = tirx.floordiv(out, channels // groups) * depth + inner
        value = x(*index[: -dims - 1], source, *windows.inside(places)) * weight(out, inner, *windows.taps)
        if any(windows.padding):
            value = choose(windows.holds(places), value, tirx.const(0, kind(value)))
        return te.sum(value, axis=[inner, *windows.taps])

    return element


def _transposed(x: Any, weight: Any, windows: Windows, groups: int, channels: int) -> Any:
    """Each result sums the elements whose window it lies in: those at (place + padding - tap * dilation) / stride."""
    depth, width = int(weight.shape[0]) // groups, channels // groups
    inner = te.reduce_axis((0, depth), name="channel")

    def element(*index: Any) -> Any:
        dims = len(windows.sizes)
        out = index[-dims - 1]
        steps = zip(index[-dims:], windows.taps, windows.padding, windows.dilation, strict=True)
        spread_ = [i + p - t * d for i, t, p, d in steps]
        places = [tirx.floordiv(n, s) for n, s in zip(spread_, windows.stride, strict=True)]
        meets = [tirx.EQ(tirx.floormod(n, s), 0) for n, s in zip(spread_, windows.stride, strict=True)]
        source = tirx.floordiv(out, width) * depth + inner
        value = x(*index[: -dims - 1], source, *windows.inside(places)) * weight(
            source, tirx.floormod(out, width), *windows.taps
        )
        hit = tirx.all(windows.holds(places), *meets)
        return te.sum(choose(hit, value, tirx.const(0, kind(value))), axis=[inner, *windows.taps])

    return element


OPERATORS: dict[str, Converter] = {
    "max_pool2d_with_indices.default": max_pool(2),
    "max_pool3d_with_indices.default": max_pool(3),
    "avg_pool1d.default": avg_pool(1),
    "avg_pool2d.default": avg_pool(2),
    "avg_pool3d.default": avg_pool(3),
    "adaptive_max_pool2d.default": adaptive_max_pool,
    "adaptive_max_pool3d.default": adaptive_max_pool,
    "convolution.default": convolution,
}
