"""Plain NEON: two byte products in 16 bits, where the weights allow it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fxquant.targets.kernels.contract.epilogue import Requantization
from fxquant.targets.kernels.contract.kernel import Declined, TensorSpec
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.convolution.strip.neon import Neon32Body, NeonBody
from fxquant.targets.kernels.convolution.strip.template import Strips

WEIGHTS = arrays.arrays(
    np.int8,
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.just(8)),
    elements=st.sampled_from([-128, -128, -127, 0, 127]),
)


@given(WEIGHTS)
def test_weights_are_taken_exactly_if_two_products_fit_16_bits(weights: np.ndarray) -> None:
    """The operand that makes sums largest is -128 everywhere."""
    products = weights.astype(np.int32) * -128
    sums = products[:, 1:] + products[:, :-1]
    assert (not NeonBody.overflows(weights)) == bool(np.all(np.abs(sums) <= np.iinfo(np.int16).max))


def test_a_layer_whose_sums_would_overflow_is_left_to_another_template() -> None:
    problem = ConvProblem(
        TensorSpec("int8", (16, 1, 1), (1, 16, 16)), TensorSpec("int8", (4, 1, 1), (1, 4, 4)), kernel=(1, 1)
    )
    numbers = Requantization(np.full(4, 1 << 20), 0, -128, 127)
    weight = np.full((4, 16, 1, 1), -127, np.int8)
    fine = Layer(weight, np.zeros(4, np.int32), 3)
    lowest = Layer(np.full_like(weight, -128), fine.bias, 3)
    for body in (NeonBody, Neon32Body):
        template = Strips(body)
        assert template.declines(problem, fine) is None
        assert template.choice(problem, fine, numbers, template.tiles(problem, fine)[0]).name == body.NAME
        assert template.declines(problem, lowest) == Declined(
            body.NAME, "32 pairs of weights of -128, whose products do not fit 16 bits"
        )
