"""Quantization without faults: the observed float graph, every value that is quantized rounded by its own range.

What the INTEGER graph decides (shared and known ranges, one scale for a set of values) and computes (integer square
roots, tables, multipliers of 31 bits) plays no part here: everything between two roundings is float. A network that
comes out badly here is one that 8 bits are too few for; one that is good here and bad as integers shows a fault.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from fxquant import observers
from fxquant.graph import constant_value
from fxquant.observers import Observer
from fxquant.ops.table import RangeRule
from fxquant.plan import is_quantized, record, required_plan
from fxquant.qparams import QParams, choose_qparams


class Ideal(fx.Interpreter):
    """Runs a calibrated OBSERVED graph with rounded values and weights."""

    def __init__(self, observed: fx.GraphModule) -> None:
        super().__init__(observed, garbage_collect_values=True)
        self.known = {n: q for n in observed.graph.nodes if (q := _known(n)) is not None}
        self.weights = _weights(observed)

    def run_node(self, n: fx.Node) -> Any:
        """Run, and round what has a range of its own."""
        if n.op == "call_module":
            observer = self.fetch_attr(str(n.target))
            value = self.fetch_args_kwargs_from_env(n)[0][0]
            return value if not isinstance(observer, Observer) or observer.empty else _rounded(value, _seen(observer))
        result = self._product(n) if n in self.weights else super().run_node(n)
        known = self.known.get(n)
        return result if known is None else _rounded(result, known)

    def _product(self, n: fx.Node) -> Any:
        """With its weight rounded."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        place, weight = self.weights[n]
        return self.call_function(n.target, (*args[:place], weight, *args[place + 1 :]), kwargs)


def _weights(observed: fx.GraphModule) -> dict[fx.Node, tuple[int, Tensor]]:
    """Of each product the place of its weight, and the weight rounded."""
    found: dict[fx.Node, tuple[int, Tensor]] = {}
    for node in observed.graph.nodes:
        rule = record(node)
        if rule is None or rule.weight is None:
            continue
        weight = constant_value(observed, node.args[rule.weight])
        scheme = required_plan(node).weight
        scheme = scheme if scheme.axis is None else scheme.with_(axis=rule.weight_axis)
        observer = observers.make(scheme)
        observer(weight.float())
        low, high = observer.range()
        found[node] = rule.weight, choose_qparams(low.tolist(), high.tolist(), scheme).rounded(weight.float())
    return found


def _known(node: fx.Node) -> QParams | None:
    """The parameters of a value whose range mathematics knows."""
    if node.op != "call_function" or not is_quantized(node):
        return None
    rule = record(node)
    if rule is None or rule.range is not RangeRule.KNOWN:
        return None
    low, high = rule.ends(node)
    return choose_qparams([low], [high], required_plan(node).activation) if low > float("-inf") else None


def _seen(observer: Observer) -> QParams:
    low, high = observer.range()
    return choose_qparams(low.tolist(), high.tolist(), observer.scheme)


def _rounded(value: Any, q: QParams) -> Any:
    return q.rounded(value) if isinstance(value, Tensor) and value.is_floating_point() else value
