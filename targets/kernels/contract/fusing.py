"""What the kernels of an instruction set compute together with a product, as `fxquant.targets.groups` must know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fusing:
    """Convolutions and linear layers round, add and look up everywhere; this is what else there is.

    `matmul`: from how many rows and columns on a product of bytes by bytes is rounded, None for never. `resample`:
    interpolations between two neighbours are rounded. `real`: a layer whose operand has a range of run time is computed
    up to the float32 value that is stored.
    """

    matmul: tuple[int, int] | None = None
    resample: bool = False
    real: bool = False


# For whoever asks about a graph and no machine: all that any kernels do.
EVERYTHING = Fusing(matmul=(1, 1), resample=True, real=True)
