"""Room for products: scales under which neighbouring products fit 16 bits, and the recipes that ask for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import RecipeError, SchemeError
from fxquant.products import FEW_INPUTS, LIMIT, largest_sums
from fxquant.recipe import NAMED, Recipe
from fxquant.scheme import activation, weight
from fxquant.targets.kernels.choosing import Offer, modelled
from fxquant.targets.kernels.contract.template import Candidate
from fxquant.targets.kernels.convolution.bytes.tile import room
from fxquant.targets.kernels.depthwise.quads import takes_quads
from fxquant.targets.kernels.words.x86 import AVX2, AVX512_VNNI
from fxquant.targets.lowering import lower
from fxquant.targets.machines import x86
from fxquant.tools.recipes import as_recipe
from tests.passes.graphs import data


def net() -> nn.Module:
    """Every kind of weight: of three channels, pointwise, depthwise, Winograd's, transposed, linear."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=2), nn.ReLU(), nn.Conv2d(32, 24, 1), nn.Conv2d(24, 24, 3, groups=24),
        nn.Conv2d(24, 16, 3), nn.ConvTranspose2d(16, 20, 2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(20, 10),
    ).eval()  # fmt: skip


def weights(quantized: fx.GraphModule) -> dict[tuple[int, ...], Tensor]:
    """The s8 weights by shape."""
    found = [getattr(quantized, str(n.target)) for n in quantized.graph.find_nodes(op="get_attr")]
    return {tuple(w.shape): w for w in found if w.dtype == torch.int8 and w.ndim > 1}


def sums(w: Tensor, products: int) -> int:
    """The largest of all channels, weights as (out, in, kernel)."""
    return int(largest_sums(w.float().movedim(1, -1), products).max())


