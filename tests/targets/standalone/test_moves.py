"""Moves, extremes, windows, products and volumes: standalone code gives the integers of the graph in Python."""

from __future__ import annotations

import pytest

from fxquant.target import Target
from tests.endtoend.networks import Network
from tests.targets.standalone.made import emulated, wrong_on

MOVES = Network(
    source="""class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x):
        v = F.relu(self.conv(x[:, [2, 1, 0]]))
        shifted = torch.zeros_like(v)
        shifted[:, ::2] = v[:, :3]
        shifted[:, 1, 1:] = v[:, 1, :-1]
        rolled = v.roll((1, -2), (1, 3)) + F.pad(v, (2, 0, 1, 0), mode="reflect")[:, :, :-1, 2:]
        columns = F.unfold(rolled, (2, 3), stride=2)
        bordered = F.pad(v, (1, 0, 0, 1), value=0.5)
        turned = torch.rot90(v, 1, (2, 3))
        picked = v[:, [0, 4, 4], [1, 2, 0]]
        return shifted + v, columns, bordered, turned, picked, v.repeat(1, 1, 2, 1).repeat_interleave(2, 3)
""",
    inputs=((3, 7, 5),),
)
WINDOWS = Network(
    source="""class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.deep = nn.Conv3d(2, 4, (2, 3, 2), (1, 2, 1), (1, 1, 0))
        self.register_buffer("left", torch.randn(3, 6))

    def forward(self, x):
        v = self.conv(x)
        volume = F.relu(self.deep(v.unflatten(1, (2, 3))))
        largest = v.amax((2, 3)) - v.min(-1)[0].mean(-1)
        pooled = F.adaptive_max_pool2d(v, (3, 4)), F.lp_pool2d(v, 2, 2), F.max_pool3d(volume, 2, 1)
        resized = F.interpolate(v, (9, 4), mode="bicubic"), F.interpolate(v, (3, 5), mode="bilinear", antialias=True)
        products = self.left @ v.flatten(2), torch.einsum("bchw,oc->bohw", v, self.left)
        return largest, *pooled, *resized, *products
""",
    inputs=((2, 6, 7),),
    seed=4,
)


@pytest.mark.parametrize("data", [MOVES, WINDOWS], ids=["moves", "windows"])
@pytest.mark.parametrize("target", emulated("c", "cortex-m4", "aarch64-neon"))
def test_the_device_gives_the_same_integers(target: Target, data: Network) -> None:
    assert wrong_on(target, data) == 0
