"""Whether the integer graph decides as the float model does: what of a model's answer is a decision.

None         rows (N, C) of the first output may be scores of C classes: the largest one is the decision
an axis      of the first output, along which scores of classes lie: 1 for the maps (N, C, H, W) of a segmentation
a function   of the first outputs, the float one first: for every decision a truth, or a share between 0 and 1

Maps, boxes, embeddings by position and waveforms decide nothing by themselves: their error is told in decibels alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fxquant.errors import FxquantError

Agreement = int | Callable[[Tensor, Tensor], Tensor]


class Agreeing:
    """The share of equal decisions, over batches."""

    def __init__(self, by: Agreement | None) -> None:
        self.by = by
        self.equal, self.decisions = 0.0, 0

    def add(self, real: Tensor, close: Tensor) -> None:
        """Take in one batch of the first output. Raises FxquantError where it has no such axis, or no decision."""
        same = self._same(real, close)
        self.equal += float(same.double().sum())
        self.decisions += same.numel()

    @property
    def share(self) -> float | None:
        """From 0 to 1, None where nothing was decided."""
        return self.equal / self.decisions if self.decisions else None

    @property
    def told(self) -> str:
        """What was counted, in words."""
        if self.by is None:
            return "same largest in each row, if these are classes"
        if callable(self.by):
            return f"by {getattr(self.by, '__name__', 'a function')}"
        return f"same class on axis {self.by}"

    def _same(self, real: Tensor, close: Tensor) -> Tensor:
        if callable(self.by):
            found = self.by(real, close)
            if not isinstance(found, Tensor):
                raise FxquantError(
                    f"the agreement {self.told} gives a {type(found).__name__}: it takes the first outputs, float and "
                    "integer, and gives a tensor with a truth or a share for each decision"
                )
            return found
        if self.by is None:
            is_choice = real.ndim == 2 and real.shape[1] > 1
            return real.argmax(1) == close.argmax(1) if is_choice else torch.zeros(0)
        if not -real.ndim <= self.by < real.ndim:
            raise FxquantError(f"the first output {list(real.shape)} has no axis {self.by} for classes to lie on")
        return real.argmax(self.by) == close.argmax(self.by)
