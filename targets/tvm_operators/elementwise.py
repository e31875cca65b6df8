"""How an operator on single elements is written: its operands by torch's promotion of types, then a body.

`arithmetic.py`, `comparisons.py` and `activations.py` hold the bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from tvm import tirx

from fxquant.targets.tvm_operators.operator import (
    Converter,
    Importer,
    cast,
    compute,
    emit,
    fake,
    kind,
    number,
    read,
    settings,
)

Body = Callable[..., Any]


def elementwise(body: Body, operands: int, *, own_type: bool = False) -> Converter:
    """`body(operands..., settings...)` for every element; operands are tensors, numbers or None.

    They are converted to the type of the result, or to their own common one (`own_type`): that is what predicates do.
    """

    def convert(node: fx.Node, importer: Importer) -> Any:
        given = settings(node)
        terms, rest = given[:operands], given[operands:]
        common = _common(terms) if own_type else fake(node).dtype
        tensors = list(dict.fromkeys(t for t in terms if isinstance(t, fx.Node)))

        def function(*values: Any) -> Any:
            place = dict(zip(tensors, values, strict=True))

            def element(*index: Any) -> Any:
                return cast(body(*(_term(t, place, index, common) for t in terms), *rest), fake(node).dtype)

            return compute(node, element, "elementwise")

        return emit(importer, function, *tensors)

    return convert


def _term(term: Any, place: Mapping[fx.Node, Any], index: tuple[Any, ...], dtype: torch.dtype) -> Any:
    if isinstance(term, fx.Node):
        return cast(read(place[term], index), dtype)
    return None if term is None else number(term, dtype)


def _common(terms: list[Any]) -> torch.dtype:
    values = [fake(t) if isinstance(t, fx.Node) else t for t in terms if t is not None]
    found: torch.dtype = values[0].dtype
    for value in values[1:]:
        found = torch.result_type(values[0], value)
    return found


def both(name: str, converter: Converter) -> dict[str, Converter]:
    """One converter for the overloads with a tensor and with a number."""
    return dict.fromkeys((f"{name}.Tensor", f"{name}.Scalar"), converter)


def like(value: float, other: Any) -> Any:
    """A number of the type of an expression."""
    return tirx.const(value, kind(other))


def is_float(value: Any) -> bool:
    """Whether an expression is of a floating-point type."""
    return kind(value).startswith("float")
