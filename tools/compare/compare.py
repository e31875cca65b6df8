"""The accuracy debugger: every layer's own and accumulated error over data, and where its values lie."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx, nn

from fxquant.batches import Transform, transformed
from fxquant.errors import StageError
from fxquant.names import aliases_of, layers_of
from fxquant.plan import range_of
from fxquant.source import module_path, name_of, source_of, target_name
from fxquant.stage import Stage, stage_of
from fxquant.tools.agreement import Agreement
from fxquant.tools.compare.parts import Sums, split
from fxquant.tools.compare.records import Comparison, Layer
from fxquant.tools.compare.watch import Watched
from fxquant.tools.fidelity import Fidelity, measure


def compare(
    model: nn.Module | fx.GraphModule,
    quantized: fx.GraphModule,
    data: Any | Iterable[Any],
    *,
    transform: Transform | None = None,
    agreement: Agreement | None = None,
    progress: bool = True,
) -> Comparison:
    """An INTEGER graph against its float model on `data`: one input, or an iterable of inputs.

    Inputs, and `transform`, are as for `calibrate`. Memory does not grow with their number. `agreement` says which
    decisions are counted: rows of scores need no word, maps of classes need their axis, anything else a function (see
    `fxquant.tools.agreement`). To learn which layers to leave in float, see `fxquant.recover`. Raises StageError for a
    graph that is not INTEGER, FxquantError for no data or another model's graph.
    """
    if stage_of(quantized) is not Stage.INTEGER:
        raise StageError(f"compare needs an INTEGER graph, this one is {stage_of(quantized)}: quantize it first")
    watched: dict[str, Watched] = {}
    sums = Sums()

    def watch(node: fx.Node, real: Tensor, integers: Tensor) -> None:
        if name_of(node) not in watched and (found := range_of(node)) is not None:
            watched[name_of(node)] = Watched(found)
        watched[name_of(node)].add(real, integers)

    inputs = transformed(data, transform)
    found = measure(quantized, model, inputs, watch=watch, sums=sums.add, agreement=agreement, progress=progress)
    nodes = [node for node in quantized.graph.nodes if name_of(node) in watched]
    layers = tuple(_layer(node, watched[name_of(node)], found, sums) for node in nodes)
    return Comparison(layers, found.outputs, found.agreement, found.samples, agreement_told=found.agreement_told)


def originals(node: fx.Node) -> tuple[str, ...]:
    """The FLOAT operations that a value computes; of one that is only spelled in another way, what it stands for."""
    origin = str(node.meta.get("fxq.origin", ""))
    return layers_of(node) or ((origin,) if origin else ())


def line_of(node: fx.Node) -> str:
    """'net.py:12 y = self.conv(x)', '' where nothing is known."""
    source = source_of(node)
    return f"{source.file}:{source.line} {source.code}".strip() if source.file else ""


def _layer(node: fx.Node, watched: Watched, found: Fidelity, sums: Sums) -> Layer:
    return Layer(
        name=name_of(node),
        aliases=aliases_of(node),
        operation=target_name(node),
        module=module_path(node),
        source=line_of(node),
        originals=originals(node),
        local_db=found.local[name_of(node)],
        cumulative_db=found.cumulative[name_of(node)],
        range=watched.range.qparams.real_range,
        clipped=watched.clipped / watched.count,
        saturated=watched.saturated,
        count=watched.count,
        spread=watched.spread(),
        parts=split(watched.powers, sums.powers.get(name_of(node))),
        outlier=watched.channels.outlier(),
    )
