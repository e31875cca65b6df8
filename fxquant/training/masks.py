"""Weights that are masked stay so while they are trained: the mask is a buffer, and the weight is multiplied by it.

Zeros of an unstructured pruning (Han et al. 2015, "Learning both Weights and Connections", arXiv 1506.02626) get no
gradient, so that no step of an optimizer moves them, and they are exact zeros of the INTEGER graph.
"""

from __future__ import annotations

from torch import Tensor, fx

from fxquant.errors import TrainingError
from fxquant.kept import MASKS
from fxquant.source import name_of


def mask_weight(weight: Tensor, mask: Tensor) -> Tensor:
    """`weight` where `mask`, of the same shape, is 1, and 0 where it is 0."""
    return weight * mask


class Masks:
    """The masks that `fxquant.zeros` found, given out to layers; each must find its own."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.masks: dict[str, tuple[Tensor, ...]] = module.meta.get(MASKS, {})
        self.asked: set[str] = set()
        self.given: set[int] = set()

    def of(self, layer: fx.Node, weight: Tensor) -> Tensor | None:
        """The mask of a layer's weight, in its shape: one of the layer, or of what the layer is a part of.

        Passes may have scaled the weight, and reshaped it; where the mask is zero it must be.
        """
        name = name_of(layer)
        whole = [key for key in self.masks if name == key or name.startswith(f"{key}:")]
        self.asked.update(whole)
        for mask in (mask for key in whole for mask in self.masks[key]):
            if mask.numel() == weight.numel() and not bool(weight[mask.reshape(weight.shape) == 0].any()):
                self.given.add(id(mask))
                return mask.reshape(weight.shape)
        return None

    def require_given(self) -> None:
        """Raise TrainingError for a layer that is trained and whose mask is lost."""
        for name in sorted(self.asked):
            if any(id(mask) not in self.given for mask in self.masks[name]):
                raise TrainingError(
                    f"the weight of {name} is masked, and passes changed its shape so that the mask fits no more: "
                    "training would move its zeros; remove channels before masking weights, leave the layer in float "
                    f"by the recipe (a rule for {name!r}), or make the mask permanent (torch.nn.utils.prune.remove)"
                )
