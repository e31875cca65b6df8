"""Linear and cubic interpolation, and sampling by a grid, each result in one step.

The weights are multiplied with their elements, as torch does, and not differences with one weight: infinity minus
itself would be NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import fx
from tvm import te, tirx

from fxquant.targets.tvm_operators.operator import Converter, Importer, choose, emit, settings, shape

Taps = Callable[[Any, int, int, float | None, bool], list[tuple[Any, Any]]]


def upsample(dims: int, taps_of: Taps) -> Converter:
    """`upsample(x, sizes, align_corners, scales...)`; a scale that is given is used in place of the sizes'."""

    def convert(node: fx.Node, importer: Importer) -> Any:
        source, _, corners, *scales = settings(node)
        outer = len(shape(source)) - dims
        ends = list(zip(shape(source)[outer:], shape(node)[outer:], scales, strict=True))

        def function(x: Any) -> Any:
            def element(*index: Any) -> Any:
                taps = [taps_of(i, *end, bool(corners)) for i, end in zip(index[outer:], ends, strict=True)]
                return _blend(lambda places: x(*index[:outer], *places), taps, ())

            return te.compute(shape(node), element, name="upsample")

        return emit(importer, function, source)

    return convert


def _blend(value: Any, taps: Sequence[Sequence[tuple[Any, Any]]], places: tuple[Any, ...]) -> Any:
    """The innermost dimension first."""
    if len(places) == len(taps):
        return value(places)
    terms = [weight * _blend(value, taps, (*places, place)) for place, weight in taps[len(places)]]
    return sum(terms[1:], start=terms[0])


def _real(index: Any, size: int, wanted: int, scale: float | None, corners: bool) -> Any:
    """Where a result lies along one dimension of the operand."""
    if corners:
        return index.astype("float32") * _f((size - 1) / (wanted - 1) if wanted > 1 else 0.0)
    return (index.astype("float32") + _f(0.5)) * _f(1.0 / scale if scale else size / wanted) - _f(0.5)


def _cubic(index: Any, size: int, wanted: int, scale: float | None, corners: bool) -> list[tuple[Any, Any]]:
    """Four places, those outside moved to the border, and the weights of cubic convolution with a = -0.75."""
    real, a = _real(index, size, wanted, scale, corners), -0.75
    floor = tirx.floor(real)
    part = real - floor

    def near(x: Any) -> Any:
        return (_f(a + 2) * x - _f(a + 3)) * x * x + _f(1)

    def far(x: Any) -> Any:
        return ((_f(a) * x - _f(5 * a)) * x + _f(8 * a)) * x - _f(4 * a)

    weights = [far(part + _f(1)), near(part), near(_f(1) - part), far(_f(2) - part)]
    places = [_within(floor.astype("int32") + d, size) for d in (-1, 0, 1, 2)]
    return list(zip(places, weights, strict=True))


def _linear(index: Any, size: int, wanted: int, scale: float | None, corners: bool) -> list[tuple[Any, Any]]:
    """The two places along one dimension that a result lies between, and their weights."""
    one, real = _f(1), _real(index, size, wanted, scale, corners)
    real = real if corners else tirx.max(real, _f(0))
    near = _within(real.astype("int32"), size)
    far = tirx.min(near + 1, size - 1)
    weight = tirx.max(tirx.min(real - near.astype("float32"), one), _f(0))
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
            ends = [_unnormalized(places(n, row, column, 1 - a), sizes[a], padding, bool(corners)) for a in (0, 1)]
            if mode == 1:
                return _held(x, n, c, [tirx.nearbyint(at) for at in ends], sizes)
            low = [tirx.floor(at) for at in ends]
            found: Any = _f(0)
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight: Any = _f(1)
                for at, floor, d in zip(ends, low, (dy, dx), strict=True):
                    weight = weight * (at - floor if d else floor + _f(1) - at)
                corner = [floor + _f(d) for floor, d in zip(low, (dy, dx), strict=True)]
                found = found + _held(x, n, c, corner, sizes) * weight
            return found

        return te.compute(shape(node), element, name="grid_sample")

    return importer.block_builder.emit_te(function, importer.env[source], importer.env[grid])


def _unnormalized(at: Any, size: int, padding: int, corners: bool) -> Any:
    """A place from -1 ... 1 to elements, brought inside as the padding asks for; NaN becomes 0 there."""

    real = (at + _f(1)) * _f((size - 1) / 2) if corners else ((at + _f(1)) * _f(size) - _f(1)) * _f(0.5)
    if padding == 2:
        low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
        span = max(high - low, 0.0)
        if not span:
            return _f(0)
        away = tirx.abs(real - _f(low))
        turns = tirx.floor(away / _f(span))
        rest = away - turns * _f(span)
        odd = tirx.NE(turns - _f(2) * tirx.floor(turns * _f(0.5)), _f(0))
        real = choose(odd, _f(span) - rest, rest) + _f(low)
    if padding:
        # A comparison with NaN is false.
        real = choose(real > _f(0), choose(real < _f(size - 1), real, _f(size - 1)), _f(0))
    return real


def _held(x: Any, n: Any, c: Any, places: Sequence[Any], sizes: Sequence[int]) -> Any:
    """The element at whole places, 0 where they lie outside."""
    inside, own = [], []
    for place, size in zip(places, sizes, strict=True):
        first, last = _f(0), _f(size - 1)
        inside += [place >= first, place <= last]
        own.append(_within(choose(place >= first, choose(place <= last, place, last), first).astype("int32"), size))
    return choose(tirx.all(*inside), x(n, c, *own), _f(0))


def _within(place: Any, size: int) -> Any:
    """A place that was computed from floats, kept inside as integers: that is what can be proven of it."""
    return tirx.max(tirx.min(place, size - 1), 0)


def _f(value: float) -> Any:
    """A float32 constant, rounded as torch rounds it."""
    return tirx.const(float(np.float32(value)), "float32")


OPERATORS: dict[str, Converter] = {
    "upsample_linear1d.default": upsample(1, _linear),
    "upsample_bilinear2d.default": upsample(2, _linear),
    "upsample_trilinear3d.default": upsample(3, _linear),
    "upsample_bicubic2d.default": upsample(2, _cubic),
    "grid_sampler_2d.default": grid_sample,
}
