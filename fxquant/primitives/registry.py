"""How a primitive is registered: its body is the schema and the exact meaning, beside it stands all else about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fxquant.qparams import DTYPES
from fxquant.scheme import STORAGE, Scheme

PRIMITIVES: dict[str, Any] = {}

# Multiply-accumulates of a call, from the shape of its result and those of its tensors by name.
Macs = Callable[[Sequence[int], Mapping[str, Sequence[int]]], int]


class Rounded(NamedTuple):
    """The names of an operand that is rounded, of its multiplier, and of its shift."""

    operand: str
    multiplier: str
    shift: str


@dataclass(frozen=True)
class Facts:
    """What others must know of a primitive, beside its meaning.

    `macs` counts its multiply-accumulates. `has_weights`: its operand `weight` is a constant by output channel, and its
    result are accumulators. `drops`: its argument `drop` says how many bits its exact result loses, so that 32 hold it.
    `rounds` are the operands that it rounds. `is_image`: its result is new memory, in the order that kernels of images
    like, so that a border can lie around it.
    """

    macs: Macs | None = None
    has_weights: bool = False
    drops: bool = False
    rounds: tuple[Rounded, ...] = ()
    is_image: bool = False


FACTS: dict[Any, Facts] = {}


def primitive(shape: Callable[..., Tensor], **facts: Any) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register the decorated function as `torch.ops.fxq.<name>`, with its `Facts`.

    `shape` takes the same arguments and gives an empty tensor of the result's shape and dtype (it sees fake tensors,
    whose batch may be symbolic).
    """

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        op = torch.library.custom_op(f"fxq::{function.__name__}", function, mutates_args=())
        op.register_fake(shape)
        PRIMITIVES[function.__name__] = getattr(torch.ops.fxq, function.__name__).default
        FACTS[PRIMITIVES[function.__name__]] = Facts(**facts)
        return function

    return register


def primitives_with(has: Callable[[Facts], Any]) -> tuple[Any, ...]:
    """The primitives of which something is true."""
    return tuple(op for op, facts in FACTS.items() if has(facts))


def storage(qmin: int, qmax: int) -> torch.dtype:
    """The narrowest dtype that holds the integer range: one of a scheme's, or s32 beyond 16 bits."""
    has_scheme = any(low <= qmin and qmax <= high for low, high in STORAGE.values())
    return DTYPES[Scheme(qmin, qmax).storage] if has_scheme else torch.int32


def same_shape(x: Tensor, *rest: Any) -> Tensor:
    """Shape function: the shape of the first operand, in the dtype of the integer range that ends the arguments."""
    return x.new_empty(x.shape, dtype=storage(*rest[-2:]))


def accumulators(like: Tensor) -> Tensor:
    """s32 of the shape of `like`."""
    return like.new_empty(like.shape, dtype=torch.int32)


def broadcast(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty tensor of the shape that `a` and `b` have together."""
    return a.new_empty((a + b).shape, dtype=dtype)


def narrow(q: Tensor, qmin: int, qmax: int) -> Tensor:
    """Clamp to the integer range and store in the narrowest dtype that holds it."""
    return q.clamp(qmin, qmax).to(storage(qmin, qmax))


def scaled(x: Tensor, multiplier: Tensor, shift: int) -> Tensor:
    """The product x * multiplier * 2^shift in int64, before rounding; `x` is s32, `multiplier` s32.

    With a shift, a product beyond 2^61 is clamped there: it is far beyond every result type, and no sum can wrap.
    """
    product = x.to(torch.int64) * multiplier.to(torch.int64)
    if not shift:
        return product
    edge = 1 << (61 - shift)
    return product.clamp(-edge, edge) << shift


def rounded(product: Tensor) -> Tensor:
    """floor(product / 2^32 + 1/2): the one rounding of a requantization, ties towards plus infinity."""
    return (product + (1 << 31)) >> 32


def is_exact_in_float32(largest: Tensor) -> bool:
    """Whether sums of absolute value up to `largest` are exact in float32 whatever the order of the additions."""
    return bool(largest < 2.0**24)
