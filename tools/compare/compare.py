"""The accuracy debugger: every layer's own and accumulated error over data, and where its values lie."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx, nn

from fxquant.batches import Transform, transformed
from fxquant.errors import StageError
from fxquant.plan import range_of
from fxquant.source import module_path, source_of, target_name
from fxquant.stage import Stage, stage_of
from fxquant.tools import cost
from fxquant.tools.compare.records import Comparison, Layer
from fxquant.tools.compare.watch import Watched
from fxquant.tools.fidelity import Fidelity, measure


def compare(
    model: nn.Module | fx.GraphModule,
    quantized: fx.GraphModule,
    data: Any | Iterable[Any],
    *,
    transform: Transform | None = None,
    progress: bool = True,
) -> Comparison:
    """An INTEGER graph against its float model on `data`: one input, or an iterable of inputs.

    Inputs, and `transform`, are as for `calibrate`. Memory does not grow with their number. To learn which layers to
    leave in float, see `fxquant.recover`. Raises StageError for a graph that is not INTEGER, FxquantError for no data
    or another model's graph.
    """
    if stage_of(quantized) is not Stage.INTEGER:
        raise StageError(f"compare needs an INTEGER graph, this one is {stage_of(quantized)}: quantize it first")
    watched: dict[str, Watched] = {}

    def watch(node: fx.Node, real: Tensor, integers: Tensor) -> None:
        if node.name not in watched and (found := range_of(node)) is not None:
            watched[node.name] = Watched(found)
        watched[node.name].add(real, integers)

    found = measure(quantized, model, transformed(data, transform), watch=watch, progress=progress)
    nodes = [node for node in quantized.graph.nodes if node.name in watched]
    layers = tuple(_layer(node, watched[node.name], found) for node in nodes)
    return Comparison(layers, found.outputs, found.agreement, found.samples)


def originals(node: fx.Node) -> tuple[str, ...]:
    """The FLOAT operations that an integer value computes: its own, and those of the accumulators that it rounds."""
    feeders = [a for a in node.all_input_nodes if cost.is_transient(a)]
    names = [str(n.meta["fxq.origin"]) for n in (*feeders, node) if "fxq.origin" in n.meta]
    return tuple(dict.fromkeys(names))


def line_of(node: fx.Node) -> str:
    """'net.py:12 y = self.conv(x)', '' where nothing is known."""
    source = source_of(node)
    return f"{source.file}:{source.line} {source.code}".strip() if source.file else ""


def _layer(node: fx.Node, watched: Watched, found: Fidelity) -> Layer:
    return Layer(
        name=node.name,
        operation=target_name(node),
        module=module_path(node),
        source=line_of(node),
        originals=originals(node),
        local_db=found.local[node.name],
        cumulative_db=found.cumulative[node.name],
        range=watched.range.qparams.real_range,
        clipped=watched.clipped / watched.count,
        saturated=watched.saturated,
        count=watched.count,
        spread=watched.spread(),
    )
