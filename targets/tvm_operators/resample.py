"""Linear interpolation in one, two and three dimensions, each result in one step.

The weights are multiplied with their elements, as torch does, and not differences with one weight: infinity minus
itself would be NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx
from tvm import te, tirx

from fxquant.targets.tvm_operators.operator import Converter, Importer, choose, emit, settings, shape


def linear(dims: int) -> Converter:
    """`upsample_linear(x, sizes, align_corners, scales...)`; a scale that is given is used in place of the sizes'."""

    def convert(node: fx.Node, importer: Importer) -> Any:
        source, _, corners, *scales = settings(node)
        outer = len(shape(source)) - dims
        ends = list(zip(shape(source)[outer:], shape(node)[outer:], scales, strict=True))

        def function(x: Any) -> Any:
            def element(*index: Any) -> Any:
                taps = [_taps(i, *end, bool(corners)) for i, end in zip(index[outer:], ends, strict=True)]
                return _blend(lambda places: x(*index[:outer], *places), taps, ())

            return te.compute(shape(node), element, name="linear")

        return emit(importer, function, source)

    return convert


def _blend(value: Any, taps: Sequence[Sequence[tuple[Any, Any]]], places: tuple[Any, ...]) -> Any:
    """The innermost dimension first."""
    if len(places) == len(taps):
        return value(places)
    (near, first), (far, second) = taps[len(places)]
    return first * _blend(value, taps, (*places, near)) + second * _blend(value, taps, (*places, far))


def _taps(index: Any, size: int, wanted: int, scale: float | None, corners: bool) -> list[tuple[Any, Any]]:
    """The two places along one dimension that a result lies between, and their weights."""
    one, half = tirx.const(1.0, "float32"), tirx.const(0.5, "float32")
    at = index.astype("float32")
    if corners:
        step = (size - 1) / (wanted - 1) if wanted > 1 else 0.0
        real = at * tirx.const(_single(step), "float32")
    else:
        step = 1.0 / scale if scale else size / wanted
        real = tirx.max((at + half) * tirx.const(_single(step), "float32") - half, tirx.const(0.0, "float32"))
    near = tirx.min(real.astype("int32"), size - 1)
    far = tirx.min(near + 1, size - 1)
    weight = tirx.max(tirx.min(real - near.astype("float32"), one), tirx.const(0.0, "float32"))
    return [(near, one - weight), (far, weight)]


def grid_sample(node: fx.Node, importer: Importer) -> Any:
    """`grid_sampler_2d(x, grid, mode, padding, align_corners)`, bilinear (0) and nearest (1).

    The grid holds (x, y) for each place of the result. Padding: zeros (0), the border (1), reflection (2).
    """
    source, grid, mode, padding, corners = settings(node)
    if mode not in (0, 1):
        raise ValueError("grid_sample with mode 'bicubic'")
    sizes = shape(source)[2:]

    def function(x: Any, places: Any) -> Any:
        def element(n: Any, c: Any, row: Any, column: Any) -> Any:
            ends = [
                _unnormalized(places(n, row, column, 1 - a), sizes[a], padding, bool(corners)) for a in (0, 1)
            ]
            if mode == 1:
                return _held(x, n, c, [tirx.nearbyint(at) for at in ends], sizes)
            low = [tirx.floor(at) for at in ends]
            found: Any = tirx.const(0.0, "float32")
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight: Any = tirx.const(1.0, "float32")
                for at, floor, d in zip(ends, low, (dy, dx), strict=True):
                    weight = weight * (at - floor if d else floor + tirx.const(1.0, "float32") - at)
                corner = [floor + tirx.const(float(d), "float32") for floor, d in zip(low, (dy, dx), strict=True)]
                found = found + _held(x, n, c, corner, sizes) * weight
            return found

        return te.compute(shape(node), element, name="grid_sample")

    return importer.block_builder.emit_te(function, importer.env[source], importer.env[grid])


def _unnormalized(at: Any, size: int, padding: int, corners: bool) -> Any:
    """A place from -1 ... 1 to elements, brought inside as the padding asks for; NaN becomes 0 there."""

    def f(value: float) -> Any:
        return tirx.const(_single(value), "float32")

    real = (at + f(1)) * f((size - 1) / 2) if corners else ((at + f(1)) * f(size) - f(1)) * f(0.5)
    if padding == 2:
        low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
        span = max(high - low, 0.0)
        if not span:
            return f(0)
        away = tirx.abs(real - f(low))
        turns = tirx.floor(away / f(span))
        rest = away - turns * f(span)
        odd = tirx.NE(turns - f(2) * tirx.floor(turns * f(0.5)), f(0))
        real = choose(odd, f(span) - rest, rest) + f(low)
    if padding:
        # A comparison with NaN is false.
        real = choose(real > f(0), choose(real < f(size - 1), real, f(size - 1)), f(0))
    return real


def _held(x: Any, n: Any, c: Any, places: Sequence[Any], sizes: Sequence[int]) -> Any:
    """The element at whole places, 0 where they lie outside."""
    inside, own = [], []
    for place, size in zip(places, sizes, strict=True):
        first, last = tirx.const(0.0, "float32"), tirx.const(float(size - 1), "float32")
        inside += [place >= first, place <= last]
        own.append(choose(place >= first, choose(place <= last, place, last), first).astype("int32"))
    return choose(tirx.all(*inside), x(n, c, *own), tirx.const(0.0, "float32"))


def _single(value: float) -> float:
    """Rounded as torch rounds it."""
    return float(np.float32(value))


OPERATORS: dict[str, Converter] = {
    "upsample_linear1d.default": linear(1),
    "upsample_bilinear2d.default": linear(2),
    "upsample_trilinear3d.default": linear(3),
    "grid_sampler_2d.default": grid_sample,
}
