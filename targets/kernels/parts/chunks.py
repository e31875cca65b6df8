"""Pointwise convolutions over dense pixels, as rows of a length that kernels like."""

from __future__ import annotations

from dataclasses import replace

from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.contract.problem import ConvProblem

# Pixels that a pointwise convolution takes for a row.
CHUNK = 32


def chunked(problem: ConvProblem) -> ConvProblem:
    """A pointwise convolution over dense pixels as one over rows of up to CHUNK pixels; anything else as it is.

    Small images have short rows, and what is done once per row costs least with long ones.
    """
    views = [v for v in (problem.x, problem.out, problem.epilogue.residual) if v is not None]
    dense = all(v.shape[1] == 1 or v.strides[1] == v.shape[2] * v.strides[2] for v in views)
    if not problem.is_pointwise or problem.stride != (1, 1) or not dense:
        return problem
    pixels = problem.out.shape[1] * problem.out.shape[2]
    chunk = max(n for n in range(1, CHUNK + 1) if pixels % n == 0)
    form = problem.epilogue
    residual = None if form.residual is None else _rows(form.residual, chunk)
    return replace(problem, x=_rows(problem.x, chunk), out=_rows(problem.out, chunk), epilogue=form.beside(residual))


def _rows(spec: TensorSpec, chunk: int) -> TensorSpec:
    channels, height, width = spec.shape
    channel, _, pixel = spec.strides
    return replace(spec, shape=(channels, height * width // chunk, chunk), strides=(channel, chunk * pixel, pixel))
