"""Functions, choices, quotients and norms over odd ranges: on this machine and on a device, Python's integers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.arguments import float_arg, int_arg, node_arg
from fxquant.errors import CalibrationError
from fxquant.graph import outputs
from fxquant.ops import curves
from fxquant.ops.table import TABLE
from fxquant.target import Target
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate import emulate
from tests.endtoend.networks import runnable_targets
from tests.passes.graphs import Net, run
from tests.targets.standalone.made import emulated

aten = torch.ops.aten
# All codes of a byte, few of them, none on the other side of zero, and 16 bits.
SCHEMES = ((-128, 127), (3, 200), (-8, 7), (-32768, 32767))
# What a function is given besides the value.
FURTHER: dict[str, tuple[Any, ...]] = {
    "threshold": (0.5, -1.0), "power": (2.5,), "remainder": (0.75,), "fmod": (0.75,), "logit": (None,),
}  # fmt: skip
# Where a function is a number, or has a pole at the end; else it is asked between EVERYWHERE.
EVERYWHERE = (-2.3, 3.1)
DOMAINS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("acos", "asin", "atanh", "log1p"), (-1.0, 1.0)),
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt", "power", "logit"), (0.0, 1.0)),
    "acosh": (1.0, 3.1),
}


def _curve(name: str) -> Any:
    (target,) = (t for t, record in TABLE.items() if record.name == name and record.spell.__module__ == curves.__name__)
    if name == "exponential":
        return lambda m, x: target(1.5, x)
    return lambda m, x: target(x, *FURTHER.get(name, ()))


NAMES = sorted({r.name for r in TABLE.values() if r.spell.__module__ == curves.__name__})


def _quantized(forward: Any, *inputs: Tensor, codes: tuple[int, int], **constants: Any) -> fx.GraphModule:
    graph = fxquant.trace(Net(forward, **constants).eval(), inputs)
    recipe = {"activation": {"qmin": codes[0], "qmax": codes[1]}}
    return fxquant.quantize(graph, [inputs], recipe=recipe, progress=False)


def several(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a network returns, one tensor as well."""
    return found if isinstance(found, tuple) else (found,)


def _whole(codes: tuple[int, int], domain: tuple[float, float]) -> Tensor:
    """Numbers from end to end, twice so that there is a batch."""
    return torch.linspace(*domain, codes[1] - codes[0] + 1).expand(2, -1).contiguous()


@pytest.mark.parametrize("domain", sorted({*DOMAINS.values(), EVERYWHERE}), ids=str)
@pytest.mark.parametrize("codes", SCHEMES)
def test_a_table_has_the_nearest_code_of_every_value(codes: tuple[int, int], domain: tuple[float, float]) -> None:
    names = [name for name in NAMES if DOMAINS.get(name, EVERYWHERE) == domain]
    functions = [_curve(name) for name in names]
    quantized = _quantized(lambda m, x: tuple(f(m, x) for f in functions), _whole(codes, domain), codes=codes)
    assert fxquant.report(quantized).is_fully_integer
    (entry,) = quantized.graph.find_nodes(op="call_function", target=torch.ops.fxq.quantize.default)
    scale, zero = float_arg(entry, 1), int_arg(entry, 2)
    real = (torch.arange(codes[0], codes[1] + 1) - zero).float() * scale
    found = run(quantized, real.reshape(1, -1))
    for name, function, node, given in zip(names, functions, outputs(quantized.graph), found, strict=True):
        step, low, wanted = float_arg(node, 1), int_arg(node, 2), function(None, real.double())
        known = ~wanted.isnan()
        least, most = ((end - low) * step for end in codes)
        # Straight lines between knots, which 16 bits have, may give a code beside the nearest one (`curved`).
        allowed = 1.51 if node_arg(node, 0).target is torch.ops.fxq.curve.default else 0.51
        assert float((given[0].double() - wanted.clamp(least, most))[known].abs().max()) <= allowed * step, name
        assert bool(given.isfinite().all()), name
    specials = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e9])
    with fxquant.compile(quantized, threads=1, against_float=False) as net:
        for given in (real.reshape(1, -1), torch.cat([specials, real[4:]]).reshape(1, -1)):
            for name, python, code in zip(names, run(quantized, given), several(net(given)), strict=True):
                assert torch.equal(python, code), name


def test_a_pole_ends_with_what_was_observed() -> None:
    x = torch.tensor([[0.0, 0.5, 1.0, 4.0]])
    quantized = _quantized(lambda m, x: (torch.log(x), 1 / x, torch.rsqrt(x)), x, codes=(-128, 127))
    log, inverse, root = run(quantized, x)
    assert log[0, 0] == log.min() and abs(float(log[0, 0]) - math.log(0.5)) < 0.02
    assert abs(float(inverse[0, 0]) - 2.0) < 0.02 and abs(float(root[0, 0]) - 2.0**0.5) < 0.02


def test_where_a_function_is_no_number_it_is_what_is_nearest() -> None:
    x = torch.tensor([[0.25, 0.5, 1.0, 4.0]])
    graph = fxquant.trace(Net(lambda m, x: (torch.log(x), torch.sqrt(x), x**1.5)).eval(), x)
    recipe = {"activation": {"qmin": -127, "symmetric": True}}
    log, root, power = run(fxquant.quantize(graph, [x], recipe=recipe, progress=False), -x)
    assert bool((log < -1.3).all()) and bool((root == 0.0).all()) and bool((power == 0.0).all())


