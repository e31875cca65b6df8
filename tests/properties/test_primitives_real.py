"""Float functions that are defined to the bit: close to what mathematics says, and sums in the order that is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.reals import CURVES, LANES
from tests.properties.calling import SEEDS, call, same
from tests.properties.exact import Array


def _inner(x: Tensor) -> Tensor:
    """What the sigmoid of GELU's tanh form is of."""
    return (x + 0.044715 * x**3) * float(2 * (2 / np.pi) ** 0.5)


REFERENCE: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: x * torch.sigmoid(_inner(x)),
    "erf": torch.erf,
    "tanh": torch.tanh,
    "hardsigmoid": torch.nn.functional.hardsigmoid,
    "hardswish": torch.nn.functional.hardswish,
}
# In units in the last place of the result, of what is cancelled on the way to it, and of what a power is raised to.
UNITS, CANCELLED, RAISED = 6, {"gelu": 2}, {"gelu_tanh": 2}


def _everywhere() -> Tensor:
    """Numbers of all sizes, the ends between which e^x is no small number densely."""
    near = torch.linspace(-20, 20, 40_001)
    far = torch.logspace(-30, 38, 2_000)
    return torch.cat([near, near * 5, far, -far])


def test_all_have_a_reference() -> None:
    assert set(REFERENCE) == set(CURVES)


@pytest.mark.parametrize("name", sorted(CURVES))
def test_curves_are_within_units_of_the_last_place(name: str) -> None:
    x = _everywhere()
    found, wanted = call("real_curve", x, name).double(), REFERENCE[name](x.double())
    units = UNITS + RAISED.get(name, 0) * _inner(x.double()).abs()
    size = units * wanted.abs() + CANCELLED.get(name, 0) * x.double().abs().clamp(max=10)
    # Powers end at e^-87.
    worst = ((found - wanted).abs() / (2.0**-23 * size + 1e-35)).max().item()
    assert worst <= 1, worst


@pytest.mark.parametrize("name", sorted(CURVES))
def test_curves_of_what_is_no_number(name: str) -> None:
    x = torch.tensor([float("nan"), float("inf"), -0.0, 0.0, 1e-45])
    found, wanted = call("real_curve", x, name), REFERENCE[name](x.clamp(max=1e20))
    assert found[1] in (1.0, float("inf"))
    found[1] = wanted[1]
    assert torch.allclose(found, wanted, rtol=1e-6, equal_nan=True)
    assert found[2:4].signbit().tolist() == wanted[2:4].signbit().tolist()


def _row_sum(row: Array) -> np.float32:
    """Element by element, as `fxquant.primitives.real` says."""
    sums = [np.float32(0)] * LANES
    for place, value in enumerate(row):
        sums[place % LANES] = np.float32(sums[place % LANES] + value)
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [np.float32(a + b) for a, b in zip(sums[:half], sums[half:], strict=True)]
    return sums[0]


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    length=st.integers(1, 70),
    about_zero=st.booleans(),
    affine=st.sampled_from([(), ("weight",), ("weight", "bias")]),
    spread=st.sampled_from([1.0, 1e-3, 1e6]),
)
def test_norms_one_operation_at_a_time(
    seed: int, length: int, about_zero: bool, affine: tuple[str, ...], spread: float
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((2, 3, length)) * spread + spread).astype(np.float32)
    weight, bias = (rng.standard_normal(length).astype(np.float32) for _ in range(2))
    epsilon, count = np.float32(1e-5), np.float32(length)
    wanted = np.empty_like(x)
    for i, row in enumerate(x.reshape(-1, length)):
        centred = row if about_zero else row - _row_sum(row) / count
        unit = np.float32(1) / np.sqrt(_row_sum(centred * centred) / count + epsilon)
        result = centred * unit
        result = result * weight if "weight" in affine else result
        wanted.reshape(-1, length)[i] = result + bias if "bias" in affine else result
    parts = [torch.from_numpy(v) if n in affine else None for n, v in (("weight", weight), ("bias", bias))]
    found = call("real_norm", torch.from_numpy(x), *parts, 1e-5, about_zero)
    same(found, wanted)
    if not about_zero and length > 1 and spread < 10:
        exact = torch.nn.functional.layer_norm(torch.from_numpy(x).double(), [length], eps=1e-5)
        plain = call("real_norm", torch.from_numpy(x), None, None, 1e-5, False)
        assert torch.allclose(plain.double(), exact, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, length=st.integers(1, 70), spread=st.sampled_from([1.0, 30.0, 1e30]))
def test_softmax_is_a_distribution(seed: int, length: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy((rng.standard_normal((2, 3, length)) * spread).astype(np.float32))
    found = call("real_softmax", x)
    assert torch.allclose(found.double(), x.double().softmax(-1), atol=1e-6)
    powers = torch.exp((x - x.amax(-1, keepdim=True)).double())
    assert bool((found[powers < 1e-38] == 0).all())


def test_softmax_of_what_is_no_number() -> None:
    nan, infinity = float("nan"), float("inf")
    x = torch.tensor([[1.0, nan, 2.0], [1.0, infinity, 2.0], [-infinity, -infinity, -infinity], [0.0, -infinity, 0.0]])
    found = call("real_softmax", x)
    assert torch.equal(found.isnan(), x.softmax(-1).isnan())
    assert found[3].tolist() == [0.5, 0.0, 0.5]


def test_a_product_has_the_product_of_both_scales() -> None:
    a, b = torch.tensor([0.1, 3.0]), torch.tensor([7.0, 1e-3])
    same(call("scale_product", a, b), a.numpy() * b.numpy())
