"""Operators in a graph file, by name: those that compute tensors from tensors and do nothing else.

    fxq.conv.default    aten.reshape.default    operator.getitem

All primitives; operators of ATen that the dispatcher knows, that write nothing, and whose arguments are plain values;
and Python's arithmetic for sizes. A name is looked up, never evaluated.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

_NAME = re.compile(r"(fxq|aten)\.([a-zA-Z]\w*|_[a-z]\w*)\.(\w+)", re.ASCII)
_PLAIN = frozenset("Tensor int SymInt float number bool str Device Layout Generator Optional List".split())
# A file is read; memory that was never written; layouts of other libraries, which trust addresses; gradients.
_REFUSED = re.compile(
    r"from_file|(new_)?empty(_.*)?|.*(sparse|nested|mkldnn|cudnn|miopen|fbgemm|quantized|storage|pin_|_backward).*"
)
# Private operators are refused, for some trust their arguments with addresses: but not the core of ATen, and these.
_PRIVATE = frozenset({"_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d"})

_FUNCTIONS = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg)
_SYMBOLIC = (torch.sym_max, torch.sym_min)
PYTHON: dict[str, Callable[..., Any]] = {
    **{f"operator.{function.__name__}": function for function in (*_FUNCTIONS, operator.getitem)},
    **{f"torch.{function.__name__}": function for function in _SYMBOLIC},
}


def name_of(target: Any) -> str | None:
    """The name of a function that a graph calls; None for one that a graph file cannot hold."""
    if isinstance(target, OpOverload):
        name = f"{target.namespace}.{target._schema.name.partition('::')[2]}.{target._overloadname}"
        return name if find(name) is target else None
    return next((name for name, function in PYTHON.items() if function is target), None)


def find(name: str) -> Callable[..., Any] | None:
    """The function of a name; None for one that a graph file cannot hold, whether it exists or not."""
    if name in PYTHON:
        return PYTHON[name]
    parts = _NAME.fullmatch(name)
    if parts is None:
        return None
    packet = getattr(getattr(torch.ops, parts[1]), parts[2], None)
    found = getattr(packet, parts[3], None) if isinstance(packet, OpOverloadPacket) else None
    if not isinstance(found, OpOverload):
        return None
    return found if parts[1] == "fxq" or _only_computes(found, parts[2]) else None


def _only_computes(op: OpOverload, name: str) -> bool:
    schema = op._schema
    known = schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
    if known not in _dispatched() or schema.is_mutable or torch.Tag.generated in op.tags:
        return False
    if _REFUSED.fullmatch(name) or (name.startswith("_") and torch.Tag.core not in op.tags and name not in _PRIVATE):
        return False
    kinds = [str(value.type) for value in (*schema.arguments, *schema.returns)]
    return all(_PLAIN.issuperset(re.findall(r"\w+", kind)) for kind in kinds)


def _dispatched() -> frozenset[str]:
    """Names that the dispatcher knows: TorchScript has operators beside them, for files and the like."""
    global _DISPATCHED
    if not _DISPATCHED:
        _DISPATCHED = frozenset(torch._C._dispatch_get_all_op_names())
    return _DISPATCHED


_DISPATCHED: frozenset[str] = frozenset()
