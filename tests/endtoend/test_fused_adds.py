"""An add computed in the epilogue of a product: the other operand is read where the product's result lies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxquant


class Added(nn.Module):
    """A product plus a value of the shape of its result."""

    def __init__(self, product: nn.Module) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """relu(product(relu x) + relu y)."""
        return F.relu(self.product(F.relu(x)) + F.relu(y))


CASES: dict[str, tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = {
    # As many rows as features: rows and columns must not be taken for each other.
    "square rows": (nn.Linear(16, 16), (2, 16, 16), (2, 16, 16)),
    "rows": (nn.Linear(16, 16), (2, 15, 16), (2, 15, 16)),
    "signal": (nn.Conv1d(8, 16, 3, padding=1), (2, 8, 16), (2, 16, 16)),
    "image": (nn.Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 8, 8), (2, 16, 4, 4)),
    # Every phase of a transposed convolution adds its own pixels.
    "transposed": (nn.ConvTranspose2d(8, 8, 2, 2), (2, 8, 6, 6), (2, 8, 12, 12)),
    "transposed with overlap": (nn.ConvTranspose2d(8, 8, 3, 2, groups=4), (2, 8, 5, 6), (2, 8, 11, 13)),
    "transposed signal": (nn.ConvTranspose1d(8, 4, 4, 2, padding=1), (2, 8, 6), (2, 4, 12)),
}


@pytest.mark.parametrize("case", CASES)
def test_compiled_is_exact_and_one_kernel(case: str) -> None:
    torch.manual_seed(0)
    product, first, second = CASES[case]
    model = Added(product).eval()
    inputs = torch.randn(first), torch.randn(second)
    quantized = fxquant.quantize(fxquant.trace(model, inputs), [inputs], progress=False)
    with fxquant.compile(quantized, threads=1) as compiled, torch.no_grad():
        assert torch.equal(compiled(*inputs), quantized(*inputs))
        kernels = [layer["kernel"] for layer in compiled.report["layers"]]
    assert not any(kernel.startswith("fxq_add") for kernel in kernels)
