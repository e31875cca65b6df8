"""Narrow multipliers: as fine as 32 bits allow, never further off than promised, and only where they are asked for."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

import fxquant
from fxquant import targets
from fxquant.errors import RecipeError
from fxquant.ops.fixed_point import NARROW_ERROR, encode, encode_narrow
from fxquant.recipe import Recipe
from fxquant.scheme import activation, weight
from fxquant.target import Target
from fxquant.targets.hosted.compiler import compile_graph
from fxquant.targets.kernels.choosing import Offer
from fxquant.targets.kernels.contract.template import Candidate
from fxquant.targets.kernels.epilogue import narrow
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate import emulate
from tests import zoo
from tests.passes.graphs import data
from tests.targets.standalone.made import emulated, network

channels = st.tuples(
    st.floats(2.0**-16, 0.5, allow_subnormal=False) | st.just(0.5 - 2.0**-28),
    st.integers(0, 24).flatmap(lambda n: st.integers(0, 1 << n)),
)


def multipliers(graph: fx.GraphModule) -> list[torch.Tensor]:
    """Of the graph's requantize nodes, in order."""
    found = graph.graph.find_nodes(op="call_function", target=torch.ops.fxq.requantize.default)
    return [getattr(graph, str(node.args[1].target)) for node in found]


@settings(max_examples=300, deadline=None)
@given(st.lists(channels, min_size=1, max_size=4), st.integers(0, 255))
def test_they_are_close_and_fit(layer: list[tuple[float, int]], stored_zero: int) -> None:
    scale, largest = (torch.tensor(column, dtype=torch.float64) for column in zip(*layer, strict=True))
    found = encode_narrow(scale, largest)
    for index, (wanted, most) in enumerate(layer):
        reached = min(Fraction(most), 256 / Fraction(wanted))
        if found is not None:
            got = int(found[index])
            assert 0 <= got < 1 << 31
            assert abs(Fraction(got, 1 << 32) - Fraction(wanted)) * reached <= NARROW_ERROR
            one = np.array([got])
            assert narrow.fits(one, stored_zero, (np.array([-most]), np.array([most])))
    if found is None:  # for one of them there is no room for more bits, or it comes to one half
        assert any(
            most * round(s * 2**22) + 257 * 2**22 >= 1 << 31 or s * 2**22 < 1 << 11 or s > 0.499 for s, most in layer
        )


def test_they_are_the_full_ones_rounded() -> None:
    scale = torch.tensor([0.004, 0.1, 0.003], dtype=torch.float64)
    found = encode_narrow(scale, torch.tensor([400_000.0, 20_000.0, 0.0]))
    assert found is not None
    full = encode(scale)[1][0]
    for narrowed, exact in zip(found.tolist(), full.tolist(), strict=True):
        bits = int(math.log2(narrowed)) + 1 - int(math.log2(narrowed & -narrowed))
        assert abs(narrowed - exact) <= exact * 2.0**-bits and bits <= 21
    assert encode_narrow(torch.tensor([0.5]), torch.tensor([10.0])) is None  # takes a shift
    assert encode_narrow(torch.tensor([0.5 - 2.0**-28], dtype=torch.float64), torch.tensor([10.0])) is None
    assert encode_narrow(torch.tensor([-0.1]), torch.tensor([10.0])) is None
    assert encode_narrow(torch.tensor([1e-4]), torch.tensor([2.0**24])) is None  # nothing left for the multiplier


def test_one_scale_for_several_channels() -> None:
    found = encode_narrow(torch.tensor([0.01]), torch.tensor([100.0, 50_000.0]))
    assert found is not None and found.shape == (2,)


def test_only_where_it_is_asked_for_and_results_stay_close() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 24, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(24, 8, 1)).eval()
    inputs = data((4, 16, 9, 9))
    graph = fxquant.trace(model, inputs)
    full, short, ruled = (
        fxquant.quantize(graph, [inputs], recipe=recipe, progress=False)
        for recipe in (None, {"weight": {"narrow": True}}, {"rules": [{"match": "2", "weight": {"narrow": True}}]})
    )
    for a, b in zip(multipliers(full), multipliers(short), strict=True):
        assert (a & 0xFFF != 0).any() and (b & 0x3FF == 0).all()  # 32 bits for the product leave no room for those
        assert ((a - b).abs() <= a * 2.0**-11).all()
    same = [torch.equal(a, b) for a, b in zip(multipliers(full), multipliers(ruled), strict=True)]
    assert same == [True, False, True]
    with torch.no_grad():
        moved = (full(*inputs) - short(*inputs)).abs().max() / (full(*inputs).abs().max() / 127)
    assert 0 <= moved <= 2  # steps of 8 bits
    with fxquant.compile(short) as compiled, torch.no_grad():
        assert torch.equal(compiled(*inputs), short(*inputs))


@pytest.mark.parametrize("recipe", ["default", "avx2", "vnni"])
def test_x86_kernels_see_them(recipe: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32), nn.Hardtanh(-0.2, 0.1), nn.Conv2d(32, 8, 1)
    )
    inputs = data((4, 16, 9, 9))
    quantized = fxquant.quantize(fxquant.trace(model.eval(), inputs), [inputs], recipe=recipe, progress=False)
    seen: list[Offer] = []

    def select(offer: Offer) -> Candidate:
        seen.append(offer)
        return offer.first()

    for target in ("x86-avx2", "x86-avx512vnni"):
        compile_graph(quantized, targets.get(target), "net", select)
    forms = [offer.problem.epilogue for offer in seen]
    assert [form.narrow for form in forms] == [recipe != "default"] * 6
    assert all(form.whole for form in forms)


@pytest.mark.parametrize("target", emulated("aarch64-dotprod"))
def test_neon_takes_fewer_instructions(target: Target) -> None:
    inputs = zoo.inputs("ds_cnn", 4)
    graph = fxquant.trace(zoo.build("ds_cnn"), inputs)
    narrowed = fxquant.quantize(graph, [inputs], recipe={"weight": {"narrow": True}}, progress=False)
    runs = []
    for quantized in (network("ds_cnn"), narrowed):
        made = standalone(fxquant.integer_ports(quantized), target, "net")
        runs.append(emulate(made.files, "net", made.report, target))
    (full, short), wrong = (run.instructions for run in runs), [run.wrong for run in runs]
    assert wrong == [0, 0] and full is not None and short is not None and short < 0.965 * full


def test_wide_results_and_activations_do_not_ask() -> None:
    torch.manual_seed(0)
    inputs = data((2, 16, 5, 5))
    graph = fxquant.trace(nn.Conv2d(16, 8, 1).eval(), inputs)
    wide = {"activation": {"qmin": -32768, "qmax": 32767}}
    full, short = (
        fxquant.quantize(graph, [inputs], recipe={**wide, "weight": {"narrow": flag}}, progress=False)
        for flag in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(multipliers(full), multipliers(short), strict=True))
    with pytest.raises(RecipeError, match="room for products and multipliers is left by weights"):
        Recipe(activation=activation().with_(narrow=True))
    assert str(weight(products=4, narrow=True)).endswith("(minmax, room for 4 products, narrow multipliers)")
