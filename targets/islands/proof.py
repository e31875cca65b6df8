"""An island's code beside torch: compiled for this machine, run on samples, and compared number by number.

Shapes and types are compared before anything runs. The island is right for every target if it is here: its loops are
the same, and a target's code generator is not what is in doubt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from fxquant.errors import LoweringError
from fxquant.runtime.host import host_machine
from fxquant.targets.islands.samples import Sample
from fxquant.targets.islands.trial import Array, Slot, Trial, results_of
from fxquant.targets.object_cache import compiled
from fxquant.targets.tvm_islands import Island, Value
from fxquant.targets.tvm_operators.operator import type_of

# Sums in float have no fixed order, and functions differ by their last digits: as a part of the number itself, of the
# largest one of the result, and of the largest operand, which may be among those that cancel each other.
OF_ITSELF, OF_LARGEST, OF_OPERANDS = 2e-5, 2e-6, 2e-7


def require_shapes(island: Island, wanted: Sequence[Tensor]) -> None:
    """Raise LoweringError, with the reason alone, where a result has another shape or type than torch's."""
    found = [(value.shape, value.dtype) for value in island.results]
    for ours, torchs in zip(found, [(tuple(w.shape), type_of(w.dtype)) for w in wanted], strict=True):
        if ours != torchs:
            raise LoweringError(
                f"compiled it gives {ours[1]}{list(ours[0])} where torch gives {torchs[1]}{list(torchs[0])}"
            )


def prove(island: Island, samples: Iterable[Sample]) -> None:
    """Raise LoweringError, with the reason alone, where compiled code differs from torch."""
    taken = list(samples)
    for sample, found in zip(taken, results_of(_trial(island, taken)), strict=True):
        largest = max((_largest(x.numpy()) for x in sample.inputs if x.dtype.is_floating_point), default=0.0)
        for ours, torchs in zip(found, sample.wanted, strict=True):
            apart = difference(ours, torchs.numpy(), largest)
            if apart:
                raise LoweringError(f"compiled it differs from torch: {apart}")


def _trial(island: Island, samples: Sequence[Sample]) -> Trial:
    slots: dict[Value, int] = {}
    values = (v for step in island.steps for v in (*step.operands, *step.results))
    for value in (*island.inputs, *island.constants, *values, *island.results):
        slots.setdefault(value, len(slots))
    functions = {f"step{i}": step.kernel for i, step in enumerate(island.steps)}
    target = {"kind": "llvm", "mtriple": f"{host_machine()}-linux-gnu"}
    try:
        code = compiled(functions, target)
    except Exception as error:  # whatever a code generator does not take, none of it is the caller's
        raise LoweringError(f"TVM has no code for it: {_reason(error)}") from error
    return Trial(
        code=code,
        slots=tuple(Slot(v.dtype, v.shape, island.constants.get(v)) for v in slots),
        calls=tuple(
            (f"step{i}", tuple(slots[v] for v in (*step.operands, *step.results)))
            for i, step in enumerate(island.steps)
        ),
        inputs=tuple(slots[v] for v in island.inputs),
        results=tuple(slots[v] for v in island.results),
        runs=[[x.numpy() for x in sample.inputs] for sample in samples],
    )


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _largest(array: Array) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def difference(found: Array, wanted: Array, operands: float = 0.0) -> str:
    """How two arrays of one shape differ, '' where they do not but for what float rounding may do.

    `operands` is the largest magnitude of what they were computed from.
    """
    if not np.issubdtype(wanted.dtype, np.floating):
        return _first(found != wanted, found, wanted)
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)
    slack = OF_LARGEST * _largest(b) + OF_OPERANDS * operands
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= OF_ITSELF * np.abs(b) + slack
        wrong = np.where(finite, ~near, (a != b) & ~(np.isnan(a) & np.isnan(b)))
    return _first(wrong, found, wanted)


def _first(wrong: Array, found: Array, wanted: Array) -> str:
    count = int(np.count_nonzero(wrong))
    if not count:
        return ""
    place = tuple(int(n) for n in np.argwhere(wrong)[0])
    return (
        f"{count} of {math.prod(wanted.shape)} values, the first at {list(place)}: "
        f"{found[place]} in place of {wanted[place]}"
    )
