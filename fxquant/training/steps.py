"""The modules of a TRAINING graph: each holds what a value, or a weight, is rounded by, and rounds by it.

Called as modules they are plain fake-quantize in float, which is the cheap mode. The exact mode
(`fxquant.training.exact`) asks them for the numbers only, and rounds as the integer graph does.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from fxquant.errors import TrainingError
from fxquant.plan import Range
from fxquant.qparams import LARGEST_SCALE, SMALLEST_SCALE, QParams, as_float32
from fxquant.scheme import Scheme
from fxquant.training.straight import gradient_weight, straight
from fxquant.weight_scales import fit_scales


class Trained(nn.Module):
    """Base of the modules that a TRAINING graph may call."""


class Step(Trained):
    """What a value is rounded by, and all that share its range: a scale that is learned, and a zero point that stays.

    A range that mathematics knows, as softmax's, is not learned. The parameter is the logarithm of the scale,
    `log_step`, a scalar; see `fxquant.training.straight`.
    """

    log_step: Tensor
    zero_point: Tensor

    def __init__(self, found: Range) -> None:
        super().__init__()
        self.range = found
        q = found.qparams
        self.qmin, self.qmax, self.learned = q.qmin, q.qmax, not found.is_known
        log_step = torch.tensor(math.log2(q.one_scale), dtype=torch.float32)
        if self.learned:
            self.log_step = nn.Parameter(log_step)
        else:
            self.register_buffer("log_step", log_step)
        self.register_buffer("zero_point", torch.tensor(q.one_zero_point))

    def restart(self, found: Range) -> None:
        """Go on from another range, of other codes."""
        self.range, q = found, found.qparams
        self.qmin, self.qmax = q.qmin, q.qmax
        with torch.no_grad():
            self.log_step.fill_(math.log2(q.one_scale))
            self.zero_point.fill_(q.one_zero_point)

    def qparams(self) -> QParams:
        """Scale and zero point as they are now: what the integer graph has."""
        if not self.learned:
            return self.range.qparams
        scale = _legal(2.0 ** max(-200.0, min(200.0, float(self.log_step.detach()))))
        return QParams((scale,), (int(self.zero_point),), self.qmin, self.qmax)

    def found(self) -> Range:
        """The range as it is now, with its reason."""
        return moved(self.range, self.qparams())

    def straight(self, x: Tensor, rounded: Tensor, qparams: QParams) -> Tensor:
        """`rounded`, with the gradients that rounding `x` by `qparams` has."""
        low, high = qparams.real_range
        half = 0.5 * qparams.one_scale
        return straight(x, rounded, self.log_step, (low - half, high + half), self._weight(x))

    def forward(self, x: Tensor) -> Tensor:
        """`x` rounded, in float."""
        scale = torch.exp2(self.log_step.detach())
        low, high = self.qmin - self.zero_point, self.qmax - self.zero_point
        rounded = torch.round(x.detach() / scale).clamp_(low, high).mul_(scale)
        return straight(x, rounded, self.log_step, ((low - 0.5) * scale, (high + 0.5) * scale), self._weight(x))

    def get_extra_state(self) -> Tensor:
        """Lowest and highest code: part of state_dict."""
        return torch.tensor([self.qmin, self.qmax])

    def set_extra_state(self, state: Tensor) -> None:
        """A checkpoint must be of the same codes. Raises TrainingError for another one."""
        _require_codes((self.qmin, self.qmax), state, self.range.of)

    def _weight(self, x: Tensor) -> float:
        return gradient_weight(x[0].numel() if x.ndim else 1, self.qmax - self.qmin)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{self.qparams()}, of {self.range.of}" + ("" if self.learned else ", known")


def moved(found: Range, qparams: QParams) -> Range:
    """A range that training has moved, or as it was."""
    if qparams == found.qparams:
        return found
    low, high = qparams.real_range
    return replace(found, qparams=qparams, low=low, high=high, reason=f"trained, from {found.reason}")


class WeightStep(Trained):
    """What the weight of a layer is rounded by: a learned scale for each channel along `axis`, or one for all.

    Below 8 bits it starts at 2 * mean |w| / sqrt(qmax), as Esser et al. do; else where convert would put it.
    """

    log_step: nn.Parameter

    def __init__(self, weight: Tensor, axis: int, scheme: Scheme, scale: Tensor) -> None:
        super().__init__()
        self.axis, self.scheme, self.channels = axis, scheme, weight.shape[axis]
        start = scale.float() if scheme.axis is not None else scale.float().amax(0, keepdim=True)
        self.log_step = nn.Parameter(torch.log2(start))
        self.restart(weight, scheme)

    def restart(self, weight: Tensor, scheme: Scheme) -> None:
        """Go on with the codes of another scheme, from a scale that suits them."""
        ratio = self.scheme.qmax / scheme.qmax
        start = self.log_step.detach() + math.log2(ratio)
        if scheme.qmax < 127:
            mean = weight.detach().abs().movedim(self.axis, 0).flatten(1).mean(1)
            mean = mean.mean(0, keepdim=True) if self.scheme.axis is None else mean
            first = (2.0 * mean / math.sqrt(scheme.qmax)).log2()
            # A channel of zeros keeps what it has.
            start = torch.where(mean > 0, first, start)
        self.scheme = scheme
        with torch.no_grad():
            self.log_step.copy_(start.reshape(self.log_step.shape))

    def qparams(self, node: fx.Node, weight: Tensor, bias: Tensor | None) -> QParams:
        """The scales of the layer `node` as they are now, coarser where its bias, or kernels, ask for it.

        `weight` and `bias` are detached, on the CPU, as all is that numbers of a graph are found from.
        """
        steps = self.log_step.detach().cpu().double().clamp(-200.0, 200.0).exp2()
        listed = steps.clamp(SMALLEST_SCALE, LARGEST_SCALE).float().expand(self.channels).tolist()
        scheme = self.scheme if self.scheme.axis is None else self.scheme.with_(axis=self.axis)
        final = fit_scales(node, weight, self.axis, listed, scheme, bias)
        return QParams(tuple(final), (0,) * len(final), scheme.qmin, scheme.qmax, self.axis)

    def straight(self, weight: Tensor, rounded: Tensor, scale: Tensor) -> Tensor:
        """`rounded`, with the gradients that rounding `weight` by `scale` (by channel, broadcast) has."""
        ends = (self.scheme.qmin - 0.5) * scale, (self.scheme.qmax + 0.5) * scale
        count = weight.numel() // self.log_step.numel()
        return straight(weight, rounded, self.shaped(weight), ends, gradient_weight(count, self.scheme.qmax))

    def forward(self, weight: Tensor) -> Tensor:
        """`weight` rounded, in float, without what the bias asks for."""
        scale = torch.exp2(self.shaped(weight).detach())
        steps = torch.round(weight.detach() / scale).clamp_(self.scheme.qmin, self.scheme.qmax)
        return self.straight(weight, steps * scale, scale)

    def distance(self, weight: Tensor) -> Tensor:
        """Sum of the squared distances, in steps, between weights and their codes; none beyond the outermost ones.

        Its gradient is that of the weights alone. A term of the loss against oscillation (Nagel et al. 2022,
        "Overcoming Oscillations in Quantization-Aware Training", section 4.1).
        """
        steps = (weight / torch.exp2(self.shaped(weight).detach())).clamp(self.scheme.qmin, self.scheme.qmax)
        return (steps - torch.round(steps.detach())).square().sum()

    def get_extra_state(self) -> Tensor:
        """Lowest and highest code: part of state_dict."""
        return torch.tensor([self.scheme.qmin, self.scheme.qmax])

    def set_extra_state(self, state: Tensor) -> None:
        """A checkpoint must be of the same codes. Raises TrainingError for another one."""
        _require_codes((self.scheme.qmin, self.scheme.qmax), state, "a weight")

    def shaped(self, weight: Tensor) -> Tensor:
        """The steps, to be broadcast against a weight."""
        shape = [1] * weight.ndim
        shape[self.axis] = -1
        return self.log_step.reshape(shape)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{self.scheme}, axis {self.axis}"


def _require_codes(own: tuple[int, int], state: Tensor, name: str) -> None:
    given = tuple(state.tolist())
    if given != own:
        raise TrainingError(
            f"the checkpoint rounds {name} to the codes {list(given)}, this model to {list(own)}: make the model by "
            "the recipe that the checkpoint was trained with (fxq.prepare_qat, fxq.change_bits), then load it"
        )


def _legal(scale: float) -> float:
    return as_float32(min(max(scale, SMALLEST_SCALE), LARGEST_SCALE))