def by_hand(w: Tensor, products: int) -> int:
    """The same from the definition: bytes in memory order, and those that meet in a 16-bit lane."""
    most = 0
    for channel in w.movedim(1, -1).reshape(len(w), w.shape[2] if w.ndim > 2 else 1, -1).tolist():
        for row in channel:
            tail = len(row) % 4
            row = row if tail == 0 else row[:-tail] + [0] * (4 - tail) + row[-tail:]
            row = row + [0] * (-len(row) % (2 * products))
            for start in range(0, len(row), 2 * products):
                for lane in (0, 2):
                    lanes = [row[start + lane + 4 * k + i] for k in range(products // 2) for i in (0, 1)]
                    most = max(most, sum(v for v in lanes if v > 0), -sum(v for v in lanes if v < 0))
    return most


@pytest.mark.parametrize("products", [2, 4])
def test_groups_fit_and_the_rest_is_untouched(products: int) -> None:
    inputs = data((4, 3, 19, 19))
    graph = fxquant.trace(net(), inputs)
    plain = weights(fxquant.quantize(graph, [inputs], progress=False))
    fitted = weights(fxquant.quantize(graph, [inputs], recipe={"weight": {"products": products}}, progress=False))
    transposed = (16, 20, 2, 2)
    for shape in ((32, 3, 5, 5), (24, 32, 1, 1), transposed, (10, 20)):
        before, after = ((w.transpose(0, 1) if shape == transposed else w) for w in (plain[shape], fitted[shape]))
        asked = products if before.shape[1] >= FEW_INPUTS else 2
        assert sums(before, products) == by_hand(before, products) > LIMIT
        assert LIMIT * 0.9 < sums(after, asked) == by_hand(after, asked) <= LIMIT
    for shape in ((24, 1, 3, 3), (16, 24, 3, 3)):
        assert torch.equal(plain[shape], fitted[shape])


@pytest.mark.parametrize(
    ("fits", "options"),
    [
        (True, {}),
        (True, {"kernel_size": (3, 5), "stride": 2}),
        (True, {"dilation": (1, 2)}),
        (False, {"kernel_size": (5, 3)}),
        (False, {"dilation": (2, 1)}),
        (False, {"out_channels": 64}),
        (False, {"in_channels": 31, "out_channels": 31, "groups": 31}),
    ],
)
def test_depthwise_kernels_of_three_rows_get_room_for_the_outer_ones(fits: bool, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    settings = {"in_channels": 32, "out_channels": 32, "kernel_size": 3, "groups": 32, **options}
    model = nn.Conv2d(**settings).eval()
    inputs = data((2, settings["in_channels"], 12, 12))
    graph = fxquant.trace(model, inputs)
    (plain,) = weights(fxquant.quantize(graph, [inputs], progress=False)).values()
    (fitted,) = weights(fxquant.quantize(graph, [inputs], recipe={"weight": {"products": 4}}, progress=False)).values()
    if not fits:
        assert torch.equal(plain, fitted)
        return
    before, after = (
        torch.stack([w.int()[:, 0, [0, 2]].mul(sign).clamp(min=0).sum(1) for sign in (1, -1)]).amax((0, 2))
        for w in (plain, fitted)
    )
    assert takes_quads(AVX2, fitted.numpy()) and LIMIT * 0.9 < int(after.max()) <= LIMIT < int(before.max())
    small = before <= LIMIT
    assert small.any() and torch.equal(plain[small], fitted[small])


@pytest.mark.parametrize("options", [{}, {"dilation": 2}, {"dilation": (1, 3)}, {"stride": 2}, {"kernel_size": 5}])
def test_weights_stay_fine_exactly_where_a_kernel_needs_no_room(options: dict[str, Any]) -> None:
    """The choice of scales and that of kernels know one geometry: a dilated 3x3 layer is Winograd's to both."""
    torch.manual_seed(1)
    conv = nn.Conv2d(**{"in_channels": 32, "out_channels": 32, "kernel_size": 3, **options}).eval()
    inputs = data((2, 32, 20, 20))
    graph, seen = fxquant.trace(conv, inputs), list[Offer]()
    found = [
        fxquant.quantize(graph, [inputs], recipe={"weight": {"products": n}}, progress=False) for n in (1, 4)
    ]  # fmt: skip
    (plain,), (fitted,) = (weights(quantized).values() for quantized in found)

    def choose(offer: Offer) -> Candidate:
        seen.append(offer)
        return modelled(offer)

    lower(found[0], x86.AVX2, choose)
    takes = "winograd" in {candidate.kernel for candidate in seen[0].all()}
    assert torch.equal(plain, fitted) == takes == (options.keys() <= {"dilation"})


def test_fitted_weights_have_the_room_that_was_asked_for() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Conv2d(64, 48, 1).eval(), data((2, 64, 5, 5))
    nn.init.normal_(model.weight)
    graph = fxquant.trace(model, inputs)
    for products in (1, 2, 4):
        recipe = {"weight": {"products": products}}
        (weight,) = weights(fxquant.quantize(graph, [inputs], recipe=recipe, progress=False)).values()
        assert room(AVX2, weight.numpy()) == products
        assert room(AVX512_VNNI, weight.numpy()) == 4


@pytest.mark.parametrize(("inputs", "kernel"), [(3, 7), (1, 4), (5, 3)])
def test_room_of_few_channels_is_counted_by_kernel_rows(inputs: int, kernel: int) -> None:
    # Windows start anew with every row of the kernel, and the last one of a row ends with it.
    torch.manual_seed(0)
    model, samples = nn.Conv2d(inputs, 48, kernel, stride=2).eval(), data((2, inputs, 15, 15))
    nn.init.normal_(model.weight)
    recipe = {"weight": {"products": 4}}
    graph = fxquant.trace(model, samples)
    (weight,) = weights(fxquant.quantize(graph, [samples], recipe=recipe, progress=False)).values()
    assert room(AVX2, weight.numpy()) == 2
    (plain,) = weights(fxquant.quantize(graph, [samples], progress=False)).values()
    assert room(AVX2, plain.numpy()) == 1


def test_one_scale_stays_one_scale() -> None:
    inputs = data((4, 3, 19, 19))
    recipe = {"weight": {"products": 2, "axis": None}}
    quantized = fxquant.quantize(fxquant.trace(net(), inputs), [inputs], recipe=recipe, progress=False)
    found = [n.meta["fxq.weight_qparams"].scale for n in quantized.graph.nodes if "fxq.weight_qparams" in n.meta]
    assert found and all(len(set(scale)) == 1 for scale in found)


def test_compiled_gives_the_same_integers() -> None:
    inputs = data((4, 3, 19, 19))
    quantized = fxquant.quantize(fxquant.trace(net(), inputs), [inputs], recipe="avx2", progress=False)
    with fxquant.compile(quantized) as compiled, torch.no_grad():
        assert torch.equal(compiled(*inputs), quantized(*inputs))


def test_named_recipes() -> None:
    assert as_recipe("default") == as_recipe(None) == Recipe()
    assert as_recipe("avx2").weight == weight(products=4, narrow=True)
    assert as_recipe("vnni").weight == weight(narrow=True)
    assert [target.recipe for target in x86.ALL] == ["vnni", "vnni", "avx2", "default"]
    assert as_recipe("native") in NAMED.values()
    assert as_recipe("native-dynamic").activation.dynamic
    assert as_recipe("native-dynamic").weight == as_recipe("native").weight
    with pytest.raises(
        RecipeError, match="no recipe is called 'fast'; there are default, avx2, vnni, dynamic, auto, native"
    ):
        as_recipe("fast")


def test_refusals() -> None:
    with pytest.raises(SchemeError, match="1, 2 or 4 products, not 3"):
        weight(products=3)
    with pytest.raises(RecipeError, match="room for products and multipliers is left by weights"):
        Recipe(activation=activation().with_(products=2))
    assert str(weight(products=2)).endswith("(minmax, room for 2 products)")
