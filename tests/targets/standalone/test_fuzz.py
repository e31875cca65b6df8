"""Random networks as standalone code: every emulated machine gives the integers of the INTEGER graph in Python.

FXQUANT_FUZZ=<number of networks> fuzzes longer, with other networks each time.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings

from fxquant.errors import FxquantError
from fxquant.target import Target
from fxquant.tools.emulate.programs import NoRoom
from tests.endtoend.networks import Network, is_refusal
from tests.endtoend.strategy import networks
from tests.targets.standalone.made import emulated, wrong_on

WANTED = int(os.environ.get("FXQUANT_FUZZ", "0"))
EXAMPLES = WANTED or 4


@pytest.mark.timeout(0 if WANTED else 600)
@pytest.mark.parametrize("target", emulated())
@settings(
    max_examples=EXAMPLES,
    derandomize=not WANTED,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink] if WANTED else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=networks(most_islands=0))
def test_python_and_the_device_agree(target: Target, data: Network) -> None:
    try:
        wrong = wrong_on(target, data)
    except FxquantError as error:
        # A network that the board has no room for, or that writes floats into a view, says nothing about its integers.
        if is_refusal(error) or isinstance(error, NoRoom) or "computes no floating point" in str(error):
            reject()
        raise
    assert wrong == 0


# Found by the test above: kernels that LLVM inlines into their caller name the same memory differently, and its
# type-based alias analysis took that for different memory. Each gave wrong integers on the targets named.
INLINED = Network(
    source="""class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.m3 = nn.Conv1d(10, 30, (6,), (3,), (4,), (2,), 5, True)

    def forward(self, x0):
        return self.m3(x0 ** 2)
""",
    inputs=((10, 4),),
    stretch=((512.0, 3.0), (1.0, 3.0), (0.001953125, -0.5)),
    offset=3.0,
    recipe={"weight": {"qmin": -7, "qmax": 7}},
    seed=31,
)
ATTENTION = Network(
    source="""class Network(nn.Module):
    def forward(self, x0, x1):
        v0 = F.avg_pool1d(x1, (4,), (1,), (0,), ceil_mode=True, count_include_pad=True)
        v1 = v0.reshape(-1, 2, 2, 2).transpose(1, 2)
        v3 = F.scaled_dot_product_attention(v1, v1, v1).transpose(1, 2).reshape(-1, 2, 4)
        v6 = v3.reshape(-1, 2, 2, 2).transpose(1, 2)
        return v1.split(1, 1)[0], F.scaled_dot_product_attention(v6, v6, v6)
""",
    inputs=((3, 13), (2, 7)),
    amplitude=10000.0,
    recipe={"activation": {"qmin": 3, "qmax": 200}},
    seed=10,
)


@pytest.mark.parametrize("data", [INLINED, ATTENTION], ids=["inlined", "attention"])
@pytest.mark.parametrize("target", emulated("x86-64", "riscv32imc"))
def test_kernels_stay_in_order_when_they_are_inlined(target: Target, data: Network) -> None:
    assert wrong_on(target, data) == 0


# Two terms that are far beyond every result cancel: each saturates by itself before they are added.
CANCELLING = Network(
    source="""class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.m0 = nn.Conv2d(22, 6, (1, 5), (2, 1), (0, 2), (3, 3), 2, True)

    def forward(self, x0, x1):
        v0 = F.silu(x0)
        v1 = self.m0(x0)
        v2 = F.avg_pool2d(v0, (2, 4), (1, 2), (1, 0), ceil_mode=True, count_include_pad=True)
        v3 = F.interpolate(v0, (21, 15), mode='bilinear', align_corners=True)
        v4 = x0 + v0
        v5 = F.avg_pool2d(x0, (4, 4), (6, 1), (1, 1), ceil_mode=False, count_include_pad=False)
        return v1, v1, v2, v3, v4, v5
""",
    inputs=((22, 17, 9), (1,)),
    stretch=((1e20, -3.0), (512.0, -0.5)),
    amplitude=10000.0,
    offset=3.0,
    dynamic=True,
    kinds={1: ("int32", 5)},
    seed=201,
)


@pytest.mark.parametrize("target", emulated("c", "cortex-m4", "cortex-m55"))
def test_terms_saturate_before_they_are_added(target: Target) -> None:
    assert wrong_on(target, CANCELLING) == 0
