"""What of a constant is zero whatever the parameters are: a mask that the model multiplies its weight by.

Found by computing twice, with the parameters as they are and with ones in their place. What is zero both times is held
there by another constant, and no training may move it (`torch.nn.utils.prune` masks weights so).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from fxquant.graph import compute
from fxquant.kept import MASKS, PARAMETERS
from fxquant.source import name_of


class Zeros:
    """Follows them through the constants of a graph, operands first."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.parameters = set(module.meta.get(PARAMETERS, ()))
        self.trained: set[fx.Node] = set()
        # What constants with such zeros are where parameters are ones; what is not here has none.
        self.others: dict[fx.Node, Any] = {}

    def start(self, node: fx.Node, value: Tensor) -> None:
        """A constant of the model."""
        if str(node.target) in self.parameters:
            self.trained.add(node)
        elif bool((value == 0).any()):
            self.others[node] = value

    def follow(self, node: fx.Node, values: dict[fx.Node, Any]) -> None:
        """A call whose operands have all been followed; `values` has what they are, and what it gives."""
        sources = node.all_input_nodes
        if any(source in self.trained for source in sources):
            self.trained.add(node)
        if not any(source in self.others for source in sources):
            return
        if node not in self.trained:
            self.others[node] = values[node]
            return
        found = compute(node, lambda n: self._other(n, values[n]))
        if isinstance(found, Tensor):
            found, some = _where_both(found, values[node])
        else:
            pairs = [_where_both(*pair) for pair in zip(found, values[node], strict=True)]
            found, some = [one for one, _ in pairs], any(some for _, some in pairs)
        if some:
            self.others[node] = found

    def mask(self, node: fx.Node) -> Tensor | None:
        """0 where a constant that depends on parameters is zero whatever they are, else 1; None without such zeros."""
        found = self.others.get(node) if node in self.trained else None
        return None if not isinstance(found, Tensor) or bool(found.all()) else (found != 0).float()

    def _other(self, node: fx.Node, value: Any) -> Any:
        if node in self.others:
            return self.others[node]
        is_trained = node in self.trained and isinstance(value, Tensor)
        return value.new_ones(value.shape) if is_trained else value


def _where_both(found: Tensor, value: Tensor) -> tuple[Tensor, bool]:
    """`found`, but 1 where it alone is zero; and whether zeros are left."""
    held = found.masked_fill((found == 0) & (value != 0), 1)
    return held, not bool(held.all())


def note_mask(module: fx.GraphModule, layer: fx.Node, mask: Tensor) -> None:
    """Write down, by the layer's name, that a constant which it reads is masked."""
    known: dict[str, tuple[Tensor, ...]] = module.meta.get(MASKS, {})
    name = name_of(layer)
    module.meta[MASKS] = {**known, name: (*known.get(name, ()), mask)}
