"""A sweep over operators: each is left in float, compiled, and compared with torch on numbers that its proof never saw.

A case is a line in `cases_*.py`: a name, a function of tensors, and the tensors. What may come of it is `equal`, or
`refused` by an FxquantError that names the operator and its line; `different` and `crashed` are faults.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxquant
from fxquant.errors import FxquantError, RecipeError
from fxquant.targets.islands.proof import difference

Kind = Literal["equal", "refused", "different", "crashed"]
ALL_FLOAT = {"rules": [{"match": "*", "keep_float": True}]}
FRESH = 7


@dataclass(frozen=True)
class Case:
    """One operator with one setting: `function(*inputs)` gives a tensor, or several."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    # Infinity and NaN are tried as well: not where torch itself disagrees about them, or names any of equal elements.
    special: bool = True


@dataclass(frozen=True)
class Outcome:
    """What came of a case, and why it is not equal."""

    name: str
    kind: Kind
    reason: str
    seconds: float


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        """Tensors alone, in a flat tuple."""
        return tuple(value for value in tree_leaves(self.function(*inputs)) if isinstance(value, Tensor))


def outcome(case: Case) -> Outcome:
    """The case down the whole road."""
    start = time.perf_counter()
    kind, reason = _tried(case)
    return Outcome(case.name, kind, reason, round(time.perf_counter() - start, 2))


def _tried(case: Case) -> tuple[Kind, str]:
    model = _Module(case.function).eval()
    inputs = tuple(x.clone() for x in case.inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's and numpy's about the model itself
            graph = fxquant.trace(model, inputs, dynamic_batch=False)
            net = fxquant.compile(_quantized(graph, inputs), against_float=False, threads=1)
        for fed in _fed(case):
            with torch.no_grad():
                wanted = model(*(x.clone() for x in fed))
            apart = _apart(tree_leaves(net(*fed)), wanted)
            if apart:
                return "different", apart
    except FxquantError as error:
        return "refused", str(error)
    except Exception as error:
        return "crashed", f"{type(error).__name__}: {error}"
    return "equal", ""


def _quantized(graph: Any, inputs: Sequence[Tensor]) -> Any:
    try:
        return fxquant.quantize(graph, [tuple(inputs)], recipe=ALL_FLOAT, progress=False)
    except RecipeError:  # of a constant nothing is left that a rule could match
        return fxquant.quantize(graph, [tuple(inputs)], progress=False)


def _fed(case: Case) -> list[list[Tensor]]:
    """Fresh numbers in place of the floats, and some that are special."""
    random = np.random.default_rng(FRESH)

    def drawn(x: Tensor, special: bool) -> Tensor:
        if not x.dtype.is_floating_point:
            return x.clone()
        found = random.standard_normal(tuple(x.shape))
        if special:
            chosen = random.random(found.shape) < 0.15
            found = np.where(chosen, random.choice([np.nan, np.inf, -np.inf, 0.0, 100.0], found.shape), found)
        return torch.from_numpy(np.asarray(found)).to(x.dtype)

    return [[drawn(x, special) for x in case.inputs] for special in ((False, True) if case.special else (False,))]


def _apart(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> str:
    for ours, torchs in zip(found, wanted, strict=True):
        if ours.shape != torchs.shape or ours.dtype != torchs.dtype:
            return f"{tuple(ours.shape)} {ours.dtype} in place of {tuple(torchs.shape)} {torchs.dtype}"
        apart = difference(ours.numpy(), torchs.numpy())
        if apart:
            return apart
    return ""
