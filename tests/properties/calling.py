"""How the property tests call primitives, and the operands that they give them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from fxquant.primitives import PRIMITIVES
from fxquant.primitives.registry import storage
from tests.properties.exact import Array

RANGES = ((-128, 127), (0, 255), (-127, 127), (-8, 7), (3, 200), (-128, 255), (-32768, 32767))
SEEDS = st.integers(0, 10_000)
# How often each shape function was checked: fake tensors cost more than the primitives.
checked: Counter[str] = Counter()
SHAPE_CHECKS = 30


def call(name: str, *args: Any) -> Tensor:
    """The primitive's result; its shape function must say the same of it."""
    op = PRIMITIVES[name]
    result: Tensor = op(*args)
    checked[name] += 1
    if checked[name] <= SHAPE_CHECKS:
        with FakeTensorMode() as mode:
            fake = op(*tree_map_only(Tensor, mode.from_tensor, args))
        assert (fake.shape, fake.dtype) == (result.shape, result.dtype)
    return result


def codes(rng: np.random.Generator, shape: tuple[int, ...], span: tuple[int, int]) -> Tensor:
    """Integers of a range, a third of them at its ends, in its storage type."""
    values = rng.integers(span[0], span[1] + 1, shape)
    ends = rng.choice(np.array(span), shape)
    return torch.from_numpy(np.where(rng.random(shape) < 0.3, ends, values)).to(storage(*span))


def same(found: Tensor, wanted: Array | list[Any]) -> None:
    """Equal to the last bit."""
    assert found.tolist() == np.asarray(wanted).tolist()
