"""Which of PyTorch's core operators the sweep reaches: those that a case calls, or that torch spells it by."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.targets.islands.sweep import Case

_GRADIENTS, _RANDOM = "computes gradients, which nothing compiled needs", "gives random numbers, which are refused"
_SIZES, _WRITES = (
    "gives a size, which is known when a graph is compiled",
    "writes into an argument, which tracing takes out",
)
# Not tried, and why.
NOT_TRIED: dict[str, str] = {
    "_adaptive_avg_pool2d_backward.default": _GRADIENTS,
    "avg_pool2d_backward.default": _GRADIENTS,
    "convolution_backward.default": _GRADIENTS,
    "embedding_dense_backward.default": _GRADIENTS,
    "max_pool2d_with_indices_backward.default": _GRADIENTS,
    "native_group_norm_backward.default": _GRADIENTS,
    "native_layer_norm_backward.default": _GRADIENTS,
    "rand.default": _RANDOM,
    "randn.default": _RANDOM,
    "randperm.default": _RANDOM,
    "sym_numel.default": _SIZES,
    "sym_size.int": _SIZES,
    "sym_is_contiguous.default": _SIZES,
    "resize_.default": "changes its operand, which graphs that are traced never do",
    "sym_storage_offset.default": _SIZES,
    "sym_stride.int": _SIZES,
    "atan2.out": _WRITES,
    "empty_strided.default": "gives whatever memory holds",
    "nonzero.default": "gives as many places as there are, which no compiled shape can say",
}


class _Called(TorchFunctionMode):
    """Notes the operators that are called by name."""

    def __init__(self, seen: set[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func).removeprefix("aten."))
        return func(*args, **(kwargs or {}))


class _Computed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that are computed, in the place of those that are called."""

    def __init__(self, seen: set[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func).removeprefix("aten."))
        return func(*args, **(kwargs or {}))


def core_operators() -> frozenset[str]:
    """The overloads that torch tags as core: 'add.Tensor', 'convolution.default', ..."""
    found = set[str]()
    # Not `dir`, which knows only those that somebody has asked for before.
    for name in {name.removeprefix("aten::").split(".")[0] for name in torch._C._dispatch_get_all_op_names()
                 if name.startswith("aten::")}:  # fmt: skip
        packet = getattr(torch.ops.aten, name)
        for overload in getattr(packet, "overloads", list)():
            if torch.Tag.core in getattr(packet, overload).tags:
                found.add(f"{name}.{overload}")
    return frozenset(found)


def reached(cases: Iterable[Case]) -> frozenset[str]:
    """The overloads that are called or computed when the cases run in torch."""
    seen = set[str]()
    with _Called(seen), _Computed(seen), torch.no_grad():
        for case in cases:
            with suppress(RuntimeError):  # torch itself refuses some settings
                case.function(*(x.clone() for x in case.inputs))
    return frozenset(seen)
