"""Every operator of the op table means what PyTorch means by it, whatever its options and dtypes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.graph import outputs
from fxquant.ops.table import TABLE
from tests.endtoend.meaning import step_errors
from tests.endtoend.operators import FLOAT, INTEGER, LAYERS, TENSORS
from tests.passes.graphs import Net, drawn, run

# Values in sixty-fourths that reach from -2 to 127/64 are quantized without an error: what is left is the operator's.
STEP = 1 / 64
# Results may be off by half a step of their own, and by what a few operators before them were off.
STEPS = 1.6
# Of families whose weights are rounded, too; in a recurrence what is off is carried on.
WEIGHTS = {"products": 0.02, "norms": 0.02, "recurrent": 0.1}


def inputs(batch: int, seed: int) -> tuple[Tensor, ...]:
    """Image, tokens, vector, booleans, indices."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randint(-128, 128, (batch, *s), generator=generator) * STEP for s in ((4, 6, 6), (5, 8), (8,))]
    for x in made:
        x.view(-1)[:2] = torch.tensor([-128, 127]) * STEP
    return *made, made[1] > 0.1, torch.randint(0, 7, (batch, 5), generator=generator)


def network(expressions: Sequence[str]) -> Net:
    """All of them as one network, an output each."""
    space = {"torch": torch, "F": F, "aten": torch.ops.aten}
    forms: list[Any] = [eval(f"lambda m, x, t, v, b, i: {form}", dict(space)) for form in expressions]
    layers: dict[str, Any] = {name: eval(code, {"nn": nn}) for name, code in LAYERS.items()}
    net = drawn(Net(lambda m, *given: tuple(form(m, *given) for form in forms), **layers))
    for name, tensor in TENSORS.items():
        net.register_buffer(name, tensor)
    return net


def quantized(net: Net) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The QUANTIZED and the INTEGER graph; every pass before is held to its graph."""
    graph, kept = fxquant.trace(net, inputs(2, 0)), dict[str, fx.GraphModule]()
    observed = fxquant.prepare(graph, observe=fxquant.SameResults(graph, inputs(2, 1)))
    fxquant.calibrate(observed, [inputs(2, seed) for seed in range(4)], progress=False)

    def keep(step: fxquant.Pass, module: fx.GraphModule) -> None:
        kept[step.name] = copy.deepcopy(module) if step.name == "FuseRequantize" else module

    integer = fxquant.convert(observed, observe=keep)
    return kept["FuseRequantize"], integer


def errors(net: Net, integer: fx.GraphModule, names: Sequence[str], weights: float = 0.0) -> dict[str, float]:
    """By expression: how far its values are from PyTorch's, where that is more than rounding explains.

    In steps of the result; it may also be off by the part `weights` of its largest value, as these have 8 bits.
    """
    given, found = inputs(2, 2), dict[str, float]()
    for name, real, mine, node in zip(
        names, run(net, *given), run(integer, *given), outputs(integer.graph), strict=True
    ):
        assert mine.shape == real.shape and mine.dtype == real.dtype, f"{name}: {mine.shape} {mine.dtype}"
        step = node.args[1] if node.target is torch.ops.fxq.dequantize.default else 1e-5 / STEPS
        assert isinstance(step, float)
        allowed = STEPS * step + weights * float(real.abs().max())
        off = float((mine.double() - real.double()).abs().max())
        if not off <= allowed:
            found[name] = round(off / step, 2)
    return found


@pytest.mark.parametrize("family", INTEGER)
def test_integers_mean_what_pytorch_means(family: str) -> None:
    net = network(INTEGER[family])
    between, integer = quantized(net)
    islands = [f"{n.name}: {n.meta['fxq.plan'].reason}" for n in integer.graph.nodes if n.meta.get("fxq.island")]
    assert not islands
    assert not errors(net, integer, INTEGER[family], WEIGHTS.get(family, 0.0))
    assert not step_errors(between, integer, inputs(3, 3))
    with fxquant.compile(integer, threads=1) as compiled:
        for batch in (3, 1):
            given = inputs(batch, 4)
            for name, python, code in zip(INTEGER[family], run(integer, *given), compiled(*given), strict=True):
                assert torch.equal(python, code), name


def test_what_stays_float_says_so_and_is_equal() -> None:
    net = network(FLOAT)
    _, integer = quantized(net)
    for name, node in zip(FLOAT, outputs(integer.graph), strict=True):
        cone, waiting = set[fx.Node](), [node]
        while waiting:
            last = waiting.pop()
            cone.add(last)
            waiting.extend(n for n in last.all_input_nodes if n not in cone)
        assert any(n.meta.get("fxq.island") and n.meta["fxq.plan"].reason for n in cone), name
    assert not errors(net, integer, FLOAT)


def test_every_operator_of_the_table_has_a_line() -> None:
    met: set[Any] = set()
    for family in INTEGER.values():
        net = network(family)
        graph = fxquant.prepare_pipeline().without("FuseOps")(fxquant.trace(net, inputs(2, 0)))
        met |= {n.target for n in graph.graph.nodes}
    missing = {record.name for target, record in TABLE.items()} - {TABLE[t].name for t in met if t in TABLE}
    # Passes put it between 16 and 8 bits; no model calls it.
    assert missing == {"narrowed"}
