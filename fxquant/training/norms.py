"""Batch norms while a network is trained: live first, with folded scales, then frozen and folded.

Frozen, a layer's weight is `fold_weight(...)` of the layer's and the norm's parameters, which all go on being trained;
this is what is rounded, and what convert folds once and for all.

Live, the weight that is rounded is folded by the running statistics, so that it is the weight which will be deployed
(Jacob et al. 2018, section 3.2); what the layer gives is then unfolded again and normalized by the statistics of its
batch, as ever, which also move the running ones. So the steps of weights see no noise of batches, and nothing jumps
when the norm is frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.training.steps import Trained


def fold_weight(weight: Tensor, gamma: Tensor | None, var: Tensor, eps: float, groups: int) -> Tensor:
    """The weight of a layer that does what the layer and the norm behind it do.

    `groups` of a transposed convolution, whose channels of the result are on axis 1 in each group; 0 for others.
    """
    scale = _ratio(gamma, var, eps)
    if not groups:
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return (grouped * scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)


def fold_bias(
    bias: Tensor | None, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """The bias of that layer."""
    scale = _ratio(gamma, var, eps)
    shift = -mean * scale if bias is None else (bias - mean) * scale
    return shift if beta is None else shift + beta


FOLDS = (fold_weight, fold_bias)


def _ratio(gamma: Tensor | None, var: Tensor, eps: float) -> Tensor:
    """gamma / sqrt(var + eps), by channel."""
    inverse = torch.rsqrt(var + eps)
    return inverse if gamma is None else gamma * inverse


class LiveNorm(Trained):
    """The norm behind a layer whose weight is folded: normalizes by the batch while it is live, else does nothing.

    It is live for `freeze_after` batches, or until `freeze` is called.
    """

    seen: Tensor

    def __init__(self, eps: float, momentum: float, freeze_after: int | None = None) -> None:
        super().__init__()
        self.eps, self.momentum, self.freeze_after = eps, momentum, freeze_after
        self.live = freeze_after != 0
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def normalizes(self) -> bool:
        """Whether a forward pass now goes by the statistics of its batch."""
        return self.live and self.training

    def freeze(self) -> None:
        """From now on the running statistics stay as they are, and are what training and deployment go by."""
        self.live = False

    def forward(
        self,
        y: Tensor,
        shift: Tensor,
        bias: Tensor | None,
        gamma: Tensor | None,
        beta: Tensor | None,
        mean: Tensor,
        var: Tensor,
    ) -> Tensor:
        """`y`, what the folded layer gave (channels on axis 1), of which `shift` is the folded bias."""
        if not self.normalizes:
            return y
        shape = [1, -1, *[1] * (y.ndim - 2)]
        by = _ratio(gamma, var, self.eps)
        # A channel that gamma switched off has lost its statistics, and gives beta whatever they are.
        by = torch.where(by.abs() < 1e-6, torch.full_like(by, 1e-6), by)
        offset = -shift / by if bias is None else bias - shift / by
        plain = torch.addcmul(offset.reshape(shape), y, by.reciprocal().reshape(shape))
        found = torch.nn.functional.batch_norm(plain, mean, var, gamma, beta, True, self.momentum, self.eps)
        self.seen += 1
        if self.freeze_after is not None and int(self.seen) >= self.freeze_after:
            self.freeze()
        return found

    def get_extra_state(self) -> Tensor:
        """Whether it is live: part of state_dict."""
        return torch.tensor(self.live)

    def set_extra_state(self, state: Tensor) -> None:
        """The state of a checkpoint."""
        self.live = bool(state)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return "live" if self.live else "frozen"