def test_what_is_no_number_in_the_data_is_told() -> None:
    with pytest.raises(CalibrationError, match="1 of 4 values are NaN or infinite"):
        _quantized(lambda m, x: torch.log(x), torch.tensor([[1.0, -2.0, 3.0, 4.0]]), codes=(-128, 127))


def _values(m: Net, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    wide, low = x.reshape(-1, 4, 3), m.limit
    return (
        torch.maximum(x, y * 3),
        torch.minimum(x, low),
        torch.where(x > y, x, y / 2),
        torch.where(x <= 0.25, x, 1.0),
        x / (y.abs() + 0.5),
        x / y,
        F.prelu(x, m.slope),
        x * m.slope,
        F.glu(x, 1),
        F.softmax(wide, 1),
        F.log_softmax(wide, 1),
        torch.logsumexp(x, 1, keepdim=True),
        F.group_norm(x, 3, m.slope, m.slope),
        F.rms_norm(x, (12,), m.slope + 1),
        F.normalize(wide, dim=1),
        torch.sqrt(x.square() + 0.1) + torch.sin(y),
    )


def _pair(count: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x, y = (torch.randn(count, 12, generator=generator) * scale for scale in (1.3, 0.7))
    y[0, :3] = 0.0
    return x, y


CONSTANTS = {"slope": torch.linspace(-0.5, 1.5, 12), "limit": torch.linspace(1.0, -1.0, 12)}


@pytest.mark.parametrize("codes", SCHEMES)
@pytest.mark.parametrize("target", runnable_targets())
def test_two_values(target: str, codes: tuple[int, int]) -> None:
    quantized = _quantized(_values, *_pair(), codes=codes, **CONSTANTS)
    assert fxquant.report(quantized).is_fully_integer
    with fxquant.compile(quantized, target, threads=1, against_float=False) as net:
        for factor in (1.0, 5.0, -0.1):
            given = [x * factor for x in _pair(7)]
            for number, (python, code) in enumerate(zip(run(quantized, *given), several(net(*given)), strict=True)):
                assert torch.equal(python, code), number


def test_a_product_of_16_bit_values_drops_what_32_bits_do_not_hold() -> None:
    x = torch.rand(4, 50)
    quantized = _quantized(lambda m, x: x * x, x, codes=(-32768, 32767))
    assert float((run(quantized, x)[0] - x * x).abs().max()) < 3e-5
    with fxquant.compile(quantized, threads=1, against_float=False) as net:
        assert torch.equal(net(x), run(quantized, x)[0])


@pytest.mark.parametrize("codes", SCHEMES[:2])
@pytest.mark.parametrize("target", emulated("c", "cortex-m4"))
def test_two_values_on_a_device(target: Target, codes: tuple[int, int]) -> None:
    plain = fxquant.integer_ports(_quantized(_values, *_pair(), codes=codes, **CONSTANTS))
    made = standalone(plain, target, "net")
    assert emulate(made.files, "net", made.report, target).wrong == 0


SCALED: dict[str, Any] = {
    "by channel": lambda m, x: m.conv(x) * m.slope[:8].reshape(8, 1, 1),
    "by row": lambda m, x: m.conv(x) * m.slope[:6].reshape(6, 1),
    "by column, and added": lambda m, x: m.conv(x) * m.slope[:7] + x[:, :1],
    "every place": lambda m, x: torch.relu(m.conv(x) * m.whole),
    "features": lambda m, x: m.fc(x) * m.slope[:8] + 0.5,
    "tokens": lambda m, x: m.fc(x.flatten(1, 2)) * m.slope[:6].repeat(3).reshape(18, 1),
    "a signal": lambda m, x: m.conv1(x.flatten(2)) * m.whole[:, :, :1].flatten().repeat(5)[:42],
    "factors": lambda m, x: (x.transpose(1, 2) @ x.permute(0, 2, 3, 1)) * m.slope[:3].reshape(3, 1),
}  # fmt: skip


@pytest.mark.parametrize("target", [*runnable_targets()[:1], "c"])
def test_products_are_scaled_exactly_by_constants(target: str) -> None:
    """One rounding for a product and a factor, whatever the axes of the factor are."""
    layers = {"conv": nn.Conv2d(3, 8, 3, padding=1), "fc": nn.Linear(7, 8), "conv1": nn.Conv1d(3, 8, 3, padding=1)}
    constants = CONSTANTS | {"whole": torch.linspace(-1.0, 1.0, 8 * 6 * 7).reshape(8, 6, 7)}
    net = Net(lambda m, x: tuple(form(m, x) for form in SCALED.values()), **layers, **constants).eval()
    x = torch.randn(4, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    quantized = fxquant.quantize(fxquant.trace(net, x), [x], progress=False)
    assert fxquant.report(quantized).is_fully_integer
    for name, wanted, found in zip(SCALED, run(net, x), run(quantized, x), strict=True):
        assert float((wanted - found).abs().max()) < 0.03 * float(wanted.abs().max()), name
    if target == "c":
        made = standalone(fxquant.integer_ports(quantized), fxquant.targets.get("c"), "net")
        assert emulate(made.files, "net", made.report, fxquant.targets.get("c")).wrong == 0
        return
    with fxquant.compile(quantized, target, threads=1, against_float=False) as compiled:
        for name, python, code in zip(SCALED, run(quantized, x), compiled(x), strict=True):
            assert torch.equal(python, code), name
