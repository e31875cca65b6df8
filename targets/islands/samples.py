"""What an operation is tried on: ordinary numbers, and those that are special to floats.

Integers are taken from ranges that torch accepts for this operation: an index must name something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fxquant.errors import LoweringError
from fxquant.targets.islands.operation import Operation, quiet
from fxquant.targets.islands.trial import Array

# With fewer numbers among its operands an operation is tried on each kind of special numbers by itself, so that none
# hides the others; with more all are strewn thinly over one sample.
SMALL = 1 << 16
DENSE, THIN = 0.2, 0.02
PLAIN = (0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -2.5, 100.0, -100.0, 1e4, 1e-4)
NAN, INFINITE = (float("nan"),), (float("inf"), float("-inf"))

# Of equal elements torch may name either: each special number is there once at most.
_TIES_ARE_FREE = {"topk", "sort", "argsort", "kthvalue", "median", "nanmedian", "mode"}
# Torch's own kernels, of which it takes one by the processor, differ in what they make of infinity here.
_FINITE = {"scaled_dot_product_attention", "gelu", "var_mean", "std_mean"}
# Whether an infinite weight meets the padding is another thing in each of torch's kernels: weights stay ordinary.
_WEIGHTED = {"conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
# Which operand must be in order.
_IN_ORDER = {"searchsorted": 0, "bucketize": 1}


@dataclass(frozen=True)
class Sample:
    """Operands, and what torch makes of them."""

    inputs: tuple[Tensor, ...]
    wanted: tuple[Tensor, ...]


@dataclass(frozen=True)
class Strewn:
    """Special numbers, and how large a part of an operand they are; `once`: no more than one of each."""

    values: tuple[float, ...] = ()
    share: float = 0.0
    once: bool = False

    def over(self, ordinary: Array, random: np.random.Generator) -> Array:
        """Some of the numbers replaced."""
        if not self.values or not ordinary.size:
            return ordinary
        found = ordinary.reshape(-1).copy()
        if self.once:
            # Both zeros are equal.
            values = np.array([v for v in self.values if str(v) != "-0.0"])[: max(found.size // 4, 1)]
            found[random.permutation(found.size)[: values.size]] = values
        else:
            chosen = random.random(found.size) < self.share
            found[chosen] = random.choice(np.array(self.values), int(chosen.sum()))
        return found.reshape(ordinary.shape)


def samples(operation: Operation, fakes: Sequence[Tensor], constants: Mapping[int, Tensor]) -> Iterator[Sample]:
    """Operands of these shapes and types, constants being what they are. Equal ones in every process."""
    random = np.random.default_rng(0)
    for strewn in _kinds(operation.name, sum(fake.numel() for fake in fakes) < SMALL):
        found = _accepted(operation, fakes, constants, random, strewn)
        if found is not None:
            yield found
        elif not strewn.values:
            raise LoweringError("torch itself takes none of the operands that it was tried on")


def _kinds(name: str, small: bool) -> list[Strewn]:
    several = [PLAIN] if name in _FINITE else [PLAIN, NAN, INFINITE]
    once = name in _TIES_ARE_FREE
    if small:
        return [Strewn(), *(Strewn(values, DENSE, once) for values in several)]
    return [Strewn(), Strewn(tuple(v for values in several for v in values), THIN, once)]


def _accepted(
    operation: Operation,
    fakes: Sequence[Tensor],
    constants: Mapping[int, Tensor],
    random: np.random.Generator,
    strewn: Strewn,
) -> Sample | None:
    """A sample with integers of the widest range for which torch raises nothing."""
    for ends in _ranges(fakes):
        inputs = []
        for i, fake in enumerate(fakes):
            ordinary = i > 0 and operation.name in _WEIGHTED
            drawn = _operand(fake, random, Strewn() if ordinary else strewn, ends)
            if _IN_ORDER.get(operation.name) == i and drawn.dim():
                drawn = torch.nan_to_num(drawn).sort(-1)[0]
            inputs.append(constants[i].clone() if i in constants else drawn)
        try:
            with torch.no_grad(), quiet():
                return Sample(tuple(inputs), operation(*(x.clone() for x in inputs)))
        except Exception:  # whatever torch says to a number that is out of its range
            continue
    return None


def _ranges(fakes: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Widest first; -n ... n-1 is what may name one of n things."""
    if all(f.dtype.is_floating_point or f.dtype == torch.bool for f in fakes):
        return [(0, 1)]
    sizes = sorted({int(n) for fake in fakes for n in fake.shape}, reverse=True)
    return [(-50, 50), (0, 50), *(r for n in sizes for r in ((-n, n), (0, n), (1, n + 1))), (0, 1)]


def _operand(fake: Tensor, random: np.random.Generator, strewn: Strewn, ends: tuple[int, int]) -> Tensor:
    shape = tuple(fake.shape)
    if fake.dtype.is_floating_point:
        return torch.from_numpy(strewn.over(np.asarray(random.standard_normal(shape)), random)).to(fake.dtype)
    low, high = (0, 2) if fake.dtype == torch.bool else ends
    return torch.from_numpy(np.asarray(random.integers(low, high, shape))).to(fake.dtype)
